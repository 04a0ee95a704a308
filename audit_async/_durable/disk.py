"""The system calls that the store makes, each in one small function that says what it guarantees.

Everything that changes the disk goes through this module, and its callers name it (`disk.rename(...)`), so that a
test can record every call, replay what a power cut would have left, and make any of them fail. It decides nothing.

Names are relative to a directory's descriptor wherever there is one: a directory that somebody swaps for a symbolic
link after it was checked is then not followed. No file is opened through a symbolic link or inherited by a program
that this process starts.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

if sys.platform != "win32":
    import fcntl

_CLOSED_ON_EXEC: Final = getattr(os, "O_CLOEXEC", 0)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
# A FIFO that somebody put in a segment's place must not hang the opening; regular files don't heed it.
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)

_WRITE_AND_SYNC: Final[int] = getattr(os, "RWF_DSYNC", 0) if hasattr(os, "pwritev") else 0

PRIVATE_DIRECTORY: Final = 0o700
PRIVATE_FILE: Final = 0o600
SEALED_FILE: Final = 0o400


# -- names: nothing here is durable before `sync_directory` -----------------------------------------------------


def make_directory(name: str, *, dir_fd: int | None = None) -> None:
    """Make a directory that only its owner may enter; `FileExistsError` where the name is taken."""
    os.mkdir(name, PRIVATE_DIRECTORY, dir_fd=dir_fd)


def open_directory(name: str, *, dir_fd: int | None = None, follow: bool = False) -> int:
    """Open a directory; `NotADirectoryError` for anything else, a symbolic link included unless `follow`."""
    flags = os.O_RDONLY | _DIRECTORY | _CLOSED_ON_EXEC
    return os.open(name, flags if follow else flags | _NO_LINK, dir_fd=dir_fd)


def create_file(name: str, *, dir_fd: int) -> int:
    """Create a file, mode 0600, for reading and writing; `FileExistsError` where the name is taken."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _CLOSED_ON_EXEC | _BINARY
    return os.open(name, flags, PRIVATE_FILE, dir_fd=dir_fd)


def open_or_create_file(name: str, *, dir_fd: int) -> int:
    """Open a file for reading and writing, and make it, empty and mode 0600, where there is none."""
    flags = os.O_RDWR | os.O_CREAT | _NO_LINK | _NO_WAIT | _CLOSED_ON_EXEC | _BINARY
    return os.open(name, flags, PRIVATE_FILE, dir_fd=dir_fd)


def open_file(name: str, *, dir_fd: int | None = None, writable: bool = False) -> int:
    """Open a file that exists; `OSError` with `ELOOP` for a symbolic link."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | _NO_LINK | _NO_WAIT | _CLOSED_ON_EXEC | _BINARY
    return os.open(name, flags, dir_fd=dir_fd)


def rename(source: str, target: str, *, dir_fd: int, target_dir_fd: int | None = None) -> None:
    """Give a file another name; what had that name is replaced, and at no moment is there no file of that name."""
    os.rename(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd if target_dir_fd is None else target_dir_fd)


def unlink(name: str, *, dir_fd: int) -> None:
    """Remove a name; a descriptor that is open on the file goes on working."""
    os.unlink(name, dir_fd=dir_fd)


# -- contents: nothing here is durable before `sync_data` --------------------------------------------------------


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at byte `offset`, in one call where the system takes it in one.

    On `OSError` any part of it may have been written. Writing at a known place, not at the end, lets the next try
    put the same bytes over what a failed one has left.
    """
    written = os.pwrite(fd, data, offset)
    if written == memoryview(data).nbytes:
        return
    rest = memoryview(data).cast("B")[written:]
    while rest:  # a file system that is nearly full takes what fits, and refuses the next call
        offset += written
        written = os.pwrite(fd, rest, offset)
        rest = rest[written:]


def write_and_sync_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at byte `offset` and return once it, and the file's size, are on stable storage.

    One system call where the kernel has it (`RWF_DSYNC`, Linux 4.7), and that call syncs the bytes it writes and no
    others: everything before `offset` must be durable already. It saves a second wait for the GIL, a fifth of a lone
    commit. On `OSError` it is not known what failed, so the file is as suspect as after a failed `sync_data`.
    """
    if _WRITE_AND_SYNC:
        try:
            written = os.pwritev(fd, [data], offset, _WRITE_AND_SYNC)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
        else:
            if written == len(data):
                return
    write_at(fd, data, offset)
    sync_data(fd)


def truncate(fd: int, size: int) -> None:
    """Cut a file to `size` bytes."""
    os.ftruncate(fd, size)


def change_mode(fd: int, mode: int) -> None:
    """Set a file's permissions."""
    os.fchmod(fd, mode)


# -- durability ---------------------------------------------------------------------------------------------------


def sync_data(fd: int) -> None:
    """Return once a file's bytes and its size are on stable storage; its name may still be lost.

    After an `OSError` the kernel may have dropped the pages and call them clean: a second call on this file may
    succeed and mean nothing (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    """
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # its fsync leaves the data in the drive's cache
    else:
        os.fdatasync(fd)


def sync_directory(fd: int) -> None:
    """Return once a directory's names are on stable storage: files made, renamed and removed in it."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


# -- looking, locking, letting go ---------------------------------------------------------------------------------


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Return up to `size` bytes at `offset`; fewer only at the end of the file or before a signal's interruption."""
    return os.pread(fd, size, offset)


def lock(fd: int) -> None:
    """Lock a file for this open descriptor; `BlockingIOError` where another has it. Ends with its last copy."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def close(fd: int) -> None:
    """Close a descriptor; what `close` reports was reported by a sync before, or was never promised."""
    try:
        os.close(fd)
    except OSError:
        return
