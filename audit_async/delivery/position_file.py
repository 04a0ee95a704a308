"""How far a sink has the logs: a file for each log in the sink's directory, replaced atomically and synced.

    <state>/<sink>/lock               held by the deliverer: two of them would move the same positions
    <state>/<sink>/<log_id>.json      {"log_id": …, "seq": …, "hash": …, …}: the last record that the receiver has
    <state>/<sink>/set-aside.ndjson   what the receiver refuses, a line each; the records themselves are in the trail

A file is written under another name, synced, renamed, and its directory is synced, so that after a power cut it is the
one before or this one. An older position costs records that are sent twice, with the same key; none is lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from audit_async._durable import disk
from audit_async._durable.lock_waits import lock_within
from audit_async._durable.whole_files import append_lines, replace_file
from audit_async._layout.names import UNFINISHED
from audit_async._layout.regular_files import read_bounded
from audit_async.errors import AuditError, LogCorrupted
from audit_async.forwarding.batches import Head

__all__ = [
    "DeliveredForm",
    "DelivererRuns",
    "Position",
    "SetAside",
    "SinkDirectory",
    "StateUnusable",
    "replace_durably",
]

_LOCK: Final = "lock"
_SET_ASIDE: Final = "set-aside.ndjson"
_SUFFIX: Final = ".json"
#: `is_locked` of another process has the lock for an instant.
_WAIT_S: Final = 0.5


class DelivererRuns(AuditError):
    """Another process delivers to a sink, or moves its positions."""


class StateUnusable(AuditError):
    """A file of the state directory is damaged, or can't be read or written."""


class DeliveredForm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a sink's settings make of a log's records, as `audit.delivered` says it.

    Args:
        selected: Whether the sink gets only some of them.
        unsealed: Whether sealed members are opened.
        redacted: The members that it does not get.
    """

    selected: bool = False
    unsealed: bool = False
    redacted: tuple[str, ...] = ()


class Position(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a sink has one log.

    Args:
        log_id: The log.
        log: The service and the instance, for people.
        seq: The last record that the receiver has, or was not to get; -1 for none.
        hash: Its hash.
        delivered: How many records were delivered.
        set_aside: How many the receiver refused.
        recorded_at: When `audit.delivered` last said so, in seconds since 1970.
        recorded_seq: Which record it named.
        recorded_delivered: What `delivered` was then.
        form: In which form the records since then were delivered; None if a release before this one delivered them.
    """

    log_id: str
    log: str
    seq: int = -1
    hash: str = ""
    delivered: int = 0
    set_aside: int = 0
    recorded_at: float = 0.0
    recorded_seq: int = -1
    recorded_delivered: int = 0
    form: DeliveredForm | None = None

    @property
    def is_unrecorded(self) -> bool:
        """Whether something was delivered that `audit.delivered` has not said."""
        return self.delivered > self.recorded_delivered and self.seq >= 0

    @property
    def head(self) -> Head | None:
        """The last record; None for none."""
        return None if self.seq < 0 else Head(seq=self.seq, hash=self.hash)


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """A record that a receiver refuses. What it says stays in the trail alone."""

    log: str
    log_id: str
    seq: int
    hash: str
    audit_id: str
    reason: str
    at: str


class SinkDirectory:
    """The directory of one sink. Blocks; for one thread at a time.

    Args:
        state_dir: The state directory of the deliverer.
        name: The sink's name.
    """

    def __init__(self, state_dir: Path, name: str) -> None:
        self.path: Final = state_dir / name
        self.name: Final = name
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"<SinkDirectory {self.path} {'locked' if self._lock is not None else 'open'}>"

    def lock(self) -> None:
        """Take the sink for this process, until `unlock` or the process's end.

        Raises:
            DelivererRuns: Another process has it.
            StateUnusable: The directory can't be made or written.
        """
        try:
            if not self.path.is_dir():
                disk.make_directories(str(self.path))
            fd = disk.open_or_create_file(str(self.path / _LOCK), dir_fd=None)
        except OSError as error:
            raise StateUnusable(f"{self.path} can't be used: {error.strerror}; make it writable") from error
        try:
            is_free = lock_within(fd, _WAIT_S)
        except OSError as error:
            disk.close(fd)
            raise StateUnusable(f"{self.path} can't be locked: {error.strerror}; put it on a local disk") from error
        if not is_free:
            disk.close(fd)
            raise DelivererRuns(
                f"sink {self.name}: another deliverer runs with the state directory {self.path.parent}; stop it first"
            )
        self._lock = fd

    def is_locked(self) -> bool:
        """Return whether a process has the sink at the moment."""
        try:
            fd = disk.open_file(str(self.path / _LOCK))
        except OSError:
            return False
        try:
            disk.lock(fd, shared=True)
        except BlockingIOError:
            return True
        finally:
            disk.close(fd)
        return False

    def unlock(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            disk.close_lock(self._lock)
            self._lock = None

    def read(self, log_id: str) -> Position | None:
        """Return the position of a log; None if it has none yet.

        Raises:
            StateUnusable: The file is damaged or can't be read.
        """
        path = self.path / f"{log_id}{_SUFFIX}"
        try:
            position = msgspec.json.decode(read_bounded(path), type=Position)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, LogCorrupted) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise StateUnusable(
                f"{path} can't be read: {reason}; repair it, or move it away to deliver the log from its beginning"
            ) from error
        if position.log_id != log_id:
            raise StateUnusable(f"{path} is of another log, {position.log_id[:40]!a}; move it away")
        return position

    def write(self, position: Position) -> None:
        """Store a position, durable on return.

        Raises:
            StateUnusable: It can't be written.
        """
        try:
            replace_durably(self.path / f"{position.log_id}{_SUFFIX}", msgspec.json.encode(position) + b"\n")
        except OSError as error:
            raise StateUnusable(
                f"{self.path}: the position can't be stored: {error.strerror}; records will come twice until it can"
            ) from error

    def all_set_aside(self) -> list[SetAside]:
        """Return what the receiver refused so far, in order; raises `StateUnusable`."""
        try:
            with open(self.path / _SET_ASIDE, "rb") as file:
                return [msgspec.json.decode(line, type=SetAside) for line in file if line.endswith(b"\n")]
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise StateUnusable(f"{self.path / _SET_ASIDE} can't be read: {reason}") from error

    def set_aside(self, entries: list[SetAside]) -> None:
        """Note records that the receiver refuses, durable on return; raises `StateUnusable`."""
        data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        try:
            append_lines(self.path / _SET_ASIDE, data)
        except OSError as error:
            raise StateUnusable(f"{self.path / _SET_ASIDE} can't be written: {error.strerror}") from error


def replace_durably(path: Path, content: bytes) -> None:
    """Give a file another content, whole or not at all, durable on return."""
    replace_file(path, content, unfinished=Path(f"{path}{UNFINISHED}"))
