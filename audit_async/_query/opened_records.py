"""Making records of the lines that were found, with what is sealed in them opened if there are keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.recorded_members import read_said
from audit_async._query.sealed_filter import SealedFilter, SubjectFilter, may_ask_for_sealed
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found, open_part, scan
from audit_async._trail.log_files import DAMAGED_ARCHIVE, Log
from audit_async._trail.segment_parts import Part, Range, parts_of
from audit_async.events import Record, decode_event, decode_record
from audit_async.events.base import encode
from audit_async.privacy.opening_sealed import ClosedText, OpenedRecord, Opener

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore
    from audit_async.privacy.subjects import Subject

#: Makes the record of a line that was found.
Decode = Callable[[Found], Record]


def as_recorded(found: Found) -> Record:
    """Return the record as it is: what is sealed in it stays a sealed text."""
    return decode_record(found.line, log=found.log.name)


class SealingSessions:
    """Which sessions of a log seal: those whose `audit.log_opened` says so. Read when it is first asked.

    A few of them are looked up; for more the whole log is searched, once. Those that begin after that are looked up.
    """

    def __init__(self) -> None:
        self._known: Final[dict[Path, dict[bytes, bool]]] = {}  # of each log
        self._searched: Final[set[Path]] = set()

    def has(self, found: Found) -> bool:
        """Return whether the record is of a session that seals."""
        log, session = found.log, _session_of(found.line)
        known = self._known.setdefault(log.directory, {})
        if session not in known:
            is_searched = log.directory in self._searched
            stated = _states_sealing(found, session) if is_searched or len(known) < _FEW_SESSIONS else None
            if stated is None and not is_searched:
                self._searched.add(log.directory)
                known.update(_stated_by_sessions(log))
                stated = known.get(session)
            known[session] = bool(stated)
        return known[session]


#: So many sessions are looked up before a log is searched for all of them.
_FEW_SESSIONS: Final = 8


#: The random part of a record's id, which all records of one opening of a log share.
_SESSION: Final = re.compile(rb'"audit_id":"([0-9a-f]{16})-')


def _session_of(line: bytes) -> bytes:
    found = _SESSION.search(line)
    return found[1] if found is not None else b""


def _states_sealing(found: Found, session: bytes) -> bool | None:
    """Return whether the session of a record says at its beginning that it seals; None if that was not found."""
    parts = parts_of(found.log)
    own = next((at for at, part in enumerate(parts) if part.segment.name == found.segment), -1)
    before = own
    while before >= 0 and _first_session(parts[before]) == session:
        before -= 1
    opened = Filter(AuditQuery(event_types=("audit.log_opened",)))
    # It begins within the last segment that another session began, or with the one after that.
    for part in parts[max(before, 0) : min(before + 2, own + 1)]:
        for one in scan(part, opened, Range(), Damage(skip=True)):
            if one is not None and _session_of(one.line) == session:
                return bool(read_said(one.line).event.get("privacy"))
    return None


def _first_session(part: Part) -> bytes:
    """Return which session the first record of a segment is of; empty if it can't be read."""
    file = open_part(part, Damage(skip=True))
    if file is None:
        return b""
    with file:
        try:
            return _session_of(file.read(_OPENING_BYTES))
        except (OSError, *DAMAGED_ARCHIVE):
            return b""


#: So much of a record has its `audit_id` in it.
_OPENING_BYTES: Final = 80


def _stated_by_sessions(log: Log) -> Iterator[tuple[bytes, bool]]:
    """Yield each session of a log, and whether it says that it seals."""
    opened = AuditQuery(event_types=("audit.log_opened",))
    with closing(Search([log], opened, Damage(skip=True)).run()) as search:
        for found in search:
            if found is not None:
                yield _session_of(found.line), bool(read_said(found.line).event.get("privacy"))


class SealedReading:
    """How one query treats what is sealed: what is wanted, and what is returned. Used by one thread at a time."""

    def __init__(self, query: AuditQuery, key_store: KeyStore | None, *, about: Subject | None = None) -> None:
        """Open with the keys of this store, which stays the caller's; None leaves everything as recorded.

        With `about` only records about that person are wanted, and only what is sealed under his keys is opened. Blocks
        for the key store then.
        """
        key_ids = key_store.find(about) if key_store is not None and about is not None else None
        self._opener: Final = Opener(key_store, only=key_ids)
        self._sessions: Final = SealingSessions()
        self.wanted: Final = self._filter(query, about, key_ids or ())

    def _filter(self, query: AuditQuery, about: Subject | None, key_ids: Collection[bytes]) -> Filter:
        if about is not None:
            return SubjectFilter(query, about, key_ids)
        return SealedFilter(query, self._opener) if may_ask_for_sealed(query) else Filter(query)

    @property
    def undecided(self) -> int:
        """How many records so far may be wanted or not: what was asked for is in a member that can't be opened."""
        return self.wanted.undecided if isinstance(self.wanted, SealedFilter) else 0

    def decode(self, found: Found) -> Record:
        """Return the record of a line, opened if there are keys; a member that stays closed says why.

        The hashes are those of the recorded line. Raises `KeyStoreUnavailable`.
        """
        record = as_recorded(found)
        if not self._opener.has_keys or b"sealed:" not in found.line:
            return record
        opened = self._open(found, str)
        return msgspec.structs.replace(record, event=decode_event(encode(opened.event)), context=opened.context)

    def opened(self, found: Found) -> OpenedRecord:
        """Return what a line says, opened if there are keys; in place of each member that stays closed a `ClosedText`.

        Raises `KeyStoreUnavailable`.
        """
        return self._open(found, ClosedText)

    def _open(self, found: Found, closed_as: Callable[[str], str]) -> OpenedRecord:
        said = read_said(found.line)
        return self._opener.open(
            found.log.log_id,
            said.event,
            said.context,
            is_sealing=lambda: self._sessions.has(found),
            closed_as=closed_as,
        )

    def open_line(self, line: bytes, log: Log) -> bytes:
        """Return a recorded line with what is sealed in it opened; it is no record any more, and hashes to nothing.

        Raises `KeyStoreUnavailable`.
        """
        if b'"sealed:' not in line and b'"plain:' not in line:
            return line
        members = _read_members(line)
        found = Found("", log, 0, line, "", 0)
        said = read_said(line)
        opened = self._opener.open(log.log_id, said.event, said.context, is_sealing=lambda: self._sessions.has(found))
        members["event"] = msgspec.Raw(msgspec.json.encode(opened.event))
        if "context" in members:
            members["context"] = msgspec.Raw(msgspec.json.encode(opened.context))
        return msgspec.json.encode(members) + b"\n"


_read_members: Final[Callable[[bytes], dict[str, msgspec.Raw]]] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
