"""Shipping all logs of a base directory, those that appear later included."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from audit_async._trail.log_files import Log, TrailUnreadable, find_logs
from audit_async.errors import ConfigError
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.shipping import LogShipping, ShippingFinding, ShippingStatus
from audit_async.forwarding.sink import Sink
from audit_async.tlog.notes import VerifierKey

__all__ = ["Forwarder"]

_logger: Final = logging.getLogger("audit_async")

#: How often new logs are looked for, in seconds.
_LOOK_FOR_LOGS_S: Final = 5.0
#: How often logs with nothing new are looked at, all together: that costs some 60 us each time.
_LOOKS_A_SECOND: Final = 400
#: Logs that are shipped or compared at a time by `run_once` and `look`.
_AT_A_TIME: Final = 16


class Forwarder:
    """Ships the logs of a base directory, of a service, or one log, to an engine.

    It only reads the logs, next to running writers, and remembers nothing: it may be killed at any moment, and several
    may ship the same logs. A log that is refused keeps none of the others from being shipped.

    Args:
        base_dir: The base directory of the services' configuration, a service's directory in it, or a log's.
        sink: The engine; the caller closes it.
        tenant: Whose logs they are.
        host: What this machine is called in the engine; its host name if left out.
        service: Ships the logs of this service only.
        instance: Ships the logs with this name only.
        collector_keys: The verifier keys of the collectors that are trusted, as `audit-async keys show` prints them.
            With them a host and an engine that were both set back are noticed. Needs the extra `tlog`.
        on_finding: Called in the event loop with each finding, once until it changes; it must not raise.

    Raises:
        ConfigError: A name can't be part of a log's identity, or a key is none.
    """

    def __init__(
        self,
        base_dir: str | Path,
        sink: Sink,
        *,
        tenant: str,
        host: str | None = None,
        service: str | None = None,
        instance: str | None = None,
        collector_keys: Sequence[str] = (),
        on_finding: Callable[[ShippingFinding], object] | None = None,
    ) -> None:
        self._host: Final = socket.gethostname() if host is None else host
        LogIdentity(tenant=tenant, host=self._host, service="-", instance="-", log_id="-")  # checks the names
        require_keys(collector_keys)
        self._base_dir: Final = Path(base_dir)
        self._sink: Final = sink
        self._tenant: Final = tenant
        self._service: Final = service
        self._instance: Final = instance
        self._collector_keys: Final = tuple(collector_keys)
        self._on_finding: Final = on_finding
        self._shipped: Final[dict[tuple[Path, str], LogShipping]] = {}
        self._one_at_a_time: Final = anyio.Lock()
        self._complaint = ""

    def __repr__(self) -> str:
        return f"<Forwarder {self._base_dir} to {self._sink!r} logs={len(self._shipped)}>"

    @property
    def statuses(self) -> list[ShippingStatus]:
        """How far each log is shipped, as known now."""
        return [shipping.status for shipping in self._shipped.values()]

    async def run(self) -> None:
        """Ship what becomes durable, until cancelled; errors of the engine are waited out."""
        async with anyio.create_task_group() as tasks:
            while True:
                for shipping in await self._new():
                    tasks.start_soon(shipping.run)
                await anyio.sleep(_LOOK_FOR_LOGS_S)

    async def run_once(self) -> list[ShippingStatus]:
        """Ship what is durable by now, and return how far each log got; what fails is not tried again.

        Of several calls at once, also of `look`, each waits for the one before. Not next to `run`.

        Raises:
            TrailUnreadable: There is no log, or no right to read it.
        """
        return await self._each(LogShipping.run_once)

    async def look(self) -> list[ShippingStatus]:
        """Compare each log with the engine and the collectors; nothing is stored.

        Raises:
            TrailUnreadable: There is no log, or no right to read it.
        """
        return await self._each(LogShipping.look)

    async def _each(self, call: Callable[[LogShipping], object]) -> list[ShippingStatus]:
        limit = anyio.CapacityLimiter(_AT_A_TIME)

        async def run(shipping: LogShipping) -> None:
            async with limit:
                await call(shipping)  # type: ignore[misc]  # a coroutine function

        async with self._one_at_a_time:
            self._ships(await anyio.to_thread.run_sync(self._find))
            async with anyio.create_task_group() as tasks:
                for shipping in self._shipped.values():
                    tasks.start_soon(run, shipping)
            return self.statuses

    async def _new(self) -> list[LogShipping]:
        """Return what ships the logs that were not there the last time."""
        try:
            logs = await anyio.to_thread.run_sync(self._find)
        except (TrailUnreadable, OSError) as error:  # perhaps not yet: a service may make its log later
            self._complain(str(error))
            return []
        self._complain("")
        return self._ships(logs)

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            _logger.warning("nothing to forward: %s", complaint)
        self._complaint = complaint

    def _find(self) -> list[Log]:
        return [
            log
            for log in find_logs(self._base_dir, service=self._service, instance=self._instance)
            if not is_replaced(log)
        ]

    def _ships(self, logs: Sequence[Log]) -> list[LogShipping]:
        new = []
        for log in logs:
            if not log.log_id:
                self._complain(f"{log.directory}: log.json is missing or damaged; run audit-async doctor")
            elif (log.directory, log.log_id) not in self._shipped:
                shipping = LogShipping(
                    log.directory,
                    self._identity(log),
                    self._sink,
                    collector_keys=self._collector_keys,
                    report=self._on_finding,
                    longest_wait_s=lambda: max(0.25, len(self._shipped) / _LOOKS_A_SECOND),
                )
                self._shipped[log.directory, log.log_id] = shipping
                new.append(shipping)
        return new

    def _identity(self, log: Log) -> LogIdentity:
        return LogIdentity(
            tenant=self._tenant, service=log.service_id, host=self._host, instance=log.instance, log_id=log.log_id
        )


def is_replaced(log: Log) -> bool:
    """Return whether `forward --new-log` has moved the log's directory out of the way: its name is then no instance."""
    return bool(log.log_id) and log.instance.endswith(f".{log.log_id}")


def require_keys(collector_keys: Sequence[str]) -> None:
    """Raise `ConfigError` if one of these is no verifier key."""
    for key in collector_keys:
        try:
            VerifierKey.parse(key)
        except ValueError as error:
            raise ConfigError("collector_keys", str(error)) from None
