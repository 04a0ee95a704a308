"""What every sink can do, and what it says of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from audit_async.delivery.deliverable_record import EncodedRecord

__all__ = ["DeliverySink", "Outcome", "SendResult"]


class Outcome(Enum):
    """What became of a batch."""

    ACCEPTED = "accepted"  #: the receiver has it, but for what `refused` and `retry` name
    RETRY = "retry"  #: the receiver does not answer, is busy or has failed; it may have the batch
    UNAUTHORIZED = "unauthorized"  #: the receiver does not take the credentials
    REFUSED = "refused"  #: the receiver does not take this content, of one record at least
    MISCONFIGURED = "misconfigured"  #: nobody takes batches there; a person has to act


class SendResult(Struct, frozen=True, kw_only=True):
    """What a receiver said of a batch.

    Args:
        outcome: What became of it.
        reason: Why it was not accepted; holds no secret and nothing of a record.
        retry_after_s: How long the receiver asks to be left alone.
        refused: By their index in the batch, the records that the receiver refuses, and why.
        retry: The indexes of the records that the receiver did not take this time.
        too_large: With `REFUSED`: whether it is the size of all of it that the receiver refuses.
    """

    outcome: Outcome
    reason: str = ""
    retry_after_s: float | None = None
    refused: Mapping[int, str] = {}
    retry: frozenset[int] = frozenset()
    too_large: bool = False


class DeliverySink(Protocol):
    """Where records are delivered to. Several batches, of different logs, may be sent at a time."""

    @property
    def overlap_s(self) -> float:
        """How long after it was sent something may still be lost; 0 if `ACCEPTED` means that the receiver has it."""
        ...

    @property
    def breaks(self) -> int:
        """How often by now what was sent in the last `overlap_s` may have been lost."""
        ...

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Send records of one log, in order; never raises because of the receiver."""
        ...

    async def finish(self) -> bool:
        """Close the connections; return whether all that was sent has reached the receiver."""
        ...
