"""Metrics: what a logger counts, what Prometheus scrapes over real HTTP, and what OpenTelemetry exports."""

from __future__ import annotations

import errno
import logging
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from audit_async import AuditConfig, AuditLogger, Batched, BufferFull, ConfigError, Disabled, HealthStatus
from audit_async._store.log_store import LogStore
from audit_async.integrations.opentelemetry import AuditMeters
from audit_async.integrations.prometheus import AuditCollector
from audit_async.status import Commit, Distribution
from tests.integrations.servers import serving
from tests.logs import ConfigFor, Counted, log_directory

pytestmark = pytest.mark.anyio

LABELS = {"service_id": "orders", "log_instance": "00"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(exposition: str) -> Samples:
    """Return the samples of a text in Prometheus' format, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def scraped(*collectors: Collector) -> Samples:
    """Return what a registry with these collectors shows."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return parsed(generate_latest(registry).decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample of the test's log."""
    return samples[f"audit_async_{name}", frozenset((LABELS | labels).items())]


async def until_full(audit: AuditLogger) -> int:
    """Emit without a pause until the buffer is full; return how many were taken."""
    taken = 0
    with pytest.raises(BufferFull):
        while True:
            audit.emit(Counted(producer="p", n=taken))
            taken += 1
    return taken


# What the logger counts.


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    """A histogram's bounds are inclusive upper ones, as Prometheus and OpenTelemetry define them."""
    distribution = Distribution((1.0, 2.0, 5.0))
    for number in (0.5, 1, 1.5, 2, 5, 5.1, 100):
        distribution.add(number)
    histogram = distribution.snapshot()
    assert (histogram.bounds, histogram.counts) == ((1.0, 2.0, 5.0), (2, 2, 1, 2))
    assert histogram.count == 7
    assert histogram.sum == pytest.approx(115.1)


async def test_every_record_is_in_one_batch_and_every_sync_is_timed(config_for: ConfigFor) -> None:
    """The batch sizes add up to the records, the sync times are as many as the syncs, and the newest one is dated."""
    before = time.time()
    async with AuditLogger(config_for()) as audit:
        assert audit.stats().batch_events.count == 1
        for n in range(300):
            audit.emit(Counted(producer="p", n=n))
            if n % 50 == 0:
                await audit.flush()
        await audit.flush()
        stats = audit.stats()
        assert stats.batch_events.sum == stats.records == 301
        assert stats.batch_events.count <= stats.commits
        assert stats.sync_seconds.count == stats.syncs >= 7
        assert 0 < stats.sync_seconds.sum < time.time() - before
        assert stats.last_sync_at is not None
        assert before <= stats.last_sync_at <= time.time()
        assert stats.since_sync_s is not None
        assert 0 <= stats.since_sync_s < time.time() - before
        assert stats.free_bytes is not None
        assert stats.free_bytes > 0
    stats = audit.stats()
    assert stats.batch_events.sum == stats.records == 302
    assert stats.bytes_written == sum(path.stat().st_size for path in log_directory(config_for()).glob("*.audit"))


async def test_a_write_without_a_sync_is_no_sync(config_for: ConfigFor) -> None:
    """Between two syncs of a batched log batches are counted and sync times are not."""
    async with AuditLogger(config_for(flush_mode=Batched(size=5000, interval=60.0))) as audit:
        audit.emit(Counted(producer="p", n=1))
        with anyio.fail_after(60):
            while audit.stats().batch_events.count < 2:
                await anyio.sleep(0.001)
        assert audit.stats().sync_seconds.count == audit.stats().syncs == 1


async def test_while_the_disk_is_full_the_free_space_is_the_present_one(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed write shows what is left now, adds no batch and no sync; what is written later is counted once, then."""
    broken, free = True, 123_456_789_012
    commit = LogStore.commit
    refused: list[Any] = []

    def failing(self: LogStore, batch: Any, *, sync: bool) -> Any:
        if broken:
            refused.append(batch)
            raise OSError(errno.ENOSPC, "No space left on device")
        while refused:
            commit(self, refused.pop(0), sync=False)
        return commit(self, batch, sync=sync)

    async with AuditLogger(config_for()) as audit:
        await audit.flush()
        before = audit.stats()
        monkeypatch.setattr(LogStore, "free_bytes", lambda _: free)
        monkeypatch.setattr(LogStore, "commit", failing)
        free = 0
        receipts = [audit.emit(Counted(producer="p", n=n)) for n in range(20)]
        with anyio.fail_after(60):
            while audit.stats().write_errors < 2:
                await anyio.sleep(0.001)
        failed = audit.stats()
        assert failed.free_bytes == 0
        assert (failed.batch_events, failed.sync_seconds) == (before.batch_events, before.sync_seconds)
        assert failed.last_sync_at == before.last_sync_at
        free, broken = 123_456_789_012, False
        with anyio.fail_after(60):
            await receipts[-1].durable()
        assert audit.stats().free_bytes == 123_456_789_012
        assert audit.stats().batch_events.sum == audit.stats().records == 21
    assert audit.stats().bytes_written == sum(
        path.stat().st_size for path in log_directory(config_for()).glob("*.audit")
    )


async def test_a_commit_observer_that_raises_stops_nothing(
    config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    """Observers see each commit from the first on; one that raises is reported and called no more, the others are."""
    audit = AuditLogger(config_for())
    seen: list[Commit] = []

    def bad(commit: Commit) -> None:
        raise RuntimeError(f"on purpose: {commit.events}")

    audit.observe_commits(bad)
    forget = audit.observe_commits(seen.append)
    async with audit:
        await audit.emit_durable(Counted(producer="p", n=1))
        assert sum(commit.events for commit in seen) == 2
        assert all(commit.sync_s is not None and commit.sync_s > 0 for commit in seen)
        assert audit.health().ok
        forget()
        await audit.emit_durable(Counted(producer="p", n=2))
        assert sum(commit.events for commit in seen) == 2
    (reported,) = [record for record in caplog.records if record.name == "audit_async"]
    assert reported.levelno == logging.ERROR
    assert "called no more" in reported.getMessage()


# Prometheus.


async def test_prometheus_sees_what_stats_says(config_for: ConfigFor) -> None:
    """Each counter, gauge and histogram of a log is exposed, with the labels that tell logs apart."""
    async with AuditLogger(config_for(buffer_events=100)) as audit:
        taken = await until_full(audit)
        full = scraped(AuditCollector(audit))
        assert value(full, "events_waiting") == taken == 90
        assert value(full, "buffer_fill_ratio") == 0.9
        assert value(full, "events_dropped_total", event_type="test.counted") == 1
        await audit.flush()
        await audit.flush()  # the record that tells of the refusal
        stats, samples = audit.stats(), scraped(AuditCollector(lambda: audit))
        assert value(samples, "events_emitted_total") == stats.records == 92
        assert value(samples, "events_durable_total") == stats.durable == 92
        assert value(samples, "events_waiting") == 0
        assert value(samples, "written_bytes_total") == stats.bytes_written
        assert value(samples, "write_errors_total") == 0
        assert value(samples, "chain_head_seq") == value(samples, "chain_durable_seq") == stats.head_seq == 91
        assert value(samples, "disk_free_bytes") == stats.free_bytes
        assert value(samples, "last_sync_age_seconds") >= 0
        assert value(samples, "healthy") == 1
        assert value(samples, "health_status", status="ok") == 1
        assert sum(number for (name, _), number in samples.items() if name == "audit_async_health_status") == 1
        for name, histogram in (
            ("batch_size_events", stats.batch_events),
            ("sync_duration_seconds", stats.sync_seconds),
        ):
            buckets = [value(samples, f"{name}_bucket", le=str(bound)) for bound in (*histogram.bounds, "+Inf")]
            assert buckets == sorted(buckets)
            assert buckets[-1] == value(samples, f"{name}_count") == histogram.count
            assert value(samples, f"{name}_sum") == pytest.approx(histogram.sum)
            assert buckets[0] == histogram.counts[0]
    closed = scraped(AuditCollector(audit))
    assert value(closed, "healthy") == 0
    assert value(closed, "health_status", status="closed") == 1


async def test_the_collector_copes_with_logs_that_are_not_there(config_for: ConfigFor) -> None:
    """No logger yet, one not started and one disabled never break a scrape; several share a registry."""
    assert scraped(AuditCollector(lambda: None)) == {}
    disabled = AuditLogger(AuditConfig(mode=Disabled(), service_id="off"))
    async with AuditLogger(config_for()) as audit:
        samples = scraped(AuditCollector(audit, disabled, AuditLogger(config_for(service_id="early"))))
    assert value(samples, "events_emitted_total") == 1
    assert value(samples, "healthy", service_id="off", log_instance="") == 1
    assert value(samples, "healthy", service_id="early", log_instance="") == 0
    assert not [name for name, labels in samples if name.endswith("_total") and ("service_id", "off") in labels]


def test_a_registry_notices_a_second_collector(config_for: ConfigFor) -> None:
    """Two collectors would give each metric twice; registering the second one fails, and says so."""
    registry = CollectorRegistry()
    registry.register(AuditCollector(AuditLogger(config_for())))
    with pytest.raises(ValueError, match="audit_async_events_emitted"):
        registry.register(AuditCollector(AuditLogger(config_for())))


APP = """
import threading
from contextlib import asynccontextmanager
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, make_asgi_app
from audit_async import AuditConfig, AuditLogger, Local
from audit_async.events import ModelAccessed
from audit_async.integrations.prometheus import AuditCollector

audit = AuditLogger(AuditConfig(mode=Local("audit"), service_id="orders"))
registry = CollectorRegistry()
registry.register(AuditCollector(audit))

@asynccontextmanager
async def lifespan(app):
    async with audit:
        yield

app = FastAPI(lifespan=lifespan)
app.mount("/metrics", make_asgi_app(registry))

@app.get("/models/{n}")
async def read(n: int):
    await audit.emit_durable(ModelAccessed(customer_id="c", model_ref=str(n), access_type="read"))
"""


def test_prometheus_scrapes_a_real_server(tmp_path: Path) -> None:
    """Over real HTTP, from a real process, counters grow by what was requested between two scrapes."""
    (tmp_path / "app.py").write_text(APP)
    command = ["uvicorn", "app:app", "--port", "0"]
    with serving(tmp_path, command) as server, server.asking(follow_redirects=True) as client:
        first = parsed(client.get("/metrics").text)
        for n in range(25):
            assert client.get(f"/models/{n}").status_code == 200
        second = parsed(client.get("/metrics").text)
    assert value(second, "events_durable_total") - value(first, "events_durable_total") == 25
    assert value(second, "sync_duration_seconds_count") - value(first, "sync_duration_seconds_count") == 25
    assert value(second, "chain_head_seq") == 25
    assert value(second, "batch_size_events_sum") == 26
    assert 0 <= value(second, "last_sync_age_seconds") < 60
    assert value(second, "disk_free_bytes") > 0


# OpenTelemetry.


def exported(reader: InMemoryMetricReader) -> dict[str, tuple[str, list[Any]]]:
    """Return the unit and the data points of each metric that the SDK would export."""
    data = reader.get_metrics_data()
    return {
        metric.name: (metric.unit or "", list(metric.data.data_points))
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_opentelemetry_exports_what_stats_says(config_for: ConfigFor) -> None:
    """Counters, gauges and histograms of a log go through the SDK, each with its unit and the log's attributes."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    audit = AuditLogger(config_for(buffer_events=100))
    with AuditMeters(audit, meter_provider=provider):
        async with audit:
            opened = audit.stats()  # the histograms begin behind the opening
            await until_full(audit)
            await audit.flush()
            await audit.flush()
            stats, metrics = audit.stats(), exported(reader)
    expected: dict[str, tuple[str, float]] = {
        "audit_async.events.emitted": ("{event}", 92),
        "audit_async.events.durable": ("{event}", 92),
        "audit_async.events.waiting": ("{event}", 0),
        "audit_async.written": ("By", stats.bytes_written),
        "audit_async.write.errors": ("{error}", 0),
        "audit_async.chain.head_seq": ("{record}", 91),
        "audit_async.disk.free": ("By", stats.free_bytes or 0),
        "audit_async.buffer.fill": ("1", 0.0),
        "audit_async.healthy": ("1", 1),
    }
    attributes = {"audit_async.service_id": "orders", "audit_async.log_instance": "00"}
    for name, (unit, number) in expected.items():
        found_unit, (point,) = metrics.pop(name)
        assert isinstance(point, NumberDataPoint)
        assert (name, found_unit, point.value) == (name, unit, number)
        assert point.attributes == attributes
    unit, (dropped,) = metrics.pop("audit_async.events.dropped")
    assert (unit, dropped.value) == ("{event}", 1)
    assert dropped.attributes == attributes | {"audit_async.event_type": "test.counted"}
    unit, (age,) = metrics.pop("audit_async.sync.age")
    assert unit == "s"
    assert 0 <= age.value < 60
    for name, unit, before, histogram in (
        ("audit_async.batch.size", "{event}", opened.batch_events, stats.batch_events),
        ("audit_async.sync.duration", "s", opened.sync_seconds, stats.sync_seconds),
    ):
        found_unit, (point,) = metrics.pop(name)
        assert isinstance(point, HistogramDataPoint)
        assert found_unit == unit
        assert point.attributes == attributes
        assert tuple(point.explicit_bounds) == histogram.bounds
        counts = [now - then for now, then in zip(histogram.counts, before.counts, strict=True)]
        assert list(point.bucket_counts) == counts
        assert point.count == sum(counts)
        assert point.sum == pytest.approx(histogram.sum - before.sum)
    unit, points = metrics.pop("audit_async.health.status")
    assert unit == "1"
    shown = {point.attributes["audit_async.status"]: point.value for point in points}
    assert shown == {status.value: int(status is HealthStatus.OK) for status in HealthStatus}
    assert metrics == {}
    provider.shutdown()


async def test_closed_meters_report_nothing(config_for: ConfigFor) -> None:
    """`close` ends the reports, also of commits that follow, and another AuditMeters may take over."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    async with AuditLogger(config_for()) as audit:
        meters = AuditMeters(audit, meter_provider=provider)
        assert "audit_async.events.emitted" in exported(reader)
        meters.close()
        await audit.emit_durable(Counted(producer="p", n=1))
        assert exported(reader) == {}
    early = AuditMeters(AuditLogger(config_for()), meter_provider=MeterProvider([InMemoryMetricReader()]))
    early.close()
    provider.shutdown()


def test_meters_take_loggers_only() -> None:
    """A function can't be observed from its first commit on, so it is refused with a ConfigError."""
    with pytest.raises(ConfigError, match=r"^audits: "):
        AuditMeters(lambda: None)  # type: ignore[arg-type]  # on purpose


def test_every_status_is_exposed(config_for: ConfigFor) -> None:
    """An alert may name any status; each has a series, whichever it is now."""
    samples = scraped(AuditCollector(AuditLogger(config_for())))
    shown = {dict(labels)["status"] for name, labels in samples if name == "audit_async_health_status"}
    assert shown == {status.value for status in HealthStatus}
