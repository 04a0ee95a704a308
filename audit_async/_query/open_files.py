"""Reading more files at once than a process may have open: those used longest ago are closed, and opened again.

A merge by time reads from every log in turn. A file that is closed meanwhile is opened again where it was left; an
archive is then decompressed again up to there, which takes longer.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import BinaryIO, Final, cast

from audit_async._durable import disk
from audit_async._trail.log_files import CHUNK_BYTES

#: Most files that one search keeps open, and least; between them a quarter of what the process may have.
_MOST: Final = 256
_LEAST: Final = 8
#: What all files that are read at once may hold in memory, and the least piece of one that is worth reading: opening
#: a file again takes as long as searching 64 KiB, and ten thousand logs may take 16 KiB each, all included.
_ALL_CHUNKS_BYTES: Final = 64 << 20
_LEAST_CHUNK_BYTES: Final = 8 << 10


def open_file_limit() -> int:
    """Return how many files a search may keep open: a quarter of what this process may have, within bounds."""
    try:
        import resource  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return _MOST
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(_LEAST, min(_MOST, soft // 4))


class OpenFiles:
    """The files of one search, of which only so many are open. From one thread at a time."""

    def __init__(self, sources: int, *, most: int | None = None) -> None:
        """`sources` is how many logs are read at once."""
        self._most = most if most is not None else open_file_limit()
        self._open: OrderedDict[ReopenedFile, None] = OrderedDict()
        self._copies: tempfile.TemporaryDirectory[str] | None = None
        self.chunk_bytes: Final = max(_LEAST_CHUNK_BYTES, min(CHUNK_BYTES, _ALL_CHUNKS_BYTES // max(sources, 1)))

    def keep(self, file: BinaryIO, open_again: Callable[[], BinaryIO]) -> BinaryIO:
        """Return a file that is like `file`, which was just opened, and may be closed and opened again meanwhile."""
        return cast("BinaryIO", ReopenedFile(file, open_again, self))

    def used(self, file: ReopenedFile) -> None:
        """Take note that a file is open and in use, and close the one used longest ago if there are too many."""
        self._open[file] = None
        self._open.move_to_end(file)
        while len(self._open) > self._most:
            oldest, _ = self._open.popitem(last=False)
            oldest.suspend()

    def closed(self, file: ReopenedFile) -> None:
        """Take note that a file is closed."""
        self._open.pop(file, None)

    def unpacked(self, archive: BinaryIO) -> Generator[None, None, BinaryIO]:
        """Copy an archive's content to a file that can be read backwards; closes the archive.

        The copy has a name, in a directory that is closed to other users, so that it can be opened again; it is removed
        when it is closed.
        """
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="audit-async-")
        fd, path = tempfile.mkstemp(dir=self._copies.name)
        with archive, open(fd, "wb") as copy:
            while chunk := archive.read(CHUNK_BYTES):
                copy.write(chunk)
                yield None
        return cast("BinaryIO", ReopenedFile(open(path, "rb"), lambda: open(path, "rb"), self, copy_path=path))

    def close(self) -> None:
        """Remove the copies of archives; the files are closed by their readers."""
        if self._copies is not None:
            self._copies.cleanup()
            self._copies = None


class ReopenedFile(io.BufferedIOBase):
    """A file for reading that is open only while it is used, or has been lately."""

    def __init__(
        self, file: BinaryIO, open_again: Callable[[], BinaryIO], files: OpenFiles, *, copy_path: str | None = None
    ) -> None:
        super().__init__()
        self._file: BinaryIO | None = file
        self._open_again = open_again
        self._files = files
        self._copy_path = copy_path  # to be removed at the end
        self._is_seekable = file.seekable()
        self._at = 0
        files.used(self)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._is_seekable

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._opened().read(-1 if size is None else size)
        self._at += len(data)
        return data

    def readline(self, size: int | None = -1, /) -> bytes:
        line = self._opened().readline(-1 if size is None else size)
        self._at += len(line)
        return line

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = self._opened().seek(offset, whence)
        return self._at

    def tell(self) -> int:
        return self._at

    def suspend(self) -> None:
        """Close the file until it is used again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        if not self.closed:
            self._files.closed(self)
            self.suspend()
            if self._copy_path is not None:
                with suppress(OSError):
                    disk.unlink(str(self._copy_path), dir_fd=None)
        super().close()

    def _opened(self) -> BinaryIO:
        file = self._file
        if file is None:
            file = self._open_again()
            try:
                self._go_on(file)
            except BaseException:
                file.close()
                raise
        self._files.used(self)
        assert self._file is not None  # noqa: S101 - the one used last is never suspended
        return self._file

    def _go_on(self, file: BinaryIO) -> None:
        """Take a file that was opened again to the place that was reached."""
        if self._is_seekable and not file.seekable():  # archived meanwhile
            file = _result_of(self._files.unpacked(file))
        if self._is_seekable:
            file.seek(self._at)
        else:
            left = self._at
            while left and (passed := len(file.read(min(left, CHUNK_BYTES)))):
                left -= passed
        self._file = file


def _result_of(steps: Generator[None, None, BinaryIO]) -> BinaryIO:
    """Run a generator to its end; return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            file: BinaryIO = end.value
            return file
