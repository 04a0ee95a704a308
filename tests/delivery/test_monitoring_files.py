"""The rules for Prometheus and the dashboard for Grafana: metrics and labels exist, and the rules fire."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.delivery.delivery_metrics import DeliveryMetrics
from audit_async.delivery.delivery_status import DeliveryState
from audit_async.integrations.prometheus import AuditCollector
from audit_async.status import HealthStatus

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
RULES = (DEPLOY / "audit-async.rules.yml", DEPLOY / "audit-deliver.rules.yml")
DASHBOARD = DEPLOY / "audit-async.dashboard.json"
METRIC = re.compile(r"\b(audit_(?:async|deliver)_\w+)\b(?:\{([^}]*)\})?")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def families(tmp_path: Path) -> Iterable[Metric]:
    """Return every metric of a service and of a deliverer."""
    audit = AuditLogger(AuditConfig(mode=Local(tmp_path), service_id="orders"))
    yield from AuditCollector(audit).describe()
    yield from DeliveryMetrics(list).describe()


@pytest.fixture
def labels_of(tmp_path: Path) -> dict[str, set[str]]:
    """Return the labels of each series that is served, by its name."""
    found: dict[str, set[str]] = {}
    for family in families(tmp_path):
        labels = set(family._labelnames)  # type: ignore[attr-defined]
        if isinstance(family, CounterMetricFamily):
            found[f"{family.name}_total"] = labels
        elif isinstance(family, HistogramMetricFamily):
            found |= {f"{family.name}_{part}": labels | {"le"} for part in ("bucket", "sum", "count")}
        else:
            found[family.name] = labels
    return found


def check(expression: str, texts: Iterable[str], labels_of: dict[str, set[str]]) -> None:
    """Check an expression, and the labels that texts show of it."""
    metrics = METRIC.findall(expression)
    assert metrics, expression
    served: set[str] = set()
    for name, matchers in metrics:
        assert name in labels_of, expression
        served |= labels_of[name]
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= labels_of[name], expression
    for grouping in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert set(re.split(r"[ ,]+", grouping)) <= served, expression
    for text in texts:
        assert set(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}", text)) <= served, text


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_the_rules_name_metrics_and_labels_that_exist(file: Path, labels_of: dict[str, set[str]]) -> None:
    """A rule about a metric or label that is called otherwise would never fire."""
    rules = file.read_text(encoding="utf-8").split("- alert: ")[1:]
    assert len(rules) >= 5
    for rule in rules:
        expression = re.search(r"expr: (.*)", rule)
        summary = re.search(r'summary: "(.*)"', rule)
        assert expression is not None
        assert summary is not None
        check(expression[1], [summary[1]], labels_of)


def test_the_states_that_rules_look_for_exist() -> None:
    """Each alternative of a matcher is a value that the label has."""
    states = {state.value for state in DeliveryState} | {status.value for status in HealthStatus}
    for file in (*RULES, DASHBOARD):
        for values in re.findall(r'(?:state|status)=~\\?"([^"\\]*)', file.read_text(encoding="utf-8")):
            assert set(values.split("|")) <= states


def test_the_dashboard_shows_metrics_that_exist(labels_of: dict[str, set[str]]) -> None:
    """Every panel has a question about series that are served, a place of its own, and no fixed data source."""
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == 16
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            check(target["expr"], [target["legendFormat"]] if "{{" in target["legendFormat"] else [], labels_of)


@needs_promtool
def test_prometheus_takes_the_rules_and_the_dashboard_s_questions(tmp_path: Path) -> None:
    """Prometheus's own checker parses each expression."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    questions = [target["expr"] for panel in panels for target in panel["targets"]]
    recorded = [
        {"record": f"panel:{n}", "expr": question.replace("$__rate_interval", "5m").replace("$service", ".*")}
        for n, question in enumerate(questions)
    ]
    made = tmp_path / "panels.yml"
    made.write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}), encoding="utf-8")
    ended = subprocess.run(["promtool", "check", "rules", *RULES, made], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


#: For each rule a series that has to raise it after an hour.
FIRING = {
    "AuditNotRecording": 'audit_async_health_status{service_id="o",log_instance="00",status="degraded"} 1x90',
    "AuditTrailChanged": 'audit_async_verification_findings{service_id="o",log_instance="00"} 2x90',
    "AuditEventsDropped": 'audit_async_events_dropped_total{service_id="o",event_type="a.b"} 0+1x90',
    "AuditBufferFilling": 'audit_async_buffer_fill_ratio{service_id="o"} 0.6x90',
    "AuditDiskLow": 'audit_async_disk_free_bytes{service_id="o"} 100x90',
    "AuditWriteErrors": 'audit_async_write_errors_total{service_id="o"} 0+1x90',
    "AuditNotVerified": 'audit_async_verification_age_seconds{service_id="o"} 100000x90',
    "AuditDeliveryStopped": 'audit_deliver_state{sink="s",state="unauthorized"} 1x90',
    "AuditDeliveryLate": 'audit_deliver_lag_seconds{sink="s",service="o"} 1000x90',
    "AuditRecordsRefused": 'audit_deliver_set_aside_records_total{sink="s",service="o"} 0+1x90',
    "AuditDeliveryFailing": 'audit_deliver_failures_total{sink="s"} 0+3x90',
}


@needs_promtool
@pytest.mark.parametrize("is_well", [False, True])
def test_the_rules_fire_if_something_is_wrong_and_are_quiet_otherwise(tmp_path: Path, is_well: bool) -> None:
    """Prometheus itself decides on made-up series."""
    tests = []
    for name, series in FIRING.items():
        metric, values = series.rsplit(" ", 1)
        quiet = "0x90" if "free_bytes" not in metric else "1000000000000x90"
        tests.append(
            {
                "interval": "1m",
                "name": name,
                "input_series": [
                    {"series": metric, "values": quiet if is_well else values},
                    {"series": "audit_deliver_updated_timestamp_seconds", "values": "1x90"},
                ],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                        "eval_time": "1h",
                        "exp_samples": [{"labels": "{}", "value": 0 if is_well else 1}],
                    }
                ],
            }
        )
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [str(rule) for rule in RULES], "tests": tests}), encoding="utf-8")
    ended = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
