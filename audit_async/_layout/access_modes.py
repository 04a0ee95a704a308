"""Who may read a log's files: the modes and the group of what the library makes in a log directory."""

from __future__ import annotations

from typing import NamedTuple

from audit_async._durable import disk


class Access(NamedTuple):
    """The permissions of a log's directories and files.

    A file is made private and given its mode and group before anything is in it, so nothing is readable for longer
    than it is meant to be.
    """

    directory_mode: int = disk.PRIVATE_DIRECTORY
    file_mode: int = disk.PRIVATE_FILE
    gid: int | None = None  #: the group; None leaves it as the system chose it

    @property
    def sealed_mode(self) -> int:
        """The mode of a file that is complete: as `file_mode`, and nobody may write to it."""
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
