"""Reading the uncompressed content of a sealed segment, wherever it is: in the log directory or in `archive/`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import BinaryIO, Final

from audit_async._layout.age_files import Identities, open_encrypted
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, COMPRESSED, ENCRYPTED
from audit_async._layout.regular_files import open_regular

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What reading a damaged archive raises besides `OSError`.
DAMAGED_ARCHIVE: Final = (zstd.ZstdError, EOFError)


def open_segment_for_reading(directory: Path, segment: SealedSegment, identities: Identities | None = None) -> BinaryIO:
    """Open a sealed segment's uncompressed content, wherever it is; the caller closes it.

    Needs no lock. A segment that is archived between the reading of the manifest and this call is found as well.

    Raises:
        FileNotFoundError: The segment is deleted or lost.
        ArchiveEncrypted: It is encrypted, and `identities` don't open it; an `OSError`.
        LogCorrupted: Something other than a regular file has its name.
        OSError: It can't be opened.

    Reading an archive raises `zstd.ZstdError` or `EOFError` if it is damaged, and `EOFError` as well once it has given
    more bytes than the manifest says: what inflates to terabytes is stopped there.
    """
    if segment.state in {"live", "damaged"}:
        try:
            return open_binary(directory / segment.segment)
        except FileNotFoundError:
            # Of the two an interrupted archiving may have left the other one.
            for ending in (ENCRYPTED, COMPRESSED):
                if (directory / ARCHIVE / (segment.segment + ending)).exists():
                    break
            else:
                raise
    elif segment.state == "archived":
        ending = ENCRYPTED if segment.is_encrypted else COMPRESSED
    else:
        raise FileNotFoundError(f"{segment.segment} is {segment.state}: the manifest has its hashes, not its records")
    path = directory / ARCHIVE / (segment.segment + ending)
    return _open(path, segment.bytes, identities)


def open_archive(
    directory: Path, file_name: str, *, identities: Identities | None = None, max_bytes: int = sys.maxsize
) -> BinaryIO:
    """Open the uncompressed content of a file in `archive/`; as `open_segment_for_reading`, without a manifest."""
    return _open(directory / ARCHIVE / file_name, max_bytes, identities)


def _open(path: Path, max_bytes: int, identities: Identities | None) -> BinaryIO:
    file = open_binary(path)
    if path.name.endswith(ENCRYPTED):
        file = open_encrypted(file, identities, str(path))
    return io.BufferedReader(_Decompressed(file, max_bytes))


def open_binary(path: Path) -> BinaryIO:
    """Open a regular file for reading; the caller closes it. Raises `LogCorrupted` for anything else, `OSError`."""
    return open(open_regular(path), "rb")


class _Decompressed(io.RawIOBase):
    """The content of a zstd file, up to the bytes that it may have; closes the file with itself."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._stream = zstd.ZstdFile(file, "rb")
        self._left = max_bytes
        self._max_bytes = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands over
        size = self._stream.readinto(buffer)
        self._left -= size
        if self._left < 0:
            raise EOFError(f"the archive inflates to more than the {self._max_bytes} bytes that the manifest has")
        return size

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._file.close()
        super().close()
