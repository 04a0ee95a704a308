"""One verification of a log in a process of its own: the request goes in, what came of it comes out, as JSON.

The process runs at the lowest priority, so that it takes the time that nobody else wants, and shares no interpreter
lock with the service. It ends at once if whoever started it is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import RLock, Thread
from typing import IO, Final

import anyio
import msgspec

from audit_async._layout.names import CHECKSUM, HOLD_FILE, LOG_FILE, MANIFEST_FILE, SegmentName
from audit_async._trail.log_files import find_logs
from audit_async._trail.worker_process import command_for
from audit_async._verify.findings import Finding
from audit_async._verify.state_file import StateFile
from audit_async._verify.verification import verify_trail
from audit_async._verify.verified_before import Verified, VerifiedLog
from audit_async.errors import AuditError
from audit_async.status import Position, describe_error

#: Files in which something was found that are named.
_MOST_SEGMENTS: Final = 10
_LOWEST_PRIORITY: Final = 19
_OWN_FILES: Final = frozenset({MANIFEST_FILE, LOG_FILE, HOLD_FILE})


class PassRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which log to verify, and how."""

    directory: str
    base_dir: str  #: in which no state may be
    expected: Position | None  #: a record that is on the disk
    before: VerifiedLog | None  #: what this service has verified
    state: str | None  #: the file for what was verified, also by the process before this one
    full_every_s: float


class PassResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of it. Nothing in it is text of an event or a name that somebody else has chosen."""

    error: str | None = None  #: why nothing can be said
    now: VerifiedLog | None = None  #: what is verified now; None if something was found
    findings: int = 0
    kinds: tuple[str, ...] = ()  #: of the findings, each once
    segments: tuple[str, ...] = ()  #: in which something was found, the first of them
    first_seq: int | None = None
    everything_read: bool = False


async def verify_once(request: PassRequest) -> PassResult:
    """Verify the log; whatever can't be read is an error, and no finding."""
    try:
        (log,) = find_logs(Path(request.directory))
        kept = None if request.state is None else StateFile(request.state)
        before = request.before
        if kept is not None:
            kept.refuse_in([Path(request.base_dir)])
            before = before or kept.read().get(log.name)
        verified = Verified(
            {} if before is None else {log.name: before}, full_every=timedelta(seconds=request.full_every_s)
        )
        expected = {} if request.expected is None else {log.name: request.expected}
        report = await verify_trail([log], expected_heads=expected, verified=verified, processes=1)
        (own,) = report.logs
        if not report.findings and report.unreadable:
            piece = report.unreadable[0]
            return PassResult(error=f"{piece.file} can't be read: {piece.reason}")
        if report.findings:
            return _with_findings(report.findings, own.findings, everything_read=own.verified_before is None)
        now = verified.logs.get(log.name)
        if kept is not None and now is not None:
            kept.write({log.name: now})
    except (AuditError, OSError) as error:
        return PassResult(error=describe_error(error))
    return PassResult(now=now, everything_read=own.verified_before is None)


def _with_findings(findings: tuple[Finding, ...], count: int, *, everything_read: bool) -> PassResult:
    seqs = [finding.seq for finding in findings if finding.seq is not None]
    names = [finding.segment for finding in findings if finding.segment is not None]
    own = [name for name in names if name in _OWN_FILES or SegmentName.parse(name.removesuffix(CHECKSUM)) is not None]
    return PassResult(
        findings=count,
        kinds=tuple(sorted({finding.kind for finding in findings})),
        segments=tuple(dict.fromkeys(own))[:_MOST_SEGMENTS],
        first_seq=min(seqs, default=None),
        everything_read=everything_read,
    )


class VerifyingProcess:
    """Starts such processes, one at a time; it may be stopped from any thread, and starts none then."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = RLock()

    def run(self, request: PassRequest) -> PassResult:
        """Verify in a process, and block until that has ended."""
        try:
            with self._lock:
                if self._stopped:
                    return PassResult(error="the log is being closed")
                # A group of its own: Ctrl-C in a terminal is for the service, which then stops this. No session of its
                # own: Linux would schedule that as another group of equal weight, whatever its priority.
                self._process = process = subprocess.Popen(  # noqa: S603 - our own program
                    command_for("audit_async._verify.background_pass"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    process_group=0,
                )
        except (OSError, ValueError) as error:
            return PassResult(error=f"no process can be started for it: {describe_error(error)}")
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        assert process.stdout is not None  # noqa: S101 - as well
        content = b""
        try:
            with suppress(OSError, ValueError):
                process.stdin.write(msgspec.json.encode(request) + b"\n")
                process.stdin.flush()
                content = process.stdout.read()
        finally:
            self._let_go(process)
        try:
            return msgspec.json.decode(content, type=PassResult)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            status = process.returncode
            return PassResult(error=f"the process that verifies ended with status {status} before it was done")

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a process and close its pipes."""
        with self._lock:
            self._process = None
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                _close(pipe)
        process.wait()

    def stop(self) -> None:
        """End the process that runs; doesn't wait for it."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def forked(self) -> None:
        """Let go, in a forked child, of the parent's process."""
        self._lock = RLock()  # the parent's may be held by a thread that is not here
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    _close(pipe)
            process.returncode = 0  # it is not ours to wait for


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()


def main() -> None:
    """Verify what standard input says; in the process."""
    with suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=PassRequest)
    Thread(target=_end_with_parent, daemon=True).start()
    result = anyio.run(verify_once, request)
    sys.stdout.buffer.write(msgspec.json.encode(result))
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
