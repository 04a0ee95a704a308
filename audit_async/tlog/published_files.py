"""The files that are published: written so that each is whole under its name, and read back.

The happy path, for any number of tiles and bundles, then one checkpoint:

    write each to `<name>.unfinished`            nothing has its name yet
    sync their contents                          or a power cut may leave the new name with an empty file
    rename each                                  readers see a file whole or not at all
    sync their directories                       now they are durable
    the same for `checkpoint`                    so what it needs is there before it, also after a power cut

A few files are synced one by one. Thousands (a busy log fills hundreds of tiles a second) are synced by one `syncfs`,
which takes 12 ms while 1,000 `fdatasync` take 340 ms; it also waits for what others wrote to that file system.

Known weakness: before Linux 5.8 `syncfs` does not report that writing failed. After any `OSError` nothing that was
staged may be believed: close, open again, and write it again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit_async._durable import disk
from audit_async._durable.whole_files import UNFINISHED
from audit_async._layout.access_modes import PRIVATE, Access, local_like
from audit_async.errors import ConfigError
from audit_async.tlog.failures import TilesDamaged
from audit_async.tlog.tiles import TILE_WIDTH, Tile

_PUBLIC_FILE: Final = 0o644
_PUBLIC_DIRECTORY: Final = 0o755
#: Staged files up to here are kept open and synced one by one; beyond, the file system is synced as a whole.
_FEW: Final = 16
#: Staged files are made durable at this number at the latest, so that their list stays short.
_MOST_STAGED: Final = 4096
_MOST_OPEN_DIRECTORIES: Final = 32
_LARGEST_FILE: Final = 1 << 24
#: Locked as long as a log is published in the directory. Its own file: whoever may read a directory can lock that.
_LOCK: Final = ".lock"


class PublishedFiles:
    """A directory of files to be published. Called from one thread at a time; `read` from any."""

    def __init__(self, path: Path, *, public: bool) -> None:
        """Open the directory, and make it if it is missing.

        Args:
            path: The directory; the one above it must exist.
            public: Whether everybody may read what is in it.

        Raises:
            ConfigError: The path can't be such a directory, or another log is being published there.
            OSError: The system refuses.
        """
        self.path: Final = Path(os.path.abspath(path))
        # What is in the log's own directory is as readable as the log.
        own = Access.of(local_like(self.path.parent, self.path.parent)) if not public else PRIVATE
        self._access: Final = Access(_PUBLIC_DIRECTORY, _PUBLIC_FILE) if public else own
        self._staged: list[tuple[str, str, int]] = []  # directory, name, descriptor or -1
        self._unsynced_directories: set[str] = set()
        self._open_directories: dict[str, int] = {}
        self._lock = -1
        self._root = self._open_root()  # -1 once closed
        if public:
            self._keep_others_out()

    def _open_root(self) -> int:
        try:
            parent = disk.open_directory(str(self.path.parent), follow=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError("transparency.publish_dir", f"{self.path.parent} is not there; make it first") from error
        try:
            with suppress(FileExistsError):
                disk.make_directory(self.path.name, dir_fd=parent)
            try:
                root = disk.open_directory(self.path.name, dir_fd=parent)
            except OSError as error:
                if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                    reason = f"{self.path} is a symbolic link or no directory; give the path of a directory itself"
                    raise ConfigError("transparency.publish_dir", reason) from error
                raise
            self._open_up(root)
            disk.sync_directory(parent)
        finally:
            disk.close(parent)
        return root

    def _keep_others_out(self) -> None:
        """Lock the directory until `close`: the logs of a service's workers would write over each other's tiles."""
        try:
            self._lock = disk.open_or_create_file(_LOCK, dir_fd=self._root)
            _lock_if_possible(self._lock)
        except BlockingIOError:
            self.close()
            raise ConfigError(
                "transparency.publish_dir",
                f"another log is being published in {self.path}; give each log, also those of the workers of one "
                "service, a publish_dir of its own",
            ) from None
        except BaseException:
            self.close()
            raise

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is no such file; raises `TilesDamaged` for what is no regular file."""
        try:
            fd = disk.open_file(path, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO}:
                raise TilesDamaged(str(self.path / path), "not a regular file but a link or a device") from error
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_FILE:
                raise TilesDamaged(str(self.path / path), "not a file that the log has published")
            return disk.read_at(fd, status.st_size, 0)
        finally:
            disk.close(fd)

    # -- writing ---------------------------------------------------------------------------------------------------

    def stage(self, path: str, content: bytes) -> None:
        """Write a file that gets its name at the next `make_durable`; if many are staged this call makes it."""
        directory, _, name = path.rpartition("/")
        dir_fd = self._directory(directory)
        unfinished = name + UNFINISHED
        try:
            fd = disk.create_file(unfinished, dir_fd=dir_fd)
        except FileExistsError:  # a crash left it
            disk.unlink(unfinished, dir_fd=dir_fd)
            fd = disk.create_file(unfinished, dir_fd=dir_fd)
        try:
            self._access.apply_to_file(fd)
            disk.write_at(fd, content, 0)
        except BaseException:
            disk.close(fd)
            raise
        if len(self._staged) >= _FEW:
            disk.close(fd)
            fd = -1
        self._staged.append((directory, name, fd))
        if len(self._staged) >= _MOST_STAGED:
            self.make_durable()

    def make_durable(self) -> None:
        """Sync all staged files and give them their names; on return they are durable."""
        if not self._staged:
            return
        one_by_one = len(self._staged) <= _FEW or not _can_sync_file_system()
        if one_by_one:
            for directory, name, fd in self._staged:
                self._sync_file(directory, name, fd)
        else:
            _sync_file_system(self._root)
        for directory, name, _ in self._staged:
            disk.rename(name + UNFINISHED, name, dir_fd=self._directory(directory))
        if one_by_one:
            for directory in sorted(self._unsynced_directories | {directory for directory, _, _ in self._staged}):
                disk.sync_directory(self._directory(directory))
        else:
            _sync_file_system(self._root)
        self._unsynced_directories.clear()
        self._close_staged()

    def replace(self, path: str, content: bytes) -> None:
        """Give a file another content, whole or not at all; durable on return, and after all that was staged."""
        self.make_durable()
        self.stage(path, content)
        self.make_durable()

    def remove_partials(self, tile: Tile) -> None:
        """Remove the partial versions of a full tile or bundle, whose name must be durable already.

        Nothing is synced: what a power cut brings back is harmless, and is removed at the next opening.
        """
        directory = tile._replace(width=TILE_WIDTH).path + ".p"
        try:
            fd = disk.open_directory(directory, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            return
        self._close_directory(directory)
        try:
            for name in os.listdir(fd):
                disk.unlink(name, dir_fd=fd)
        finally:
            disk.close(fd)
        with suppress(OSError):  # not empty because somebody put something there: theirs to remove
            disk.remove_directory(directory, dir_fd=self._root)
        self._unsynced_directories.discard(directory)

    def close(self) -> None:
        """Close the directory; what is staged and not made durable is lost. May be called again."""
        self._close_staged()
        for fd in self._open_directories.values():
            disk.close(fd)
        self._open_directories.clear()
        # Its number may be another file's at once: a late `read` must fail, not read from there.
        root, self._root = self._root, -1
        lock, self._lock = self._lock, -1
        if lock >= 0:
            disk.close_lock(lock)
        if root >= 0:
            disk.close(root)

    # -- directories -----------------------------------------------------------------------------------------------

    def _directory(self, path: str) -> int:
        """Return a descriptor of a directory below the root, made if it is missing."""
        if not path:
            return self._root
        fd = self._open_directories.get(path)
        if fd is not None:
            return fd
        parent, _, name = path.rpartition("/")
        parent_fd = self._directory(parent)
        with suppress(FileExistsError):
            disk.make_directory(name, dir_fd=parent_fd)
        try:
            fd = disk.open_directory(name, dir_fd=parent_fd)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise TilesDamaged(str(self.path / path), "not a directory but a file or a link") from error
            raise
        self._open_up(fd)
        # Also if it was there: the process that made it may have died before its name was durable.
        self._unsynced_directories.add(parent)
        while len(self._open_directories) >= _MOST_OPEN_DIRECTORIES:
            self._close_directory(next(iter(self._open_directories)))
        self._open_directories[path] = fd
        return fd

    def _close_directory(self, path: str) -> None:
        fd = self._open_directories.pop(path, None)
        if fd is not None:
            disk.close(fd)

    def _open_up(self, fd: int) -> None:
        """Let those enter a directory who may read what is published."""
        mode = self._access.directory_mode
        if stat.S_IMODE(os.fstat(fd).st_mode) & mode != mode:
            self._access.apply_to_directory(fd)

    def _sync_file(self, directory: str, name: str, fd: int) -> None:
        if fd >= 0:
            disk.sync_data(fd)
            return
        opened = disk.open_file(name + UNFINISHED, dir_fd=self._directory(directory))
        try:
            disk.sync_data(opened)
        finally:
            disk.close(opened)

    def _close_staged(self) -> None:
        for _, _, fd in self._staged:
            if fd >= 0:
                disk.close(fd)
        self._staged.clear()


def _lock_if_possible(fd: int) -> None:
    """Lock a file, on a file system that has locks; raises `BlockingIOError` if another has it."""
    try:
        disk.lock(fd)
    except BlockingIOError:
        raise
    except OSError:
        return


# -- syncing a file system as a whole --------------------------------------------------------------------------------


def _find_syncfs() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        function: Callable[[int], int] = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    return function


_syncfs: Final = _find_syncfs()


def _can_sync_file_system() -> bool:
    return _syncfs is not None


def _sync_file_system(fd: int) -> None:
    """Return once everything written to the file system of `fd` is on stable storage."""
    assert _syncfs is not None  # noqa: S101 - callers ask first
    if _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
