"""`AuditCollector`: an audit log's counters, read when Prometheus asks for them.

    REGISTRY.register(AuditCollector(audit))
    app.add_route("/metrics", MetricsEndpoint())                # Starlette, FastAPI; or any ASGI server

Each series has the labels `service_id` and `log_instance`, the log's directory, so that several logs of a service can
be distinguished. (`instance` itself is the label that Prometheus gives to what it scrapes.)

Several worker processes are several logs, and one scrape meets one of them. prometheus_client's multiprocess mode
(`PROMETHEUS_MULTIPROC_DIR`) does not help: it knows no custom collectors. Either each worker serves its metrics on a
port of its own (`start_http_server(9100 + int(audit.directory.name))` in the life span), or OpenTelemetry pushes them:
see `opentelemetry`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Final

from audit_async._first_use import installed_by

with installed_by("audit-async[prometheus]", __name__):
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

from audit_async.forwarding.collector_root import (
    CollectorStatus,
    Finding,
    open_findings,
    read_status,
)
from audit_async.integrations._endpoint import Endpoint, Scope
from audit_async.integrations._logger_source import AnyLogger, LoggerSource, check_source, logger_from
from audit_async.status import Health, HealthStatus, Histogram, LoggerStats, VerificationStats

__all__ = ["AuditCollector", "CollectedLogs", "LoggerSource", "MetricsEndpoint"]

_LABELS: Final = ("service_id", "log_instance")


class AuditCollector(Collector):
    """Collects the metrics of one log, or of several: a registry takes each metric's name from one collector only.

    Scraping reads counters in memory and waits for nothing, not even for a disk that hangs; from any thread.

    Args:
        audits: Loggers, or functions that return one and None while there is none.

    Raises:
        ConfigError: One of them is something else.
    """

    def __init__(self, *audits: LoggerSource) -> None:
        self._sources: Final = tuple(map(check_source, audits))

    def describe(self) -> Iterable[Metric]:
        """Name the metrics; a registry asks once."""
        return _families()

    def collect(self) -> Iterator[Metric]:
        """Return every metric with the values of the moment; the registry calls this at each scrape."""
        families = _Families()
        for source in self._sources:
            audit = logger_from(source)
            if audit is not None:
                families.add(audit)
        yield from families


class MetricsEndpoint(Endpoint):
    """An ASGI application that answers GET and HEAD with all metrics of a registry, in the form that is asked for.

    A route of Starlette or FastAPI (`app.add_route("/metrics", MetricsEndpoint())`), a mount of any framework, or an
    application of its own.

    Args:
        registry: The registry; prometheus_client's global one by default.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry: Final = registry

    def answer(self, scope: Scope) -> tuple[int, str, bytes]:
        """Return status, content type and body."""
        accepted = b",".join(value for name, value in scope["headers"] if name.lower() == b"accept")
        encode, content_type = choose_encoder(accepted.decode("latin-1"))
        return 200, content_type, encode(self._registry)


class CollectedLogs(Collector):
    """Collects what a collector has of each host's logs, for the machine that `audit-async collect` runs on.

    Scraping reads three small files of the collector's directory. Names of the metrics begin with `audit_collect_`; the
    labels are `tenant`, `host`, `service`, `log_instance` and `log_id`. docs/platform.md has alert rules for them.

    Args:
        root: The collector's directory.
    """

    def __init__(self, root: str | Path) -> None:
        self._root: Final = Path(root)

    def describe(self) -> Iterable[Metric]:
        """Name the metrics; a registry asks once."""
        return list(_CollectedFamilies())

    def collect(self) -> Iterator[Metric]:
        """Return every metric with what the collector wrote last; none of a log before it has run.

        Raises:
            LogCorrupted: The collector's files are damaged.
            OSError: They can't be read.
        """
        families = _CollectedFamilies()
        status = read_status(self._root)
        if status is not None:
            families.add(status, open_findings(self._root))
        yield from families


class _CollectedFamilies:
    """The metrics of a collector, without values at first."""

    def __init__(self) -> None:
        self._head = _collected_gauge("head_seq", "Last record that is durable here, -1 if there is none.")
        self._behind = _collected_gauge("behind_records", "Records that the engine has, and the collector not yet.")
        self._confirmed = _collected_gauge("confirmed_seq", "Last record that was confirmed to the host.")
        self._last_record = _collected_gauge("last_record_timestamp_seconds", "When the host made the last record.")
        self._received = _collected_gauge("received_timestamp_seconds", "When records of the log last came.")
        self._findings = GaugeMetricFamily(
            "audit_collect_findings", "Findings that nobody has acknowledged.", labels=("tenant", "host", "kind")
        )
        self._updated = GaugeMetricFamily(
            "audit_collect_updated_timestamp_seconds", "When the collector last wrote its status.", labels=("tenant",)
        )
        self._failed = GaugeMetricFamily(
            "audit_collect_failed", "1 if the collector's last round did not come to its end.", labels=("tenant",)
        )

    def __iter__(self) -> Iterator[Metric]:
        return iter(vars(self).values())

    def add(self, status: CollectorStatus, findings: Iterable[Finding]) -> None:
        """Add what a collector wrote."""
        for log in status.logs:
            labels = (log.tenant, log.host, log.service, log.instance, log.log_id)
            self._head.add_metric(labels, log.seq)
            self._behind.add_metric(labels, max(0, log.engine_seq - log.seq))
            self._confirmed.add_metric(labels, log.confirmed_seq)
            if log.last_record_at:
                self._last_record.add_metric(labels, datetime.fromisoformat(log.last_record_at).timestamp())
            if log.received_at is not None:
                self._received.add_metric(labels, log.received_at.timestamp())
        for (tenant, host, kind), count in Counter((one.tenant, one.host, one.kind) for one in findings).items():
            self._findings.add_metric((tenant, host, kind), count)
        self._updated.add_metric((status.tenant,), status.updated_at.timestamp())
        self._failed.add_metric((status.tenant,), bool(status.error))


def _collected_gauge(name: str, documentation: str) -> GaugeMetricFamily:
    labels = ("tenant", "host", "service", "log_instance", "log_id")
    return GaugeMetricFamily(f"audit_collect_{name}", documentation, labels=labels)


def _families() -> list[Metric]:
    return list(_Families())


class _Families:
    """The metrics, without values at first; `add` gives them those of one log."""

    def __init__(self) -> None:
        self._emitted = _counter("events_emitted", "Events taken into the chain, the log's own included.")
        self._durable = _counter("events_durable", "Events of this process known to be on stable storage.")
        self._dropped = _counter(
            "events_dropped", "Events lost: refused by a full buffer, or not recordable.", "event_type"
        )
        self._written = _counter("written_bytes", "Bytes of all records written.")
        self._write_errors = _counter("write_errors", "Writes or syncs that failed and were tried again.")
        self._waiting = _gauge("events_waiting", "Events emitted and not yet durable.")
        self._fill = _gauge("buffer_fill_ratio", "How full the buffer is; ordinary events are refused from 0.9 on.")
        self._batch = _histogram("batch_size_events", "Events handed to the disk at a time.")
        self._sync = _histogram("sync_duration_seconds", "Time of each write and sync that succeeded.")
        self._head = _gauge("chain_head_seq", "Sequence number of the newest record.")
        self._durable_seq = _gauge("chain_durable_seq", "Sequence number up to which all is on stable storage.")
        self._last_sync = _gauge("last_sync_age_seconds", "Seconds since the last sync; long also if nothing waits.")
        self._free = _gauge("disk_free_bytes", "Free space on the log's file system, as of the last write.")
        self._healthy = _gauge("healthy", "1 while what is emitted becomes durable, otherwise 0.")
        self._verification = _VerificationFamilies()
        self._status = _gauge("health_status", "1 for the log's present status, 0 for all others.", "status")

    def __iter__(self) -> Iterator[Metric]:
        for family in vars(self).values():
            yield from (family,) if isinstance(family, Metric) else family

    def add(self, audit: AnyLogger) -> None:
        """Add the values of one log."""
        directory = audit.directory
        labels = (audit.config.service_id, directory.name if directory is not None else "")
        self._add_health(labels, audit.health())
        if directory is not None:  # before the start there is nothing to count, and when disabled there never is
            stats = audit.stats()
            self._add_stats(labels, stats)
            if stats.verification is not None:
                self._verification.add(labels, stats.verification)

    def _add_health(self, labels: tuple[str, str], health: Health) -> None:
        self._healthy.add_metric(labels, health.ok)
        self._fill.add_metric(labels, health.buffer_fill)
        for status in HealthStatus:
            self._status.add_metric((*labels, status.value), status is health.status)

    def _add_stats(self, labels: tuple[str, str], stats: LoggerStats) -> None:
        self._emitted.add_metric(labels, stats.records)
        self._durable.add_metric(labels, stats.durable)
        for event_type, dropped in stats.dropped_by_type.items():
            self._dropped.add_metric((*labels, event_type), dropped)
        self._written.add_metric(labels, stats.bytes_written)
        self._write_errors.add_metric(labels, stats.write_errors)
        self._waiting.add_metric(labels, stats.waiting)
        self._batch.add_metric(labels, _buckets(stats.batch_events), stats.batch_events.sum)
        self._sync.add_metric(labels, _buckets(stats.sync_seconds), stats.sync_seconds.sum)
        self._head.add_metric(labels, stats.head_seq)
        self._durable_seq.add_metric(labels, stats.head_seq - stats.records + stats.durable)
        if stats.since_sync_s is not None:
            self._last_sync.add_metric(labels, stats.since_sync_s)
        if stats.free_bytes is not None:
            self._free.add_metric(labels, stats.free_bytes)


class _VerificationFamilies:
    """The metrics of logs that verify themselves."""

    def __init__(self) -> None:
        self._seq = _gauge("verified_seq", "Sequence number up to which the log was verified by itself.")
        self._age = _gauge("verification_age_seconds", "Seconds since the last verification without findings.")
        self._findings = _gauge("verification_findings", "Findings of the log's last verification of itself.")
        self._errors = _counter("verification_errors", "Verifications that could not be done.")

    def __iter__(self) -> Iterator[Metric]:
        return iter(vars(self).values())

    def add(self, labels: tuple[str, str], stats: VerificationStats) -> None:
        """Add the values of one log."""
        if stats.verified_seq is not None:
            self._seq.add_metric(labels, stats.verified_seq)
        if stats.since_verified_s is not None:
            self._age.add_metric(labels, stats.since_verified_s)
        self._findings.add_metric(labels, stats.findings)
        self._errors.add_metric(labels, stats.errors)


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"audit_async_{name}", documentation, labels=(*_LABELS, *labels))


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"audit_async_{name}", documentation, labels=(*_LABELS, *labels))


def _histogram(name: str, documentation: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"audit_async_{name}", documentation, labels=_LABELS)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each with the counts of all below it."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
