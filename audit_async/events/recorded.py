"""Recorded events, read back: from the bytes of a line to a typed event, with nothing dropped on the way.

An event comes back as its own class if this process knows the class and the class has room for all that was
recorded; otherwise as a `GenericEvent`, which keeps every member. Whether the line is genuine is for `_chain` to say.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final

import msgspec

from audit_async.errors import AuditError
from audit_async.events.base import AuditEvent, definitions, encode
from audit_async.events.plain_data import PlainData
from audit_async.events.registry import GenericEvent, known_types

__all__ = ["NotARecord", "Record", "decode_event", "decode_record", "event_members", "recorded_time"]


class NotARecord(AuditError, ValueError):
    """A line is not a record, or its event not a JSON object; the message holds nothing of it."""


class Record(PlainData, frozen=True, kw_only=True):
    """One record: an event, and its place in the chain."""

    seq: int
    audit_id: str
    timestamp: datetime  #: when it was emitted; aware, UTC
    service_id: str
    event: AuditEvent
    context: dict[str, object]  #: what was bound for the task that emitted it; empty if nothing was
    prev_hash: str
    hash: str
    log: str = ""  #: the log it was read from, as `orders/00`; empty if that is not known

    def to_dict(self) -> dict[str, object]:
        """Return the record as plain data: the log's name, then the members in the order of the format.

        `context` is left out if it is empty, as in the recorded line.
        """
        return {
            "log": self.log,
            "seq": self.seq,
            "audit_id": self.audit_id,
            "timestamp": recorded_time(self.timestamp),
            "service_id": self.service_id,
            "event": event_members(self.event),
            **({"context": self.context} if self.context else {}),
            "prev_hash": self.prev_hash,
            "hash": self.hash,
        }


def recorded_time(moment: datetime) -> str:
    """Return an aware datetime as records write it; two such texts compare like the moments."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def event_members(event: AuditEvent) -> dict[str, object]:
    """Return an event as plain data, its type first, as it was recorded."""
    if isinstance(event, GenericEvent):
        return {"event_type": event.event_type, **event.fields}
    plain: dict[str, object] = msgspec.json.decode(encode(event))
    return plain


def decode_record(line: bytes, *, log: str = "") -> Record:
    """Return the record that a line holds, with or without its line end; `log` is the name of the log it is from.

    Raises `NotARecord` for anything else. The hash is not checked: `audit_async._chain.check_record` does that.
    """
    try:
        members = _decode_line(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecord("this line is not a record; verify the log to see which lines are not") from error
    return Record(
        seq=members.seq,
        audit_id=members.audit_id,
        timestamp=members.timestamp,
        service_id=members.service_id,
        event=decode_event(members.event),
        context=members.context,
        prev_hash=members.prev_hash,
        hash=members.hash,
        log=log,
    )


def decode_event(raw: bytes | msgspec.Raw) -> AuditEvent:
    """Return the event that a JSON object holds: of its own class if nothing is lost by it, or a `GenericEvent`.

    Raises `NotARecord` for what is not a JSON object.
    """
    text = bytes(raw)
    try:
        decoder = _decoder_for(_decode_type(text).event_type, definitions())
    except (msgspec.MsgspecError, UnicodeDecodeError):
        decoder = None  # no event_type, or one that is no text
    if decoder is not None:
        try:
            event = decoder.decode(text)
            again = encode(event)
        except Exception:  # noqa: BLE001 - a user's own class may raise anything on values it does not expect
            return _decode_generic(text)
        # What a class has no member for is silently left out by its decoder, at any depth. So the test is whether
        # the event encodes to what was recorded: 200 ns, and exact.
        if again == text or _holds(msgspec.json.decode(again), msgspec.json.decode(text)):
            return event
    return _decode_generic(text)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    seq: int
    audit_id: str
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
    service_id: str
    event: msgspec.Raw
    prev_hash: str
    hash: str
    context: dict[str, object] = {}


class _Type(msgspec.Struct):
    event_type: str


_decode_line: Final = msgspec.json.Decoder(_Line).decode
_decode_type: Final = msgspec.json.Decoder(_Type).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, object]).decode


@lru_cache(maxsize=1)
def _types(defined: int) -> dict[str, type[AuditEvent]]:  # noqa: ARG001 - it is the key of the cache
    return known_types()


@lru_cache(maxsize=1024)
def _decoder_for(event_type: str, defined: int) -> msgspec.json.Decoder[AuditEvent] | None:
    """Return the decoder of a type's class, None if there is none; cached until a subclass is defined."""
    cls = _types(defined).get(event_type)
    if cls is None:
        return None
    try:
        return msgspec.json.Decoder(cls)
    except Exception:  # noqa: BLE001 - a class whose annotations can't be resolved, for whatever reason
        return None


def _decode_generic(text: bytes) -> GenericEvent:
    try:
        fields = _decode_object(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecord("this is not a recorded event: it is no JSON object") from error
    event_type = fields.get("event_type")
    if isinstance(event_type, str):
        del fields["event_type"]
        return GenericEvent(event_type=event_type, fields=fields)
    return GenericEvent(event_type="", fields=fields)


def _holds(event: object, recorded: object) -> bool:
    """Return whether all of what was recorded is in the event: only a member that was recorded as null may be missing.

    The members of a set come back in any order. They are plain values, so only such lists are compared sorted.
    """
    if isinstance(recorded, dict):
        return isinstance(event, dict) and all(
            _holds(event[key], value) if key in event else value is None for key, value in recorded.items()
        )
    if isinstance(recorded, list):
        if not isinstance(event, list) or len(event) != len(recorded):
            return False
        if any(isinstance(member, dict | list) for member in recorded):
            return all(map(_holds, event, recorded))
        return all(map(_holds, event, recorded)) or sorted(map(encode, event)) == sorted(map(encode, recorded))
    return type(event) is type(recorded) and event == recorded
