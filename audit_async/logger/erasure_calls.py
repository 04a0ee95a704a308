"""The calls of `AuditLogger` for erasures that wait: request, approve, cancel, execute, and the rules for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit_async._writer.buffer import Buffer
from audit_async._writer.erasure_report import ErasureReport
from audit_async._writer.session import Session
from audit_async.errors import ConfigError
from audit_async.logger.open_session import erasures_of, on_its_loop

if TYPE_CHECKING:  # they need the extra `privacy`
    from audit_async._writer.requested_erasures import RequestedErasures
    from audit_async.config.erasure_rules import ErasureRules
    from audit_async.privacy.erasure_requests import ErasureRequest

__all__ = ["ErasureCalls"]


class ErasureCalls:
    """A part of `AuditLogger`, which owns the fields."""

    if TYPE_CHECKING:
        _session: Session | None

        @property
        def _disabled(self) -> bool: ...

        @property
        def _buffer(self) -> Buffer: ...

    async def request_erasure(
        self, subject_id: str, *, kind: str = "user", tenant: str | None = None, reason: str, requested_by: str
    ) -> ErasureRequest:
        """Request that a person is erased later: after the waiting time, and the approval, that the rules ask for.

        On return the request and its record, which does not name the person, are durable. It is executed by a log of
        the key store that is open then, at the latest within a minute, or by `execute_erasures`; until then it can be
        cancelled. On any event loop.

        Args:
            subject_id: The person's id, as events have it.
            kind: The id space, as `erase_subject` takes it.
            tenant: Whose id space, as `erase_subject` takes it.
            reason: Why, for the record; sealed under a key of `requested_by`.
            requested_by: Who asks for it, for the record; sealed likewise. A text, which proves nothing by itself.

        Returns:
            The request, with the time before which it is not executed.

        Raises:
            ConfigError: The log has no `Privacy`, or an argument can't be right.
            KeyStoreUnavailable: The key store can't be used now; perhaps it was requested, see `waiting_erasures`.
            LogClosed, WriteFailed: The log is not open, or can't record it.
        """
        requested = self._requested_erasures()
        return await on_its_loop(
            self._session,
            lambda: requested.request(subject_id, kind=kind, tenant=tenant, reason=reason, requested_by=requested_by),
        )

    async def approve_erasure(
        self, request_id: str, subject_id: str, *, kind: str = "user", tenant: str | None = None, approved_by: str
    ) -> ErasureRequest:
        """Approve an erasure that was requested; durable, and recorded without the person's name, on return.

        Args:
            request_id: The request.
            subject_id: The person whom it is about, since nobody should approve what he does not know.
            kind: The id space, as it was requested.
            tenant: Whose id space, as it was requested.
            approved_by: Who approves, for the record; sealed under a key of his own. If the rules want two persons, a
                name other than the one that asked, whatever its spelling.

        Returns:
            The request as it is now.

        Raises:
            ErasureRefused: No such request of this person waits, it is approved, or the same name has asked for it.
            ConfigError, KeyStoreUnavailable, LogClosed, WriteFailed: As `request_erasure` does.
        """
        requested = self._requested_erasures()
        return await on_its_loop(
            self._session,
            lambda: requested.approve(request_id, subject_id, kind=kind, tenant=tenant, approved_by=approved_by),
        )

    async def cancel_erasure(self, request_id: str, *, reason: str, cancelled_by: str) -> None:
        """Cancel an erasure that was requested: it is never executed; durable and recorded on return.

        Args:
            request_id: The request.
            reason: Why, for the record; sealed under a key of `cancelled_by`.
            cancelled_by: Who cancels it, for the record; sealed likewise.

        Raises:
            ErasureRefused: No such request waits, or it is being executed.
            ConfigError, KeyStoreUnavailable, LogClosed, WriteFailed: As `request_erasure` does.
        """
        requested = self._requested_erasures()
        await on_its_loop(self._session, lambda: requested.cancel(request_id, reason=reason, cancelled_by=cancelled_by))

    async def waiting_erasures(self) -> tuple[ErasureRequest, ...]:
        """Return the erasures of the key store that were requested and have not ended, the oldest first.

        Raises:
            ConfigError, KeyStoreUnavailable, LogClosed: As `request_erasure` does.
        """
        return await on_its_loop(self._session, self._requested_erasures().waiting)

    async def execute_erasures(self) -> tuple[ErasureReport, ...]:
        """Execute the requested erasures that are due now, as an open log does by itself; return what was done.

        Raises:
            ErasureRefused: A legal hold is in force.
            ConfigError, KeyStoreUnavailable, LogClosed, WriteFailed: As `erase_subject` does.
        """
        return await on_its_loop(self._session, self._requested_erasures().execute_due)

    async def erasure_rules(self) -> ErasureRules:
        """Return what erasures of the key store have to wait for; raises as `waiting_erasures` does."""
        return await on_its_loop(self._session, self._requested_erasures().rules)

    async def change_erasure_rules(self, rules: ErasureRules, *, reason: str, changed_by: str) -> None:
        """Put other rules in force for all who use the key store, also less strict ones; recorded before and after.

        The settings of a log only make them stricter. One that asks for more than these rules makes them stricter again
        when it is opened next. What is waiting keeps the time that it was given.

        Args:
            rules: All rules from now on.
            reason: Why, for the record; sealed under a key of `changed_by`.
            changed_by: Who changes them, for the record; sealed likewise.

        Raises:
            ConfigError, KeyStoreUnavailable, LogClosed, WriteFailed: As `request_erasure` does.
        """
        requested = self._requested_erasures()
        await on_its_loop(self._session, lambda: requested.change_rules(rules, reason=reason, changed_by=changed_by))

    def _requested_erasures(self) -> RequestedErasures:
        if self._disabled:
            raise ConfigError("mode", "is Disabled(), so this logger seals nothing and can erase nobody")
        return erasures_of(self._session, self._buffer).requested
