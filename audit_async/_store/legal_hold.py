"""Legal holds of a log that is written: while one is in force nothing of the log is archived or deleted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from audit_async._durable import disk
from audit_async._durable.lock_waits import one_at_a_time
from audit_async._durable.whole_files import replace_shared_file
from audit_async._layout.access_modes import Access, local_like
from audit_async._layout.chain_holds import ChainHolds
from audit_async._layout.hold_file import Hold, read_hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._layout.names import HOLD_FILE
from audit_async._store.log_directory import LogDirectory
from audit_async._store.set_aside import set_file_aside
from audit_async.errors import LogCorrupted, RetentionRefused

#: How long one that places a hold waits for others that do.
_WAIT_S: Final = 5.0
#: How long the log's disk thread waits for one: commits wait for it, and whoever places one may have been stopped.
_WRITERS_WAIT_S: Final = 1.0
#: Who sets the hold that an unreadable file stands for.
_LIBRARY: Final = "audit-async"


class LegalHolds:
    """The legal holds of an open log. Owned by the disk thread.

    A hold is in force if `hold.json` or the chain says so, and only `lift` ends it, after the chain has recorded that.
    So neither a removed file, nor one that was replaced or made unreadable, nor a removed directory lifts a hold. The
    file states one hold; several are in force if one was placed without the lock while another was.
    """

    def __init__(self, directory: LogDirectory, chain: ChainHolds) -> None:
        """Begin with what the chain says; `check` compares the file with it."""
        self._directory: Final = directory
        self._chain: Final = chain  # kept up to date: what is lifted here, the chain has recorded
        self._recorded: Final = set(
            chain.in_force
        )  # ids that the chain has, or of which the caller was handed the hold

    def in_force(self) -> tuple[Hold, ...]:
        """Return all holds in force, the oldest first; reads the file, which others may have placed.

        Raises `LogCorrupted` for a file that can't be understood, and `OSError`, unless the chain has a hold: neither
        is permission to delete.
        """
        held = self._chain.in_force
        try:
            hold = read_hold(self._directory.path)
        except (LogCorrupted, OSError):
            if not held:
                raise
        else:
            if hold is not None:
                self._chain.add_stated(hold)
        return tuple(sorted(held.values(), key=lambda hold: hold.since))

    def is_any_in_force(self) -> bool:
        """Return whether a hold is in force, or it can't be said."""
        try:
            return bool(self.in_force())
        except (LogCorrupted, OSError):
            return True

    def refuse(self, segment: str) -> None:
        """Raise `RetentionRefused` if a hold is in force, so that `segment` has to stay as it is."""
        if holds := self.in_force():
            raise RetentionRefused(
                f"{segment} stays as it is: a legal hold is in force since {holds[0].since}; lift it first"
            )

    def check(self, now: datetime) -> tuple[Hold, ...]:
        """Make file and chain agree; return the holds that the chain does not have, for the caller to record.

        - a hold that is only in the file is returned, once;
        - a file that is missing, or states a hold that was lifted, is replaced by a hold of the chain, or removed;
        - a file that can't be understood is a hold: if the chain has none, one is made that says so. The file is set
          aside only once the chain has that hold, so no crash in between loses it.

        Raises `OSError`; nothing is lifted then.
        """
        held = self._chain.in_force
        try:
            self.in_force()
        except LogCorrupted as error:
            hold = _new_hold(f"{HOLD_FILE} can't be understood, so it counts as a hold: {error.reason}", _LIBRARY, now)
            held[hold.id] = hold
        else:
            self._replace_file()
        unrecorded = tuple(hold for hold_id, hold in held.items() if hold_id not in self._recorded)
        self._recorded.update(held)
        return unrecorded

    def set(self, *, reason: str, set_by: str, now: datetime) -> Hold:
        """Put a hold in force, durably; one that is in force stays as it is, and is returned."""
        holds = self.in_force()
        hold = holds[0] if holds else _new_hold(reason, set_by, now)
        self._chain.in_force[hold.id] = hold
        self._chain.lifted.pop(hold.id, None)
        self._replace_file()
        self._recorded.add(hold.id)  # by the caller, who is handed it; if the file fails, the next `check` returns it
        return hold

    def lift(self, holds: Iterable[Hold], now: datetime) -> None:
        """End these holds, durably; the chain has recorded it, which is the caller's duty."""
        for hold in holds:
            self._chain.in_force.pop(hold.id, None)
            self._chain.lifted[hold.id] = _as_text(now)
            self._recorded.discard(hold.id)
        self._replace_file()

    def restore(self) -> None:
        """Put the file back into a directory that was made again; durable with the directory's next sync."""
        if self._chain.in_force and HOLD_FILE not in self._directory.names():
            self._write(self.in_force()[0])

    def _replace_file(self) -> None:
        """Let the file state a hold that is in force, or be gone if none is; durably.

        Others place holds at any moment, so it is done alone: what they have placed between the reading and the
        replacing or removing would be lost.
        """
        directory = self._directory
        with one_at_a_time(directory.fd, _WRITERS_WAIT_S) as is_alone:
            try:
                stated = read_hold(directory.path)
            except LogCorrupted:
                set_file_aside(directory, HOLD_FILE)
                stated = None
            if stated is not None and not self._chain.has_lifted(stated):
                self._chain.add_stated(stated)  # placed by somebody just now
            elif self._chain.in_force:
                self._write(self.in_force()[0])
            elif stated is not None and is_alone:  # otherwise the next `check` removes it
                disk.unlink(HOLD_FILE, dir_fd=directory.fd)
            directory.sync()

    def _write(self, hold: Hold) -> None:
        self._directory.replace(HOLD_FILE, msgspec.json.encode(hold) + b"\n")


def is_on_hold(directory: Path) -> bool:
    """Return whether `hold.json` states a hold, or can't be read, which is as good as a hold."""
    try:
        return read_hold(directory) is not None
    except (LogCorrupted, OSError):
        return True


def place_hold(directory: Path, *, reason: str, set_by: str, now: datetime) -> Hold:
    """Put a hold in force for the log in `directory` without its lock, durably: a running writer respects it at once.

    One that is in force stays as it is, and is returned. Nothing is recorded: the running writer does it at its
    next run of retention, or else the next opening. A reader sees the whole hold or none. Of two that come at the
    same instant the second finds the hold of the first.
    """
    log_fd = disk.open_directory(str(directory))
    try:
        with one_at_a_time(log_fd, _WAIT_S):
            hold = _hold_in_force(directory)
            if hold is None:
                hold = _new_hold(reason, set_by, now)
                access = Access.of(local_like(directory, directory))
                content = msgspec.json.encode(hold) + b"\n"
                replace_shared_file(log_fd, HOLD_FILE, content, prepare=access.apply_to_file)
    finally:
        disk.close(log_fd)
    return hold


def _hold_in_force(directory: Path) -> Hold | None:
    """Return the hold that the file states, unless the chain has lifted it and the writer is about to remove the file.

    Raises `LogCorrupted` and `OSError` as `read_hold` does.
    """
    hold = read_hold(directory)
    if hold is None:
        return None
    try:
        return hold if any(one.id == hold.id for one in find_holds(directory)) else None
    except (LogCorrupted, OSError):
        return hold


def _new_hold(reason: str, set_by: str, now: datetime) -> Hold:
    return Hold(id=os.urandom(8).hex(), reason=reason, set_by=set_by, since=_as_text(now))


def _as_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
