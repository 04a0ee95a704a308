"""Reading the uncompressed content of a sealed segment, wherever it is: in the log directory or in `archive/`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import BinaryIO

from audit_async._durable import disk
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, COMPRESSED

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def open_segment_for_reading(directory: Path, segment: SealedSegment) -> BinaryIO:
    """Open a sealed segment's uncompressed content, wherever it stands; the caller closes it.

    Needs no lock. A segment that is archived between the reading of the manifest and this call is found as well.
    Raises `FileNotFoundError` for one that is deleted or lost, `OSError`; while an archive is read,
    `zstd.ZstdError` or `EOFError` where it is damaged.
    """
    archive = directory / ARCHIVE / (segment.segment + COMPRESSED)
    if segment.state in {"live", "damaged"}:
        try:
            return open_binary(directory / segment.segment)
        except FileNotFoundError:
            if not archive.exists():
                raise
    elif segment.state != "archived":
        raise FileNotFoundError(f"{segment.segment} is {segment.state}: the manifest has its hashes, not its records")
    return io.BufferedReader(_Decompressed(open_binary(archive)))


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, never through a symbolic link; the caller closes it."""
    fd = disk.open_file(str(path))
    try:
        return open(fd, "rb")
    except BaseException:  # a directory of that name
        disk.close(fd)
        raise


class _Decompressed(io.RawIOBase):
    """The content of a zstd file; closes the file with itself."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = zstd.ZstdFile(file, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands over
        return self._stream.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._file.close()
        super().close()
