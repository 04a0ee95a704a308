"""What `doctor` looks at once for each base directory: who can change it, its disk, the clock."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from audit_async._durable import disk
from audit_async._layout.access_modes import why_insecure
from audit_async.cli.diagnosis.outcomes import Check, attempt, fail, ok, warn
from audit_async.cli.terminal import byte_size

__all__ = ["examine", "insecure"]

_HOST: Final = "host"
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "ceph", "afs"})
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_FEW_FILES: Final = 1000
#: systemd-timesyncd makes this file when the clock was first set; chrony and ntpd leave no such sign.
_CLOCK_WAS_SET: Final = Path("/run/systemd/timesync/synchronized")


def examine(base_dir: Path, *, low_disk_bytes: int) -> list[Check]:
    """Return the checks of one base directory."""
    return [
        *attempt(_HOST, "base directory", lambda: [_permissions(base_dir)]),
        *attempt(_HOST, "disk", lambda: _disk(base_dir, low_disk_bytes)),
        *attempt(_HOST, "file system", lambda: [_file_system(base_dir)]),
        *attempt(_HOST, "directory sync", lambda: [directory_sync(_HOST, base_dir)]),
        _clock(),
    ]


def directory_sync(subject: str, directory: Path) -> Check:
    """Return whether a directory can be synced: without that the name of a new segment may be lost in a power cut."""
    fd = disk.open_directory(str(directory), follow=True)
    try:
        disk.sync_directory(fd)
    except OSError as error:
        text = f"{directory}: {error.strerror or error}. The name of a new segment can't be made durable there"
        return fail(subject, "directory sync", text)
    finally:
        disk.close(fd)
    return ok(subject, "directory sync", "the file system syncs directories")


def insecure(path: Path) -> str | None:
    """Return why users other than its owner could change what is in a directory, None if they can't."""
    status = os.stat(path)
    reason = why_insecure(path, status) if status.st_mode & 0o022 else None
    return f"{path}: {reason}" if reason is not None else None


def _permissions(base_dir: Path) -> Check:
    if (reason := insecure(base_dir)) is not None:
        return fail(_HOST, "base directory", reason)
    text = f"{base_dir}, writable by user {os.stat(base_dir).st_uid} only"
    if base_dir.is_symlink():
        text += f", a link to {os.path.realpath(base_dir)}"
    return ok(_HOST, "base directory", text)


def _disk(base_dir: Path, low_disk_bytes: int) -> list[Check]:
    if sys.platform == "win32":
        return []
    status = os.statvfs(base_dir)
    free = status.f_bavail * status.f_frsize
    percent = 100 * status.f_bavail // max(status.f_blocks, 1)
    text = f"{byte_size(free)} free, {percent} %"
    if free < low_disk_bytes:
        checks = [fail(_HOST, "disk", f"{text}: less than low_disk_bytes, {byte_size(low_disk_bytes)}; make room")]
    elif free < 4 * low_disk_bytes:
        checks = [warn(_HOST, "disk", f"{text}: low_disk_bytes is {byte_size(low_disk_bytes)}")]
    else:
        checks = [ok(_HOST, "disk", text)]
    if status.f_files > 0 and status.f_favail < _FEW_FILES:
        checks.append(fail(_HOST, "inodes", f"{status.f_favail} more files can be made; remove some"))
    if status.f_flag & getattr(os, "ST_RDONLY", 1):
        checks.append(fail(_HOST, "disk", "the file system is mounted read-only, so nothing can be recorded"))
    return checks


def _file_system(base_dir: Path) -> Check:
    kind = _kind_of_file_system(base_dir)
    if kind is None:
        return ok(_HOST, "file system", "its kind is not known on this platform")
    if kind in _NETWORK:
        return warn(_HOST, "file system", f"{kind}: across hosts its locks may not keep a second writer out")
    if kind in _IN_MEMORY:
        return fail(_HOST, "file system", f"{kind} is memory: a power cut loses the whole trail")
    return ok(_HOST, "file system", kind)


def _kind_of_file_system(path: Path) -> str | None:
    """Return the type of the file system that a path is on, None if the system does not say."""
    wanted = os.stat(path).st_dev
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for mount in mounts:
                fields, _, rest = mount.partition(" - ")
                major, minor = fields.split()[2].split(":")
                if os.makedev(int(major), int(minor)) == wanted:
                    return rest.split()[0]
    except (OSError, ValueError, IndexError):
        pass
    return None


def _clock() -> Check:
    if _CLOCK_WAS_SET.exists():
        return ok(_HOST, "clock", "set from the network by systemd-timesyncd")
    return warn(
        _HOST, "clock", "whether it is set from the network can't be seen from here; see to it (chrony, timesyncd)"
    )
