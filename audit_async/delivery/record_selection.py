"""Which records a sink gets, and what of them: selected by the query's own terms, then redacted or opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._query.opened_records import SealedReading
from audit_async._query.recorded_members import Said, read_said
from audit_async._trail.log_files import Log
from audit_async.delivery.deliver_settings import SinkSettings
from audit_async.delivery.deliverable_record import DeliverableRecord, DeliveredLog

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore  # needs an extra

__all__ = ["ALWAYS", "Selection"]

#: What every selection lets pass: a receiver has to know what it must delete, and that something is wrong.
ALWAYS: Final = frozenset(
    {
        "audit.erasure_started",
        "audit.subject_erased",
        "audit.keys_forgotten",
        "audit.alert_raised",
        "audit.delivery_problem",
    }
)
_ALWAYS_BYTES: Final = re.compile(b'"event_type":"(' + "|".join(map(re.escape, sorted(ALWAYS))).encode() + b')"')
_REDACTED: Final = "[redacted]"
_SESSION: Final = re.compile(rb'"audit_id":"([0-9a-f]{16})-')
#: The version and the id of the key, in a sealed member.
_SEALED: Final = re.compile(rb'"sealed:1:([0-9A-Za-z_-]+):')

_read_members: Final[Callable[[bytes], dict[str, msgspec.Raw]]] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.encode


class Selection:
    """What a sink gets of one log. For one thread at a time.

    Args:
        settings: The sink's.
        log: The log.
        delivered: How receivers know it.
        key_store: With the keys of sealed members; None if they stay sealed.
    """

    def __init__(
        self, settings: SinkSettings, log: Log, delivered: DeliveredLog, key_store: KeyStore | None = None
    ) -> None:
        self._log: Final = log
        self._delivered: Final = delivered
        self._key_store: Final = key_store if settings.unseal else None
        self._select: Final = settings.queries("select")
        self._exclude: Final = settings.queries("exclude")
        self._redact: Final = tuple(_path(path) for path in settings.redact)
        self._session = b""
        self._readings: tuple[list[SealedReading], list[SealedReading], SealedReading] | None = None

    def __repr__(self) -> str:
        return f"<Selection of {self._delivered.name}>"

    def take(self, lines: bytes) -> Iterator[DeliverableRecord]:
        """Yield what is wanted of whole lines, each in the form that the sink gets.

        Raises:
            KeyStoreUnavailable: What is sealed can't be opened now.
        """
        alters = bool(self._redact) or self._key_store is not None
        for line in lines.splitlines(keepends=True):
            if (self._select or self._exclude) and not self._wants(line):
                continue
            if not alters:
                yield DeliverableRecord(line[:-1], self._delivered)
                continue
            altered = self._altered(line)
            yield DeliverableRecord(altered.removesuffix(b"\n"), self._delivered, None if altered is line else line)

    def _wants(self, line: bytes) -> bool:
        if _ALWAYS_BYTES.search(line) is not None and self._is_always(line):
            return True
        select, exclude, _ = self._for(line)
        said: Said | None = None
        if select:
            candidates = [one for one in select if _may_want(one, line)]
            if not candidates:
                return False
            said = read_said(line)
            if not any(self._agrees(one, said) for one in candidates):
                return False
        candidates = [one for one in exclude if _may_want(one, line)]
        if candidates:
            said = said or read_said(line)
            return not any(self._agrees(one, said) for one in candidates)
        return True

    @staticmethod
    def _is_always(line: bytes) -> bool:
        return read_said(line).event.get("event_type") in ALWAYS

    def _agrees(self, reading: SealedReading, said: Said) -> bool:
        return reading.wanted.wants_said(said, self._log.log_id)

    def _for(self, line: bytes) -> tuple[list[SealedReading], list[SealedReading], SealedReading]:
        """Return what reads a line. Which sessions seal is read once by each, so a new session has new ones."""
        found = _SESSION.search(line)
        session = found[1] if found is not None else b""
        if self._readings is None or (self._key_store is not None and session != self._session):
            self._session = session
            self._readings = (
                [SealedReading(query, self._key_store) for query in self._select],
                [SealedReading(query, self._key_store) for query in self._exclude],
                SealedReading(AuditQuery(), self._key_store),
            )
        return self._readings

    def _altered(self, line: bytes) -> bytes:
        """Return a line opened and redacted; the line itself if nothing of that applies to it."""
        opened, keys = line, []
        if self._key_store is not None and b'"sealed:' in line:
            keys = sorted({key.decode() for key in _SEALED.findall(line)})
            opened = self._for(line)[2].open_line(line, self._log)
        redacted = self._redacted(opened) if self._redact else opened
        if redacted is line:
            return line
        members: dict[str, Any] = dict(_read_members(redacted))
        members["altered"] = True
        if keys:
            members["sealed_under"] = keys
        return _encode(members)

    def _redacted(self, line: bytes) -> bytes:
        members: dict[str, Any] = dict(_read_members(line))
        changed = False
        for part, names in self._redact:
            if part in members:
                value = members[part] = _decoded(members[part])
                changed = _replace(value, names) or changed
        return _encode(members) if changed else line


def _may_want(reading: SealedReading, line: bytes) -> bool:
    return all(one.may_be_in(line) for one in reading.wanted.needles)


def _path(path: str) -> tuple[str, tuple[str, ...]]:
    part, *names = path.split(".")
    return part, tuple(names)


def _decoded(value: object) -> object:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


def _replace(value: object, names: Iterable[str]) -> bool:
    """Replace what is at a path, in every element of a list on the way; return whether there was something."""
    name, *rest = names
    if isinstance(value, list):
        return sum(_replace(element, [name, *rest]) for element in value) > 0
    if not isinstance(value, Mapping) or name not in value:
        return False
    if rest:
        return _replace(value[name], rest)
    assert isinstance(value, dict)  # noqa: S101 - what the decoder makes of an object
    value[name] = _REDACTED
    return True
