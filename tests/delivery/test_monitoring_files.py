"""The rules for Prometheus and the dashboard for Grafana: metrics and labels exist, and the rules fire."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from audit_async import AuditConfig, AuditLogger, BufferFull, Local
from audit_async.config import Verification
from audit_async.delivery import FileSettings
from audit_async.delivery.delivery_metrics import DeliveryMetrics
from audit_async.delivery.delivery_status import DeliveryState
from audit_async.events.recorded import recorded_time
from audit_async.forwarding.collector_root import (
    CollectedStatus,
    CollectorStatus,
    Finding,
    append_finding,
    prepare_root,
    write_status,
)
from audit_async.integrations.prometheus import AuditCollector, CollectedLogs
from audit_async.status import HealthStatus
from tests.delivery.delivering import deliver_once, settings, until
from tests.logs import failure

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
RULES = tuple(DEPLOY / f"audit-{of}.rules.yml" for of in ("async", "deliver", "collect"))
DASHBOARD = DEPLOY / "audit-async.dashboard.json"
METRIC = re.compile(r"\b(audit_(?:async|deliver|collect)_\w+)\b(?:\{([^}]*)\})?")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


async def printed(directory: Path) -> str:
    """Return what Prometheus is shown of a service that loses events, a deliverer, and a collector with a finding."""
    registry = CollectorRegistry()
    config = AuditConfig(
        mode=Local(directory / "audit"),
        service_id="orders",
        handle_signals=False,
        buffer_events=100,
        verification=Verification(interval=0.1),
    )
    async with AuditLogger(config) as audit:
        with pytest.raises(BufferFull):
            while True:
                audit.emit(failure(1))
        registry.register(AuditCollector(audit))
        await audit.flush()
        await until(lambda: (verified := audit.stats().verification) is not None and verified.verified_seq is not None)
        statuses = await deliver_once(settings(directory, FileSettings(name="file", path=str(directory / "out"))))
        registry.register(DeliveryMetrics(lambda: statuses))
        write_collector_status(directory / "collected")
        registry.register(CollectedLogs(directory / "collected"))
        return generate_latest(registry).decode()


def write_collector_status(root: Path) -> None:
    """Write what a collector says of itself, with a finding."""
    now = datetime.now(UTC)
    log = CollectedStatus(
        log="t/h/orders/00.aa", tenant="t", host="h", service="orders", instance="00", log_id="aa",
        seq=7, hash="0" * 64, engine_seq=9, last_record_at=recorded_time(now), received_at=now, confirmed_seq=3,
    )  # fmt: skip
    root.mkdir()
    prepare_root(root)
    write_status(root, CollectorStatus(collector="c", tenant="t", updated_at=now, error="x", logs=(log,)))
    append_finding(root, Finding(log=log.log, kind="fork", seq=8, reason="r", seen_at=now))


@pytest.fixture(scope="module")
def labels_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the labels of each series that is served, by its name; Prometheus adds `instance`."""
    text = anyio.run(printed, tmp_path_factory.mktemp("printed"))
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: {*sample.labels, "instance"} for sample in samples}


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


class Case(NamedTuple):
    """Series of four hours by the minute, each tuple of them together; `@` becomes a name of their own."""

    fire: tuple[tuple[str, ...], ...]  #: have raised the rule at their end
    quiet: tuple[tuple[str, ...], ...]  #: have not, if only by little


LOG = 'service_id="@",log_instance="00"'
COLLECTED = 'tenant="t",host="@",service="o",log_instance="00",log_id="1"'
#: Not a single series.
NOTHING: tuple[str, ...] = ()
CASES = {
    "AuditNotRecording": Case(
        fire=tuple((f'audit_async_health_status{{{LOG},status="{one}"}} 0x200 1x40',) for one in
                   ("stalled", "degraded", "failed")),
        quiet=((f'audit_async_health_status{{{LOG},status="degraded"}} 0x239 1',),
               (f'audit_async_health_status{{{LOG},status="closed"}} 1x240',)),
    ),
    "AuditTrailChanged": Case(
        fire=((f"audit_async_verification_findings{{{LOG}}} 0x239 1",),),
        quiet=((f"audit_async_verification_findings{{{LOG}}} 1x200 0x40",),),
    ),
    "AuditEventsDropped": Case(
        fire=((f'audit_async_events_dropped_total{{{LOG},event_type="a.b"}} 3x235 4x5',),
              (f'audit_async_events_dropped_total{{{LOG},event_type="a.b"}} _x236 3x4',)),  # the first one ever
        quiet=((f'audit_async_events_dropped_total{{{LOG},event_type="a.b"}} 3x240',),
               (f'audit_async_events_dropped_total{{{LOG},event_type="a.b"}} _x220 3x20',)),
    ),
    "AuditBufferFilling": Case(
        fire=((f"audit_async_buffer_fill_ratio{{{LOG}}} 0.51x240",),),
        quiet=((f"audit_async_buffer_fill_ratio{{{LOG}}} 0.5x240",),
               (f"audit_async_buffer_fill_ratio{{{LOG}}} 0x239 1",)),
    ),
    "AuditDiskLow": Case(
        fire=((f"audit_async_disk_free_bytes{{{LOG}}} 999000000x240",),
              (f"audit_async_disk_free_bytes{{{LOG}}} 20000000000-20000000x240",)),  # full in about 13 hours
        quiet=((f"audit_async_disk_free_bytes{{{LOG}}} 1000000000x240",),
               (f"audit_async_disk_free_bytes{{{LOG}}} 20000000000-10000000x240",)),  # full in about 29 hours
    ),
    "AuditWriteErrors": Case(
        fire=((f"audit_async_write_errors_total{{{LOG}}} 0x230 1x10",),),
        quiet=((f"audit_async_write_errors_total{{{LOG}}} 1x240",),),
    ),
    "AuditNotVerified": Case(
        fire=((f"audit_async_verification_age_seconds{{{LOG}}} 90001x240",),
              (f"audit_async_verification_errors_total{{{LOG}}} 0x200 1x40",)),
        quiet=((f"audit_async_verification_age_seconds{{{LOG}}} 90000x240",
                f"audit_async_verification_errors_total{{{LOG}}} 1x240"),),
    ),
    "AuditSilent": Case(
        fire=((f"audit_async_events_emitted_total{{{LOG}}} 5x240", f"audit_async_healthy{{{LOG}}} 1x240"),),
        quiet=((f"audit_async_events_emitted_total{{{LOG}}} 5x150 6x90", f"audit_async_healthy{{{LOG}}} 1x240"),
               # What can't record is another rule's.
               (f"audit_async_events_emitted_total{{{LOG}}} 5x240", f"audit_async_healthy{{{LOG}}} 0x240")),
    ),
    "AuditDeliveryStopped": Case(
        fire=tuple((f'audit_deliver_state{{sink="@",state="{state.value}"}} 0x200 1x40',) for state in DeliveryState
                   if state.needs_a_person or state is DeliveryState.STATE_UNUSABLE),
        quiet=(*((f'audit_deliver_state{{sink="@",state="{one}"}} 2x240',) for one in ("retrying", "caught up")),
               ('audit_deliver_state{sink="@",state="unauthorized"} 0x237 1x3',)),
    ),
    "AuditDeliveryLate": Case(
        fire=(('audit_deliver_lag_seconds{sink="@",service="o",log_instance="00"} 901x240',),),
        quiet=(('audit_deliver_lag_seconds{sink="@",service="o",log_instance="00"} 900x240',),),
    ),
    "AuditRecordsRefused": Case(
        fire=(('audit_deliver_set_aside_records_total{sink="@",service="o"} 2x200 3x40',),
              ('audit_deliver_set_aside_records_total{sink="@",service="o"} _x200 1x40',)),
        quiet=(('audit_deliver_set_aside_records_total{sink="@",service="o"} 3x240',),
               ('audit_deliver_set_aside_records_total{sink="@",service="o"} _x200 0x40',)),
    ),
    "AuditDeliveryFailing": Case(
        fire=(('audit_deliver_failures_total{sink="@"} 0+3x240',),),
        quiet=(('audit_deliver_failures_total{sink="@"} 0+2x240',),),
    ),
    "AuditDelivererNotRunning": Case(
        fire=(NOTHING, ('audit_deliver_updated_timestamp_seconds{instance="@"} 1x200 stale',)),
        quiet=(('audit_deliver_updated_timestamp_seconds{instance="@"} 1x240',),
               ('audit_deliver_updated_timestamp_seconds{instance="@"} 1x100 _x136 1x4',)),
    ),
    "AuditCollectorNotRunning": Case(
        fire=(NOTHING, ('audit_collect_updated_timestamp_seconds{tenant="@"} 0+60x230 13800x10',),
              ('audit_collect_updated_timestamp_seconds{tenant="@"} 0+60x240',
               'audit_collect_failed{tenant="@"} 0x230 1x10')),
        quiet=(('audit_collect_updated_timestamp_seconds{tenant="@"} 0+60x240',
                'audit_collect_failed{tenant="@"} 0x240'),
               ('audit_collect_updated_timestamp_seconds{tenant="@"} 0+60x234 14040x6',)),
    ),
    "AuditFinding": Case(
        fire=(('audit_collect_findings{tenant="t",host="@",kind="fork"} 1x240',),),
        quiet=(('audit_collect_findings{tenant="t",host="@",kind="fork"} 1x200 0x40',),
               ('audit_collect_findings{tenant="t",host="@",kind="fork"} 1x200 stale',)),
    ),
    "AuditHostSilent": Case(
        fire=((f"audit_collect_received_timestamp_seconds{{{COLLECTED}}} -72060x240",),),
        quiet=((f"audit_collect_received_timestamp_seconds{{{COLLECTED}}} -72000x240",),),
    ),
    "AuditCollectorBehind": Case(
        fire=((f"audit_collect_behind_records{{{COLLECTED}}} 100001x240",),),
        quiet=((f"audit_collect_behind_records{{{COLLECTED}}} 100000x240",),
               (f"audit_collect_behind_records{{{COLLECTED}}} 0x230 100001x10",)),
    ),
    "AuditNotConfirmed": Case(
        fire=((f"audit_collect_head_seq{{{COLLECTED}}} 100006x240",
               f"audit_collect_confirmed_seq{{{COLLECTED}}} 5x240"),),
        quiet=((f"audit_collect_head_seq{{{COLLECTED}}} 100005x240",
                f"audit_collect_confirmed_seq{{{COLLECTED}}} 5x240"),
               (f"audit_collect_head_seq{{{COLLECTED}}} 100006x240",  # nobody confirms, so nothing is waited for
                f"audit_collect_confirmed_seq{{{COLLECTED}}} -1x240")),
    ),
}  # fmt: skip


def test_each_rule_has_series_that_raise_it_and_others_that_just_do_not() -> None:
    """A new rule is tested by Prometheus, or this fails."""
    names = {name for file in RULES for name in re.findall(r"- alert: (\w+)", file.read_text(encoding="utf-8"))}
    assert names == CASES.keys()
    assert all(case.fire and case.quiet for case in CASES.values())


def fired(rule: str, name: str) -> str:
    """Return the question whether a rule has fired for the series of this name."""
    labels = ("service_id", "sink", "host", "tenant", "instance")
    alerts = (f'ALERTS{{alertname="{rule}",alertstate="firing",{label}="{name}"}}' for label in labels)
    return f"count({' or '.join(alerts)}) or vector(0)"


def prometheus_test(series: Iterable[str], answers: dict[str, int]) -> dict[str, object]:
    """Return a test of rules in promtool's form: what questions have as answers after four hours of these series."""
    return {
        "interval": "1m",
        "input_series": [dict(zip(("series", "values"), one.split(" ", 1), strict=True)) for one in series],
        "promql_expr_test": [
            {"expr": question, "eval_time": "4h", "exp_samples": [{"labels": "{}", "value": answer}]}
            for question, answer in answers.items()
        ],
    }


@needs_promtool
def test_the_rules_fire_if_something_is_wrong_and_are_quiet_otherwise(tmp_path: Path) -> None:
    """Prometheus itself decides on made-up series."""
    together: list[str] = []
    answers: dict[str, int] = {}
    of_nothing: dict[str, int] = {}
    for rule, case in CASES.items():
        for fires, series in (*((1, one) for one in case.fire), *((0, one) for one in case.quiet)):
            name = f"n{len(answers)}"
            together += [one.replace("@", name) for one in series]
            if series is NOTHING:
                of_nothing[f'count(ALERTS{{alertname="{rule}",alertstate="firing"}}) or vector(0)'] = fires
            else:
                answers[fired(rule, name)] = fires
    tests = [prometheus_test(together, answers), prometheus_test((), of_nothing)]
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [str(rule) for rule in RULES], "tests": tests}), encoding="utf-8")
    ended = subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
