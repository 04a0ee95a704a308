"""Records in a file, a line each, and on standard output: for shippers that follow one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import anyio
import anyio.to_thread

from audit_async._durable import disk
from audit_async._durable.whole_files import complete_lines, sync_names
from audit_async._layout.regular_files import open_regular
from audit_async.delivery.deliver_settings import FileSettings
from audit_async.delivery.deliverable_record import EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.errors import LogCorrupted

__all__ = ["FileSink", "StdoutSink"]


class FileSink:
    """A file that is appended to, and rotated. For one deliverer; others may read it.

    A batch is delivered once it is on stable storage. What a crash has left of a line is cut off at the next start.

    Args:
        settings: The sink's.
    """

    overlap_s: Final = 0.0
    breaks: Final = 0

    def __init__(self, settings: FileSettings) -> None:
        self._settings: Final = settings
        self._fd: int | None = None
        self._size = 0
        self._lock: Final = anyio.Lock()

    def __repr__(self) -> str:
        return f"<FileSink {self._settings.name} size={self._size}>"

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Append lines, durable on return."""
        async with self._lock:
            return await anyio.to_thread.run_sync(self._append, b"\n".join([*(body for _, body in batch), b""]))

    def _append(self, lines: bytes) -> SendResult:
        try:
            if self._fd is not None and self._size >= self._settings.rotate_bytes:
                self._rotate()
            fd = self._fd = self._open() if self._fd is None else self._fd
            disk.write_at(fd, lines, self._size)
            disk.sync_data(fd)
        except (OSError, LogCorrupted) as error:
            self._close()  # what a failed sync has left is looked at again
            reason = error.strerror if isinstance(error, OSError) else "it is no regular file"
            return SendResult(outcome=Outcome.RETRY, reason=f"{self._settings.path} can't be written: {reason}")
        self._size += len(lines)
        return SendResult(outcome=Outcome.ACCEPTED)

    def _open(self) -> int:
        """Open the file, and cut off what is after its last line."""
        path = self._settings.path
        try:
            fd = open_regular(path, writable=True)
        except FileNotFoundError:
            fd = disk.create_file(path, dir_fd=None)
            sync_names(Path(path).absolute().parent)
        size = os.fstat(fd).st_size
        self._size = complete_lines(size, lambda count, at: disk.read_at(fd, count, at))
        if self._size < size:
            disk.truncate(fd, self._size)
        return fd

    def _rotate(self) -> None:
        """Rename the file, and the renamed ones before it; the oldest is removed."""
        self._close()
        path, keep = self._settings.path, self._settings.keep_files
        for number in range(keep, 0, -1):
            source = path if number == 1 else f"{path}.{number - 1}"
            with suppress(FileNotFoundError):
                disk.rename(source, f"{path}.{number}", dir_fd=None)

    def _close(self) -> None:
        if self._fd is not None:
            disk.close(self._fd)
            self._fd = None

    async def finish(self) -> bool:
        """Close the file."""
        self._close()
        return True


class StdoutSink:
    """Standard output, for a container's log. What its reader does not read is lost with the process that has it.

    Args:
        name: The sink's name.
    """

    overlap_s: Final = 0.0
    breaks: Final = 0

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._output: Final[BinaryIO] = sys.stdout.buffer
        self._lock: Final = anyio.Lock()

    def __repr__(self) -> str:
        return f"<StdoutSink {self._name}>"

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Write lines; they are in the pipe on return."""
        async with self._lock:
            return await anyio.to_thread.run_sync(self._write, b"\n".join([*(body for _, body in batch), b""]))

    def _write(self, lines: bytes) -> SendResult:
        try:
            self._output.write(lines)
            self._output.flush()
        except (OSError, ValueError):
            return SendResult(outcome=Outcome.MISCONFIGURED, reason="standard output is closed")
        return SendResult(outcome=Outcome.ACCEPTED)

    async def finish(self) -> bool:
        """Do nothing: the output is the process's."""
        return True
