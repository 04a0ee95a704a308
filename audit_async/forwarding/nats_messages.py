"""Messages as JetStream returns them: directly from a replica, or from the stream's leader.

How both answer: https://docs.nats.io/reference/reference-protocols/nats_api_reference and ADR-31 (direct get).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from msgspec import Struct, field, json
from nats.aio.msg import Msg

from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.sink_errors import SinkRefused

__all__ = ["FIRST", "HASH", "LAST", "NOT_FOUND", "PREV", "Message", "PubAck", "StreamInfo", "StreamState"]

FIRST: Final = "Audit-First-Seq"
PREV: Final = "Audit-Prev"
LAST: Final = "Audit-Last-Seq"
HASH: Final = "Audit-Last-Hash"
#: The leader's error code if there is no such message.
NOT_FOUND: Final = 10037


class PubAck(Struct, frozen=True):
    """JetStream's acknowledgement of a message."""

    stream: str
    seq: int
    duplicate: bool = False


class StreamState(Struct, frozen=True):
    """What a stream holds."""

    first_seq: int = 0
    last_seq: int = 0
    subjects: dict[str, int] | None = None


class StreamInfo(Struct, frozen=True):
    """A stream as its leader describes it, one page of its subjects included."""

    created: str = ""
    state: StreamState = field(default_factory=StreamState)
    total: int = 0


class _FromLeader(Struct, frozen=True):
    subject: str
    seq: int
    time: datetime | None = None
    hdrs: bytes = b""
    data: bytes = b""


class _LeadersAnswer(Struct, frozen=True):
    message: _FromLeader


class Message(Struct, frozen=True):
    """A message of a stream."""

    subject: str
    sequence: int
    headers: Mapping[str, str]
    data: bytes
    stored_at: datetime | None = None  #: by the leader's clock, if the leader was asked

    @classmethod
    def direct(cls, answer: Msg) -> Message:
        """Return the message that a replica has answered with."""
        headers = answer.headers or {}
        return cls(headers.get("Nats-Subject", ""), _number(headers, "Nats-Sequence"), headers, answer.data)

    @classmethod
    def from_leader(cls, answer: Msg) -> Message:
        """Return the message in a leader's answer that states no error."""
        found = json.decode(answer.data, type=_LeadersAnswer).message
        lines = found.hdrs.decode("utf-8", "replace").split("\r\n")[1:]
        parted = (line.partition(":") for line in lines if line)
        return cls(found.subject, found.seq, {name: value.strip() for name, _, value in parted}, found.data, found.time)

    @property
    def has_records(self) -> bool:
        """Whether it is a batch; otherwise it repeats a head."""
        return FIRST in self.headers

    @property
    def first_seq(self) -> int:
        """The batch's first record."""
        return _number(self.headers, FIRST)

    @property
    def head(self) -> Head:
        """The head of the log with this message.

        Raises:
            SinkRefused: it states none, so it is not one of this package.
        """
        if len(self.headers.get(HASH, "")) != 64:
            raise SinkRefused(f"message {self.sequence} of {self.subject} is not one of audit-async: {HASH} is missing")
        return Head(seq=_number(self.headers, LAST), hash=self.headers[HASH])

    @property
    def batch(self) -> Batch:
        """The records, as the message declares them."""
        return Batch(
            first_seq=self.first_seq, last_seq=self.head.seq, prev=self.headers.get(PREV, ""),
            last_hash=self.head.hash, lines=self.data,
        )  # fmt: skip


def _number(headers: Mapping[str, str], name: str) -> int:
    value = headers.get(name, "")
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise SinkRefused(f"a message has no number as {name}, so it is not one of audit-async")
    return int(value)
