"""Who may read a log's files: the modes and the group of what the library makes in a log directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple, Self

from audit_async._durable import disk
from audit_async._layout.names import LOG_FILE
from audit_async.config import Local
from audit_async.errors import ConfigError


class Access(NamedTuple):
    """The permissions of a log's directories and files.

    A file is made private and given its mode and group before anything is in it, so nothing is readable for longer
    than it is meant to be.
    """

    directory_mode: int = disk.PRIVATE_DIRECTORY
    file_mode: int = disk.PRIVATE_FILE
    gid: int | None = None  #: the group; None leaves it as the system chose it

    @classmethod
    def of(cls, mode: Local) -> Self:
        """Return what a configuration says; raises `ConfigError` for a group that this host does not have."""
        gid = mode.group
        if isinstance(gid, str):
            try:
                import grp  # noqa: PLC0415 - Windows has no such module

                gid = grp.getgrnam(gid).gr_gid
            except (ImportError, KeyError) as error:
                reason = f"this host has no group {mode.group!a}; make it, or name another"
                raise ConfigError("mode.group", reason) from error
        return cls(int(str(mode.dir_mode), 8), int(str(mode.file_mode), 8), gid)

    @property
    def sealed_mode(self) -> int:
        """The mode of a file that is complete: as `file_mode`, without any right to write."""
        return self.file_mode & ~0o222

    def apply_to_file(self, fd: int, *, sealed: bool = False) -> None:
        """Give a file that was just made its group and mode; no call if it has them by its making."""
        if self.gid is not None:
            disk.change_group(fd, self.gid)
        mode = self.sealed_mode if sealed else self.file_mode
        if mode != disk.PRIVATE_FILE:
            disk.change_mode(fd, mode)

    def apply_to_directory(self, fd: int) -> None:
        """Give a directory that was just made its group and mode; no call if it has them by its making."""
        if self.gid is not None:
            disk.change_group(fd, self.gid)
        if self.directory_mode != disk.PRIVATE_DIRECTORY:
            disk.change_mode(fd, self.directory_mode)


PRIVATE = Access()


def why_insecure(path: Path, status: os.stat_result) -> str | None:
    """Return why others can remove and replace files in a directory, whatever the files' own modes, and what to do.

    None if only this process's user, and root, can. The advice is one that is possible there: a volume whose group
    Kubernetes sets (`fsGroup`) belongs to root and can't be changed by the process.
    """
    euid = os.geteuid() if hasattr(os, "geteuid") else 0
    if status.st_mode & 0o022:
        mode = f"mode {stat.S_IMODE(status.st_mode):04o} lets other users write to it"
        if euid in {status.st_uid, 0}:
            return f"{mode}; run: chmod go-w {path}"
        return (
            f"{mode}, and it belongs to user {status.st_uid}, so this process (user {euid}) can't change that, as on a "
            f"Kubernetes volume with fsGroup. Make a directory below it the base_dir, such as {path}/audit: it is made "
            "with mode 0700; and set fsGroupChangePolicy: OnRootMismatch, so that it stays so"
        )
    if status.st_uid not in {euid, 0}:
        return f"it belongs to user {status.st_uid}, who can change what is in it; chown it to this process's user"
    return None


def local_like(directory: Path, base_dir: Path) -> Local:
    """Return the settings under which a log's files are made as those that are there: for who has no configuration."""
    of_directory = os.stat(directory)
    try:
        of_file = os.stat(directory / LOG_FILE, follow_symlinks=False).st_mode
    except OSError:
        of_file = disk.PRIVATE_FILE
    dir_mode = stat.S_IMODE(of_directory.st_mode) & 0o2755 | disk.PRIVATE_DIRECTORY
    file_mode = stat.S_IMODE(of_file) & 0o644 | disk.PRIVATE_FILE
    is_private = dir_mode & 0o077 == 0 and file_mode == disk.PRIVATE_FILE
    return Local(base_dir, dir_mode=dir_mode, file_mode=file_mode, group=None if is_private else of_directory.st_gid)
