"""Delivering all logs of a trail to all sinks, logs that appear later included."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from audit_async._layout.lock_file import read_acknowledged
from audit_async._trail.log_files import Log, TrailUnreadable, base_directory_of, find_logs
from audit_async.config import AuditConfig, Local, Privacy
from audit_async.delivery.deliver_settings import AlertSettings, DeliverSettings, SinkSettings
from audit_async.delivery.deliverable_record import OWN_SERVICE, DeliveredLog
from audit_async.delivery.delivery_records import DeliveryRecords
from audit_async.delivery.delivery_status import DeliveryStatus
from audit_async.delivery.event_modules import import_event_modules
from audit_async.delivery.idle_tails import IdleTails
from audit_async.delivery.log_watch import LogWatch
from audit_async.delivery.position_file import SinkDirectory
from audit_async.delivery.record_formats import format_of
from audit_async.delivery.record_selection import Selection
from audit_async.delivery.sink_delivery import SinkDelivery
from audit_async.delivery.sink_gate import SinkGate
from audit_async.delivery.sink_opening import open_delivery_sink
from audit_async.delivery.status_file import write_status
from audit_async.errors import AuditError, ConfigError, LogCorrupted
from audit_async.logger import AuditLogger

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore  # needs an extra

__all__ = ["Deliverer", "base_dir_of", "deliverer_log", "logs_of"]

_logger: Final = logging.getLogger("audit_async")

#: How often new logs are looked for, in seconds.
_LOOK_FOR_LOGS_S: Final = 2.0
#: How many logs are found in a second, if there are many: they are looked for less often then.
_FINDS_A_SECOND: Final = 200
#: A log that was not found so often is gone.
_GONE_AFTER: Final = 2
#: How often the state is written if it is the same as before, in seconds.
_SAME_STATUS_S: Final = 60.0
#: How often the state is written for `deliver --status`, and `audit.delivered` is thought of, in seconds.
_REPORT_S: Final = 5.0
#: How often a sink that has work of its own is asked to do it, in seconds.
_TICK_S: Final = 1.0
#: Logs that are delivered at a time by `run_once`.
_ONCE_AT_A_TIME: Final = 16
#: How long the end waits for the sinks, in seconds.
_FINISH_S: Final = 30.0


class Deliverer:
    """Delivers the records of a trail to the sinks of its settings, at least once and in the order of each log.

    It only reads the trail, next to running writers, and stores how far each sink has each log in its state directory,
    so it may be killed at any moment; a record may then come twice, with the same `audit_id`. Records what it does in
    a log of its own, of the service `audit-deliver`, which is delivered as well. A sink that fails keeps none of the
    others waiting. Runs in one task of asyncio.

    Args:
        settings: The trail, the state directory and the sinks.
        base_dir: The trail, instead of the settings' one.

    Raises:
        ConfigError: There is no trail in the settings, or what a sink needs is not installed.
    """

    def __init__(self, settings: DeliverSettings, *, base_dir: Path | None = None) -> None:
        self._base_dir: Final = base_dir_of(settings, base_dir)
        self._settings: Final = settings
        self._host: Final = settings.host or socket.gethostname()
        self._sinks: Final[list[_OpenSink]] = []
        self._watch: Final = LogWatch()
        self._idle_tails: Final = IdleTails()
        self._complaint = ""
        self._written: tuple[float, list[DeliveryStatus]] = (float("-inf"), [])  # when, and which

    def __repr__(self) -> str:
        return f"<Deliverer {self._base_dir} sinks={[sink.name for sink in self._settings.sinks]}>"

    @property
    def statuses(self) -> list[DeliveryStatus]:
        """How far each sink has each log, as known now."""
        return [delivery.status for sink in self._sinks for delivery in sink.deliveries.values()]

    async def run(self) -> None:
        """Deliver what becomes durable, until cancelled; receivers that fail are waited for.

        Raises:
            DelivererRuns: Another process delivers with this state directory.
            StateUnusable: The state directory can't be used.
        """
        async with self._opened() as records, anyio.create_task_group() as tasks:
            tasks.start_soon(self._report, records)
            tasks.start_soon(self._watch.run)
            for sink in self._sinks:
                tasks.start_soon(_tick, sink)
            while True:
                logs = await self._logs()
                for sink in self._sinks:
                    await sink.leave(logs)
                    for running in sink.new(logs, self._host, records, self._idle_tails):
                        tasks.start_soon(running.run, self._watch)
                await anyio.sleep(max(_LOOK_FOR_LOGS_S, len(logs) / _FINDS_A_SECOND))

    async def run_once(self) -> list[DeliveryStatus]:
        """Deliver what is durable by now, and return how far each sink got; what fails is not tried again.

        Raises:
            DelivererRuns: Another process delivers with this state directory.
            StateUnusable: The state directory can't be used.
            TrailUnreadable: There is no log, or no right to read it.
        """
        async with self._opened() as records:
            await anyio.to_thread.run_sync(logs_of, self._base_dir)
            limit = anyio.CapacityLimiter(_ONCE_AT_A_TIME)

            async def run(delivery: SinkDelivery) -> None:
                async with limit:
                    await delivery.run_once()

            logs = await self._logs()
            async with anyio.create_task_group() as tasks:
                for sink in self._sinks:
                    for running in sink.new(logs, self._host, records, self._idle_tails):
                        tasks.start_soon(run, running.delivery)
            records.record_progress(self._sinks_and_deliveries())
            return self.statuses

    # -- opening and closing -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[DeliveryRecords]:
        """Take the sinks for this process, open the deliverer's own log, and put all in order at the end."""
        async with AsyncExitStack() as opened:
            import_event_modules(self._settings.event_modules)
            directories = [SinkDirectory(Path(self._settings.state_dir), sink.name) for sink in self._settings.sinks]
            for directory in directories:
                await anyio.to_thread.run_sync(directory.lock)
                opened.callback(directory.unlock)
            key_store = await anyio.to_thread.run_sync(self._open_key_store)
            if key_store is not None:
                opened.callback(key_store.close)
            audit = await opened.enter_async_context(deliverer_log(self._settings, self._base_dir))
            records = DeliveryRecords(audit)
            opened.push_async_callback(self._finish)
            for settings, directory in zip(self._settings.sinks, directories, strict=True):
                self._sinks.append(_OpenSink(settings, directory, records, key_store))
            yield records

    def _open_key_store(self) -> KeyStore | None:
        settings = self._settings
        if not any(sink.unseal for sink in settings.sinks) or settings.key_store is None or settings.master_key is None:
            return None
        try:
            from audit_async.privacy.sqlite_key_store import open_key_store  # noqa: PLC0415 - needs an extra
        except ModuleNotFoundError as error:
            raise ConfigError("key_store", "it needs cryptography; run: pip install 'audit-async[privacy]'") from error
        return open_key_store(Path(settings.key_store), settings.master_key, trail=self._base_dir)

    async def _finish(self) -> None:
        """Close the sinks, and store what they have by then."""
        with anyio.move_on_after(_FINISH_S, shield=True):
            for sink in self._sinks:
                all_sent = await sink.gate.sink.finish()
                for delivery in sink.deliveries.values():
                    try:
                        await delivery.settle(all_sent=all_sent)
                    except AuditError as error:
                        self._complain(str(error))
            await self._write_status(running=False)
        self._sinks.clear()

    # -- logs --------------------------------------------------------------------------------------------------------

    async def _logs(self) -> list[Log]:
        """Return the logs that are there, one of each id; none if they can't be looked for."""
        try:
            found = await anyio.to_thread.run_sync(self._find)
        except (TrailUnreadable, OSError) as error:  # perhaps not yet: a service may make its log later
            self._complain(str(error))
            return []
        delivered = {path for sink in self._sinks for path in sink.directories}
        logs = await anyio.to_thread.run_sync(_one_of_each, found, delivered)
        kept = {log.directory for log in logs}
        left_out = [str(log.directory) for log in found if log.directory not in kept]
        self._complain(
            f"{', '.join(left_out[:3])}: log.json is missing, damaged, or a copy of another log's" if left_out else ""
        )
        return logs

    def _find(self) -> list[Log]:
        logs = logs_of(self._base_dir)
        own = self._settings.own_log
        if own is not None and Path(own).absolute() != self._base_dir.absolute():
            logs += logs_of(Path(own), service=OWN_SERVICE)
        return logs

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            _logger.warning("not delivered: %s", complaint)
        self._complaint = complaint

    # -- reports -----------------------------------------------------------------------------------------------------

    def _sinks_and_deliveries(self) -> Iterator[tuple[SinkSettings, SinkDelivery]]:
        for sink in self._sinks:
            for delivery in sink.deliveries.values():
                yield sink.settings, delivery

    async def _report(self, records: DeliveryRecords) -> None:
        while True:
            records.record_progress(self._sinks_and_deliveries())
            await self._write_status(running=True)
            await anyio.sleep(_REPORT_S)

    async def _write_status(self, *, running: bool) -> None:
        statuses, now = self.statuses, time.monotonic()
        at, written = self._written
        if running and now - at < _SAME_STATUS_S and statuses == written:
            return
        self._written = now, statuses
        try:
            await anyio.to_thread.run_sync(
                lambda: write_status(Path(self._settings.state_dir), statuses, running=running, now=time.time())
            )
        except OSError as error:  # the positions are what counts
            self._complain(f"{self._settings.state_dir}: the status can't be written: {error.strerror}")


class _OpenSink:
    """A sink, and the deliveries of all logs to it."""

    def __init__(
        self, settings: SinkSettings, directory: SinkDirectory, records: DeliveryRecords, key_store: KeyStore | None
    ) -> None:
        self.settings: Final = settings
        self._format: Final = format_of(settings.format)
        self._directory: Final = directory
        self._key_store: Final = key_store
        sink = open_delivery_sink(
            settings,
            is_json=self._format.is_json,
            directory=directory.path,
            record=records.record,
            own_log=records.directory,
        )
        self.gate: Final = SinkGate(sink, max_bytes=settings.max_bytes)
        self.deliveries: Final[dict[str, SinkDelivery]] = {}
        self._running: Final[dict[str, _RunningDelivery]] = {}

    @property
    def directories(self) -> list[Path]:
        """The directories of the logs that are delivered."""
        return [running.log.directory for running in self._running.values()]

    def _wants(self, log: Log) -> bool:
        if self.settings.services and log.service_id not in self.settings.services:
            return False
        # An alert must not raise the next one.
        return log.service_id != OWN_SERVICE or self.settings.__struct_config__.tag != "alerts"

    async def leave(self, logs: list[Log]) -> None:
        """End the deliveries of logs that are gone, or in another directory than they were.

        Args:
            logs: Those that are there; if none is, the trail itself may be unreachable.
        """
        there = {log.log_id: log for log in logs}
        taken = {log.directory for log in logs}
        for log_id, running in list(self._running.items()):
            now = there.get(log_id)
            if now is not None and now.directory == running.log.directory:
                running.not_found = 0
                continue
            running.not_found += bool(logs)
            is_elsewhere = now is not None or running.log.directory in taken
            if not is_elsewhere and running.not_found < _GONE_AFTER:
                continue
            del self._running[log_id]
            await running.end()
            if now is None and running.delivery.is_done_with_gone_log():
                del self.deliveries[log_id]

    def new(
        self, logs: list[Log], host: str, records: DeliveryRecords, idle_tails: IdleTails
    ) -> Iterator[_RunningDelivery]:
        """Yield what delivers the logs that are not delivered yet."""
        for log in logs:
            if log.log_id in self._running or not self._wants(log):
                continue
            delivered = DeliveredLog(log_id=log.log_id, service=log.service_id, instance=log.instance, host=host)
            delivery = self.deliveries[log.log_id] = SinkDelivery(
                log,
                delivered=delivered,
                settings=self.settings,
                format=self._format,
                selection=Selection(self.settings, log, delivered, self._key_store),
                gate=self.gate,
                directory=self._directory,
                idle_tails=idle_tails,
                report=records.reporter(self.settings.name),
                record_delivered=records.delivered(self.settings.name),
            )
            running = self._running[log.log_id] = _RunningDelivery(log, delivery)
            yield running


class _RunningDelivery:
    """A delivery, and what ends it."""

    def __init__(self, log: Log, delivery: SinkDelivery) -> None:
        self.log: Final = log
        self.delivery: Final = delivery
        self.not_found = 0  #: how often the log was looked for in vain
        self._scope: Final = anyio.CancelScope()
        self._ended: Final = anyio.Event()

    async def run(self, watch: LogWatch) -> None:
        """Deliver until `end` is called."""
        end_watching = watch.watch(self.log, self.delivery.notice)
        try:
            with self._scope:
                await self.delivery.run()
        finally:
            end_watching()
            self._ended.set()

    async def end(self) -> None:
        """Return once nothing is sent any more, and the position is stored."""
        self._scope.cancel()
        await self._ended.wait()
        try:
            await self.delivery.settle(all_sent=False)
        except AuditError as error:
            _logger.warning("%s: %s", self.delivery, error)


async def _tick(sink: _OpenSink) -> None:
    """Let a sink that has work of its own do it."""
    tick: Callable[[], object] | None = getattr(sink.gate.sink, "tick", None)
    while tick is not None:
        await tick()  # type: ignore[misc]  # a coroutine function
        await anyio.sleep(_TICK_S)


@asynccontextmanager
async def deliverer_log(settings: DeliverSettings, trail: Path) -> AsyncIterator[AuditLogger]:
    """Open the deliverer's own log; it seals if an alert may name what was sealed.

    Args:
        settings: Which base directory it is in, the trail's own by default, and which key store it seals with.
        trail: The trail's directory.

    Raises:
        ConfigError: The trail is a collector's, and no other place is named.
    """
    own_log = settings.own_log
    base_dir = Path(own_log) if own_log else await anyio.to_thread.run_sync(_place_at, trail)
    config = AuditConfig(
        mode=Local(base_dir), service_id=OWN_SERVICE, handle_signals=False, privacy=_privacy_of(settings)
    )
    async with AuditLogger(config) as audit:
        yield audit


def _place_at(trail: Path) -> Path:
    """Return the base directory of a trail, which takes no log of this host if it is a collector's; blocks."""
    with suppress(TrailUnreadable, OSError):  # there is no log yet
        if any(log.collected is not None for log in find_logs(trail)):
            reason = (
                "missing: a collector's directory takes no log of this host; name a base directory for the deliverer's"
            )
            raise ConfigError("own_log", reason)
    return base_directory_of(trail)


def _privacy_of(settings: DeliverSettings) -> Privacy | None:
    """Return how the deliverer's own log seals; None if no alert can hold what was opened.

    Every sink gets the alerts, also those that get nothing opened.
    """
    if settings.key_store is None or not any(
        sink.unseal and isinstance(sink, AlertSettings) for sink in settings.sinks
    ):
        return None
    return Privacy(key_store=settings.key_store, master_key=settings.master_key)


def _one_of_each(found: list[Log], delivered: set[Path]) -> list[Log]:
    """Return the logs without copies of their directories, which have the same id.

    The log is the one that is delivered by now, otherwise the one with most records: a copy does not grow.
    """
    by_id: dict[str, list[Log]] = {}
    for log in found:
        if log.log_id:
            by_id.setdefault(log.log_id, []).append(log)

    def preferred(log: Log) -> tuple[bool, int]:
        try:
            head = read_acknowledged(log.directory)
        except (OSError, LogCorrupted):
            head = None
        return log.directory in delivered, -1 if head is None else head.seq

    return [logs[0] if len(logs) == 1 else max(logs, key=preferred) for logs in by_id.values()]


def base_dir_of(settings: DeliverSettings, base_dir: Path | None) -> Path:
    """Return the trail of a deliverer; raises `ConfigError` if none is given."""
    if base_dir is None and settings.base_dir is None:
        raise ConfigError("base_dir", "missing; name the trail's directory")
    return base_dir if base_dir is not None else Path(settings.base_dir or "")


def logs_of(directory: Path, *, service: str | None = None) -> list[Log]:
    """Return the logs of a trail; raises `TrailUnreadable` if there is none."""
    return list(find_logs(directory, service=service))
