"""`AuditMeters`: an audit log's counters as OpenTelemetry metrics, for whichever exporter the service has.

    async with AuditLogger(config) as audit:
        with AuditMeters(audit):
            ...

Each series has the attributes `audit_async.service_id` and `audit_async.log_instance`, the log's directory. The
resource (`service.instance.id`) names the process, so several workers that push their metrics need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from audit_async._first_use import installed_by

with installed_by("audit-async[opentelemetry]", __name__):
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from audit_async._version import __version__
from audit_async.errors import ConfigError
from audit_async.integrations._logger_source import AnyLogger, shown
from audit_async.status import BATCH_BOUNDS, SYNC_BOUNDS, Commit, HealthStatus, LoggerStats, VerificationStats

__all__ = ["AuditMeters"]

_Callback = Callable[[CallbackOptions], Iterable[Observation]]
_Attributes = dict[str, str]


class AuditMeters:
    """Reports one log, or several, to a meter provider.

    Several logs of a process belong into one `AuditMeters`: a meter has each instrument once. Counters and gauges are
    read from memory when the SDK collects; the two histograms are recorded after each commit, in the log's loop.

    A context manager; `close()` ends the reports, since OpenTelemetry has no way to take an instrument back.

    Args:
        audits: The loggers.
        meter_provider: Where to report to; the global provider by default.

    Raises:
        ConfigError: One of the loggers is something else.
    """

    def __init__(self, *audits: AnyLogger, meter_provider: MeterProvider | None = None) -> None:
        for audit in audits:
            if not isinstance(audit, AnyLogger):
                raise ConfigError("audits", f"must be AuditLoggers or SyncAuditLoggers, not {shown(audit)}")
        self._audits: tuple[AnyLogger, ...] = audits
        meter = (meter_provider or get_meter_provider()).get_meter("audit_async", __version__)
        counter, gauge = meter.create_observable_counter, meter.create_observable_gauge
        for name, unit, description, read in _COUNTERS:
            counter(f"audit_async.{name}", [self._observing(read)], unit, description)
        counter(
            "audit_async.events.dropped",
            [self._dropped],
            "{event}",
            "Events lost: refused by a full buffer, or not recordable.",
        )
        for name, unit, description, read_gauge in _GAUGES:
            gauge(f"audit_async.{name}", [self._observing(read_gauge)], unit, description)
        gauge("audit_async.buffer.fill", [self._fill], "1", "How full the buffer is, 0 to 1.")
        gauge("audit_async.health.status", [self._status], "1", "1 for the log's present status, 0 for all others.")
        gauge("audit_async.healthy", [self._healthy], "1", "1 while what is emitted becomes durable, otherwise 0.")
        self._batch_size = meter.create_histogram(
            "audit_async.batch.size",
            "{event}",
            "Events handed to the disk at a time.",
            explicit_bucket_boundaries_advisory=BATCH_BOUNDS,
        )
        self._sync_duration = meter.create_histogram(
            "audit_async.sync.duration",
            "s",
            "Time of each write and sync that succeeded.",
            explicit_bucket_boundaries_advisory=SYNC_BOUNDS,
        )
        self._stop_observing: Final = [audit.observe_commits(self._recording(audit)) for audit in audits]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Report nothing any more, and let go of the logs."""
        for stop in self._stop_observing:
            stop()
        self._stop_observing.clear()
        self._audits = ()

    def _observing(self, read: Callable[[LoggerStats], float | None]) -> _Callback:
        """Return a callback that reads one number of each log that was started."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for audit in self._audits:
                value = read(audit.stats()) if audit.directory is not None else None
                if value is not None:
                    yield Observation(value, _attributes_of(audit))

        return observe

    def _dropped(self, _: CallbackOptions) -> Iterable[Observation]:
        for audit in self._audits:
            attributes = _attributes_of(audit)
            for event_type, dropped in audit.stats().dropped_by_type.items():
                yield Observation(dropped, {**attributes, "audit_async.event_type": event_type})

    def _fill(self, _: CallbackOptions) -> Iterable[Observation]:
        for audit in self._audits:
            yield Observation(audit.health().buffer_fill, _attributes_of(audit))

    def _healthy(self, _: CallbackOptions) -> Iterable[Observation]:
        for audit in self._audits:
            yield Observation(int(audit.health().ok), _attributes_of(audit))

    def _status(self, _: CallbackOptions) -> Iterable[Observation]:
        for audit in self._audits:
            present, attributes = audit.health().status, _attributes_of(audit)
            for status in HealthStatus:
                yield Observation(int(status is present), {**attributes, "audit_async.status": status.value})

    def _recording(self, audit: AnyLogger) -> Callable[[Commit], None]:
        def record(commit: Commit) -> None:
            if audit.directory is None:  # the opening's own record, whose log has no name yet
                return
            attributes = _attributes_of(audit)
            if commit.events:
                self._batch_size.record(commit.events, attributes)
            if commit.sync_s is not None:
                self._sync_duration.record(commit.sync_s, attributes)

        return record


def _attributes_of(audit: AnyLogger) -> _Attributes:
    directory = audit.directory
    attributes = {"audit_async.service_id": audit.config.service_id}
    if directory is not None:
        attributes["audit_async.log_instance"] = directory.name
    return attributes


_Read = Callable[[LoggerStats], float | None]


def _verification(read: Callable[[VerificationStats], float | None]) -> _Read:
    """Return what reads one number of a log that verifies itself."""
    return lambda stats: None if stats.verification is None else read(stats.verification)


_COUNTERS: Final[Sequence[tuple[str, str, str, _Read]]] = (
    ("events.emitted", "{event}", "Events taken into the chain, the log's own included.", lambda s: s.records),
    ("events.durable", "{event}", "Events of this process known to be on stable storage.", lambda s: s.durable),
    ("written", "By", "Bytes of all records written.", lambda s: s.bytes_written),
    ("write.errors", "{error}", "Writes or syncs that failed and were tried again.", lambda s: s.write_errors),
    (
        "verification.errors",
        "{error}",
        "Verifications that could not be done.",
        _verification(lambda v: v.errors),
    ),
)
_GAUGES: Final[Sequence[tuple[str, str, str, _Read]]] = (
    ("events.waiting", "{event}", "Events emitted and not yet durable.", lambda s: s.waiting),
    ("chain.head_seq", "{record}", "Sequence number of the newest record.", lambda s: s.head_seq),
    ("sync.age", "s", "Time since the last sync; long also if nothing waits.", lambda s: s.since_sync_s),
    ("disk.free", "By", "Free space on the log's file system, as of the last write.", lambda s: s.free_bytes),
    (
        "verification.seq",
        "{record}",
        "Sequence number up to which the log was verified by itself.",
        _verification(lambda v: v.verified_seq),
    ),
    (
        "verification.age",
        "s",
        "Time since the last verification without findings.",
        _verification(lambda v: v.since_verified_s),
    ),
    (
        "verification.findings",
        "{finding}",
        "Findings of the log's last verification of itself.",
        _verification(lambda v: v.findings),
    ),
)
