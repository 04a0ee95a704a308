"""How far each log is at each sink, and what keeps it there."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from audit_async.delivery.deliverable_record import DeliveredLog

__all__ = ["DeliveryState", "DeliveryStatus"]


class DeliveryState(Enum):
    """What a delivery does at the moment."""

    STARTING = "starting"
    DELIVERING = "delivering"
    CAUGHT_UP = "caught up"
    RETRYING = "retrying"  #: the receiver does not answer, or is busy
    UNAUTHORIZED = "unauthorized"  #: the receiver does not take the credentials; tried again slowly
    MISCONFIGURED = "misconfigured"  #: a person has to act; tried again slowly
    REFUSING = "refusing"  #: the receiver refuses whatever it gets; tried again slowly
    UNREADABLE = "unreadable"  #: the next records can't be read, or the log is another one; a person has to act
    STATE_UNUSABLE = "state unusable"  #: the positions can't be stored or opened; tried again

    @property
    def needs_a_person(self) -> bool:
        """Whether it does not pass by itself."""
        return self in _NEED_A_PERSON


_NEED_A_PERSON = frozenset(
    {DeliveryState.UNAUTHORIZED, DeliveryState.MISCONFIGURED, DeliveryState.REFUSING, DeliveryState.UNREADABLE}
)


class DeliveryStatus(Struct, frozen=True, kw_only=True):
    """How far a sink has one log; replaced, never changed.

    Args:
        sink: The sink's name.
        log: The log.
        state: What happens to its records at the moment.
        seq: The last record that the receiver has, or was not to get; -1 for none.
        acknowledged_seq: The last record here that is durable.
        delivered: How many records were delivered since the position was begun.
        set_aside: How many the receiver refused.
        failures: How many batches were not accepted since the deliverer was started.
        waiting_since: When the oldest record was made that the receiver lacks, as far as it was read; RFC 3339.
        problem: Why it is not delivered.
    """

    sink: str
    log: DeliveredLog
    state: DeliveryState = DeliveryState.STARTING
    seq: int = -1
    acknowledged_seq: int = -1
    delivered: int = 0
    set_aside: int = 0
    failures: int = 0
    waiting_since: str | None = None
    problem: str | None = None

    @property
    def lag_records(self) -> int:
        """How many durable records the sink has not been offered yet, as far as is known."""
        return max(0, self.acknowledged_seq - self.seq)
