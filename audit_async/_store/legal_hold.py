"""Legal holds on disk: while one is in force nothing of the log is archived or deleted."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from audit_async._durable import disk
from audit_async._layout.hold_file import Hold, read_hold
from audit_async._layout.names import HOLD_FILE, UNFINISHED
from audit_async._store.log_directory import LogDirectory
from audit_async.errors import LogCorrupted, RetentionRefused


class LegalHold:
    """The hold of an open log. Owned by the disk thread.

    The hold as it was last seen is remembered: it goes with a directory that somebody removes, and is not lifted by
    that.
    """

    def __init__(self, directory: LogDirectory) -> None:
        self._directory: Final = directory
        self._last_seen: Hold | None = None
        with suppress(LogCorrupted, OSError):
            self._last_seen = read_hold(directory.path)

    def in_force(self) -> Hold | None:
        """Return the hold that is in force, None if there is none; reads the file, which others may have placed.

        Raises `LogCorrupted` for a file that can't be understood, `OSError`: neither is permission to delete.
        """
        self._last_seen = read_hold(self._directory.path)
        return self._last_seen

    def is_in_force(self) -> bool:
        """Return whether a hold is in force, or nobody can tell."""
        try:
            return self.in_force() is not None
        except (LogCorrupted, OSError):
            return True

    def refuse(self, segment: str) -> None:
        """Raise `RetentionRefused` if a hold is in force, so that `segment` has to stay as it is."""
        if (hold := self.in_force()) is not None:
            raise RetentionRefused(
                f"{segment} stays as it is: a legal hold is in force since {hold.since}; lift it first"
            )

    def set(self, *, reason: str, set_by: str, now: datetime) -> Hold:
        """Put a hold in force, durably; one that is in force stays as it is, and is returned."""
        hold = self.in_force()
        if hold is None:
            hold = _new_hold(reason, set_by, now)
            self._directory.replace(HOLD_FILE, msgspec.json.encode(hold) + b"\n")
        self._directory.sync()
        self._last_seen = hold
        return hold

    def lift(self) -> None:
        """End the hold, durably; does nothing if there is none."""
        with suppress(FileNotFoundError):
            disk.unlink(HOLD_FILE, dir_fd=self._directory.fd)
        self._directory.sync()
        self._last_seen = None

    def restore(self) -> None:
        """Put the hold back into a directory that was made again; durable with the directory's next sync."""
        if self._last_seen is not None and HOLD_FILE not in self._directory.names():
            self._directory.replace(HOLD_FILE, msgspec.json.encode(self._last_seen) + b"\n")


def is_on_hold(directory: Path) -> bool:
    """Return whether the log in `directory` is on hold, or nobody can tell, which is as good as a hold."""
    try:
        return read_hold(directory) is not None
    except (LogCorrupted, OSError):
        return True


def place_hold(directory: Path, *, reason: str, set_by: str, now: datetime) -> Hold:
    """Put a hold in force for the log in `directory` without its lock, durably: a running writer respects it at once.

    One that is in force stays as it is, and is returned. Nothing is recorded: that is the caller's duty. The file is
    written under a name of this process's own, synced, renamed, and the directory synced, so a reader sees the whole
    hold or none. Two that come at the same instant both succeed, and one of them is in force.
    """
    if (hold := read_hold(directory)) is not None:
        return hold
    hold = _new_hold(reason, set_by, now)
    log_fd = disk.open_directory(str(directory))
    try:
        unfinished = f"{HOLD_FILE}.{os.getpid()}{UNFINISHED}"
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=log_fd)
        fd = disk.create_file(unfinished, dir_fd=log_fd)
        try:
            disk.write_at(fd, msgspec.json.encode(hold) + b"\n", 0)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.rename(unfinished, HOLD_FILE, dir_fd=log_fd)
        disk.sync_directory(log_fd)
    finally:
        disk.close(log_fd)
    return hold


def _new_hold(reason: str, set_by: str, now: datetime) -> Hold:
    since = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return Hold(reason=reason, set_by=set_by, since=since)
