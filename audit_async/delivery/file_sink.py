"""Records in a file, a line each, and on standard output: for shippers that follow one of them."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from audit_async._durable import disk
from audit_async._durable.whole_files import complete_lines, sync_names
from audit_async._layout.regular_files import open_regular
from audit_async.delivery.deliver_settings import FileSettings, StdoutSettings
from audit_async.delivery.deliverable_record import EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.errors import LogCorrupted

__all__ = ["FileSink", "StdoutSink"]

#: How often it is looked whether a full pipe has room again, in seconds.
_LOOK_AGAIN_S: Final = 0.01


class FileSink:
    """A file that is appended to, and rotated. For one deliverer; others may read it.

    A batch is delivered once it is on stable storage. What a crash has left of a line is cut off at the next start. If
    another program has renamed, removed or emptied the file, which is looked at before each batch, it is begun again.

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
            if self._fd is not None and not self._is_as_left(self._fd):
                self._close()
            if self._fd is not None and self._size >= self._settings.rotate_bytes:
                self._rotate()
            fd = self._fd = self._open() if self._fd is None else self._fd
            disk.write_at(fd, lines, self._size)
            disk.sync_data(fd)
        except BlockingIOError:
            return SendResult(
                outcome=Outcome.MISCONFIGURED,
                reason=f"another sink or deliverer writes to {self._settings.path}; give each a file of its own",
            )
        except (OSError, LogCorrupted) as error:
            self._close()  # what a failed sync has left is looked at again
            reason = error.strerror if isinstance(error, OSError) else "it is no regular file"
            return SendResult(outcome=Outcome.RETRY, reason=f"{self._settings.path} can't be written: {reason}")
        self._size += len(lines)
        return SendResult(outcome=Outcome.ACCEPTED)

    def _is_as_left(self, fd: int) -> bool:
        """Return whether the open file still has its name, and ends where this process has ended it."""
        ours = os.fstat(fd)
        try:
            named = os.stat(self._settings.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(ours, named) and ours.st_size == self._size

    def _open(self) -> int:
        """Open the file, and cut off what is after its last line."""
        path = self._settings.path
        try:
            fd = open_regular(path, writable=True)
        except FileNotFoundError:
            fd = disk.create_file(path, dir_fd=None)
            sync_names(Path(path).absolute().parent)
        with ExitStack() as on_error:
            on_error.callback(disk.close, fd)
            disk.lock(fd)  # two that append to one file would write over each other
            size = os.fstat(fd).st_size
            self._size = complete_lines(size, lambda count, at: disk.read_at(fd, count, at))
            if self._size < size:
                disk.truncate(fd, self._size)
            on_error.pop_all()
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

    A reader that is slow is waited for, and never keeps the process from ending.

    Args:
        settings: The sink's.
        fd: Another descriptor than that of standard output.
    """

    overlap_s: Final = 0.0
    breaks: Final = 0

    def __init__(self, settings: StdoutSettings, fd: int | None = None) -> None:
        self._settings: Final = settings
        self._fd: Final = fd
        self._unfinished = b""  # the rest of a line whose beginning is written
        self._lock: Final = anyio.Lock()

    def __repr__(self) -> str:
        return f"<StdoutSink {self._settings.name}>"

    async def send(self, batch: Sequence[EncodedRecord]) -> SendResult:
        """Write lines; they are in the pipe on return."""
        async with self._lock:
            lines = b"\n".join([self._unfinished + batch[0].body, *(body for _, body in batch[1:]), b""])
            written = 0
            try:
                fd = sys.stdout.fileno() if self._fd is None else self._fd
                with anyio.fail_after(self._settings.timeout_s):
                    while written < len(lines):
                        written += await anyio.to_thread.run_sync(_write_some, fd, lines[written:])
                        if written < len(lines):
                            await anyio.sleep(_LOOK_AGAIN_S)
            except TimeoutError:
                return SendResult(outcome=Outcome.RETRY, reason="nobody reads standard output")
            except (OSError, ValueError):
                return SendResult(outcome=Outcome.MISCONFIGURED, reason="standard output is closed")
            finally:
                # Its end comes before the next batch, so that a reader never sees two lines in one.
                begun = lines.rfind(b"\n", 0, written) + 1 < written
                self._unfinished = lines[written : lines.index(b"\n", written) + 1] if begun else b""
            return SendResult(outcome=Outcome.ACCEPTED)

    async def finish(self) -> bool:
        """Do nothing: the output is the process's."""
        return True


def _write_some(fd: int, lines: bytes) -> int:
    """Write as much as is taken without waiting; return how many bytes: a full pipe would hold the thread for ever."""
    room = select.poll()
    room.register(fd, select.POLLOUT)
    written = 0
    while written < len(lines) and room.poll(0):
        # What can be written to has room for so much; less is taken only by what is no pipe.
        written += os.write(fd, lines[written : written + select.PIPE_BUF])
    return written
