"""What a log's chain says of erasures: so that one that was interrupted is completed, and a restored key store noticed.

The key store knows what was destroyed, and may come back from a backup that knows less. The chain can't: each erasure
lists the ids of its keys before it destroys them, and each session states the store's erasure epoch and keys that are
destroyed. Only reads, so it may be another log than the one that is being opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from audit_async._trail.log_files import Log, list_segments, open_segment, read_lines
from audit_async.events import AuditErasureStarted

_OWN: Final = b',"event":{"event_type":"audit.'
#: What says something of erasures; a restored key store is recorded with the epoch that it had.
_STATING: Final = frozenset(
    f"audit.{kind}"
    for kind in (
        "log_opened",
        "segment_sealed",
        "erasure_started",
        "subject_erased",
        "erased_in_flight",
        "erasure_noticed",
        "erasure_requested",
        "erasure_cancelled",
    )
)
#: Where that is in a line at the latest: after seq, audit_id, timestamp and service_id.
_OWN_UNTIL: Final = 300


class ChainStatement(NamedTuple):
    """What the newest records of a chain say of erasures."""

    epoch: int  #: the newest erasure epoch, 0 if none is stated
    erased_keys: frozenset[str]  #: keys that are destroyed, so that a store in which one is not has gone back
    own_erased_key: str | None  #: a key of the newest erasure that the log itself records
    has_open: bool  #: an erasure was begun in the last session, and its end is not recorded


class RecordedErasure(NamedTuple):
    """One erasure, as far as the chain has it."""

    parts: dict[int, AuditErasureStarted]  #: by number; not all of them, if the process was killed between two
    has_ended: bool

    @property
    def first(self) -> AuditErasureStarted:
        """Any of its parts: they differ only in their keys."""
        return next(iter(self.parts.values()))

    @property
    def epoch(self) -> int:
        """Its erasure epoch."""
        return self.first.epoch

    @property
    def key_ids(self) -> list[str]:
        """The ids of its keys, in their order."""
        return [key_id for number in sorted(self.parts) for key_id in self.parts[number].key_ids]

    @property
    def is_whole(self) -> bool:
        """True if all its parts are there."""
        return len(self.parts) >= self.first.parts

    @property
    def forced(self) -> bool:
        """True if it was begun under a legal hold."""
        return self.first.forced is True


class RecordedErasures(NamedTuple):
    """All that a chain says was destroyed."""

    by_id: dict[str, RecordedErasure]
    refused: dict[str, int]  #: ids of keys that were never stored, with their epochs
    forgotten_before: str  #: YYYY-MM-DD, empty if nothing was forgotten
    key_store: str  #: the id of the key store of the newest session that seals; empty if there is none
    request_epochs: set[int]  #: of erasures that were requested, or cancelled
    open_requests: set[str]  #: ids of erasures that wait, as far as this log says
    ended_requests: set[str]  #: ids of those that were cancelled or executed


def stated_erasures(log: Log) -> ChainStatement:
    """Return what the log states of erasures: its newest records, read back to one that states all of it.

    Raises `AuditError`, `OSError` if the log can't be read.
    """
    epoch, erased_keys, ended = 0, set[str](), set[str]()
    own_key: str | None = None
    has_open = False
    for event in own_events(log):
        kind = event["event_type"]
        if kind not in _STATING:
            continue
        epoch = max(epoch, event.get("erasure_epoch") or event.get("epoch") or 0)
        if kind == "audit.subject_erased":
            ended.add(event["erasure_id"])
        elif kind == "audit.erasure_started":
            has_open = has_open or event["erasure_id"] not in ended
            if own_key is None and event["erasure_id"] in ended and event["key_ids"]:
                own_key = event["key_ids"][-1]
        erased_keys.update(filter(None, [event.get("erased_key")]))
        if event.get("erasure_epoch") is not None:
            own_key = own_key or event.get("own_erased_key")
            break
    return ChainStatement(epoch, frozenset(erased_keys | ({own_key} if own_key else set())), own_key, has_open)


def recorded_erasures(log: Log) -> RecordedErasures:
    """Return all that the log says was destroyed; reads all of it."""
    parts: dict[str, dict[int, AuditErasureStarted]] = {}
    ended: set[str] = set()
    refused: dict[str, int] = {}
    forgotten_before = key_store = ""
    request_epochs, requested, cancelled = set[int](), set[str](), set[str]()
    for event in own_events(log):
        match event["event_type"]:
            case "audit.erasure_started":
                part = _as_started(event)
                parts.setdefault(part.erasure_id, {})[part.part] = part
            case "audit.subject_erased":
                ended.add(event["erasure_id"])
            case "audit.erased_in_flight":
                refused.update(dict.fromkeys(event.get("key_ids") or (), event["epoch"]))
            case "audit.keys_forgotten":
                forgotten_before = max(forgotten_before, event["before"])
            case "audit.erasure_requested" | "audit.erasure_cancelled" as kind:
                request_epochs.add(event["epoch"])
                (requested if kind == "audit.erasure_requested" else cancelled).add(event["request_id"])
            case "audit.log_opened":
                key_store = key_store or event.get("key_store") or ""
    by_id = {erasure_id: RecordedErasure(found, erasure_id in ended) for erasure_id, found in parts.items()}
    executed = {erasure.first.request_id for erasure in by_id.values() if erasure.has_ended} - {None}
    ended_requests = cancelled.union(filter(None, executed))
    return RecordedErasures(
        by_id, refused, forgotten_before, key_store, request_epochs, requested - ended_requests, ended_requests
    )


def _as_started(event: dict[str, Any]) -> AuditErasureStarted:
    """Return an erasure's record; what is sealed in it stays so."""
    return msgspec.convert({name: value for name, value in event.items() if name != "reduced"}, AuditErasureStarted)


def own_events(log: Log) -> Iterator[dict[str, Any]]:
    """Yield the library's own events of a log, the newest first.

    A segment that was deleted has none, and neither has an archive that this host can't read: an erasure that only such
    a one records counts as missing, which keeps what is sealed shut (`KeyStoreOutdated`).
    """
    for segment in reversed(list_segments(log)):
        if not segment.is_readable or (segment.needs_identity and not log.identities):
            continue
        events: list[dict[str, Any]] = []
        with open_segment(segment) as file:
            for lines in read_lines(file):
                if _OWN in lines.data:
                    events.extend(_own_events_in(lines.data))
        yield from reversed(events)


def _own_events_in(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        if line.find(_OWN, 0, _OWN_UNTIL) > -1:
            try:
                yield msgspec.json.decode(line)["event"]
            except msgspec.DecodeError:  # a line that the crash has torn, or that verify will report
                continue
