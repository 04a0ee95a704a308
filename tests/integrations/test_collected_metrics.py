"""`CollectedLogs`: what a collector has of each host, for Prometheus, and the alert rules for it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from audit_async.forwarding.collector_root import (
    CollectedStatus,
    CollectorStatus,
    Finding,
    acknowledge,
    append_finding,
    prepare_root,
    write_status,
)
from audit_async.integrations.prometheus import CollectedLogs

NOW = datetime(2026, 11, 29, tzinfo=UTC)
RULES = Path(__file__).parents[2] / "examples/deploy/audit-collect.rules.yml"


def a_status(log_id: str, *, seq: int, engine_seq: int) -> CollectedStatus:
    """Return what a collector has of one log."""
    return CollectedStatus(
        log=f"acme/web-1/orders/00.{log_id}", tenant="acme", host="web-1", service="orders", instance="00",
        log_id=log_id, seq=seq, hash="0" * 64, engine_seq=engine_seq, last_record_at="2026-11-29T00:00:00.000000Z",
        received_at=NOW, confirmed_seq=3,
    )  # fmt: skip


def scraped(root: Path) -> dict[str, float]:
    """Return every sample."""
    registry = CollectorRegistry()
    registry.register(CollectedLogs(root))
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_each_log_has_its_own_series(tmp_path: Path) -> None:
    """Also two of the same slot, one of which has replaced the other; an acknowledged finding is no more."""
    prepare_root(tmp_path)
    assert scraped(tmp_path) == {}
    logs = (a_status("aa", seq=7, engine_seq=9), a_status("bb", seq=4, engine_seq=4))
    write_status(tmp_path, CollectorStatus(collector="c1", tenant="acme", updated_at=NOW, error="x", logs=logs))
    finding = Finding(log=logs[0].log, kind="fork", seq=8, reason="r", seen_at=NOW)
    append_finding(tmp_path, finding)
    found = scraped(tmp_path)
    labels = '{host="web-1",log_id="%s",log_instance="00",service="orders",tenant="acme"}'
    assert found["audit_collect_head_seq" + labels % "aa"] == 7
    assert found["audit_collect_behind_records" + labels % "aa"] == 2
    assert found["audit_collect_behind_records" + labels % "bb"] == 0
    assert found["audit_collect_received_timestamp_seconds" + labels % "bb"] == NOW.timestamp()
    assert found['audit_collect_findings{host="web-1",kind="fork",tenant="acme"}'] == 1
    assert found['audit_collect_failed{tenant="acme"}'] == 1
    acknowledge(tmp_path, [finding], by="alice", reason="ticket")
    assert not any("findings" in name for name in scraped(tmp_path))


def test_the_alert_rules_name_metrics_that_exist(tmp_path: Path) -> None:
    """A rule about a metric that is called otherwise would never fire."""
    named = set(re.findall(r"audit_collect_\w+", RULES.read_text(encoding="utf-8")))
    assert named
    assert named <= {metric.name for metric in CollectedLogs(tmp_path).describe()}
