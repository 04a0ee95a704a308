"""Erasures that wait, as an open log does their steps: noted in the key store, recorded, confirmed in the key store.

A process that dies between the noting and the confirming leaves a step that the next opening of the log records; until
then nobody executes the request. What is due is executed by whichever log of the key store looks first.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from audit_async._writer.erasure_report import ErasureReport
from audit_async.config.erasure_rules import ErasureRules
from audit_async.errors import AuditError, ConfigError
from audit_async.events import (
    AuditErasureApproved,
    AuditErasureCancelled,
    AuditErasureRequested,
    AuditErasureRulesChanged,
    AuditEvent,
)
from audit_async.privacy.erasure_requests import ErasureRequest, ErasureRequests, Unconfirmed, folded_name
from audit_async.privacy.sqlite_requests import THE_SUBJECT
from audit_async.privacy.store_failures import KeyStoreError
from audit_async.status import Condition, describe_error

if TYPE_CHECKING:
    from audit_async._writer.erasures import Erasures

__all__ = ["RequestedErasures", "named", "require_name"]

_LOOK_EVERY_S: Final = 1.0
#: A command opens a log for a moment: it must not begin an erasure that it does not stay for.
_FIRST_LOOK_S: Final = 5.0
#: A request that could not be executed, for a legal hold for example, is tried again after so long.
_RETRY_S: Final = 60.0
_TIMEOUT_S: Final = 30.0


class RequestedErasures:
    """The erasures that wait, of one open log. Owned by the loop's thread."""

    def __init__(
        self, erasures: Erasures, requests: ErasureRequests, wanted_rules: ErasureRules, condition: Condition
    ) -> None:
        self._erasures: Final = erasures
        self._requests: Final = requests
        self._wanted: Final = wanted_rules
        self._condition: Final = condition
        self._recovered: list[Unconfirmed] = []  # steps of the session before, until they are recorded
        self._tightened: ErasureRules | None = None  # rules that are recorded, and then put in force

    # What applications ask for.

    async def request(
        self, subject_id: str, *, kind: str, tenant: str | None, reason: str, requested_by: str
    ) -> ErasureRequest:
        """Request an erasure; see `AuditLogger.request_erasure`."""
        subject = self._erasures.subject(subject_id, kind, tenant)
        require_name("requested_by", requested_by)
        noted = await self._erasures.in_disk_thread(
            self._requests.request,
            subject,
            self._erasures.new_id(),
            requested_by=named(subject_id, requested_by),
            reason=reason,
            log_id=self._erasures.log_id,
        )
        return await self._recorded(noted)

    async def approve(
        self, request_id: str, subject_id: str, *, kind: str, tenant: str | None, approved_by: str
    ) -> ErasureRequest:
        """Approve a request; see `AuditLogger.approve_erasure`."""
        subject = self._erasures.subject(subject_id, kind, tenant)
        require_name("approved_by", approved_by)
        noted = await self._erasures.in_disk_thread(
            self._requests.approve,
            subject,
            request_id,
            approved_by=named(subject_id, approved_by),
            log_id=self._erasures.log_id,
        )
        return await self._recorded(noted)

    async def cancel(self, request_id: str, *, reason: str, cancelled_by: str) -> None:
        """Cancel a request; see `AuditLogger.cancel_erasure`."""
        require_name("cancelled_by", cancelled_by)
        noted = await self._erasures.in_disk_thread(
            self._requests.cancel,
            request_id,
            cancelled_by=cancelled_by,
            reason=reason,
            log_id=self._erasures.log_id,
        )
        await self._recorded(noted)

    async def waiting(self) -> tuple[ErasureRequest, ...]:
        """Return the requests that have not ended."""
        return tuple(await self._erasures.in_disk_thread(self._requests.waiting))

    async def execute_due(self) -> tuple[ErasureReport, ...]:
        """Execute what is due now; if one can't be executed, raise that after the others."""
        reports: list[ErasureReport] = []
        first_error: AuditError | None = None
        for request_id in await self._erasures.in_disk_thread(self._requests.due):
            try:
                report = await self._erasures.execute(request_id, _TIMEOUT_S)
            except KeyStoreError as error:
                first_error = first_error or error
                continue
            if report is not None:
                reports.append(report)
        if first_error is not None:
            raise first_error
        return tuple(reports)

    async def rules(self) -> ErasureRules:
        """Return the rules in force."""
        return await self._erasures.in_disk_thread(self._requests.rules)

    async def change_rules(self, rules: ErasureRules, *, reason: str, changed_by: str) -> None:
        """Put other rules in force; see `AuditLogger.change_erasure_rules`."""
        require_name("changed_by", changed_by)
        await self._erasures.record([_rules_changed(rules, reason=reason, changed_by=changed_by)])
        await self._erasures.in_disk_thread(self._requests.set_rules, rules)
        await self._erasures.record([_rules_changed(rules, reason=reason, changed_by=changed_by, done=True)])

    async def _recorded(self, noted: Unconfirmed) -> ErasureRequest:
        await self._erasures.record([_event_of(noted)])
        await self._erasures.in_disk_thread(self._requests.confirm, noted.request.request_id, noted.step)
        stated = self._erasures.keys.commits.stated
        stated.epoch = max(stated.epoch, noted.epoch)
        waiting = await self.waiting()
        return next((one for one in waiting if one.request_id == noted.request.request_id), noted.request)

    # The opening.

    async def recover(self, log_id: str) -> list[AuditEvent]:
        """Return what is to be recorded first: steps that the session before has noted, and stricter rules."""
        rules = await self.rules()
        self._recovered = await self._erasures.in_disk_thread(self._requests.unconfirmed, log_id)
        events: list[AuditEvent] = [_event_of(noted, resumed=True) for noted in self._recovered]
        tightened = rules.tightened(self._wanted)
        if tightened != rules:
            self._tightened = tightened
            events.append(_rules_changed(tightened))
        return events

    async def end_recovered(self) -> None:
        """Do in the key store what is recorded now."""
        for noted in self._recovered:
            await self._erasures.in_disk_thread(self._requests.confirm, noted.request.request_id, noted.step)
        self._recovered = []
        if self._tightened is not None:
            # Another log may have asked for more since it was recorded.
            rules = (await self.rules()).tightened(self._tightened)
            await self._erasures.in_disk_thread(self._requests.set_rules, rules)
            self._tightened = None

    # The task.

    async def run(self) -> None:
        """Execute what is due; until cancelled."""
        try_at = time.monotonic() + _FIRST_LOOK_S
        while True:
            if time.monotonic() >= try_at:
                try:
                    await self.execute_due()
                except (AuditError, OSError) as error:
                    try_at = time.monotonic() + _RETRY_S
                    self._condition.set_trouble("erasures that are due", f"are tried again: {describe_error(error)}")
                else:
                    self._condition.set_trouble("erasures that are due", None)
            await asyncio.sleep(_LOOK_EVERY_S)


def named(subject_id: str, name: str) -> str:
    """Return a name for the record: not the one that is being erased, in whatever spelling."""
    return THE_SUBJECT if folded_name(name) == folded_name(subject_id) else name


def require_name(field: str, name: str) -> None:
    """Raise `ConfigError` for a name that names nobody."""
    if not folded_name(name):
        raise ConfigError(field, "is empty; it says who is answerable for this")


def _event_of(noted: Unconfirmed, *, resumed: bool | None = None) -> AuditEvent:
    request = noted.request
    if noted.step == "requested":
        return AuditErasureRequested(
            request_id=request.request_id,
            epoch=noted.epoch,
            keys=noted.keys,
            not_before=request.not_before,
            needs_approval=request.needs_approval,
            reason=noted.reason,
            requested_by=noted.by,
            resumed=resumed,
        )
    if noted.step == "approved":
        return AuditErasureApproved(request_id=request.request_id, approved_by=noted.by, resumed=resumed)
    return AuditErasureCancelled(
        request_id=request.request_id, epoch=noted.epoch, reason=noted.reason, cancelled_by=noted.by, resumed=resumed
    )


def _rules_changed(
    rules: ErasureRules, *, reason: str | None = None, changed_by: str | None = None, done: bool | None = None
) -> AuditErasureRulesChanged:
    return AuditErasureRulesChanged(
        delay_s=rules.delay_s,
        not_before_days=rules.not_before_days,
        two_person=rules.two_person,
        reason=reason,
        changed_by=changed_by,
        done=done,
    )
