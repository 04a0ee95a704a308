"""What can go wrong, one class for each cause; a message says what was being done, where, and what to do.

No message holds text of an event: an error often ends in a debugging log, which is not an audit trail. Every error
survives pickling, with all its attributes, so it reaches the caller of a process pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

    def __reduce__(self) -> tuple[Callable[..., AuditError], tuple[Any, ...]]:
        # Exception's own calls the class with the message alone, whatever its constructor takes.
        return _restored, (type(self), self.args, dict(self.__dict__))


def _restored(cls: type[AuditError], args: tuple[object, ...], attributes: dict[str, object]) -> AuditError:
    """Return an error as it was, without its constructor."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ConfigError(AuditError, ValueError):
    """A configuration value is wrong; raised before anything touches the disk.

    Args:
        field: The setting as it is written in `AuditConfig`, dotted for a nested one (`rotation.max_bytes`).
        reason: What was given, and what is allowed.
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class InvalidEvent(AuditError, ValueError):
    """An event can't be recorded as it is, or a class of events can't be defined as it is.

    Raised by `emit`, by an event's constructor or by the class statement: while the code that has to change is on the
    stack.

    Args:
        event_type: The type's tag or class name.
        field: The path to the member (`changes.limits[2]`); empty if it is no single member.
        reason: What is wrong and what to do; never the offending value.
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
    """Another writer has this log.

    Args:
        message: What was tried, and which log it was.
        pid: The process that the lock names, None if it names none.
    """

    def __init__(self, message: str, *, pid: int | None) -> None:
        self.pid = pid
        super().__init__(message)


class LogCorrupted(AuditError):
    """What is on disk is not what was written: damage that no crash of a writer explains.

    Nothing on disk was changed by finding it.

    Args:
        segment: The file.
        line: The line in it, from 1; None if the damage is not in a line.
        seq: The sequence number that was due there; None if none was.
        reason: What is wrong.
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
