"""The calls of `SyncAuditLogger` that prove, keep, forget and record reading: those of `AuditLogger`, for threads."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from audit_async._layout.hold_file import Hold
from audit_async._writer.erasure_report import ErasureReport
from audit_async._writer.receipts import Receipt
from audit_async._writer.upkeep import RetentionReport
from audit_async.logger.audit_logger import AuditLogger

if TYPE_CHECKING:  # they need the extras `tlog` and `privacy`
    from audit_async.config.erasure_rules import ErasureRules
    from audit_async.privacy.erasure_requests import ErasureRequest
    from audit_async.tlog.checkpoint import SignedCheckpoint
    from audit_async.tlog.proof import TlogProof

__all__ = ["BlockingCalls"]

_T = TypeVar("_T")


class BlockingCalls:
    """A part of `SyncAuditLogger`, which owns the fields.

    What each call promises on return, and after a crash in the middle, is what `AuditLogger` says of the call of the
    same name. In a forked child each opens the child's own log first, as `emit` does. All but `record_access` and
    `record_export` block their thread, and raise `RuntimeError` in one that runs an event loop.
    """

    if TYPE_CHECKING:

        def _opened(self) -> AuditLogger: ...

        def _call(self, call: Callable[[], Coroutine[Any, Any, _T]], timeout_s: float | None) -> _T: ...

    # Reading, on record.

    def record_access(self, actor: str, query: Mapping[str, object], records: int | None = None) -> Receipt:
        """Put into the trail that `actor` has read it: what was asked, and how many records were returned.

        From any thread; never waits, but for the opening of a forked child's log.

        Args:
            actor: Who has read.
            query: What was asked for, as names and values; secrets in it are redacted.
            records: How many records were returned; None if that is not known.

        Returns:
            The receipt of the record.

        Raises:
            LogClosed, WriteFailed: As `emit` does.
            AuditError, OSError: The log of a forked child can't be opened.
        """
        return self._opened().record_access(actor, query, records)

    def record_export(
        self,
        actor: str,
        *,
        format: str,  # noqa: A002 - what it is called everywhere
        records: int,
        sha256: str,
        unsealed: bool,
    ) -> Receipt:
        """Put into the trail that records left it as a file, so that it can be said who has a copy.

        From any thread; never waits, but for the opening of a forked child's log.

        Args:
            actor: Who has the file.
            format: What it is: `ndjson`, `csv`, `html`.
            records: How many records are in it.
            sha256: Its SHA-256, in hex.
            unsealed: Whether sealed members are in the clear in it; an erasure does not reach those.

        Returns:
            The receipt of the record.

        Raises:
            LogClosed, WriteFailed: As `emit` does.
            AuditError, OSError: The log of a forked child can't be opened.
        """
        return self._opened().record_export(actor, format=format, records=records, sha256=sha256, unsealed=unsealed)

    # Proving, if `AuditConfig.transparency` is set.

    def checkpoint(self, *, timeout_s: float | None = None) -> SignedCheckpoint:
        """Sign and publish a checkpoint over everything that is durable now, and return it; witnesses come later.

        Args:
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Returns:
            The checkpoint, signed by the log's own keys; published, unless the policy asks for witnesses first.

        Raises:
            TimeoutError: It takes longer.
            AuditError, OSError: As `AuditLogger.checkpoint` does.
        """
        logger = self._opened()
        return self._call(logger.checkpoint, timeout_s)

    def prove(self, record: Receipt | str, *, timeout_s: float | None = None) -> TlogProof:
        """Return the evidence that a record is in this log, once the record is durable and a checkpoint covers it.

        Args:
            record: The record's receipt, or its `audit_id`; of this process's log.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Returns:
            The proof; its `.encode()` is a `.tlog-proof` file.

        Raises:
            RecordNotFound: This log does not have such an `audit_id`.
            TimeoutError: It takes longer.
            AuditError, OSError: As `AuditLogger.prove` does.
        """
        logger = self._opened()
        return self._call(lambda: logger.prove(record), timeout_s)

    # Keeping. Each process has a log of its own: for all logs of a trail there are `audit-async hold` and `retention`.

    def apply_retention(
        self, *, dry_run: bool = False, at: datetime | None = None, timeout_s: float | None = None
    ) -> RetentionReport:
        """Archive and delete what `RetentionPolicy` says is due in this process's log, or only list it with `dry_run`.

        An open log does this by itself once a day.

        Args:
            dry_run: Only say what is due.
            at: In a dry run: what would be due at this time, which is aware.
            timeout_s: How many seconds to wait at most; None for as long as it takes. What was done by then stays done.

        Returns:
            What was done, or would be, oldest segment first.

        Raises:
            TimeoutError: It takes longer.
            AuditError, OSError: As `AuditLogger.apply_retention` does.
        """
        logger = self._opened()
        return self._call(lambda: logger.apply_retention(dry_run=dry_run, at=at), timeout_s)

    def set_hold(self, *, reason: str, set_by: str, timeout_s: float | None = None) -> Hold:
        """Put a legal hold in force on this process's log: nothing is archived or deleted until it is lifted.

        On return the hold, and its record in the chain, are durable; it holds after a restart as well.

        Args:
            reason: Why, for the record.
            set_by: Who asks for it, for the record.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Returns:
            The hold that is in force; the earlier one if there is one already.

        Raises:
            TimeoutError: It takes longer; `hold` says whether it is in force.
            LogClosed, WriteFailed, OSError: As `AuditLogger.set_hold` does.
        """
        logger = self._opened()
        return self._call(lambda: logger.set_hold(reason=reason, set_by=set_by), timeout_s)

    def lift_hold(self, *, reason: str, lifted_by: str, timeout_s: float | None = None) -> None:
        """End the legal hold on this process's log, durably recorded before; does nothing if there is none.

        Args:
            reason: Why, for the record.
            lifted_by: Who asks for it, for the record.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: It takes longer; `hold` says whether it is in force.
            LogClosed, WriteFailed, OSError: As `AuditLogger.lift_hold` does.
        """
        logger = self._opened()
        self._call(lambda: logger.lift_hold(reason=reason, lifted_by=lifted_by), timeout_s)

    def hold(self, *, timeout_s: float | None = None) -> Hold | None:
        """Return the legal hold that is in force on this process's log, None if there is none.

        Args:
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: It takes longer.
            LogClosed, WriteFailed, OSError: As `AuditLogger.hold` does.
        """
        logger = self._opened()
        return self._call(logger.hold, timeout_s)

    # Forgetting: in all logs of the key store, whichever process asks.

    def erase_subject(  # the parts of a record, and how long to wait
        self,
        subject_id: str,
        *,
        kind: str = "user",
        tenant: str | None = None,
        reason: str,
        requested_by: str,
        approved_by: str | None = None,
        force: bool = False,
        timeout_s: float = 30.0,
    ) -> ErasureReport:
        """Erase a person: destroy the keys that what is personal to him was sealed under, in all logs of the key store.

        On return the keys are destroyed, and the records of it, which do not name him, are durable. If the process dies
        meanwhile, or this is interrupted, the next opening of the log completes the erasure.

        Args:
            subject_id: The person's id, as events have it.
            kind: The id space, as `Personal` declares it (`user`, `customer`).
            tenant: Whose id space, if `Privacy.tenant_binding` is set; empty for events without a tenant.
            reason: Why, for the record; sealed under a key of `requested_by`.
            requested_by: Who asks for it, for the record; sealed likewise.
            approved_by: Who else agrees, for the record.
            force: Also under a legal hold; that is recorded.
            timeout_s: How long to wait for other processes to drop the keys, such as the other workers of a server;
                they do within about a second. The disk and the key store are waited for as long as they take.

        Returns:
            How many keys were destroyed, and which processes did not answer in time.

        Raises:
            ErasureRefused: A legal hold is in force, the rules of the key store want a request, or keys are too young.
            AuditError: As `AuditLogger.erase_subject` does.
        """
        logger = self._opened()
        return self._call(
            lambda: logger.erase_subject(
                subject_id,
                kind=kind,
                tenant=tenant,
                reason=reason,
                requested_by=requested_by,
                approved_by=approved_by,
                force=force,
                timeout_s=timeout_s,
            ),
            None,
        )

    def request_erasure(
        self,
        subject_id: str,
        *,
        kind: str = "user",
        tenant: str | None = None,
        reason: str,
        requested_by: str,
        timeout_s: float | None = None,
    ) -> ErasureRequest:
        """Request that a person is erased later: after the waiting time, and the approval, that the rules ask for.

        Args:
            subject_id: The person's id, as events have it.
            kind: The id space, as `erase_subject` takes it.
            tenant: Whose id space, as `erase_subject` takes it.
            reason: Why, for the record; sealed under a key of `requested_by`.
            requested_by: Who asks for it, for the record; sealed likewise. A text, which proves nothing by itself.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Returns:
            The request, with the time before which it is not executed; it and its record are durable.

        Raises:
            TimeoutError: It takes longer; perhaps it was requested, see `waiting_erasures`.
            AuditError: As `AuditLogger.request_erasure` does.
        """
        logger = self._opened()
        return self._call(
            lambda: logger.request_erasure(
                subject_id, kind=kind, tenant=tenant, reason=reason, requested_by=requested_by
            ),
            timeout_s,
        )

    def approve_erasure(
        self,
        request_id: str,
        subject_id: str,
        *,
        kind: str = "user",
        tenant: str | None = None,
        approved_by: str,
        timeout_s: float | None = None,
    ) -> ErasureRequest:
        """Approve an erasure that was requested; durable, and recorded without the person's name, on return.

        Args:
            request_id: The request.
            subject_id: The person whom it is about, since nobody should approve what he does not know.
            kind: The id space, as it was requested.
            tenant: Whose id space, as it was requested.
            approved_by: Who approves, for the record; sealed under a key of his own.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Returns:
            The request as it is now.

        Raises:
            TimeoutError: It takes longer; perhaps it was approved, see `waiting_erasures`.
            AuditError: As `AuditLogger.approve_erasure` does.
        """
        logger = self._opened()
        return self._call(
            lambda: logger.approve_erasure(request_id, subject_id, kind=kind, tenant=tenant, approved_by=approved_by),
            timeout_s,
        )

    def cancel_erasure(
        self, request_id: str, *, reason: str, cancelled_by: str, timeout_s: float | None = None
    ) -> None:
        """Cancel an erasure that was requested: it is never executed; durable and recorded on return.

        Args:
            request_id: The request.
            reason: Why, for the record; sealed under a key of `cancelled_by`.
            cancelled_by: Who cancels it, for the record; sealed likewise.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: It takes longer; perhaps it was cancelled, see `waiting_erasures`.
            AuditError: As `AuditLogger.cancel_erasure` does.
        """
        logger = self._opened()
        self._call(lambda: logger.cancel_erasure(request_id, reason=reason, cancelled_by=cancelled_by), timeout_s)

    def waiting_erasures(self, *, timeout_s: float | None = None) -> tuple[ErasureRequest, ...]:
        """Return the erasures of the key store that were requested and have not ended, the oldest first.

        Args:
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: It takes longer.
            AuditError: As `AuditLogger.waiting_erasures` does.
        """
        logger = self._opened()
        return self._call(logger.waiting_erasures, timeout_s)

    def execute_erasures(self) -> tuple[ErasureReport, ...]:
        """Execute the requested erasures that are due now, as an open log does by itself; return what was done.

        Raises:
            ErasureRefused: A legal hold is in force.
            AuditError: As `AuditLogger.execute_erasures` does.
        """
        logger = self._opened()
        return self._call(logger.execute_erasures, None)

    def erasure_rules(self, *, timeout_s: float | None = None) -> ErasureRules:
        """Return what erasures of the key store have to wait for.

        Args:
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: It takes longer.
            AuditError: As `AuditLogger.erasure_rules` does.
        """
        logger = self._opened()
        return self._call(logger.erasure_rules, timeout_s)

    def change_erasure_rules(
        self, rules: ErasureRules, *, reason: str, changed_by: str, timeout_s: float | None = None
    ) -> None:
        """Put other rules in force for all who use the key store, also less strict ones; recorded before and after.

        Args:
            rules: All rules from now on.
            reason: Why, for the record; sealed under a key of `changed_by`.
            changed_by: Who changes them, for the record; sealed likewise.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: It takes longer; `erasure_rules` says which are in force.
            AuditError: As `AuditLogger.change_erasure_rules` does.
        """
        logger = self._opened()
        self._call(lambda: logger.change_erasure_rules(rules, reason=reason, changed_by=changed_by), timeout_s)
