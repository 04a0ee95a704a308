"""What a log's chain says of erasures: so that one that was interrupted is completed, and a restored key store noticed.

The key store knows what was destroyed, and may come back from a backup that knows less. The chain can't: each erasure
lists the ids of its keys before it destroys them. Reads the log next to nobody: it is locked, and not open yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from audit_async._trail.log_files import Log, list_segments, open_segment, read_lines

_OWN: Final = b',"event":{"event_type":"audit.'
#: Where that is in a line at the latest: after seq, audit_id, timestamp and service_id.
_OWN_UNTIL: Final = 300


class RecordedErasure(NamedTuple):
    """One erasure, as far as the chain has it."""

    epoch: int
    key_ids: tuple[str, ...]
    is_whole: bool  #: all its parts are there
    has_ended: bool
    forced: bool  #: it was begun under a legal hold


class RecordedErasures(NamedTuple):
    """All that a chain says was destroyed."""

    by_id: dict[str, RecordedErasure]
    refused: dict[str, int]  #: ids of keys that were never stored, with their epochs
    forgotten_before: str  #: YYYY-MM-DD, empty if nothing was forgotten


def stated_epoch(log: Log) -> int:
    """Return the newest erasure epoch that the log states, 0 if it states none: read back until there is one.

    Raises `AuditError`, `OSError` if the log can't be read.
    """
    for event in own_events(log):
        epoch = event.get("erasure_epoch", event.get("epoch"))
        if isinstance(epoch, int) and event["event_type"] != "audit.key_store_restored":
            return epoch
    return 0


def recorded_erasures(log: Log) -> RecordedErasures:
    """Return all that the log says was destroyed; reads all of it."""
    parts: dict[str, dict[int, dict[str, Any]]] = {}
    ended: set[str] = set()
    refused: dict[str, int] = {}
    forgotten_before = ""
    for event in own_events(log):
        match event["event_type"]:
            case "audit.erasure_started":
                parts.setdefault(event["erasure_id"], {})[event["part"]] = event
            case "audit.subject_erased":
                ended.add(event["erasure_id"])
            case "audit.erased_in_flight":
                refused.update(dict.fromkeys(event.get("key_ids") or (), event["epoch"]))
            case "audit.keys_forgotten":
                forgotten_before = max(forgotten_before, event["before"])
    by_id = {
        erasure_id: RecordedErasure(
            epoch=max(part["epoch"] for part in found.values()),
            key_ids=tuple(key_id for part in found.values() for key_id in part["key_ids"]),
            is_whole=len(found) >= max(part["parts"] for part in found.values()),
            has_ended=erasure_id in ended,
            forced=any(part.get("forced") is True for part in found.values()),
        )
        for erasure_id, found in parts.items()
    }
    return RecordedErasures(by_id, refused, forgotten_before)


def own_events(log: Log) -> Iterator[dict[str, Any]]:
    """Yield the library's own events of a log, the newest first; a segment that was deleted has none."""
    for segment in reversed(list_segments(log)):
        if not segment.is_readable:
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
