"""Erasing persons while a log is open: the records, the keys, and the other processes, in this order.

An erasure is recorded before it destroys anything (`audit.erasure_started`, with the ids of the keys), and again when
the keys are gone (`audit.subject_erased`). A process that dies in between leaves one that the next opening completes.
So no key is destroyed without a record, and no record of an erasure is left whose keys live on.

Other processes that use the key store look at it at each commit, and once a second if they have none. An erasure
returns when all of them have dropped the keys, or says who has not.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, ParamSpec, TypeVar

import anyio
import msgspec

from audit_async._sanitize.unsafe_text import cut, escape
from audit_async._store.log_store import LogStore
from audit_async._trail.log_files import Log
from audit_async._writer.disk_thread import DiskThread
from audit_async._writer.erasure_recovery import (
    BegunErasure,
    complete_erasures,
    end_erasures,
    in_groups,
)
from audit_async._writer.erasure_report import ErasureReport
from audit_async._writer.intake import Intake
from audit_async._writer.opened_keys import OpenedKeys
from audit_async._writer.requested_erasures import RequestedErasures, named, require_name
from audit_async._writer.unsealed_logs import UnsealedLogs, find_unsealed
from audit_async._writer.upkeep import Upkeep
from audit_async._writer.write_loop import Writer
from audit_async.config import Privacy
from audit_async.errors import AuditError, ConfigError
from audit_async.events import (
    AuditErasedInFlight,
    AuditErasureNoticed,
    AuditErasureStarted,
    AuditEvent,
    AuditKeysForgotten,
    AuditSubjectErased,
)
from audit_async.privacy.data_keys import date_of, key_id_text
from audit_async.privacy.erasure_requests import folded_name
from audit_async.privacy.key_store import Changes
from audit_async.privacy.sealed_text import escape_plain
from audit_async.privacy.subjects import Subject
from audit_async.status import Condition, describe_error

#: How often a process without commits looks whether somebody was erased, and how often an erasure asks for laggards.
_LOOK_EVERY_S: Final = 1.0
_ASK_EVERY_S: Final = 0.05
_FIRST_FORGETTING_S: Final = 60.0
_DAY_S: Final = 86_400.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Erasures:
    """Erasures and forgetting of one open log. Owned by the loop's thread."""

    def __init__(
        self,
        keys: OpenedKeys,
        settings: Privacy,
        *,
        store: LogStore,
        log: Log,
        thread: DiskThread,
        writer: Writer,
        intake: Intake,
        upkeep: Upkeep,
        condition: Condition,
        max_field_chars: int,
    ) -> None:
        self.keys: Final = keys
        self._settings: Final = settings
        self._store: Final = store
        self._log: Final = log
        self._thread: Final = thread
        self._writer: Final = writer
        self._intake: Final = intake
        self._upkeep: Final = upkeep
        self._condition: Final = condition
        self._max_chars: Final = max_field_chars
        self._one_at_a_time: Final = anyio.Lock()
        # The host's worker threads may all be taken by the host; one more is always there for this.
        self._looking: Final = anyio.CapacityLimiter(1)
        self._begun: list[BegunErasure] = []  # by the session before, until they are completed
        self._postponed: set[str] = set()  # erasures that a hold has stopped half-way, in the session before
        self.requested: Final = RequestedErasures(self, keys.store.requests, settings.erasure_rules(), condition)

    async def erase(  # the parts of a record, and how long to wait
        self,
        subject_id: str,
        *,
        kind: str,
        tenant: str | None,
        reason: str,
        requested_by: str,
        approved_by: str | None,
        force: bool,
        timeout_s: float,
    ) -> ErasureReport:
        """Erase a person; see `AuditLogger.erase_subject`."""
        subject = self.subject(subject_id, kind, tenant)
        self._check_names(requested_by, approved_by)
        async with self._one_at_a_time:
            await self._prepare()
            erasure_id = self.new_id()
            erasure = await self.in_disk_thread(self.keys.store.begin_erasure, subject, erasure_id, force=force)
            why = AuditErasureStarted(
                erasure_id=erasure_id,
                epoch=erasure.epoch,
                key_ids=[],
                part=1,
                parts=1,
                reason=reason,
                requested_by=named(subject_id, requested_by),
                approved_by=None if approved_by is None else named(subject_id, approved_by),
                forced=force or None,
            )
            waiting_for = await self._carry_out(why, erasure.key_ids, timeout_s)
        return await self._report(why, erasure.key_ids, waiting_for)

    async def execute(self, request_id: str, timeout_s: float) -> ErasureReport | None:
        """Execute a request whose time has come; None if it is not there any more, or another log executes it.

        Raises:
            ErasureRefused: It has to wait.
        """
        async with self._one_at_a_time:
            await self._prepare()
            begun = await self.in_disk_thread(self.keys.store.requests.begin, request_id, self.new_id())
            if begun is None:
                return None
            erasure, request = begun.erasure, begun.request
            why = AuditErasureStarted(
                erasure_id=erasure.erasure_id,
                epoch=erasure.epoch,
                key_ids=[],
                part=1,
                parts=1,
                reason=request.reason,
                requested_by=request.requested_by,
                approved_by=request.approved_by,
                request_id=request_id,
                before=None if begun.before is None else begun.before.date().isoformat(),
                kept_keys=begun.kept_keys or None,
            )
            waiting_for = await self._carry_out(why, erasure.key_ids, timeout_s)
        return await self._report(why, erasure.key_ids, waiting_for)

    def new_id(self) -> str:
        """Return the id of an erasure, or of a request: by its first half this log knows it as its own."""
        return f"{self._store.log_id[:16]}{os.urandom(8).hex()}"

    async def _prepare(self) -> None:
        await self._upkeep.record_holds()  # one that was placed next to this writer counts as well
        await self._writer.flush()  # what was emitted before is stored before, and found

    async def _carry_out(self, why: AuditErasureStarted, key_ids: list[bytes], timeout_s: float) -> list[str]:
        """Do what follows the beginning of an erasure in the key store; return which processes did not answer."""
        key_store = self.keys.store
        await self.in_disk_thread(self.keys.commits.look)
        self.keys.commits.stated.epoch = max(why.epoch, self.keys.commits.stated.epoch)
        await self.record(_parts(why, key_ids))
        await self.in_disk_thread(key_store.destroy, key_ids, erasure_id=why.erasure_id, force=why.forced is True)
        self.keys.commits.stated.erased(why.epoch, key_ids)
        waiting_for = await self._wait_for_others(why.epoch, timeout_s)
        ended = AuditSubjectErased(
            erasure_id=why.erasure_id, epoch=why.epoch, keys=len(key_ids), waiting_for=len(waiting_for) or None
        )
        await self.record([ended])
        await self.in_disk_thread(key_store.end_erasure, why.erasure_id)
        self._writer.record_erased()
        return waiting_for

    async def _report(self, why: AuditErasureStarted, key_ids: list[bytes], waiting_for: list[str]) -> ErasureReport:
        unsealed = await self._find_unsealed()
        return ErasureReport(
            erasure_id=why.erasure_id,
            epoch=why.epoch,
            keys=len(key_ids),
            request_id=why.request_id,
            kept_keys=why.kept_keys or 0,
            waiting_for=tuple(waiting_for),
            unsealed_logs=unsealed.unsealed,
            partly_sealed_logs=unsealed.partly_sealed,
            unread_logs=unsealed.unread,
        )

    async def _find_unsealed(self) -> UnsealedLogs:
        """Return what the erasure does not reach; not in the disk thread, which would keep commits waiting."""
        directory = self._log.directory
        try:
            return await anyio.to_thread.run_sync(find_unsealed, directory.parent.parent, limiter=self._looking)
        except AuditError:
            return UnsealedLogs((), (), (self._log.name,))

    @property
    def log_id(self) -> str:
        """The id of the log that records these erasures."""
        return self._store.log_id

    def subject(self, subject_id: str, kind: str, tenant: str | None) -> Subject:
        """Return whom an erasure is about, as emitting knows him; raises `ConfigError`."""
        if not subject_id:
            raise ConfigError("subject_id", "is empty; name the person by the id that his events have")
        has_tenants = self._settings.tenant_binding is not None
        if has_tenants and tenant is None:
            raise ConfigError(
                "tenant", f"missing: ids are unique only within {self._settings.tenant_binding}; '' means without one"
            )
        if not has_tenants and tenant:
            raise ConfigError("tenant", "this log knows no tenants; leave it out, or set privacy.tenant_binding")
        recorded = cut(escape(subject_id[: self._max_chars]), self._max_chars)
        return Subject(tenant or "", kind, escape_plain(recorded))

    def _check_names(self, requested_by: str, approved_by: str | None) -> None:
        require_name("requested_by", requested_by)
        if approved_by is not None:
            require_name("approved_by", approved_by)
            if folded_name(approved_by) == folded_name(requested_by):
                raise ConfigError("approved_by", "is the name that asks for it; leave it out, or name somebody else")

    async def _wait_for_others(self, epoch: int, timeout_s: float) -> list[str]:
        """Return when no other process has a destroyed key in memory, or the names of those that may, after a while."""
        deadline = time.monotonic() + timeout_s
        while True:
            lagging = await self.in_disk_thread(self.keys.store.lagging, epoch)
            if not lagging or time.monotonic() >= deadline:
                return lagging
            await asyncio.sleep(_ASK_EVERY_S)

    async def recover(self, hold_ids: list[str]) -> list[AuditEvent]:
        """Destroy again at the opening what a restored key store has forgotten; return what is to be recorded first."""
        recovered, changes = await self.in_disk_thread(self.keys.recover_erasures, self._log, hold_ids)
        self._begun = recovered.begun
        self.keys.commits.stated.own_erased_key = recovered.own_erased_key
        self._notice(changes)
        in_flight = [
            AuditErasedInFlight(epoch=epoch, records=records, key_ids=key_ids or None, session_before=True)
            for epoch, records, key_ids in await self.in_disk_thread(self.keys.store.unrecorded, self.log_id)
        ]
        return [*recovered.events, *in_flight, *await self.requested.recover(self._store.log_id)]

    async def complete_recovered(self) -> list[AuditEvent]:
        """Complete erasures that were interrupted, all of whose records are durable; return those of their end."""
        store = self.keys.store
        events, self._postponed = await self.in_disk_thread(complete_erasures, self._log, store, self._begun)
        for begun in self._begun:
            if begun.erasure_id not in self._postponed:
                self.keys.commits.stated.erased(begun.epoch, begun.key_ids)
        self._begun = []
        return events

    async def end_recovered(self) -> None:
        """End the erasures that the opening has completed, once that is in the chain."""
        await self.in_disk_thread(end_erasures, self._store.log_id, self.keys.store, self._postponed)
        if await self.in_disk_thread(self.keys.store.unrecorded, self.log_id):
            await self.in_disk_thread(self.keys.store.keep_unrecorded, self.log_id, [])
        await self.requested.end_recovered()

    def _notice(self, changes: Changes) -> bool:
        """Take what the key store says; return whether other logs have erased somebody since it was last stated."""
        missing = changes.missing
        self._condition.set_trouble(
            "the key store's backup",
            f"it was put in place, and {missing} erasure(s) since then are recorded by logs that are not here: nothing "
            "that is sealed can be read until each log that uses the key store was opened once"
            if missing
            else None,
        )
        return self.keys.commits.stated.noticed(changes)

    # Tasks.

    async def run(self) -> None:
        """Take notice of other processes' erasures, and forget once a day; until cancelled."""
        forget_at = time.monotonic() + _FIRST_FORGETTING_S
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                changes = await self.in_disk_thread(self.keys.look)
            except OSError as error:  # the next commit meets it as well, and reports it
                self._condition.set_trouble("the key store", describe_error(error))
            else:
                self._condition.set_trouble("the key store", None)
                if self._notice(changes):
                    self._record_noticed()
            self._writer.record_erased()
            if time.monotonic() >= forget_at:
                forget_at = time.monotonic() + _DAY_S
                await self._forget_daily()

    def _record_noticed(self) -> None:
        """Put into the chain that others have erased somebody: this log too then knows an older key store."""
        stated = self.keys.commits.stated
        with suppress(AuditError):  # the log has failed, and says so
            self._intake.emit_on_record(AuditErasureNoticed(epoch=stated.epoch, erased_key=stated.erased_key))

    async def _forget_daily(self) -> None:
        try:
            await self.forget()
        except (AuditError, OSError) as error:
            self._condition.set_trouble("forgetting", f"is tried again in a day: {describe_error(error)}")
        else:
            self._condition.set_trouble("forgetting", None)

    async def forget(self) -> None:
        """Destroy the keys of the days whose time is over, if the settings say so; recorded before and after."""
        if self._settings.forget_after_days is None:
            return
        key_store = self.keys.store
        async with self._one_at_a_time:
            before = (datetime.now(UTC) - timedelta(days=self._settings.forget_after_days)).date()
            await self._upkeep.record_holds()
            changes = await self.in_disk_thread(key_store.changes_since, self.keys.sealer.epoch)
            if date_of(changes.forgotten_before) >= before:
                return
            if holds := await self.in_disk_thread(key_store.holds):
                raise ConfigError("privacy.forget_after_days", f"{len(holds)} legal hold(s) are in force")
            await self.record([AuditKeysForgotten(before=before.isoformat())])
            forgotten = await self.in_disk_thread(key_store.forget, before)
            keys = sum(day.keys for day in forgotten)
            await self.record([AuditKeysForgotten(before=before.isoformat(), days=len(forgotten), keys=keys)])

    # All of it.

    async def record(self, events: Iterable[AuditEvent]) -> None:
        """Put events into the chain; return once they are durable."""
        receipts = [self._intake.emit_on_record(event) for event in events]
        await self._writer.flush()
        for receipt in receipts:
            await receipt.durable()

    async def in_disk_thread(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what a call returns in the log's disk thread."""
        return await self._thread.call(call, *args, **kwargs)


def _parts(why: AuditErasureStarted, key_ids: list[bytes]) -> list[AuditErasureStarted]:
    """Return the records that list all keys of an erasure, given one that lists none."""
    groups = in_groups(list(map(key_id_text, key_ids)))
    total = len(key_ids) if len(groups) > 1 else None
    return [
        msgspec.structs.replace(why, key_ids=group, part=part, parts=len(groups), keys=total)
        for part, group in enumerate(groups, 1)
    ]
