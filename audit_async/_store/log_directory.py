"""A log's directory: its path, the names in it, who may enter it, and the file that says whose log it is.

<base_dir>/<service_id>/<instance>/
log.json, lock, manifest.json, hold.json, backup.lock
000000000000-2026-11-22.audit, 000000000000-2026-11-22.audit.sha256
torn/      what recovery set aside
archive/   compressed segments
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import msgspec

from audit_async._chain import FORMAT_VERSION
from audit_async._durable import disk
from audit_async._layout.access_modes import PRIVATE, Access, why_insecure
from audit_async._layout.log_identity import Identity
from audit_async._layout.names import CONFIGURABLE_NAME, LOG_FILE, UNFINISHED
from audit_async._layout.regular_files import MOST_SMALL_BYTES, read_bounded
from audit_async.errors import ConfigError, LogCorrupted


class LogDirectory:
    """An open log directory. Owned by the disk thread."""

    def __init__(
        self,
        base_dir: Path,
        service_id: str,
        instance: str,
        *,
        access: Access = PRIVATE,
        allow_insecure_dir: bool,
        names: re.Pattern[str] = CONFIGURABLE_NAME,
        is_made: bool = False,
    ) -> None:
        """Open `<base_dir>/<service_id>/<instance>`, and make what of it is missing.

        On return the directory's own name, and each above it up to `base_dir`, is on stable storage. Raises
        `ConfigError` for a name that is none, a directory that other users can write to (unless
        `allow_insecure_dir`), and a symbolic link below `base_dir`; `OSError` if the system refuses.

        `names` are what the two names may be. With `is_made` this process has opened the directory before, so its
        names are durable already, and nothing is synced.
        """
        for field, name in (("service_id", service_id), ("instance", instance)):
            if not names.fullmatch(name):
                raise ConfigError(field, f"{name!a} can't name a directory; use letters, digits, '.', '_', '-'")
        self.base_dir = Path(os.path.abspath(base_dir))
        self.service_id = service_id
        self.instance = instance
        self.path = self.base_dir / service_id / instance
        self.access = access
        self.allow_insecure_dir = allow_insecure_dir
        self.fd = self._open(is_made=is_made)

    def _open(self, *, is_made: bool = False) -> int:
        if not is_made:
            _make_base(self.base_dir, self.access)
        parent = disk.open_directory(str(self.base_dir), follow=True)
        try:
            self._refuse_insecure(parent, self.base_dir)
            at = self.base_dir
            for name in (self.service_id, self.instance):
                at /= name
                child = open_subdirectory(name, dir_fd=parent, at=at, access=self.access)
                try:
                    self._open_up(child)
                    self._refuse_insecure(child, at)
                    # Also if the directory was there: the process that made it may have died before this call.
                    if not is_made:
                        disk.sync_directory(parent)
                except BaseException:
                    disk.close(child)
                    raise
                disk.close(parent)
                parent = child
        except BaseException:
            disk.close(parent)
            raise
        return parent

    def _open_up(self, fd: int) -> None:
        """Let those enter a directory that was there who may by the configuration, if it opens the log to others."""
        status = os.fstat(fd)
        is_own = status.st_uid == os.geteuid()
        if self.access != PRIVATE and is_own and status.st_mode & 0o777 != self.access.directory_mode & 0o777:
            self.access.apply_to_directory(fd)

    def _refuse_insecure(self, fd: int, path: Path) -> None:
        """Refuse a directory in which somebody else can remove and replace files, whatever the files' own modes."""
        if self.allow_insecure_dir:
            return
        if (reason := why_insecure(path, os.fstat(fd))) is not None:
            field = "mode.base_dir"
            raise ConfigError(field, f"{path} is no safe place for a log: {reason}; or set allow_insecure_dir")

    def is_in_place(self) -> bool:
        """Return whether the log's path still leads to the directory that was opened."""
        here = os.fstat(self.fd)
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def make_again(self) -> None:
        """Make and open the directory again at its path, because somebody removed it."""
        fd = self._open()
        disk.close(self.fd)
        self.fd = fd

    def names(self) -> set[str]:
        """Return every name in the directory."""
        return set(os.listdir(self.fd))

    def read(self, name: str, *, max_bytes: int = MOST_SMALL_BYTES) -> bytes:
        """Return the content of a file; `FileNotFoundError` if there is none, `LogCorrupted` if it is larger."""
        return read_bounded(name, dir_fd=self.fd, max_bytes=max_bytes)

    def create(self, name: str) -> int:
        """Create a file that those may read who may read this log; return its descriptor."""
        fd = disk.create_file(name, dir_fd=self.fd)
        try:
            self.access.apply_to_file(fd)
        except BaseException:
            disk.close(fd)
            raise
        return fd

    def replace(self, name: str, content: bytes, *, sealed: bool = False) -> None:
        """Give `name` this content, whole or not at all, also in a power cut; `sync` makes it durable.

        Written under another name, synced, then renamed, for the reasons that `disk` gives. `sealed` makes it
        read-only.
        """
        unfinished = name + UNFINISHED
        with suppress(FileNotFoundError):
            disk.unlink(unfinished, dir_fd=self.fd)
        fd = disk.create_file(unfinished, dir_fd=self.fd)
        try:
            disk.write_at(fd, content, 0)
            self.access.apply_to_file(fd, sealed=sealed)
            disk.sync_data(fd)
        finally:
            disk.close(fd)
        disk.rename(unfinished, name, dir_fd=self.fd)

    def sync(self) -> None:
        """Make every name in the directory durable."""
        disk.sync_directory(self.fd)

    def open_subdirectory(self, name: str) -> int:
        """Open `torn` or `archive`, and make it, durably, if it is missing."""
        fd = open_subdirectory(name, dir_fd=self.fd, at=self.path / name, access=self.access)
        try:
            self.sync()
        except BaseException:
            disk.close(fd)
            raise
        return fd

    def identify(self, *, may_create: bool) -> Identity:
        """Return what log.json says, and write it if there is no log yet.

        `may_create` says that no segment is there, so that a file torn by a crash at the log's making may be
        written again. Raises `LogCorrupted` if there are segments and the file is missing or wrong.
        """
        identity = self._read_identity(may_create=may_create)
        if identity is None:
            created = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            identity = Identity(FORMAT_VERSION, os.urandom(16).hex(), self.service_id, created, self.path.name)
            self.write_identity(identity)
        return identity

    def _read_identity(self, *, may_create: bool) -> Identity | None:
        try:
            identity = msgspec.json.decode(self.read(LOG_FILE), type=Identity)
        except FileNotFoundError:
            reason = "the file is missing, but there are segments"
        except (msgspec.MsgspecError, UnicodeDecodeError):
            reason = "the file is not what the library writes"
        else:
            if identity.format_version != FORMAT_VERSION:
                reason = (
                    f"the log has format version {identity.format_version}, and this release of audit-async "
                    f"writes version {FORMAT_VERSION}; use the release that fits"
                )
            elif identity.service_id != unquote(self.service_id):  # escaped at a collector, plain elsewhere
                reason = f"the log belongs to the service {identity.service_id!a}"
            else:
                return identity
            may_create = False
        if may_create:
            return None
        raise LogCorrupted(LOG_FILE, None, None, reason)

    def write_identity(self, identity: Identity) -> None:
        """Write log.json, durably."""
        self.replace(LOG_FILE, msgspec.json.encode(identity) + b"\n")
        self.sync()

    def close(self) -> None:
        """Close the directory's descriptor; may be called again, as a forked child does that copies a closed log."""
        fd, self.fd = self.fd, -1  # its number may be another file's at once
        if fd >= 0:
            disk.close(fd)


def open_subdirectory(name: str, *, dir_fd: int, at: Path, access: Access = PRIVATE) -> int:
    """Open a directory below the base directory, and make it if it is missing; refuse a symbolic link."""
    try:
        disk.make_directory(name, dir_fd=dir_fd)
    except FileExistsError:
        is_new = False
    else:
        is_new = True
    try:
        fd = disk.open_directory(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise ConfigError(
                "mode.base_dir",
                f"{at} is a symbolic link or no directory, and below base_dir neither is followed; remove it, or let "
                "base_dir itself be the path it leads to",
            ) from error
        raise
    try:
        if is_new:
            access.apply_to_directory(fd)
    except BaseException:
        disk.close(fd)
        raise
    return fd


def _make_base(base_dir: Path, access: Access) -> None:
    """Make the base directory and what is missing above it, each durable in the one above it."""
    missing = []
    at = base_dir
    while not at.exists():
        missing.append(at)
        at = at.parent
    for path in reversed(missing):
        with suppress(FileExistsError):
            disk.make_directory(str(path))
            fd = disk.open_directory(str(path))
            try:
                access.apply_to_directory(fd)
            finally:
                disk.close(fd)
    for path in reversed(missing or [base_dir]):
        try:
            parent = disk.open_directory(str(path.parent), follow=True)
        except PermissionError:
            if missing:
                raise
            return  # made by somebody with more rights, whose duty it is then to make its name durable
        try:
            disk.sync_directory(parent)
        finally:
            disk.close(parent)
