"""What a set of rules has counted so far, durable: a snapshot, and a journal of what came since.

A crash at any point leaves what was stored with the last record that was answered: the journal's entry of a batch is
durable before the batch is, and one that is torn was of a batch that comes again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from audit_async._durable import disk
from audit_async.delivery.alerts.alert_windows import Hit, RuleWindow
from audit_async.errors import AuditError

__all__ = ["AlertStateUnusable", "JournalEntry", "LogState", "Snapshot", "StateFiles"]

_SNAPSHOT: Final = "alerts.json"
_UNFINISHED: Final = "alerts.json.new"
_JOURNAL: Final = "alerts-{generation}.journal"
#: A journal as large as this is made a snapshot.
_MAX_JOURNAL_BYTES: Final = 4 << 20
_MAX_FILE_BYTES: Final = 1 << 30


class AlertStateUnusable(AuditError):
    """The state of the alerts can't be read or stored; says what to do."""


class LogState(msgspec.Struct, kw_only=True):
    """How far a log was looked at."""

    log: str = ""  #: the service and the instance
    seq: int = -1
    is_live: bool = False  #: records are counted; before that, they were too old when the log was seen first
    last_ms: dict[str, int] = {}  #: by the rule that watches for silence, the time of the newest record
    silent: list[str] = []  #: the rules that have raised the silence that goes on


class JournalEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a batch, or the passing of time, has changed."""

    log_id: str
    state: LogState
    hits: list[Hit] = []


class Snapshot(msgspec.Struct, kw_only=True):
    """Everything that is known at one point."""

    version: int = 1
    generation: int = 0
    logs: dict[str, LogState] = {}
    windows: dict[str, RuleWindow] = {}


class StateFiles:
    """The files of one set of rules. Blocks; for one thread at a time.

    Args:
        directory: The directory, which exists and is this process's alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory
        self._generation = 0
        self._journal: int | None = None
        self._size = 0

    def __repr__(self) -> str:
        return f"<StateFiles {self._directory} generation={self._generation} journal={self._size}>"

    def load(self, replay: Callable[[JournalEntry], None], restore: Callable[[Snapshot], None]) -> None:
        """Give back what was stored: the snapshot, then each entry of the journal.

        Raises:
            AlertStateUnusable: A file can't be read, or is damaged.
        """
        path = self._directory / _SNAPSHOT
        try:
            content = _read(path)
            if content is not None:
                snapshot = msgspec.json.decode(content, type=Snapshot)
                if snapshot.version != 1:
                    raise AlertStateUnusable(f"{path} is of a later release; use that one, or move the file away")
                self._generation = snapshot.generation
                restore(snapshot)
            lines = (_read(self._journal_path()) or b"").split(b"\n")[:-1]
            if lines and not _is_whole(lines[-1]):
                del lines[-1]  # torn in a crash: its end reached the disk and its beginning did not
            for line in lines:
                replay(msgspec.json.decode(line, type=JournalEntry))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise AlertStateUnusable(
                f"the state of the alerts in {self._directory} can't be read: {reason}; repair it, or move its files "
                "away to count from the logs' newest records on"
            ) from error
        self._size = sum(len(line) + 1 for line in lines)

    def append(self, entry: JournalEntry) -> None:
        """Store an entry, durable on return.

        Raises:
            AlertStateUnusable: It can't be written.
        """
        data = msgspec.json.encode(entry) + b"\n"
        try:
            if self._journal is None:
                self._journal = self._opened_journal()
            disk.write_at(self._journal, data, self._size)
            disk.sync_data(self._journal)
        except OSError as error:
            raise self._unwritable(error) from error
        self._size += len(data)

    @property
    def is_due(self) -> bool:
        """Whether the journal is large enough for a snapshot."""
        return self._size > _MAX_JOURNAL_BYTES

    def store(self, snapshot: Snapshot) -> None:
        """Store everything as a snapshot, and begin a new journal; durable on return.

        Raises:
            AlertStateUnusable: It can't be written; what was stored before is still there.
        """
        snapshot.generation = self._generation + 1
        before = self._journal_path()
        unfinished = str(self._directory / _UNFINISHED)
        try:
            fd = disk.open_or_create_file(unfinished, dir_fd=None)
            try:
                data = msgspec.json.encode(snapshot)
                disk.write_at(fd, data, 0)
                disk.truncate(fd, len(data))
                disk.sync_data(fd)
            finally:
                disk.close(fd)
            disk.rename(unfinished, str(self._directory / _SNAPSHOT), dir_fd=None)
            # From here on it is what is loaded: what is stored next follows it, also if one of the next steps fails.
            self._generation, self._size = snapshot.generation, 0
            self.close()
            self._sync_directory()
            if before.exists():
                disk.unlink(str(before), dir_fd=None)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the journal."""
        journal, self._journal = self._journal, None
        if journal is not None:
            disk.close(journal)

    def _opened_journal(self) -> int:
        """Open the journal without what a crash has left after its last whole entry; its name is durable on return."""
        fd = disk.open_or_create_file(str(self._journal_path()), dir_fd=None)
        try:
            self._sync_directory()
            disk.truncate(fd, self._size)
        except OSError:
            disk.close(fd)
            raise
        return fd

    def _journal_path(self) -> Path:
        return self._directory / _JOURNAL.format(generation=self._generation)

    def _sync_directory(self) -> None:
        fd = disk.open_directory(str(self._directory))
        try:
            disk.sync_directory(fd)
        finally:
            disk.close(fd)

    def _unwritable(self, error: OSError) -> AlertStateUnusable:
        return AlertStateUnusable(
            f"the state of the alerts can't be stored in {self._directory}: {error.strerror}; no record is answered "
            "until it can"
        )


def _read(path: Path) -> bytes | None:
    """Return a file's content, None if there is none."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > _MAX_FILE_BYTES:
                raise OSError(0, "it is larger than any state of alerts")
            return file.read()
    except FileNotFoundError:
        return None


def _is_whole(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=JournalEntry)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True
