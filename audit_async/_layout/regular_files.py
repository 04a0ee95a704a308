"""Opening a file of a log: only a regular file, never a link, a directory or a device."""

from __future__ import annotations

import errno
import os
import stat

from audit_async._durable import disk
from audit_async.errors import LogCorrupted


def open_regular(name: str, *, dir_fd: int, writable: bool = False) -> int:
    """Open a regular file of a log; `LogCorrupted` where a symbolic link or a device stands in its place."""
    try:
        fd = disk.open_file(name, dir_fd=dir_fd, writable=writable)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO}:
            raise LogCorrupted(name, None, None, "not a regular file but a link, a directory or a device") from error
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    disk.close(fd)
    raise LogCorrupted(name, None, None, "not a regular file but a directory or a device")
