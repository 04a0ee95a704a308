"""How an engine fails, by what a forwarder has to do about it."""

from __future__ import annotations

from audit_async.errors import AuditError
from audit_async.forwarding.batches import Head

__all__ = ["HeadMoved", "RecordTooLarge", "SinkError", "SinkFull", "SinkRefused", "SinkUnavailable"]


class SinkError(AuditError):
    """An engine did not do what it was asked for."""


class HeadMoved(SinkError):
    """The engine's head is not the one that the append was to follow; nothing was stored.

    Args:
        actual: The head that the engine has; None if it does not have the log.
    """

    def __init__(self, actual: Head | None) -> None:
        self.actual = actual
        at = "no record of the log" if actual is None else f"the log up to record {actual.seq}"
        super().__init__(f"the engine has {at}")


class SinkUnavailable(SinkError):
    """The engine can't be reached, or did not answer in time; try again, at growing intervals.

    What was asked for may have been done.
    """


class SinkFull(SinkError):
    """The engine takes no more, of anybody or of this host; try again, and let a person know."""


class SinkRefused(SinkError):
    """The engine refuses, and will until a person has acted."""


class RecordTooLarge(SinkError):
    """A record is larger than the engine takes."""
