"""Indexing the segments of an open log after they were sealed, in a process of low priority.

A process and no thread: indexing a segment takes half a second of computing per 64 MiB, and in a thread each commit
would wait for the interpreter's lock, 5 ms at a time. The process takes no lock of the log, so neither the writer nor
retention or a backup ever waits for it, and it can be killed at any point.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from threading import Event
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from audit_async._query.index_process import Indexed
from audit_async.status import describe_error

#: Seconds from the opening to the first look, so that a service's start is not slowed, and between two.
_FIRST_LOOK_S: Final = 60.0
_LOOK_S: Final = 10.0
#: Seconds to the next try after one that has failed.
_AFTER_FAILURE_S: Final = 3600.0
#: How often the thread that waits for the process looks whether the log is being closed.
_WAIT_S: Final = 0.2
_MAX_OUTPUT: Final = 1 << 20


class SegmentIndexing:
    """Indexes the sealed segments of one open log. Owned by the loop's thread."""

    def __init__(
        self,
        directory: Path,
        *,
        newest: Callable[[], str],
        set_trouble: Callable[[str, str | None], None],
    ) -> None:
        """`newest` returns the file name of the segment that was sealed last; empty if there is none."""
        self._directory = directory
        self._newest = newest
        self._set_trouble = set_trouble
        self._done = ""  # the newest segment that a process has looked at, by file name
        self._stopped = Event()  # asked by the thread that waits for the process
        self._waiting = anyio.CapacityLimiter(1)  # not the host's threads, which may all be taken

    async def run(self) -> None:
        """Index what has no index, soon after it was sealed, until cancelled; what fails is reported and retried."""
        try:
            await anyio.sleep(_FIRST_LOOK_S)
            while True:
                is_done = self._newest() <= self._done or await self._index()
                await anyio.sleep(_LOOK_S if is_done else _AFTER_FAILURE_S)
        finally:
            self.stop()

    def stop(self) -> None:
        """Have the process that is under way end at once: the log is being closed."""
        self._stopped.set()

    async def _index(self) -> bool:
        """Have a process index what is missing; return False, and report why, if it could not look at it."""
        try:
            outcome = await anyio.to_thread.run_sync(self._run_process, abandon_on_cancel=True, limiter=self._waiting)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self._set_trouble(
                "index", f"no segment is indexed, so queries scan them: {describe_error(error)}; it is tried again"
            )
            return False
        has_advanced, self._done = outcome.newest > self._done, outcome.newest
        self._set_trouble("index", None if outcome.problem is None else f"queries scan a segment: {outcome.problem}")
        return has_advanced or outcome.problem is None

    def _run_process(self) -> Indexed:
        """Run the process to its end, or kill it if the log is closed meanwhile. In a thread."""
        if not Path(sys.executable or "").name.lower().startswith(("python", "pypy")):
            raise OSError(f"{sys.executable!r} is no Python interpreter that could be started")
        program = (
            f"import sys; sys.path[:] = {sys.path!r}\nfrom audit_async._query.index_process import main\n"
            f"main({str(self._directory)!r}, {self._done!r})"
        )
        # In a session of its own: a Ctrl-C in the terminal is for the service, which ends it.
        command = [sys.executable, "-c", program]
        with Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True) as process:  # noqa: S603 - ours
            while process.poll() is None:
                if self._stopped.wait(_WAIT_S):
                    process.kill()
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            output = process.stdout.read(_MAX_OUTPUT)
        if not output:
            raise OSError(f"the process that indexes ended with status {process.returncode} and said nothing")
        return msgspec.json.decode(output, type=Indexed)
