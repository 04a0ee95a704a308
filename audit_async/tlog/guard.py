"""The guard: a file that remembers the last checkpoint before it is signed.

It is written, durably, before a key is asked for a signature. So after a crash the log knows what it may have signed,
even if nothing of it was published; and a guard outside of what is backed up knows it when the log itself came
back from a backup. It holds a checkpoint's text, and is no secret.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit_async._durable import disk
from audit_async._durable.whole_files import UNFINISHED
from audit_async.errors import ConfigError, RetentionRefused
from audit_async.tlog.checkpoint import Checkpoint
from audit_async.tlog.failures import Malformed, TilesDamaged

#: The directory in the log's own that holds the tree.
TREE_DIRECTORY: Final = "tlog"
GUARD_FILE: Final = "guard"
_LARGEST: Final = 4096


class Guard:
    """One such file. Called from one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file's directory, which must exist; raises `ConfigError` if it does not."""
        self.path: Final = Path(os.path.abspath(path))
        try:
            self._directory = disk.open_directory(str(self.path.parent), follow=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError("transparency.guard", f"{self.path.parent} is not there; make it first") from error

    def read(self) -> Checkpoint | None:
        """Return what was remembered, None before the first time.

        Raises:
            TilesDamaged: The file is not what the library writes; without its memory nothing may be signed.
        """
        try:
            fd = disk.open_file(self.path.name, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        try:
            content = disk.read_at(fd, _LARGEST, 0)
        finally:
            disk.close(fd)
        try:
            return Checkpoint.parse(content.decode())
        except (Malformed, UnicodeDecodeError) as error:
            reason = (
                "not what the library writes; put back the file that was there, or the newest signed checkpoint's text"
            )
            raise TilesDamaged(str(self.path), reason) from error

    def write(self, checkpoint: Checkpoint) -> None:
        """Remember a checkpoint, durably: whole or not at all."""
        unfinished = self.path.name + UNFINISHED
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=self._directory)
        fd = disk.create_file(unfinished, dir_fd=self._directory)
        try:
            disk.write_at(fd, checkpoint.text().encode(), 0)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.rename(unfinished, self.path.name, dir_fd=self._directory)
        disk.sync_directory(self._directory)

    def close(self) -> None:
        """Close the directory; may be called again."""
        directory, self._directory = self._directory, -1
        if directory >= 0:
            disk.close(directory)


def refuse_uncovered(log_directory: Path, last_seq: int) -> None:
    """Refuse to delete records of a log that was signed before, and is not now, unless the tree has them.

    For a log that is open without `transparency`. Its tree could never be continued over records that are gone.

    Args:
        log_directory: The log's own directory.
        last_seq: The last of the records to be deleted.

    Raises:
        RetentionRefused: The tree ends before that record.
        TilesDamaged: The guard can't be read as one.
        OSError: It can't be read at all.
    """
    try:
        guard = Guard(log_directory / TREE_DIRECTORY / GUARD_FILE)
    except ConfigError:
        return  # there is no tree
    try:
        committed = guard.read()
    finally:
        guard.close()
    if committed is not None and committed.size <= last_seq:
        raise RetentionRefused(
            f"the log has a signed tree, which ends at record {committed.size - 1}, and record {last_seq} would be "
            "deleted before its hash is in it. Open the log with its `transparency` settings, so that a checkpoint "
            f"covers it; or, if it will never be signed again, move {log_directory / TREE_DIRECTORY} away"
        )
