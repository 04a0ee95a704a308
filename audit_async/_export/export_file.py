"""The file that an export makes: private (0600), complete or not there at all, and never replacing another unasked.

Or the stream that it writes to instead, such as standard output, which has nothing of that.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, cast

from audit_async._durable import disk
from audit_async.errors import AuditError

__all__ = ["ExportFailed", "NewFile", "StreamOut", "new_file"]

_BLOCK: Final = 1 << 20


class ExportFailed(AuditError):
    """An export can't be made as it was asked for; no file was left."""


class NewFile:
    """A file that is being written; `finish` puts it in its place."""

    def __init__(self, file: BinaryIO, unfinished: str, target: Path, *, overwrite: bool) -> None:
        self.file = file
        self._unfinished = unfinished
        self._target = target
        self._overwrite = overwrite

    def digest(self) -> tuple[int, str]:
        """Return size and SHA-256 of what was written: what `finish` will return if nothing more is."""
        self.file.flush()
        return _digest(self.file)

    def finish(self) -> tuple[int, str]:
        """Put the file in its place, durably; return its size and SHA-256.

        In order: the file is synced, then it gets its name, then the directory is synced. Raises `ExportFailed`
        if something has taken the name meanwhile, `OSError`.
        """
        self.file.flush()
        size, digest = _digest(self.file)
        disk.sync_data(self.file.fileno())
        if self._overwrite:
            disk.rename(self._unfinished, str(self._target), dir_fd=None)
        else:
            _link(self._unfinished, self._target)
        directory = disk.open_directory(str(self._target.parent), follow=True)
        try:
            disk.sync_directory(directory)
        finally:
            disk.close(directory)
        return size, digest


class StreamOut(io.RawIOBase):
    """A stream that an export is written to from its beginning to its end; it stays open."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = sha256()
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]  # what is written here
        """Write all of it."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self._size += len(view)
        left = view
        while left:
            written = cast("int | None", self._stream.write(left))
            if written is None and isinstance(self._stream, io.RawIOBase):
                raise ExportFailed("the stream takes nothing at the moment; give one that blocks until it does")
            left = left[len(left) if written is None else written :]  # a raw stream may take a part
        return len(view)

    def tell(self) -> int:
        return self._size

    def finish(self) -> tuple[int, str]:
        """Hand on what is buffered; return the size and SHA-256 of what was written."""
        self._stream.flush()
        return self._size, self._digest.hexdigest()


#: What only writing raises, and Python then says of no file.
_OF_WRITING: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def new_file(target: Path, *, overwrite: bool) -> Iterator[NewFile]:
    """Yield a file to write to, next to `target`; nothing is left of it at the end unless it was finished.

    Raises `ExportFailed` if something is at `target` and `overwrite` is not set, `OSError`.
    """
    if not overwrite and os.path.lexists(target):
        raise _taken(target)
    if not target.parent.is_dir():
        raise ExportFailed(f"{target.parent} is no directory that is there; make it, or choose another place")
    fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".unfinished", dir=target.parent)
    try:
        with open(fd, "w+b") as file:
            yield NewFile(file, name, target, overwrite=overwrite)
    except OSError as error:
        if error.filename is None and error.errno in _OF_WRITING:
            error.filename = str(target)
        raise
    finally:
        with suppress(FileNotFoundError):
            disk.unlink(name, dir_fd=None)


def _link(name: str, target: Path) -> None:
    """Link a file to a second name, never replacing another file; on a file system without links, rename it."""
    try:
        disk.link(name, str(target))
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}:
            raise
        if os.path.lexists(target):
            raise _taken(target) from None
        disk.rename(name, str(target), dir_fd=None)


def _taken(target: Path) -> ExportFailed:
    return ExportFailed(f"{target} is there already; choose another name, or overwrite it (--force)")


def _digest(file: BinaryIO) -> tuple[int, str]:
    digest = sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    return file.tell(), digest.hexdigest()
