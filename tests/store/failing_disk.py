"""A file system of our own, through FUSE, whose calls fail on demand: real errors from a real kernel.

It keeps its files in a backing directory. A control file says what fails, as JSON: `{"calls": ["fsync"], "errno": 5,
"from": 3, "times": 1}` fails the third of these calls from now on, once; `times` null fails all that follow, too. The
number of calls so far is in the file `counted` next to it.

It needs libfuse and the right to mount: root's own, or `fusermount3` from Debian's package fuse3. A test is skipped,
with the reason, if one of them is missing; a file system that was mounted is unmounted with whatever mounted it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

#: The calls that can fail, by FUSE's names: `fsync` is fdatasync, too, `fsyncdir` that of a directory.
CALLS = ("create", "open", "write", "fsync", "fsyncdir", "rename", "unlink", "mkdir", "truncate", "chmod")

#: A bound for a machine that is busy with something else, not an expectation.
MOUNT_DEADLINE_S = 120.0

#: Linux's umount2: detach the mount point now, whoever still has a file open below it.
MNT_DETACH = 2


def unmount(path: Path) -> None:
    """Detach a mount point: with root's right, as libfuse mounts if it can, or else through the setuid helper.

    The helper alone is not enough: libfuse does without it if root mounts, so it may not be installed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), MNT_DETACH) == 0:
        return
    helper = shutil.which("fusermount3") or shutil.which("fusermount")
    if helper is not None:
        subprocess.run([helper, "-u", "-z", str(path)], check=False, capture_output=True, timeout=180)


class FailingDisk:
    """A mounted file system that fails on demand; see `mounted`."""

    def __init__(self, place: Path) -> None:
        self.path = place / "mount"
        self._backing = place / "backing"
        self._control = place / "control"
        self._counted = place / "counted"
        self._process: subprocess.Popen[bytes] | None = None

    def fail(self, calls: Sequence[str], number: int, *, start: int = 1, times: int | None = None) -> None:
        """Let these calls fail with this errno, from the `start`-th on; counting begins now."""
        self._write_control({"calls": list(calls), "errno": number, "from": start, "times": times})

    def mend(self) -> None:
        """Let nothing fail any more."""
        self._write_control({"calls": [], "errno": 0, "from": 1, "times": None})

    def counted(self) -> int:
        """Return how many of the calls were made since `fail`."""
        return int(self._counted.read_text() or 0)

    def _write_control(self, what: dict[str, Any]) -> None:
        self._counted.write_text("0")
        new = self._control.with_suffix(".new")
        new.write_text(json.dumps(what))
        new.replace(self._control)  # a new inode, by which the other side sees the change

    def __enter__(self) -> Self:
        for directory in (self.path, self._backing):
            directory.mkdir(mode=0o700)
        self.mend()
        command = [
            sys.executable,
            "-m",
            "tests.store.failing_disk",
            *map(str, (self._backing, self.path, self._control)),
        ]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            self._wait_mounted()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_mounted(self) -> None:
        """Return once the kernel shows the mount; a process that ends without it means that there is no FUSE here."""
        assert self._process is not None
        deadline = time.monotonic() + MOUNT_DEADLINE_S
        while not os.path.ismount(self.path):
            if self._process.poll() is not None:
                said = self._process.communicate()[1].decode(errors="replace").strip().splitlines()
                pytest.skip(f"no FUSE here: {said[-1] if said else 'the file system ended without a word'}")
            assert time.monotonic() < deadline, "the file system neither mounted nor ended"
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        try:
            self.mend()  # so that nothing which still writes is kept from ending
            unmount(self.path)
        finally:
            if self._process.poll() is None:
                try:
                    self._process.wait(10)  # it ends by itself once it is unmounted
                except subprocess.TimeoutExpired:
                    self._process.kill()
            self._process.communicate()


@contextmanager
def mounted(place: Path) -> Iterator[FailingDisk]:
    """Mount such a file system below `place`; skip the test if FUSE or libfuse is missing."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no FUSE here: /dev/fuse can't be opened")
    with FailingDisk(place) as failing_disk:
        yield failing_disk


class Faults:
    """The serving side of the control file: raises if a call is to fail."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._inode = 0
        self._what: dict[str, Any] = {}
        self._count = 0

    def raise_if_due(self, call: str) -> None:
        """Count this call, and raise `OSError` if it is its turn to fail."""
        inode = self._control.stat().st_ino
        if inode != self._inode:
            self._inode, self._count = inode, 0
            self._what = json.loads(self._control.read_text())
        if call not in self._what["calls"]:
            return
        self._count += 1
        self._control.with_name("counted").write_text(str(self._count))
        first, times = self._what["from"], self._what["times"]
        if self._count >= first and (times is None or self._count < first + times):
            raise OSError(self._what["errno"], os.strerror(self._what["errno"]))

    def guarding(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return `real`, failing on demand."""

        def guarded(*args: Any) -> Any:
            self.raise_if_due(call)
            return real(*args)

        return guarded


def serve(backing: str, mount: str, control: str) -> None:
    """Be the file system, in the foreground, until it is unmounted."""
    import mfusepy  # noqa: PLC0415 - only the process that serves needs it, and it fails without libfuse

    class Operations(mfusepy.Operations):  # type: ignore[misc]  # mfusepy's class is Any to mypy
        """Passes every call on to the backing directory, unless it is to fail."""

        use_ns = True

        def at(self, path: str) -> str:
            return backing + path

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            status = os.fstat(fh) if fh is not None else os.lstat(self.at(path))
            names = ("st_atime_ns", "st_ctime_ns", "st_mtime_ns", "st_gid", "st_mode", "st_nlink", "st_size", "st_uid")
            found = {name.removesuffix("_ns"): getattr(status, name) for name in names}
            return {**found, "st_ino": status.st_ino, "st_blocks": status.st_blocks}

        def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, Any], int]]:
            # With its inode: the kernel leaves out a name whose inode is 0.
            names = [".", "..", *os.listdir(self.at(path))]
            return [(name, self.getattr(f"{path}/{name}"), 0) for name in names]

        def create(self, path: str, mode: int, fi: object = None) -> int:
            return os.open(self.at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        def open(self, path: str, flags: int) -> int:
            return os.open(self.at(path), flags & ~(os.O_CREAT | os.O_NOFOLLOW))

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            os.truncate(self.at(path) if fh is None else fh, length)

        def fsync(self, path: str, datasync: int, fh: int) -> None:
            os.fsync(fh)

        def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
            return None

        def release(self, path: str, fh: int) -> None:
            os.close(fh)

        def rename(self, old: str, new: str) -> None:
            os.rename(self.at(old), self.at(new))

        def unlink(self, path: str) -> None:
            os.unlink(self.at(path))

        def mkdir(self, path: str, mode: int) -> None:
            os.mkdir(self.at(path), mode)

        def rmdir(self, path: str) -> None:
            os.rmdir(self.at(path))

        def chmod(self, path: str, mode: int) -> None:
            os.chmod(self.at(path), mode)

        def statfs(self, path: str) -> dict[str, int]:
            status = os.statvfs(self.at(path))
            names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag",
                     "f_frsize", "f_namemax")  # fmt: skip
            return {name: getattr(status, name) for name in names}

    operations, faults = Operations(), Faults(Path(control))
    for call in CALLS:
        setattr(operations, call, faults.guarding(call, getattr(operations, call)))
    mfusepy.FUSE(operations, mount, foreground=True, nothreads=True, use_ino=True, hard_remove=True, attr_timeout=0)


if __name__ == "__main__":
    serve(*sys.argv[1:])
