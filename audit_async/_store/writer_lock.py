"""The lock that gives a log one writer, and the slots that several processes of a service take.

The lock is `flock` on the file `lock`: the kernel releases it when the last copy of the descriptor is closed, so
a process that died holds nothing, whatever its file still says. The file names the holder's pid for people; it is
never removed, because a second writer could then lock a new file of that name while the first still holds the old.
It also says up to which record the log is acknowledged, for those who ship it: what is on the disk after that record
may still be taken back by a failed sync or a power cut.
Known weakness: on a network file system without lock support two hosts could both succeed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Final

from audit_async._chain import START, Head
from audit_async._durable import disk
from audit_async._layout.access_modes import Access
from audit_async._layout.lock_file import HEAD_AT, head_line, pid_in, pid_line
from audit_async._layout.names import LOCK_FILE
from audit_async._store.log_directory import LogDirectory
from audit_async.errors import LogLocked

_MOST_SLOTS: Final = 1000


class WriterLock:
    """The right to write one log. Owned by the disk thread."""

    def __init__(self, directory: LogDirectory) -> None:
        """Take the lock of `directory`; raises `LogLocked`, which names the pid, if another writer has it."""
        self._path: Final = str(directory.path / LOCK_FILE)
        self._pid: Final = os.getpid()
        self._acknowledged: Head | None = None  # what the file says; None: what the writer before has left there
        self.fd = self._take(directory)
        self._inode = _identity(os.fstat(self.fd))

    def _take(self, directory: LogDirectory) -> int:
        while True:
            fd = _open_lock_file(directory)
            try:
                disk.lock(fd)
                directory.access.apply_to_file(fd)
                if _identity(os.fstat(fd)) != _inode_at(LOCK_FILE, dir_fd=directory.fd):
                    _close_lock_file(fd)  # removed or renamed between our two calls: the lock is on another file now
                    continue
                # What the writer before has acknowledged stays there until this one knows its own head.
                disk.write_at(fd, pid_line(os.getpid()), 0)
            except BlockingIOError:
                pid = _holder(fd)
                _close_lock_file(fd)
                by = f"process {pid}" if pid is not None else "another process"
                raise LogLocked(
                    f"{directory.path} is being written by {by}, and a log has one writer; stop that one, or leave "
                    "`instance` out so that each process takes a slot of its own",
                    pid=pid,
                ) from None
            except BaseException:
                _close_lock_file(fd)
                raise
            return fd

    def publish(self, head: Head) -> None:
        """Say in the file that everything up to `head` is on stable storage; costs one write if that is new.

        Never raises: readers then see an older head, and the next call tries again.
        """
        if head == self._acknowledged:
            return
        with suppress(OSError):
            disk.write_at(self.fd, head_line(head), HEAD_AT)
            self._acknowledged = head

    def is_held(self) -> bool:
        """Return whether the locked file is still the one that another writer would try; costs one stat."""
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (there.st_dev, there.st_ino) == self._inode

    def take_again(self, directory: LogDirectory) -> None:
        """Lock the new file after the old one was removed or renamed; `LogLocked` if another writer was faster."""
        fd = self._take(directory)
        _close_lock_file(self.fd)
        self.fd = fd
        self._inode = _identity(os.fstat(fd))
        acknowledged, self._acknowledged = self._acknowledged, None
        self.publish(acknowledged or START)

    def close(self) -> None:
        """Unlock, also if other processes have inherited a copy; in a forked child only that copy is closed."""
        if os.getpid() == self._pid and self.fd in _lock_fds:
            with suppress(OSError):  # the closing unlocks, too, if no other process has a copy
                disk.unlock(self.fd)
        _close_lock_file(self.fd)
        self.fd = -1  # its number may soon be another file's, which nothing is to be published in


# A child that is forked at any moment has no copy of a lock: it would hold the log for as long as it lives.

#: Descriptors of lock files, from the moment they exist, which is before they are locked.
_lock_fds: Final[set[int]] = set()
#: Held by a fork, and while a descriptor exists that is not in the set. Re-entrant: another hook of the child may close
#: a lock before ours has run, in an order that depends on which module was imported first.
_forking = RLock()


def _open_lock_file(directory: LogDirectory) -> int:
    with _forking:
        fd = disk.open_or_create_file(LOCK_FILE, dir_fd=directory.fd)
        _lock_fds.add(fd)
    return fd


def _close_lock_file(fd: int) -> None:
    """Close a descriptor of a lock file, once: in a forked child its number may be another file's by now."""
    with _forking:
        if fd in _lock_fds:
            _lock_fds.discard(fd)
            disk.close(fd)


def _before_fork() -> None:
    _forking.acquire()


def _after_fork_in_parent() -> None:
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking  # noqa: PLW0603 - a new one, since threads that waited for the old one are not here any more
    _forking = RLock()
    for fd in _lock_fds:
        disk.close(fd)
    _lock_fds.clear()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def take_directory(
    base_dir: Path, service_id: str, instance: str | None, *, access: Access, allow_insecure_dir: bool
) -> tuple[LogDirectory, WriterLock]:
    """Open and lock the log of `instance`, or if that is None the first slot, `00`, `01`, ..., that is free.

    Raises `LogLocked` if the named instance, or every slot, is being written.
    """

    def take(instance: str) -> tuple[LogDirectory, WriterLock]:
        directory = LogDirectory(base_dir, service_id, instance, access=access, allow_insecure_dir=allow_insecure_dir)
        try:
            return directory, WriterLock(directory)
        except BaseException:
            directory.close()
            raise

    if instance is not None:
        return take(instance)
    for slot in range(_MOST_SLOTS):
        try:
            return take(f"{slot:02d}")
        except LogLocked:
            continue
    raise LogLocked(f"all {_MOST_SLOTS} slots of {base_dir}/{service_id} are being written", pid=None)


def _holder(fd: int) -> int | None:
    """Return the pid that the lock file names; None if its holder has not written it yet."""
    return pid_in(disk.read_at(fd, HEAD_AT, 0))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _inode_at(path: str, *, dir_fd: int | None = None) -> tuple[int, int] | None:
    """Return what distinguishes the file at a path from every other; None if there is none."""
    try:
        return _identity(os.stat(path, dir_fd=dir_fd, follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return None
