"""The lock between a backup and retention: what a backup has yet to copy is neither archived nor deleted.

A backup holds it shared while it copies, retention alone while it takes one step, which is a few system calls. It is
`flock` on the file `backup.lock`, so a backup that dies holds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from audit_async._durable import disk
from audit_async._layout.names import BACKUP_LOCK
from audit_async._store.log_directory import LogDirectory
from audit_async.errors import RetentionRefused

_WAIT_S: Final = 30.0
_PAUSE_S: Final = 0.02


class BackupRunning(RetentionRefused):
    """A backup of the log is being taken, so nothing is archived or deleted now."""


def make_backup_lock(directory: LogDirectory) -> None:
    """Make the file, if it is missing, so that a backup that may only read the log can lock it."""
    fd = disk.open_or_create_file(BACKUP_LOCK, dir_fd=directory.fd)
    try:
        directory.access.apply_to_file(fd)
    finally:
        disk.close(fd)


@contextmanager
def without_backup(directory: LogDirectory) -> Iterator[None]:
    """Keep backups from beginning while the block runs; `BackupRunning` if one is being taken. For the disk thread."""
    fd = disk.open_or_create_file(BACKUP_LOCK, dir_fd=directory.fd)
    try:
        try:
            disk.lock(fd)
        except BlockingIOError:
            raise BackupRunning(
                f"a backup of {directory.path} is being taken, and keeps what it has yet to copy; try again after it"
            ) from None
        yield
    finally:
        disk.close(fd)


@contextmanager
def holding_back_retention(directory_fd: int) -> Iterator[bool]:
    """Keep retention from taking a step while the block runs; waits for the step that is being taken.

    Yields False if there is no lock, or this process may not read it: then the copy has to be begun again if a file
    vanishes. It is never made here, since a file of root's would keep the service from its own retention.
    """
    try:
        fd = disk.open_file(BACKUP_LOCK, dir_fd=directory_fd)
    except OSError:
        yield False
        return
    try:
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                disk.lock(fd, shared=True)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
        yield True
    finally:
        disk.close(fd)
