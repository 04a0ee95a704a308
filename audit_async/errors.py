"""What can go wrong, one class a cause; every message says what was being done, where, and what to do.

No message holds text of an event: an error often ends in a debugging log, which is not an audit trail.
"""

from __future__ import annotations

__all__ = [
    "AuditError",
    "BufferFull",
    "ConfigError",
    "InvalidEvent",
    "LogClosed",
    "LogCorrupted",
    "LogLocked",
    "RetentionRefused",
    "WriteFailed",
]


class AuditError(Exception):
    """The base of every error that this library raises on purpose."""


class ConfigError(AuditError, ValueError):
    """A configuration value is wrong; raised before anything touches the disk.

    `field` is the name of the setting as it is written in `AuditConfig`, dotted for a nested one
    (`rotation.max_bytes`).
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class InvalidEvent(AuditError, ValueError):
    """An event can't be recorded as it is; raised by `emit`, while its caller is still on the stack.

    `event_type` is the type's tag or class name and `field` the path to the member (`changes.limits[2]`); the
    offending value itself is never part of the message.
    """

    def __init__(self, event_type: str, field: str, reason: str) -> None:
        self.event_type = event_type
        self.field = field
        self.reason = reason
        where = f"field {field!r} of {event_type}" if field else event_type
        super().__init__(f"{where}: {reason}")


class BufferFull(AuditError):
    """The buffer has no room for this event; it was counted, and the count will be recorded in the chain.

    Either more is emitted than the disk takes (raise `buffer_events`, `buffer_bytes`, or wait with
    `emit_durable`), or the disk is failing: `health()` says which.
    """


class LogClosed(AuditError):
    """The log takes no events here and now: it was not started, is closed, or belongs to another process."""


class LogLocked(AuditError):
    """Another writer has this log. `pid` is the process that the lock names, None where it names none."""

    def __init__(self, message: str, *, pid: int | None) -> None:
        self.pid = pid
        super().__init__(message)


class LogCorrupted(AuditError):
    """What is on disk is not what was written: damage that no crash of a writer explains.

    Nothing on disk was changed by finding it. `line` counts from 1; `seq` is the sequence number that was due
    there; either is None where the damage is not in a line.
    """

    def __init__(self, segment: str, line: int | None, seq: int | None, reason: str) -> None:
        self.segment = segment
        self.line = line
        self.seq = seq
        self.reason = reason
        at = f"{segment}" + (f", line {line}" if line is not None else "")
        due = f" (seq {seq})" if seq is not None else ""
        super().__init__(
            f"{at}{due}: {reason}. The log was left as it is; keep a copy of its directory as evidence, then start "
            "a new instance or restore the directory from a backup"
        )


class WriteFailed(AuditError):
    """Events could not be made durable and are lost to this log, or the writer has stopped; the cause is chained."""


class RetentionRefused(AuditError):
    """Retention must not go on: for a legal hold, a clock that jumped, or a segment that is no candidate for it."""
