"""The system calls that the package makes on a disk, each in one small function that says what it guarantees.

Callers name the module (`disk.rename(...)`), so that a test can record every call, replay what a power cut would have
left, and make any of them fail. It decides nothing.

The happy path of new content under a name, which `replace`-like callers follow:

1. `create_file` under another name     the old content stays under its name until step 4
2. `write_at`                           the bytes are in the page cache: they survive this process, not the machine
3. `sync_data`                          the bytes are on stable storage, whatever name they will have
4. `rename`                             readers see the old content or the new, never a mixture and never nothing
5. `sync_directory`                     the new name is on stable storage

Step 3 comes before step 4 because file systems may persist a rename before the bytes, which leaves an empty file after
a power cut: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014
(https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai), table 3. Step 5 is needed because
"calling fsync() does not necessarily ensure that the entry in the directory containing the file has also reached disk"
(https://man7.org/linux/man-pages/man2/fsync.2.html).

What it can't survive: a disk that confirms a sync and forgets; a sync that failed and is tried again on the same file,
which may succeed without the data: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020
(https://www.usenix.org/conference/atc20/presentation/rebello), so callers give such a file up; and a network file
system whose server answers before its own disk does.

Names are relative to a directory's descriptor if there is one: a directory that somebody swaps for a symbolic link
after it was checked is then not followed. No file is opened through a symbolic link or inherited by a program that
this process starts. An `OSError` of a call on a descriptor names the call and the path.
"""

from __future__ import annotations

import errno
import os
import sys
from array import array
from contextlib import suppress
from typing import Final

if sys.platform != "win32":
    import fcntl

_CLOSED_ON_EXEC: Final = getattr(os, "O_CLOEXEC", 0)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
# A FIFO that somebody put in a segment's place must not hang the opening; regular files ignore it.
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)

_WRITE_AND_SYNC: Final[int] = getattr(os, "RWF_DSYNC", 0) if hasattr(os, "pwritev") else 0
#: What a kernel, a file system or a sandbox (seccomp, gVisor) answers to `pwritev2` if it does not offer it.
_NOT_OFFERED: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM})

# The attributes that `chattr +a` and `chattr +i` set (https://man7.org/linux/man-pages/man2/ioctl_iflags.2.html).
_GET_ATTRIBUTES: Final = 0x80086601 if sys.maxsize > 1 << 32 else 0x80046601
_ATTRIBUTES: Final = ((0x20, "append-only", "a"), (0x10, "immutable", "i"))

PRIVATE_DIRECTORY: Final = 0o700
PRIVATE_FILE: Final = 0o600


# -- names: nothing here is durable before `sync_directory` -----------------------------------------------------


def make_directory(name: str, *, dir_fd: int | None = None) -> None:
    """Make a directory that only its owner may enter; `FileExistsError` if the name is taken."""
    os.mkdir(name, PRIVATE_DIRECTORY, dir_fd=dir_fd)


def make_directories(path: str) -> None:
    """Make a directory, and what is missing above it, that only its owner may enter; one that is there stays as it is.

    For caches: nothing above it is synced.
    """
    os.makedirs(path, PRIVATE_DIRECTORY, exist_ok=True)


def remove_directory(name: str, *, dir_fd: int | None = None) -> None:
    """Remove an empty directory."""
    os.rmdir(name, dir_fd=dir_fd)


def open_directory(name: str, *, dir_fd: int | None = None, follow: bool = False) -> int:
    """Open a directory; `NotADirectoryError` for anything else, a symbolic link included unless `follow`."""
    flags = os.O_RDONLY | _DIRECTORY | _CLOSED_ON_EXEC
    return os.open(name, flags if follow else flags | _NO_LINK, dir_fd=dir_fd)


def create_file(name: str, *, dir_fd: int | None) -> int:
    """Create a file, mode 0600, for reading and writing; `FileExistsError` if the name is taken."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _CLOSED_ON_EXEC | _BINARY
    return os.open(name, flags, PRIVATE_FILE, dir_fd=dir_fd)


def open_or_create_file(name: str, *, dir_fd: int | None) -> int:
    """Open a file for reading and writing, and make it, empty and mode 0600, if there is none."""
    flags = os.O_RDWR | os.O_CREAT | _NO_LINK | _NO_WAIT | _CLOSED_ON_EXEC | _BINARY
    try:
        return os.open(name, flags, PRIVATE_FILE, dir_fd=dir_fd)
    except PermissionError as error:
        raise _with_attributes(error, name, dir_fd) from None


def open_file(name: str, *, dir_fd: int | None = None, writable: bool = False) -> int:
    """Open a file that exists; `OSError` with `ELOOP` for a symbolic link."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | _NO_LINK | _NO_WAIT | _CLOSED_ON_EXEC | _BINARY
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except PermissionError as error:
        raise _with_attributes(error, name, dir_fd) from None


def rename(source: str, target: str, *, dir_fd: int | None, target_dir_fd: int | None = None) -> None:
    """Give a file another name; what had that name is replaced, and at no moment is there no file of that name.

    https://man7.org/linux/man-pages/man2/rename.2.html
    """
    try:
        os.rename(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd if target_dir_fd is None else target_dir_fd)
    except PermissionError as error:
        raise _with_attributes(error, source, dir_fd, target) from None


def link(source: str, target: str) -> None:
    """Give a file a second name, never in another file's place; `FileExistsError` if the name is taken."""
    os.link(source, target)


def unlink(name: str, *, dir_fd: int | None) -> None:
    """Remove a name; a descriptor that is open on the file remains usable."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except PermissionError as error:
        raise _with_attributes(error, name, dir_fd) from None


# -- contents: nothing here is durable before `sync_data` --------------------------------------------------------


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at byte `offset`, in one call if the system takes it in one.

    On `OSError` any part of it may have been written. Writing at a known place, not at the end, lets the next try
    put the same bytes over what a failed one has left.
    """
    try:
        written = os.pwrite(fd, data, offset)
        if written == memoryview(data).nbytes:
            return
        rest = memoryview(data).cast("B")[written:]
        while rest:  # a file system that is nearly full takes what fits, and refuses the next call
            offset += written
            written = os.pwrite(fd, rest, offset)
            if not written:  # it may do so for ever
                raise OSError(errno.EIO, "the file system took no byte, and reported no error")
            rest = rest[written:]
    except OSError as error:
        raise _with_path(error, "pwrite", fd) from None


def write_and_sync_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at byte `offset` and return once it, and the file's size, are on stable storage.

    One system call if the kernel has it (`RWF_DSYNC`, Linux 4.7,
    https://man7.org/linux/man-pages/man2/readv.2.html), and that call syncs the bytes it writes and no others:
    everything before `offset` must be durable already. It saves a second wait for the GIL, a fifth of a lone commit.
    If it is not offered, which some sandboxes say with EPERM or ENOSYS, two calls do the same. On `OSError` it is not
    known what failed, so the file is as suspect as after a failed `sync_data`.
    """
    if _WRITE_AND_SYNC:
        try:
            written = os.pwritev(fd, [data], offset, _WRITE_AND_SYNC)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise _with_path(error, "pwritev2", fd) from None
        else:
            if written == len(data):
                return
    write_at(fd, data, offset)
    sync_data(fd)


def truncate(fd: int, size: int) -> None:
    """Cut a file to `size` bytes."""
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise _with_path(error, "ftruncate", fd) from None


def change_mode(fd: int, mode: int) -> None:
    """Set a file's permissions."""
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        raise _with_path(error, "fchmod", fd) from None


def change_path_mode(path: str, mode: int) -> None:
    """Set the permissions of what is at a path."""
    os.chmod(path, mode)


def set_time(path: str) -> None:
    """Set a file's times to now; they are not synced."""
    os.utime(path)


def change_group(fd: int, gid: int) -> None:
    """Give a file to a group; allowed to root, and to the file's owner if he is a member of that group."""
    try:
        os.fchown(fd, -1, gid)
    except OSError as error:
        raise _with_path(error, f"fchown to group {gid}", fd) from None


# -- durability ---------------------------------------------------------------------------------------------------


def sync_data(fd: int) -> None:
    """Return once a file's bytes and its size are on stable storage; its name may still be lost.

    After an `OSError` the kernel may have dropped the pages and call them clean: a second call on this file may
    succeed and mean nothing (Rebello et al., linked above; https://lwn.net/Articles/752063/). So the caller gives up
    every byte of it that no earlier call has confirmed.
    """
    try:
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # its fsync leaves the data in the drive's cache
        else:
            os.fdatasync(fd)
    except OSError as error:
        raise _with_path(error, "fdatasync", fd) from None


def sync_directory(fd: int) -> None:
    """Return once a directory's names are on stable storage: files made, renamed and removed in it.

    Some file systems answer EINVAL: they can't make a name durable, so no record in a new file can be promised. The
    error says so, and is not ignored.
    """
    try:
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fsync(fd)
    except OSError as error:
        named = _with_path(error, "fsync of the directory", fd)
        if error.errno in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            reason = f"{named.strerror}: this file system can't make names durable; keep the log on a local one"
            named = OSError(error.errno, reason, named.filename)
        raise named from None


# -- looking, locking, letting go ---------------------------------------------------------------------------------


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Return up to `size` bytes at `offset`; fewer only at the end of the file or if a signal interrupts the call."""
    return os.pread(fd, size, offset)


#: The process that has locked a descriptor.
_locked_by: Final[dict[int, int]] = {}


def lock(fd: int, *, shared: bool = False) -> None:
    """Lock a file for this open descriptor, alone or `shared`; `BlockingIOError` if another has it.

    The lock ends when the last copy of the descriptor is closed, so the dead hold none
    (https://man7.org/linux/man-pages/man2/flock.2.html).
    """
    fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    _locked_by[fd] = os.getpid()


def unlock(fd: int) -> None:
    """End this descriptor's lock, also for copies of it that other processes have inherited."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def close_lock(fd: int) -> None:
    """Unlock and close the descriptor of a lock: a child that was forked meanwhile would hold it all its life.

    In that child only its copy is closed, as when it ends and Python closes what its parent was in the middle of.
    """
    if _locked_by.pop(fd, None) == os.getpid():
        with suppress(OSError):  # closing it unlocks, too, if no other process has a copy
            unlock(fd)
    close(fd)


def close(fd: int) -> None:
    """Close a descriptor; an error of `close` was reported by a sync before, or concerns what was never promised."""
    with suppress(OSError):
        os.close(fd)


# -- errors that say which call and which file ---------------------------------------------------------------------


def _with_path(error: OSError, call: str, fd: int) -> OSError:
    """Return the error of a call on a descriptor with the call's name and the file's path, if the system knows it."""
    try:
        path: str | None = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        path = None
    reason = f"{call}: {error.strerror}{_attributes_of(fd) if error.errno == errno.EPERM else ''}"
    return OSError(error.errno, reason, path)


def _with_attributes(error: OSError, name: str, dir_fd: int | None, target: str | None = None) -> OSError:
    """Return a refusal with the reason that is easily overlooked: `chattr +a` or `+i` on the file or its directory."""
    if error.errno != errno.EPERM:
        return error
    said = ""
    for path in (name, os.path.dirname(name) or "."):
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | _NO_WAIT | _NO_LINK | _CLOSED_ON_EXEC, dir_fd=dir_fd)
            try:
                said = said or _attributes_of(fd)
            finally:
                os.close(fd)
    if not said:
        return error
    return OSError(error.errno, f"{error.strerror}{said}", name, None, target)


def _attributes_of(fd: int) -> str:
    """Return what to say of a file's append-only or immutable attribute; nothing if it has none."""
    if sys.platform != "linux":
        return ""
    flags = array("l", [0])
    try:
        fcntl.ioctl(fd, _GET_ATTRIBUTES, flags)
        path = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
    for bit, word, letter in _ATTRIBUTES:
        if flags[0] & bit:
            return f": {path} is {word} (chattr +{letter}), which a log can't be written with; chattr -{letter} it"
    return ""
