"""Which logs use a key store at the moment: a file for each, flock'd by its process, so that a dead one is seen.

The file says up to which epoch its process holds no destroyed key any more: 8 bytes, big-endian, then the log's name.
Nothing in it is synced, since after a power cut there is no process to wait for. All of it happens under the store's
lock but `passed`, which writes 8 bytes that a reader sees whole.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit_async._durable import disk

_EPOCH_BYTES: Final = 8
_LONGEST_NAME: Final = 200


class RegisteredSession:
    """The file of one log of this process."""

    def __init__(self, directory: Path, name: str, epoch: int) -> None:
        self.name = name
        self._file = directory / secrets.token_hex(8)
        self._fd: int | None = disk.create_file(str(self._file), dir_fd=None)
        content = epoch.to_bytes(_EPOCH_BYTES, "big") + name.encode("utf-8", "backslashreplace")[:_LONGEST_NAME]
        try:
            disk.lock(self._fd)
            disk.write_at(self._fd, content, 0)
        except BaseException:  # a file that stays locked would lag until this process ends
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether the log is registered."""
        return self._fd is not None

    def passed(self, epoch: int) -> None:
        """Write up to which epoch no destroyed key is in memory."""
        if self._fd is not None:
            disk.write_at(self._fd, epoch.to_bytes(_EPOCH_BYTES, "big"), 0)

    def close(self) -> None:
        """End the registration."""
        if self._fd is not None:
            with suppress(OSError):
                disk.unlink(str(self._file), dir_fd=None)
            self.give_up()

    def give_up(self) -> None:
        """Leave the registration to the parent that this process was forked from: its lock is not ours to hold."""
        if self._fd is not None:
            disk.close(self._fd)
            self._fd = None


def lagging_sessions(directory: Path, epoch: int) -> list[str]:
    """Return the names of living sessions that have not passed an epoch, and remove the files of the dead."""
    lagging = []
    for name in sorted(os.listdir(directory)):
        try:
            fd = disk.open_file(str(directory / name), writable=True)
        except FileNotFoundError:
            continue  # it was closed meanwhile
        try:
            disk.lock(fd)
        except BlockingIOError:
            content = disk.read_at(fd, _EPOCH_BYTES + _LONGEST_NAME, 0)
            if int.from_bytes(content[:_EPOCH_BYTES], "big") < epoch:
                lagging.append(content[_EPOCH_BYTES:].decode("utf-8", "replace"))
        else:
            with suppress(FileNotFoundError):
                disk.unlink(str(directory / name), dir_fd=None)
        finally:
            disk.close(fd)
    return lagging
