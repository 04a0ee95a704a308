"""What a deliverer does, for Prometheus, and whether it is well, for an orchestrator."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from audit_async.delivery.delivery_status import DeliveryState, DeliveryStatus

__all__ = ["DeliveryMetrics", "answering"]

_LABELS: Final = ("sink", "service", "log_instance", "log_id")


class DeliveryMetrics(Collector):
    """Collects what a deliverer says of itself.

    Args:
        statuses: Returns how far each sink has each log.
    """

    def __init__(self, statuses: Callable[[], list[DeliveryStatus]]) -> None:
        self._statuses: Final = statuses

    def describe(self) -> Iterable[Metric]:
        """Name the metrics; a registry asks once."""
        return list(_Families())

    def collect(self) -> Iterator[Metric]:
        """Return every metric with the values of the moment."""
        families = _Families()
        families.add(self._statuses())
        yield from families


class _Families:
    """The metrics, without values at first."""

    def __init__(self) -> None:
        self._lag = _gauge("lag_records", "Durable records that the sink was not offered yet.")
        self._lag_s = _gauge("lag_seconds", "Age of the oldest record that the sink lacks, 0 if it lacks none.")
        self._seq = _gauge("position_seq", "Last record that the receiver has, or was not to get; -1 for none.")
        self._delivered = _counter("delivered_records", "Records that the receiver took.", *_LABELS)
        self._aside = _counter("set_aside_records", "Records that the receiver refuses.", *_LABELS)
        self._failures = _counter("failures", "Batches that the receiver did not take.", "sink")
        self._state = GaugeMetricFamily(
            "audit_deliver_state", "How many logs of the sink are in this state.", labels=("sink", "state")
        )
        self._updated = GaugeMetricFamily("audit_deliver_updated_timestamp_seconds", "When this was asked for.")

    def __iter__(self) -> Iterator[Metric]:
        return iter(vars(self).values())

    def add(self, statuses: list[DeliveryStatus]) -> None:
        """Add the values."""
        now = time.time()
        failures: Counter[str] = Counter()
        states: Counter[tuple[str, DeliveryState]] = Counter()
        for one in statuses:
            labels = (one.sink, one.log.service, one.log.instance, one.log.log_id)
            self._lag.add_metric(labels, one.lag_records)
            self._lag_s.add_metric(labels, lag_s(one, now))
            self._seq.add_metric(labels, one.seq)
            self._delivered.add_metric(labels, one.delivered)
            self._aside.add_metric(labels, one.set_aside)
            failures[one.sink] += one.failures
            states[one.sink, one.state] += 1
        for sink, count in failures.items():
            self._failures.add_metric((sink,), count)
            for state in DeliveryState:
                self._state.add_metric((sink, state.value), states[sink, state])
        self._updated.add_metric((), now)


def _gauge(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"audit_deliver_{name}", documentation, labels=_LABELS)


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"audit_deliver_{name}", documentation, labels=labels)


def lag_s(status: DeliveryStatus, now: float) -> float:
    """Return how old the oldest record is that a sink lacks, in seconds; 0 if it lacks none, or none was read yet."""
    if status.waiting_since is None or not status.lag_records:
        return 0.0
    return max(0.0, now - datetime.fromisoformat(status.waiting_since).timestamp())


@asynccontextmanager
async def answering(host: str, port: int, statuses: Callable[[], list[DeliveryStatus]]) -> AsyncIterator[str]:
    """Answer GET /metrics and GET /health while the block runs; yield the address.

    `/health` is 200 if no log waits for a person, otherwise 503.

    Args:
        host: The address to listen on.
        port: The port; 0 for a free one.
        statuses: Returns how far each sink has each log.
    """
    registry = CollectorRegistry()
    registry.register(DeliveryMetrics(statuses))

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def health(_: web.Request) -> web.Response:
        wrong = sorted({f"{one.sink}: {one.state.value}" for one in statuses() if one.state.needs_a_person})
        body = msgspec.json.encode({"status": "failing" if wrong else "ok", "sinks": wrong})
        return web.Response(status=503 if wrong else 200, body=body, content_type="application/json")

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/health", health)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield "{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()
