"""Checking that every sealed member of a log has its key: an old or lost key store erases people without a record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._query.opened_records import SealingSessions
from audit_async._query.recorded_members import read_said
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async.privacy.opening_sealed import FORGED, KEY_MISSING, Opener

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore

_MOST_EXAMPLES: Final = 5


class KeyCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a key store has of the keys that one log needs; counts of sealed members.

    - `open`: the key is there, and opens the member in its place.
    - `erased`: the key was destroyed.
    - `missing`: the store never knew the key, or has it damaged.
    - `forged`: the key is there, and did not seal this text for this place.
    - `examples`: the sequence numbers of the first records with a missing key or a forged member.
    - `damaged`: how often something in the log could not be read; `verify` says more.
    """

    log: str
    records: int  #: with a sealed member
    open: int
    erased: int
    missing: int
    forged: int
    examples: tuple[int, ...]
    damaged: int


def check_keys(log: Log, store: KeyStore, progress: Callable[[int], None] | None = None) -> KeyCheck:
    """Try to open every sealed member of a log; blocks, and reads all of it.

    Args:
        log: The log.
        store: Its key store, with the keys that it has.
        progress: Called now and then with the number of records that have a sealed member, so far.

    Raises:
        KeyStoreUnavailable: The store can't be read now.
        TrailUnreadable: The log can't be read.
    """
    opener, sessions, damage = Opener(store), SealingSessions(), Damage(skip=True)
    records = 0
    counts = {"open": 0, "erased": 0, "missing": 0, "forged": 0}
    examples: list[int] = []
    with closing(Search([log], AuditQuery(), damage).run()) as search:
        for found in search:
            if found is None or b'"sealed:' not in found.line:
                continue
            said = read_said(found.line)
            opened = opener.open(
                log.log_id,
                said.event,
                said.context,
                is_sealing=lambda of=found: sessions.has(of),  # type: ignore[misc]
            )
            if not opened.members:
                continue
            records += 1
            states = [_state_of(member.shown) for member in opened.members]
            for state in states:
                counts[state] += 1
            if len(examples) < _MOST_EXAMPLES and not {"missing", "forged"}.isdisjoint(states):
                examples.append(found.seq)
            if progress is not None:
                progress(records)
    return KeyCheck(log=log.name, records=records, **counts, examples=tuple(examples), damaged=damage.skipped)


def _state_of(shown: str) -> str:
    return {"": "open", KEY_MISSING: "missing", FORGED: "forged"}.get(shown, "erased")
