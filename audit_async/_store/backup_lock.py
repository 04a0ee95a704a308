"""The lock between a backup and retention: what a backup has yet to copy is neither archived nor deleted.

A backup holds it shared while it copies, retention alone while it takes one step, which is a few system calls. It is
`flock` on the file `backup.lock`, so a backup that dies holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from audit_async._durable import disk
from audit_async._durable.lock_waits import lock_within
from audit_async._layout.names import BACKUP_LOCK
from audit_async._store.log_directory import LogDirectory
from audit_async.errors import AuditError, RetentionRefused

_WAIT_S: Final = 30.0


class BackupRunning(RetentionRefused):
    """A backup of the log is being taken, so nothing is archived or deleted now."""


class RetentionTakesLong(AuditError):
    """A step of retention does not end, so no backup can be begun."""


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
        disk.close_lock(fd)


@contextmanager
def holding_back_retention(directory: Path, directory_fd: int) -> Iterator[bool]:
    """Keep retention from taking a step while the block runs; waits for the step that is being taken.

    Yields False if there is no lock, or this process may not read it: then the copy has to be begun again if a file
    vanishes. It is never made here, since a file of root's would keep the service from its own retention.

    Raises `RetentionTakesLong`.
    """
    try:
        fd = disk.open_file(BACKUP_LOCK, dir_fd=directory_fd)
    except OSError:
        yield False
        return
    try:
        if not lock_within(fd, _WAIT_S, shared=True):
            raise RetentionTakesLong(
                f"another process has held {directory / BACKUP_LOCK} for {_WAIT_S:g} s, for a step of retention that "
                "takes no such time; look whether it was stopped or its disk hangs, and take the backup again"
            )
        yield True
    finally:
        disk.close_lock(fd)
