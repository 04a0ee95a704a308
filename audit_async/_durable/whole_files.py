"""Small files that are whole or not there: replaced as a whole, or only ever added to by whole lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from audit_async._durable import disk

__all__ = ["append_lines", "complete_lines", "replace_file", "sync_names"]

_BLOCK_BYTES = 64 << 10


def replace_file(
    path: Path, content: bytes, *, unfinished: Path, mode: int | None = None, durable: bool = True
) -> None:
    """Give a file another content, whole or not at all.

    One process at a time for one file.

    Args:
        path: The file, which need not be there.
        content: All of it.
        unfinished: The name that it has until its bytes are on the disk, in the same directory; what has it is removed.
        mode: Its access mode; None for that of new files.
        durable: Make the new name durable before returning. Otherwise a power cut may bring back the file before.

    Raises:
        OSError: The system refuses; the file is as it was.
    """
    with suppress(FileNotFoundError):
        disk.unlink(str(unfinished), dir_fd=None)
    fd = disk.create_file(str(unfinished), dir_fd=None)
    try:
        disk.write_at(fd, content, 0)
        if mode is not None:
            disk.change_mode(fd, mode)
        disk.sync_data(fd)
    finally:
        disk.close(fd)
    disk.rename(str(unfinished), str(path), dir_fd=None)
    if durable:
        sync_names(path.parent)


def append_lines(path: Path, lines: bytes) -> None:
    """Add whole lines to a file, durable on return; a line that a crash has left unfinished is written over.

    One process at a time for one file; it is made if it is absent. Raises `OSError`.
    """
    is_new = not path.exists()
    fd = disk.open_or_create_file(str(path), dir_fd=None)
    try:
        size = os.fstat(fd).st_size
        end = complete_lines(size, lambda count, at: disk.read_at(fd, count, at))
        if end < size:
            disk.truncate(fd, end)
        disk.write_and_sync_at(fd, lines, end)
    finally:
        disk.close(fd)
    if is_new:
        sync_names(path.parent)


def complete_lines(size: int, read: Callable[[int, int], bytes]) -> int:
    """Return how many of so many bytes are whole lines; `read` takes a count and a position."""
    end = size
    while end:
        at = max(0, end - _BLOCK_BYTES)
        found = read(end - at, at).rfind(b"\n")
        if found >= 0:
            return at + found + 1
        end = at
    return 0


def sync_names(directory: Path) -> None:
    """Make the names in a directory durable. Raises `OSError`."""
    fd = disk.open_directory(str(directory), follow=True)
    try:
        disk.sync_directory(fd)
    finally:
        disk.close(fd)
