"""Shipping an open log from within its process: started with it, and ended some seconds after it at most."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import anyio

from audit_async.config import Forward
from audit_async.errors import AuditError, ConfigError
from audit_async.forwarding import LogIdentity, ShippingFinding, ShippingState, Sink, open_sink
from audit_async.forwarding.forwarder import require_keys
from audit_async.forwarding.shipping import LogShipping
from audit_async.logger.forwarding_records import record_finding
from audit_async.status import Condition

if TYPE_CHECKING:
    from audit_async._writer.session import Session
    from audit_async.logger.audit_logger import AuditLogger

__all__ = ["ForwardingTask"]

_log: Final = logging.getLogger("audit_async")

#: How often the state is looked at for the log's health, in seconds.
_LOOK_S: Final = 1.0
#: How long the engine may be away before health says so, in seconds: a failover is no trouble.
_AWAY_S: Final = 60.0
_TROUBLES: Final = frozenset({ShippingState.REFUSED, ShippingState.FULL, ShippingState.UNAVAILABLE})


class ForwardingTask:
    """Ships one open log. Owned by the log's loop."""

    def __init__(self, settings: Forward) -> None:
        """Open the engine's sink; nothing is connected yet. Raises `ConfigError`."""
        self._settings: Final = settings
        self._host: Final = settings.host or socket.gethostname()
        LogIdentity(tenant=settings.tenant, host=self._host, service="-", instance="-", log_id="-")  # checks the names
        require_keys(settings.collector_keys)
        self._sink: Final[Sink] = open_sink(settings.to, tenant=settings.tenant)
        self._shipping: LogShipping | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, logger: AuditLogger, session: Session, condition: Condition) -> None:
        """Begin to ship the log that was opened; in its loop."""
        store = session.store
        log = LogIdentity(
            tenant=self._settings.tenant,
            service=logger.config.service_id,
            host=self._host,
            instance=store.instance,
            log_id=store.log_id,
        )

        def report(finding: ShippingFinding) -> None:
            with suppress(AuditError):  # it is closing; the finding was logged, and the next start finds it again
                record_finding(logger, finding)

        self._shipping = LogShipping(
            store.directory, log, self._sink, collector_keys=self._settings.collector_keys, report=report
        )
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._shipping.run(), name="audit-async forwarding"),
            loop.create_task(self._watch(condition), name="audit-async forwarding's health"),
        ]

    async def wait(self, seq: int, *, by: Literal["engine", "collector"]) -> None:
        """Return once the engine, or a collector, has a record.

        Raises:
            ConfigError: No collector is known.
            SinkRefused: The log is refused.
            LogClosed: The log was closed before.
        """
        if by == "collector" and not self._settings.collector_keys:
            raise ConfigError("forward.collector_keys", 'no collector is known: name its key, or wait for by="engine"')
        assert self._shipping is not None  # noqa: S101 - there is no receipt before the start
        await self._shipping.wait(seq, by=by)

    async def finish(self, seq: int) -> None:
        """Wait a bounded time until everything up to a record is shipped, then end; doesn't raise."""
        shipping = self._shipping
        if shipping is None:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self._settings.close_timeout), suppress(AuditError):
                await shipping.wait(seq, by="engine")
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=1.0)
            with anyio.move_on_after(1.0):
                await self._sink.aclose()
        shipped = -1 if shipping.status.shipped is None else shipping.status.shipped.seq
        if shipped < seq:
            why = shipping.status.problem or f"the engine did not take them within {self._settings.close_timeout:g} s"
            _log.warning(
                "%s: %d records are not shipped yet and stay in the log, for its next start or a forwarder: %s",
                shipping.status.log,
                seq - shipped,
                why,
            )

    def abandon(self) -> None:
        """Leave everything as it is: the loop runs no more."""
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as in WriterTask

    async def _watch(self, condition: Condition) -> None:
        """Say in the log's health if it is not shipped."""
        assert self._shipping is not None  # noqa: S101 - made in start
        since = time.monotonic()
        while True:
            status = self._shipping.status
            if status.state is not ShippingState.UNAVAILABLE:
                since = time.monotonic()
            if status.state in _TROUBLES and (
                status.state is not ShippingState.UNAVAILABLE or time.monotonic() - since > _AWAY_S
            ):
                condition.set_trouble("forwarding", f"{status.state.value}: {status.problem}")
            elif status.state in {ShippingState.SHIPPING, ShippingState.CAUGHT_UP}:
                condition.set_trouble("forwarding", None)
            await anyio.sleep(_LOOK_S)
