"""The verification of an open log by itself, again and again: when it is due, and what is done with its findings.

The log is read by a process of its own (`audit_async._verify.background_pass`), so it costs the writer nothing but the
start of that process. Nothing waits for it: neither a commit nor the end of the log.

What it finds is looked at twice, since a finding is an accusation: only what a second verification finds as well is
recorded, reported as the log's status, and logged.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from audit_async._verify.background_pass import PassRequest, PassResult, VerifyingProcess
from audit_async._verify.verified_before import VerifiedLog
from audit_async._writer.disk_thread import DiskThread
from audit_async.config import Verification
from audit_async.errors import AuditError
from audit_async.events import AuditEvent, AuditVerificationFailed
from audit_async.status import Condition, Position, VerificationStats

#: Seconds from the opening to the first verification, so that a service's start is not slowed.
_FIRST_AFTER_S: Final = 60.0
_DAY_S: Final = 86_400.0

_Record = Callable[[Sequence[AuditEvent]], Awaitable[None]]


class _Figures(NamedTuple):
    """What is known of the verifications so far; replaced, never changed: other threads read it."""

    verified_seq: int | None = None
    verified_at: float | None = None  #: monotonic
    findings: int = 0
    errors: int = 0


class VerificationTask:
    """Verifies one open log. Owned by the loop's thread."""

    def __init__(
        self,
        settings: Verification,
        *,
        directory: Path,
        base_dir: Path,
        log: str,
        durable_head: Callable[[], Position | None],
        condition: Condition,
    ) -> None:
        """Start nothing yet.

        Args:
            settings: What the configuration says.
            directory: The log's own.
            base_dir: The trail's, in which no state may be.
            log: The log's name.
            durable_head: Returns the newest record if it is durable.
            condition: The log's.
        """
        self._figures = _Figures()
        self._settings: Final = settings
        self._directory: Final = directory
        self._base_dir: Final = base_dir
        self._state: Final = _state_file(settings, log)
        self._durable_head: Final = durable_head
        self._condition: Final = condition
        self._process: Final = VerifyingProcess()
        self._thread: Final = DiskThread(f"audit-async verification of {log}")
        self._before: VerifiedLog | None = None
        self._recorded: PassResult | None = None  # the findings that are in the chain

    def __repr__(self) -> str:
        return f"<VerificationTask {self._directory} {self._figures}>"

    @property
    def stats(self) -> VerificationStats:
        """What is known so far; from any thread."""
        verified_seq, verified_at, findings, errors = self._figures
        since_s = None if verified_at is None else time.monotonic() - verified_at
        return VerificationStats(verified_seq=verified_seq, since_verified_s=since_s, findings=findings, errors=errors)

    async def run(self, record: _Record) -> None:
        """Verify again and again, until cancelled; `record` puts events into the chain, durably."""
        try:
            await anyio.sleep(min(_FIRST_AFTER_S, self._settings.interval))
            while True:
                result = await self._verify()
                if result.findings:
                    result = await self._verify()
                await self._report(result, record)
                await anyio.sleep(self._settings.interval)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the process that verifies, and start no other; doesn't wait."""
        self._process.stop()
        self._thread.stop()

    def forked(self) -> None:
        """Let go, in a forked child, of the parent's process."""
        self._process.forked()

    async def _verify(self) -> PassResult:
        request = PassRequest(
            directory=str(self._directory),
            base_dir=str(self._base_dir),
            expected=self._durable_head(),
            before=self._before,
            state=self._state,
            full_every_s=self._settings.full_every_days * _DAY_S,
        )
        return await self._thread.call(self._process.run, request)

    async def _report(self, result: PassResult, record: _Record) -> None:
        figures = self._figures
        if result.error is not None:
            self._figures = figures._replace(errors=figures.errors + 1)
            self._condition.set_trouble("verification", f"not possible, and tried again when it is due: {result.error}")
            return
        self._condition.set_trouble("verification", None)
        if not result.findings:
            self._before = result.now or self._before
            verified_seq = result.now.head.seq if result.now is not None else figures.verified_seq
            self._figures = _Figures(verified_seq, time.monotonic(), 0, figures.errors)
            self._recorded = None
            self._condition.set_finding(None)
            return
        self._figures = figures._replace(findings=result.findings)
        self._condition.set_finding(_describe(result))
        if result != self._recorded:
            await self._record_finding(result, record)

    async def _record_finding(self, result: PassResult, record: _Record) -> None:
        event = AuditVerificationFailed(
            findings=result.findings,
            kinds=list(result.kinds),
            segments=list(result.segments),
            first_seq=result.first_seq,
            everything_read=result.everything_read,
        )
        try:
            await record([event])
        except AuditError:
            return  # the log is closing or has failed: the next session finds it again
        self._recorded = result


def _state_file(settings: Verification, log: str) -> str | None:
    if settings.state_dir is None:
        return None
    return str(Path(settings.state_dir).absolute() / f"{log.replace('/', '.')}.json")


def _describe(result: PassResult) -> str:
    """Return what was found, and what to do."""
    where = f" in {', '.join(result.segments)}" if result.segments else ""
    since = f", first at seq {result.first_seq}" if result.first_seq is not None else ""
    return (
        f"verifying it found {result.findings} things that are not as they were written "
        f"({', '.join(result.kinds)}){where}{since}; run audit-async verify, and keep the files as they are"
    )
