"""The directory of a key store: what it may be, which files are in it, and the lock that those who write take.

    <store>/                  0700, outside every trail
        main.db               the wrapped keys of the days, erasures, holds
        keys-2026-11.db       the wrapped data keys of one UTC month
        *.db-journal          SQLite's rollback journals; overwritten after something was destroyed
        lock                  flock'd by the process that writes
        sessions/             a file for each log that is open, flock'd by its process

SQLite has locks of its own, one for each file. The store's lock makes what concerns two files one step: that an erasure
has begun is read from one file, and keys go into another.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from audit_async._durable import disk
from audit_async._durable.lock_waits import lock_within
from audit_async.privacy.data_keys import date_of
from audit_async.privacy.store_failures import KeyStoreMissing, KeyStoreRefused, KeyStoreUnavailable

MAIN: Final = "main.db"
_SESSIONS: Final = "sessions"
_LOCK: Final = "lock"
_MONTH: Final = re.compile(r"keys-([0-9]{4}-[0-9]{2})\.db", re.ASCII)


class StoreDirectory:
    """A key store's directory, checked."""

    def __init__(self, path: str | os.PathLike[str], *, trail: str | os.PathLike[str] | None = None) -> None:
        """Check the place of a key store.

        Args:
            path: The directory; it is there.
            trail: The base directory of the trail, if it is known.

        Raises:
            KeyStoreMissing: It is not there.
            KeyStoreRefused: It can't be trusted with keys.
        """
        self.path = Path(os.path.abspath(path))
        refuse_inside_trail(self.path, trail)
        _require_private(self.path, stat.S_ISDIR, "a directory", "700")
        self._lock_fd: int | None = None
        self._depth = 0

    def file(self, name: str, *, required: bool = False) -> Path:
        """Return the path of a file, checked if it is there: a regular file of ours that nobody else may open."""
        path = self.path / name
        try:
            _require_private(path, stat.S_ISREG, "a regular file", "600")
        except KeyStoreMissing:
            if required:
                raise
        return path

    def months(self) -> list[str]:
        """Return the months that have a file of keys, as `2026-11`, the oldest first."""
        with _translated(self.path):
            return sorted(match[1] for name in os.listdir(self.path) if (match := _MONTH.fullmatch(name)))

    def month_file(self, month: str) -> Path:
        """Return the path of a month's file."""
        return self.file(f"keys-{month}.db")

    def sessions(self) -> Path:
        """Return the directory of the sessions, and make it if it is missing, as after a restore by other means."""
        path = self.path / _SESSIONS
        with _translated(path), suppress(FileExistsError):
            disk.make_directory(str(path))
        return path

    @property
    def was_used(self) -> bool:
        """Whether a log has had this store open; a copy that nobody went on with was not."""
        return (self.path / _SESSIONS).is_dir()

    def create(self, name: str) -> None:
        """Make an empty file, mode 0600, whose name is durable; nothing if it is there."""
        with _translated(self.path / name):
            directory = disk.open_directory(str(self.path))
            try:
                with suppress(FileExistsError):
                    disk.close(disk.create_file(name, dir_fd=directory))
                    disk.sync_directory(directory)
            finally:
                disk.close(directory)

    def publish(self, half: str, name: str) -> None:
        """Give a file that is complete its name, durably."""
        with _translated(self.path / half):
            directory = disk.open_directory(str(self.path))
            try:
                disk.rename(half, name, dir_fd=directory)
                disk.sync_directory(directory)
            finally:
                disk.close(directory)

    @contextmanager
    def locked(self, timeout_s: float = 10.0) -> Iterator[None]:
        """Keep the other writers out, those of other processes too; the caller keeps out its own threads.

        May be nested. A lock that a process holds for longer, such as one that was stopped, ends the wait.

        Raises:
            KeyStoreUnavailable: The lock was not free in time.
        """
        with _translated(self.path / _LOCK):
            if self._lock_fd is None:
                self.file(_LOCK)
                self._lock_fd = disk.open_or_create_file(str(self.path / _LOCK), dir_fd=None)
            if not self._depth:
                _wait_for(self._lock_fd, timeout_s)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth and self._lock_fd is not None:
                disk.unlock(self._lock_fd)

    def close(self) -> None:
        """Let go of the lock's file; in a forked child as well, whose copy of it would hold the parent's lock."""
        if self._lock_fd is not None:
            disk.close(self._lock_fd)
            self._lock_fd = None


def create_directory(path: str | os.PathLike[str], *, trail: str | os.PathLike[str] | None = None) -> StoreDirectory:
    """Make the directory of a new store, if it is not there, in one that is.

    Raises:
        KeyStoreRefused: The place can't be trusted with keys.
        KeyStoreUnavailable: It can't be made.
    """
    place = Path(os.path.abspath(path))
    refuse_inside_trail(place, trail)
    with _translated(place), suppress(FileExistsError):
        disk.make_directory(str(place))
        parent = disk.open_directory(str(place.parent), follow=True)
        try:
            disk.sync_directory(parent)
        finally:
            disk.close(parent)
    return StoreDirectory(place, trail=trail)


def month_of(day: int) -> str:
    """Return the month whose file has the keys of a day, such as `2026-11`."""
    return date_of(day).isoformat()[:7]


def overwrite(path: Path) -> None:
    """Overwrite a file with zeros, durably; nothing if it is not there.

    On a disk that writes in place the old bytes are gone; on an SSD, on a file system that copies on write, and in
    snapshots they are not.
    """
    with _translated(path):
        try:
            fd = disk.open_file(str(path), writable=True)
        except FileNotFoundError:
            return
        try:
            size = os.fstat(fd).st_size
            zeros = bytes(min(size, 1 << 20))
            for offset in range(0, size, 1 << 20):
                disk.write_at(fd, zeros[: size - offset], offset)
            disk.sync_data(fd)
        finally:
            disk.close(fd)


def remove(path: Path) -> None:
    """Remove a file, durably; nothing if it is not there."""
    with _translated(path):
        directory = disk.open_directory(str(path.parent))
        try:
            with suppress(FileNotFoundError):
                disk.unlink(path.name, dir_fd=directory)
            disk.sync_directory(directory)
        finally:
            disk.close(directory)


def refuse_inside_trail(path: Path, trail: str | os.PathLike[str] | None) -> None:
    """Refuse a key store inside a trail, and one around it: a copy of the trail would carry the keys with it."""
    real = Path(os.path.realpath(path))
    if trail is not None:
        base = Path(os.path.realpath(trail))
        if real.is_relative_to(base) or base.is_relative_to(real):
            raise KeyStoreRefused(
                f"the key store {path} and the trail {base} are inside each other, so a copy of the trail would carry "
                "its keys; choose a directory outside of it"
            )
    for above in (real, *real.parents):
        if (above / "log.json").exists():
            raise KeyStoreRefused(f"the key store {path} is inside the log {above}; choose a directory outside of it")


def _require_private(path: Path, is_kind: object, kind: str, mode: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        raise KeyStoreMissing(
            f"there is no key store at {path}; restore it from its backup, or make a new one with: "
            "audit-async keystore init"
        ) from None
    except OSError as error:
        raise unavailable(error, path) from error
    if stat.S_ISLNK(status.st_mode):
        raise KeyStoreRefused(f"{path} is a symbolic link; name what it leads to")
    if not callable(is_kind) or not is_kind(status.st_mode):
        raise KeyStoreRefused(f"{path} is not {kind}")
    if status.st_uid != os.geteuid():
        raise KeyStoreRefused(
            f"{path} belongs to uid {status.st_uid}, and this process runs as uid {os.geteuid()}; a key store belongs "
            "to the account of the service, so run this as that account"
        )
    if status.st_mode & 0o077:
        raise KeyStoreRefused(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, so others can open it; run: chmod {mode} {path}"
        )


def unavailable(error: OSError, path: Path) -> KeyStoreUnavailable:
    """Return a system's error as the key store's."""
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(path)
    return KeyStoreUnavailable(error.errno or errno.EIO, f"the key store: {error.strerror or error}", where)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyStoreUnavailable:
        raise
    except OSError as error:
        raise unavailable(error, path) from error


def _wait_for(fd: int, timeout_s: float) -> None:
    if not lock_within(fd, timeout_s):
        raise OSError(errno.EAGAIN, f"another process has held the key store's lock for {timeout_s:.0f} s")
