"""Waiting for a lock that others hold for moments only, with a bound: its holder may have been stopped, or hang."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from audit_async._durable import disk

__all__ = ["lock_within", "one_at_a_time"]

_FIRST_PAUSE_S: Final = 0.0002
_LONGEST_PAUSE_S: Final = 0.005


def lock_within(fd: int, timeout_s: float, *, shared: bool = False) -> bool:
    """Lock a file for this open descriptor as `disk.lock` does; return whether it was free in time. Blocks.

    Raises `OSError` if the file system has no locks.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            disk.lock(fd, shared=shared)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        else:
            return True
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


@contextmanager
def one_at_a_time(directory: int | Path, timeout_s: float) -> Iterator[bool]:
    """Run the block alone among all that ask for the same directory: threads, processes and containers. Blocks.

    The directory itself is locked, so nothing has to be made in it. For a step that reads a file there and replaces it.

    Args:
        directory: An open descriptor of the directory, or its path.
        timeout_s: How long others are waited for.

    Yields:
        False if another has had it for all that time. A file system without locks keeps nobody apart, and yields True.

    Raises:
        OSError: The directory can't be opened.
    """
    # A descriptor of its own, also of one that is open: a lock belongs to what `open` has made, which threads share.
    at = (str(directory), None) if isinstance(directory, Path) else (".", directory)
    fd = disk.open_directory(at[0], dir_fd=at[1], follow=True)
    try:
        try:
            is_alone = lock_within(fd, timeout_s)
        except OSError:
            is_alone = True
        yield is_alone
    finally:
        disk.close_lock(fd)
