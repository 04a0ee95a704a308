"""A file system of our own, through FUSE, whose calls fail when told to: real errors from a real kernel.

It keeps its files in a backing directory. A control file says what fails, as JSON: `{"calls": ["fsync"], "errno": 5,
"from": 3, "times": 1}` fails the third of these calls from now on, once; `times` null fails all that follow, too. What
has been counted is in the control file's neighbour, `counted`.
"""

from __future__ import annotations

import json
import os
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
        self._tell({"calls": list(calls), "errno": number, "from": start, "times": times})

    def mend(self) -> None:
        """Let nothing fail any more."""
        self._tell({"calls": [], "errno": 0, "from": 1, "times": None})

    def counted(self) -> int:
        """Return how many of the calls were made since `fail`."""
        return int(self._counted.read_text() or 0)

    def _tell(self, what: dict[str, Any]) -> None:
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
        deadline = time.monotonic() + 20
        while not os.path.ismount(self.path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                said = self._process.communicate()[1].decode(errors="replace")
                pytest.skip(f"no FUSE here: {said.strip().splitlines()[-1] if said.strip() else 'it did not mount'}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self.mend()
        subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=False, capture_output=True)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.communicate()


@contextmanager
def mounted(place: Path) -> Iterator[FailingDisk]:
    """Mount such a file system below `place`; skips the test where FUSE is not to be had, libfuse included."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no FUSE here: /dev/fuse can't be opened")
    with FailingDisk(place) as failing_disk:
        yield failing_disk


class Faults:
    """The serving side of the control file: raises where a call is to fail."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._inode = 0
        self._what: dict[str, Any] = {}
        self._count = 0

    def raise_if_told(self, call: str) -> None:
        """Count this call, and raise `OSError` where it is its turn to fail."""
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
        """Return `real`, failing where it is told to."""

        def guarded(*args: Any) -> Any:
            self.raise_if_told(call)
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
