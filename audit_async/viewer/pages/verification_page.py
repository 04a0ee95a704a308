"""Verifying the trail from a page: one run at a time, its progress, and what came of the last one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from audit_async._trail.log_files import Log
from audit_async.errors import AuditError
from audit_async.reader import AuditReader, Progress, VerifyReport
from audit_async.viewer.pages.rendering import render_page, url_for
from audit_async.viewer.viewing import Viewing, viewing_of

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy  # needs an extra

__all__ = ["VerificationPage"]


@dataclass
class _Run:
    """One verification."""

    asked_by: str
    started_at: datetime
    is_signed: bool  #: with keys: the records are compared with the signed checkpoints
    progress: Progress | None = None
    report: VerifyReport | None = None
    failure: str | None = None
    ended_at: datetime | None = None

    @property
    def is_running(self) -> bool:
        """True until it has ended, in whatever way."""
        return self.ended_at is None

    @property
    def percent(self) -> int:
        """How far it is."""
        if self.progress is None or not self.progress.bytes_total:
            return 0
        return min(99, 100 * self.progress.bytes_done // self.progress.bytes_total)


class VerificationPage:
    """The page, and the newest run for each set of logs. Used on the event loop only.

    Whoever may see the same logs sees the same run; one who may see others does not.
    """

    def __init__(self) -> None:
        """Nothing is verified yet."""
        self._runs: dict[tuple[frozenset[str] | None, bool], _Run] = {}

    def __repr__(self) -> str:
        running = sum(run.is_running for run in self._runs.values())
        return f"<VerificationPage {len(self._runs)} runs, {running} running>"

    async def show(self, request: Request) -> Response:
        """Show the newest run."""
        viewing = viewing_of(request)
        is_part = bool(request.headers.get("HX-Request"))
        template = "verification_run.html" if is_part else "verification.html"
        run, has_policy = self._runs.get(_key(viewing)), viewing.policy is not None
        return await render_page(request, template, run=run, has_policy=has_policy, is_part=is_part)

    async def start(self, request: Request) -> Response:
        """Start a run, unless one is under way; lead to the page."""
        viewing = viewing_of(request)
        viewing.person.require("verify")
        page = url_for(request, "/verification")
        if any(run.is_running for run in self._runs.values()):
            return RedirectResponse(page, status_code=303)
        run = self._runs[_key(viewing)] = _Run(viewing.person.name, datetime.now(UTC), viewing.policy is not None)
        try:
            await viewing.reader.record_verification()
        except BaseException:
            run.failure, run.ended_at = "it could not be recorded who asked for it", datetime.now(UTC)
            raise
        return _Started(page, run, BackgroundTask(self._verify, run, _LogsOf(viewing), viewing.policy))

    async def _verify(self, run: _Run, reader: AuditReader, policy: Policy | None) -> None:
        def set_progress(progress: Progress) -> None:
            run.progress = progress

        run.failure = "it was interrupted"
        try:
            run.report = await reader.verify(policy=policy, skip_encrypted=True, processes=1, progress=set_progress)
            run.failure = None
        except (AuditError, OSError) as error:
            run.failure = str(error)


class _Started(RedirectResponse):
    """The answer that leads to the page and then verifies; the run has ended when this has, also if nobody gets it."""

    def __init__(self, page: str, run: _Run, verify: BackgroundTask) -> None:
        super().__init__(page, status_code=303, background=verify)
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._run.failure = "it was not begun, since whoever asked for it was gone"
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._run.ended_at = datetime.now(UTC)


class _LogsOf(AuditReader):
    """A reader of the logs that a person may see."""

    def __init__(self, viewing: Viewing) -> None:
        super().__init__(viewing.base_dir)
        self._viewing = viewing

    def logs(self) -> list[Log]:
        return self._viewing.reader.logs()


def _key(viewing: Viewing) -> tuple[frozenset[str] | None, bool]:
    """Return what distinguishes those who may see different logs: their services, and the log of who has looked."""
    return viewing.person.services, viewing.person.may("see_access_log")
