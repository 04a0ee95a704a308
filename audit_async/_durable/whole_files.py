"""Small files that are whole or not there: replaced as a whole, or only ever added to by whole lines."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit_async._durable import disk

__all__ = [
    "UNFINISHED",
    "append_lines",
    "complete_lines",
    "remove_left_over",
    "replace_file",
    "replace_shared_file",
    "sync_names",
]

#: The ending of a file that is being made; it is renamed when it is whole and synced.
UNFINISHED: Final = ".unfinished"

_BLOCK_BYTES = 64 << 10
#: How often the new file may vanish: each time somebody has opened the log, which removes what looks left over.
_TRIES: Final = 10


def replace_file(
    path: Path, content: bytes, *, unfinished: Path, mode: int | None = None, durable: bool = True
) -> None:
    """Give a file another content, whole or not at all.

    One thread of one process at a time for one file; `replace_shared_file` is for several.

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


def replace_shared_file(
    directory_fd: int,
    name: str,
    content: bytes,
    *,
    prepare: Callable[[int], None] | None = None,
    durable: bool = True,
) -> None:
    """Give a file in a directory another content, whole or not at all; what the last of several writes stays.

    For files that threads, processes and containers replace at the same time without a lock: each writes a file of a
    name that no other takes. A process id would not do: threads share it, and so do containers, whose first process
    is 1.

    Args:
        directory_fd: The directory.
        name: The file, which need not be there.
        content: All of it.
        prepare: Called with the new file's descriptor before anything is in it, to give it its mode and group.
        durable: Make the new name durable before returning. Otherwise a power cut may bring back the file before.

    Raises:
        OSError: The system refuses; the file is as it was.
    """
    for left in reversed(range(_TRIES)):
        unfinished = f"{name}.{os.urandom(8).hex()}{UNFINISHED}"
        try:
            _write_whole(directory_fd, unfinished, content, name, prepare)
        except FileNotFoundError:
            if not left:
                raise
        else:
            break
    if durable:
        disk.sync_directory(directory_fd)


def _write_whole(
    directory_fd: int, unfinished: str, content: bytes, name: str, prepare: Callable[[int], None] | None
) -> None:
    fd = disk.create_file(unfinished, dir_fd=directory_fd)
    try:
        with suppress(OSError):  # a file system without locks
            disk.lock(fd)  # so that `remove_left_over` of another leaves it alone
        if prepare is not None:
            prepare(fd)
        disk.write_at(fd, content, 0)
        disk.sync_data(fd)
        disk.rename(unfinished, name, dir_fd=directory_fd)
    except BaseException:
        with suppress(OSError):
            disk.unlink(unfinished, dir_fd=directory_fd)
        raise
    finally:
        disk.close(fd)


def remove_left_over(directory_fd: int, name: str) -> None:
    """Remove what killed processes have left of their `replace_shared_file`; others' that are under way stay.

    For directories that no log is in: opening a log removes what is left over in its own.
    """
    pattern = re.compile(re.escape(name) + r"\.[0-9a-f]{16}" + re.escape(UNFINISHED))
    for found in filter(pattern.fullmatch, os.listdir(directory_fd)):
        with suppress(OSError):  # somebody writes it, it is gone by now, or the file system has no locks
            fd = disk.open_file(found, dir_fd=directory_fd)
            try:
                disk.lock(fd)
                disk.unlink(found, dir_fd=directory_fd)
            finally:
                disk.close(fd)


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
