"""Checking that every sealed member of a log has its key: an old or lost key store erases people without a record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._query.chain_erasures import own_events, stated_erasures
from audit_async._query.opened_records import SealingSessions
from audit_async._query.recorded_members import read_said
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._trail.log_files import (
    DAMAGED_ARCHIVE,
    Log,
    SegmentDeleted,
    SegmentFile,
    list_segments,
    open_segment,
    read_lines,
)
from audit_async.errors import AuditError, LogCorrupted
from audit_async.privacy.data_keys import key_id_bytes
from audit_async.privacy.opening_sealed import FORGED, KEY_MISSING, Opener
from audit_async.privacy.store_failures import KeyStoreError

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore
    from audit_async.privacy.known_ids import KnownIds

_MOST_EXAMPLES: Final = 5

#: The key id of a sealed member; a text with a quote in it has a backslash before the quote.
_SEALED_ID: Final = re.compile(rb'(?<!\\)"sealed:1:([A-Za-z0-9_-]{22}):')
_SEQ: Final = re.compile(rb'"seq":([0-9]{1,18})')
#: Ids that are held in memory: of keys that are there, so that each is looked up about once, and of missing ones.
_MOST_IDS: Final = 100_000


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


class MissingKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What a key store lacks of the keys that one log names, without opening any.

    - `log`: the log.
    - `keys`: how many ids the store neither knows nor has destroyed; at most 100,000 are distinguished.
    - `records`: how many records are sealed under one of them.
    - `first_seq`: the first of these; None if there is none.
    - `stated_epoch`, `store_epoch`: the erasures that the log states, and those that the store knows: a store that
      knows fewer came back from a backup.
    - `other_store`: the id of the store that the newest session of the log names, if it is another one.
    - `unread_segments`: that could not be read, such as encrypted archives that no identity opens.
    """

    log: str
    keys: int
    records: int
    first_seq: int | None
    stated_epoch: int
    store_epoch: int
    other_store: str | None
    unread_segments: tuple[str, ...]

    @property
    def is_outdated(self) -> bool:
        """True if the store knows fewer erasures than the log states."""
        return self.other_store is None and self.stated_epoch > self.store_epoch


def find_missing_keys(log: Log, known: KnownIds, *, newest_segment_only: bool = False) -> MissingKeys:
    """Look up the key ids of all sealed members of a log; blocks, reads the log once, and needs no master key.

    Args:
        log: The log.
        known: The key store.
        newest_segment_only: Look at the newest segment alone.

    Raises:
        KeyStoreUnavailable, KeyStoreDamaged: The store can't be read.
    """
    looking = _Looking(log, known)
    segments = list_segments(log)
    unread = [
        segment.name
        for segment in (segments[-1:] if newest_segment_only else segments)
        if segment.is_readable and not looking.read(segment)
    ]
    try:
        stated_epoch, store_id = stated_erasures(log).epoch, _stated_store(log)
    except (AuditError, OSError, *DAMAGED_ARCHIVE):  # what is damaged is for `verify` to say
        stated_epoch, store_id = 0, None
    return MissingKeys(
        log=log.name,
        keys=len(looking.missing),
        records=looking.records,
        first_seq=looking.first_seq,
        stated_epoch=stated_epoch,
        store_epoch=known.epoch,
        other_store=store_id if store_id not in {None, known.store_id} else None,
        unread_segments=tuple(unread),
    )


class _Looking:
    """The state of one look-up."""

    def __init__(self, log: Log, known: KnownIds) -> None:
        self._log = log
        self._known = known
        self._there: set[bytes] = set()  # ids that the store knows
        self._sessions = SealingSessions()
        self.missing: set[bytes] = set()
        self.records = 0
        self.first_seq: int | None = None

    def read(self, segment: SegmentFile) -> bool:
        """Look at all of a segment; return whether it could be read."""
        try:
            with open_segment(segment) as file:
                for lines in read_lines(file):
                    if b'"sealed:1:' in lines.data:
                        self._look_at(lines.data)
        except KeyStoreError:  # one of them is an OSError, and says nothing about the segment
            raise
        except SegmentDeleted:
            return True
        except (LogCorrupted, OSError, *DAMAGED_ARCHIVE):
            return False
        return True

    def _look_at(self, data: bytes) -> None:
        ids = set(_SEALED_ID.findall(data))
        unsure = self._unknown(ids - self._there - self.missing) | (ids & self.missing)
        if len(self._there) > _MOST_IDS:
            self._there.clear()
        self._there |= ids - unsure
        if unsure:
            for line in data.split(b"\n"):
                self._look_at_line(line, unsure)

    def _unknown(self, ids: Iterable[bytes]) -> set[bytes]:
        by_id = {}
        for text in ids:
            try:
                by_id[key_id_bytes(text.decode())] = text
            except ValueError:  # no key has such an id, so no log that seals has written it
                continue
        return {by_id[key_id] for key_id in self._known.unknown(by_id)}

    def _look_at_line(self, line: bytes, unsure: set[bytes]) -> None:
        """Count a record; in a session that does not seal a text may only look like a sealed one."""
        found = unsure.intersection(_SEALED_ID.findall(line))
        if not found or not self._sessions.has(Found("", self._log, 0, line, "", 0)):
            return
        self.records += 1
        if len(self.missing) < _MOST_IDS:
            self.missing |= found
        if self.first_seq is None and (seq := _SEQ.search(line)) is not None:
            self.first_seq = int(seq[1])


def _stated_store(log: Log) -> str | None:
    """Return the id of the key store of the newest session that seals; None if there is none in the newest segment."""
    for event in own_events(log):
        if event["event_type"] == "audit.segment_sealed":
            return None  # a session may be as long as the trail: no more is read than has to be
        if event["event_type"] == "audit.log_opened" and isinstance(store_id := event.get("key_store"), str):
            return store_id
    return None
