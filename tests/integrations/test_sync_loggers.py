"""A `SyncAuditLogger` is what an integration that takes a logger takes as well: logging, metrics, readiness."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from prometheus_client import CollectorRegistry

from audit_async.integrations.health import readiness
from audit_async.integrations.logging import AuditHandler
from audit_async.integrations.opentelemetry import AuditMeters
from audit_async.integrations.prometheus import AuditCollector
from audit_async.integrations.structlog import AuditProcessor
from audit_async.sync import SyncAuditLogger
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

EVENT = Counted(producer="p", n=1)


@pytest.fixture
def log() -> logging.Logger:
    """A logger with no handlers but the test's."""
    return logging.Logger("orders", logging.DEBUG)  # noqa: LOG001 - not one that other tests have


def test_log_records_go_into_the_trail(
    config_for: ConfigFor, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is chosen is recorded, and what can't be recorded counts as lost, in the chain as well."""

    def convert(record: logging.LogRecord) -> None:
        raise LookupError(record.name)

    monkeypatch.setattr(logging, "raiseExceptions", False)
    with SyncAuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit))
        log.addHandler(AuditHandler(audit, convert=convert))
        log.warning("role changed", extra={"audit": True})
        AuditProcessor(audit)(None, "info", {"audit": EVENT})
        assert audit.stats().dropped_by_type == {"log.recorded": 1}
    events = [record["event"] for record in read_events(log_directory(config_for()))]
    types = [event["event_type"] for event in events]
    assert [types.count(name) for name in ("test.counted", "log.recorded", "audit.events_dropped")] == [1, 1, 1]
    check_trail(log_directory(config_for()))


def test_a_loss_in_a_forked_child_is_in_the_child_s_chain(config_for: ConfigFor) -> None:
    """The parent's log belongs to the parent: the child opens its own to count in it."""
    with SyncAuditLogger(config_for(instance=None)) as audit:
        pid = os.fork()
        if pid == 0:
            try:
                audit.count_lost("test.counted", "conversion_failed")
                audit.close()
            except BaseException:  # noqa: BLE001 - the child must not run the rest of the tests
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert audit.stats().dropped_by_type == {}
        parents = audit.directory
    assert parents is not None
    [child] = [path for path in parents.parent.iterdir() if path != parents and path.is_dir()]
    lost = [record["event"] for record in read_events(child) if record["event"]["event_type"] == "audit.events_dropped"]
    assert [(event["reason"], event["by_type"]) for event in lost] == [("conversion_failed", {"test.counted": 1})]


def test_metrics_and_readiness(config_for: ConfigFor) -> None:
    """Counters, gauges and the histograms of commits, those made before the start included; and the readiness."""
    reader = InMemoryMetricReader()
    audit = SyncAuditLogger(config_for())
    meters = AuditMeters(audit, meter_provider=MeterProvider([reader]))
    registry = CollectorRegistry()
    registry.register(AuditCollector(audit))
    with meters, audit:
        audit.emit_durable(EVENT, 30)
        labels = {"service_id": audit.config.service_id, "log_instance": "00"}
        assert registry.get_sample_value("audit_async_events_durable_total", labels) == audit.stats().durable > 1
        assert readiness(audit)[0]
        points = _points(reader)
    assert points["audit_async.events.durable"] > 1
    assert points["audit_async.sync.duration"] >= 1


def _points(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Return each metric's value, or how many times a histogram was recorded."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: point.count if isinstance(point, HistogramDataPoint) else point.value  # type: ignore[union-attr]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
