"""One record on its way to a receiver: its line, and what is known of it without reading the whole line."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

__all__ = ["OWN_SERVICE", "DeliverableRecord", "DeliveredLog", "EncodedRecord"]

#: The service in whose log a deliverer records.
OWN_SERVICE: Final = "audit-deliver"

#: The beginning of a line, whose members are always in this order (docs/format.md).
_HEAD: Final = re.compile(
    rb'\{"seq":([0-9]+),"audit_id":"([0-9a-f-]+)","timestamp":"([^"]+)","service_id":("(?:[^"\\]|\\.)*")'
    rb',"event":\{"event_type":"([^"\\]*)"'
)
_HASH: Final = slice(-66, -2)


class DeliveredLog(NamedTuple):
    """The log that records are from."""

    log_id: str
    service: str
    instance: str
    host: str  #: the machine that delivers

    @property
    def name(self) -> str:
        """The service and the instance."""
        return f"{self.service}/{self.instance}"


class DeliverableRecord:
    """A record as one receiver gets it.

    Args:
        line: The record without its line feed: as recorded, or redacted or opened for this receiver.
        log: The log that it is from.
        recorded: The recorded line, if `line` is another one.
    """

    __slots__ = ("_head", "_recorded", "line", "log")

    def __init__(self, line: bytes, log: DeliveredLog, recorded: bytes | None = None) -> None:
        self.line = line
        self.log = log
        self._recorded = recorded
        self._head: re.Match[bytes] | None = None

    def __repr__(self) -> str:
        return f"<DeliverableRecord {self.log.name} seq={self.seq}>"

    def _part(self, number: int) -> str:
        if self._head is None:
            # A line that the tail has checked begins like this; an altered one keeps its order.
            self._head = _HEAD.match(self._recorded or self.line)
        return "" if self._head is None else self._head[number].decode()

    @property
    def seq(self) -> int:
        """The record's place in the chain."""
        return int(self._part(1) or -1)

    @property
    def audit_id(self) -> str:
        """The record's id: the key by which a receiver knows a record that comes twice."""
        return self._part(2)

    @property
    def timestamp(self) -> str:
        """When it was emitted, as the record writes it: RFC 3339, UTC."""
        return self._part(3)

    @property
    def service_id(self) -> str:
        """The service that recorded it."""
        return str(msgspec.json.decode(self._part(4)))

    @property
    def event_type(self) -> str:
        """The type of the event."""
        return self._part(5)

    @property
    def hash(self) -> str:
        """The hash of the recorded line."""
        return (self._recorded or self.line)[_HASH].decode("ascii", "replace")

    @property
    def altered(self) -> bool:
        """Whether the line is not the recorded one, so that it does not hash to `hash`."""
        return self._recorded is not None

    @property
    def log_id(self) -> str:
        """The id of the log that it is from."""
        return self.log.log_id

    @property
    def service(self) -> str:
        """The service of the log."""
        return self.log.service

    @property
    def instance(self) -> str:
        """The instance of the log."""
        return self.log.instance

    @property
    def host(self) -> str:
        """The machine that delivers."""
        return self.log.host


class EncodedRecord(NamedTuple):
    """A record in the format of a receiver."""

    record: DeliverableRecord
    body: bytes  #: one JSON object, or one line of text; without a line feed
