"""Opening and reading the files of a log: only regular files, never through a link, and never more than fits.

Somebody who can write to a log's directory can put a FIFO, a device or a file of terabytes in the place of a small
one. Nothing here waits for such a file or reads all of it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from audit_async._durable import disk
from audit_async.errors import LogCorrupted

#: This process or the whole system has no file descriptor left: nothing was found out about the file, so it is neither
#: missing nor damaged, and no other user's.
NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
#: Most bytes of log.json, hold.json and a checksum file; the library writes some hundred.
MOST_SMALL_BYTES: Final = 1 << 20
#: Most bytes of manifest.json: some 400,000 segments.
MOST_MANIFEST_BYTES: Final = 256 << 20


def open_regular(name: str | os.PathLike[str], *, dir_fd: int | None = None, writable: bool = False) -> int:
    """Open a regular file of a log and return its descriptor, which the caller closes.

    Args:
        name: The file's path, or its name in the directory of `dir_fd`.
        dir_fd: An open directory, or None.
        writable: For reading and writing instead of reading.

    Raises:
        LogCorrupted: A symbolic link, a directory, a FIFO or a device has that name; opening it does not wait.
        OSError: It can't be opened; `FileNotFoundError` if there is none.
    """
    text = os.fspath(name)
    shown = text if dir_fd is not None else os.path.basename(text)
    try:
        fd = disk.open_file(text, dir_fd=dir_fd, writable=writable)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO}:
            raise LogCorrupted(shown, None, None, "not a regular file but a link, a directory or a device") from error
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    disk.close(fd)
    raise LogCorrupted(shown, None, None, "not a regular file but a directory or a device")


def read_bounded(
    name: str | os.PathLike[str], *, dir_fd: int | None = None, max_bytes: int = MOST_SMALL_BYTES
) -> bytes:
    """Return the content of a file that is small if the library wrote it; the one reader of such files.

    Args:
        name: The file's path, or its name in the directory of `dir_fd`.
        dir_fd: An open directory, or None.
        max_bytes: The most that the file may hold.

    Raises:
        LogCorrupted: It is no regular file, or is larger than `max_bytes`; it is not read then.
        OSError: It can't be read; `FileNotFoundError` if there is none.
    """
    fd = open_regular(name, dir_fd=dir_fd)
    with open(fd, "rb") as file:
        size = os.fstat(fd).st_size
        # Not `max_bytes`: a buffer of that size is allocated before the first byte is read.
        content = file.read(size + 1) if size <= max_bytes else b""
    if size > max_bytes or len(content) > max_bytes:
        shown = os.fspath(name) if dir_fd is not None else os.path.basename(name)
        raise LogCorrupted(shown, None, None, f"the file has {size} bytes, and no such file has more than {max_bytes}")
    return content
