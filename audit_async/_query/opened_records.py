"""Making records of the lines that were found, with what is sealed in them opened if there are keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._query.recorded_members import read_said
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._trail.log_files import Log
from audit_async.events import Record, decode_event, decode_record
from audit_async.events.base import encode

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore
    from audit_async.privacy.opening_sealed import MemberOpened, OpenedRecord

#: Makes the record of a line that was found.
Decode = Callable[[Found], Record]


def as_recorded(found: Found) -> Record:
    """Return the record as it is: what is sealed in it stays a sealed text."""
    return decode_record(found.line, log=found.log.name)


class SealingSessions:
    """Which sessions of a log seal: those whose `audit.log_opened` says so. Read when it is first asked."""

    def __init__(self) -> None:
        self._of_log: Final[dict[str, frozenset[bytes]]] = {}

    def has(self, found: Found) -> bool:
        """Return whether the record is of a session that seals."""
        log = found.log
        sealing = self._of_log.get(log.log_id)
        if sealing is None:
            sealing = self._of_log[log.log_id] = frozenset(_sealing_sessions(log))
        return _session_of(found.line) in sealing


#: The random part of a record's id, which all records of one opening of a log share.
_SESSION: Final = re.compile(rb'"audit_id":"([0-9a-f]{16})-')


def _session_of(line: bytes) -> bytes:
    found = _SESSION.search(line)
    return found[1] if found is not None else b""


def _sealing_sessions(log: Log) -> Iterator[bytes]:
    opened = AuditQuery(event_types=("audit.log_opened",))
    with closing(Search([log], opened, Damage(skip=True)).run()) as search:
        for found in search:
            if found is not None and read_said(found.line).event.get("privacy"):
                yield _session_of(found.line)


class OpeningDecoder:
    """Makes records with their sealed members opened. Used by one thread at a time; blocks for the key store."""

    def __init__(self, key_store: KeyStore) -> None:
        """Open with the keys of this store, which stays the caller's."""
        from audit_async.privacy.opening_sealed import Opener  # noqa: PLC0415 - needs the extra privacy

        self._opener: Final = Opener(key_store)
        self._sessions: Final = SealingSessions()

    def __call__(self, found: Found) -> Record:
        """Return the record of a line, opened; a member that stays closed says why.

        The hashes are those of the recorded line. Raises `KeyStoreUnavailable`.
        """
        return self.decode(found)[0]

    def decode(self, found: Found) -> tuple[Record, tuple[MemberOpened, ...]]:
        """Return the record, and what became of each of its sealed members."""
        record = as_recorded(found)
        if b"sealed:" not in found.line:
            return record, ()
        opened = self.open(found)
        event = decode_event(encode(opened.event))
        return msgspec.structs.replace(record, event=event, context=opened.context), opened.members

    def open(self, found: Found) -> OpenedRecord:
        """Return the members of a line, opened."""
        said = read_said(found.line)
        return self._opener.open(
            found.log.log_id, said.event, said.context, is_sealing=lambda: self._sessions.has(found)
        )
