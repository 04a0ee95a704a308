"""One recorded line, opened as far as a format needs it: the members of its event stay as they were recorded.

A format moves most members to another place without a look at them, so they are kept as the bytes of the record: exact,
whatever numbers or escapes they hold, and quicker than decoding and encoding them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from audit_async.delivery.deliverable_record import DeliverableRecord
from audit_async.events.recorded import NotARecord

__all__ = ["RecordedLine", "epoch_ms", "open_line", "plain_value", "provenance"]


class RecordedLine(msgspec.Struct, kw_only=True):
    """The members of a record.

    Args:
        seq: The record's place in the chain.
        audit_id: The record's own id.
        timestamp: When it was emitted, as the record writes it.
        service_id: The service that recorded it.
        event: The event's members, each as its JSON; without `event_type`.
        context: The members of the context, each as its JSON; empty if nothing was bound.
        prev_hash: The hash of the record before.
        hash: The record's own.
        event_type: The type of the event.
        altered: Whether members were redacted or opened for this receiver, so that `hash` is not the hash of this.
        sealed_under: The ids of the keys that members were sealed under which are in the clear here.
    """

    seq: int
    audit_id: str
    timestamp: str
    service_id: str
    event: dict[str, msgspec.Raw]
    context: dict[str, msgspec.Raw] = {}
    prev_hash: str
    hash: str
    event_type: str = ""
    altered: bool = False
    sealed_under: list[str] = []


_decode: Final = msgspec.json.Decoder(RecordedLine).decode
_decode_value: Final = msgspec.json.Decoder().decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def open_line(record: DeliverableRecord) -> RecordedLine:
    """Return what a record says.

    If it nests deeper than can be read, its event has one member, `line`: the record as a text.

    Args:
        record: The record.

    Raises:
        NotARecord: If its line is none; the message holds nothing of it.
    """
    try:
        opened = _decode(record.line)
        opened.event_type = _decode_text(opened.event.pop("event_type"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError) as error:
        if not record.event_type or not record.line.endswith(b'"}'):
            raise NotARecord("this line is not a record; verify the log to see which lines are not") from error
        return _unreadable(record)
    return opened


#: The hash of the record before, from the end of a line without its line feed (docs/format.md).
_PREV_HASH: Final = slice(-140, -76)


def _unreadable(record: DeliverableRecord) -> RecordedLine:
    return RecordedLine(
        seq=record.seq,
        audit_id=record.audit_id,
        timestamp=record.timestamp,
        service_id=record.service_id,
        event={"line": msgspec.Raw(msgspec.json.encode(record.line.decode(errors="replace")))},
        prev_hash=record.line[_PREV_HASH].decode("ascii", "replace"),
        hash=record.hash,
        event_type=record.event_type,
        altered=record.altered,
    )


def provenance(record: DeliverableRecord, line: RecordedLine) -> dict[str, object]:
    """Return what a receiver's copy is compared by: the log, and the record's hashes."""
    place: dict[str, object] = {
        "log_id": record.log_id,
        "instance": record.instance,
        "delivered_by": record.host,
        "prev_hash": line.prev_hash,
        "hash": record.hash,
    }
    if line.altered:
        place["altered"] = True
    if line.sealed_under:
        place["sealed_under"] = line.sealed_under
    return place


def plain_value(raw: msgspec.Raw) -> object:
    """Return the value of a member as plain data, None if it can't be read: it nests too deeply for that."""
    try:
        value: object = _decode_value(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return value


def epoch_ms(text: str) -> int | None:
    """Return an aware RFC 3339 time in milliseconds since 1970, rounded down; None if the text is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.utcoffset() is None:
        return None
    # Not timestamp() alone: a float of today's seconds is off by parts of a microsecond, which may be the last
    # millisecond.
    return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000
