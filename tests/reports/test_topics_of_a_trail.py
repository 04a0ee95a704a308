"""What a trail says about itself: deliveries, alerts, findings of forwarding; each of them is counted and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from audit_async import AuditConfig, AuditLogger, AuditReader, Local
from audit_async.delivery import AlertSettings, FileSettings
from audit_async.events import (
    AuditCollectionFinding,
    AuditFindingAcknowledged,
    AuditForwardingProblem,
    AuthFailure,
)
from audit_async.events.lifecycle import AuditKeyStoreRestored, AuditSigningRefused
from audit_async.events.registry import known_types
from audit_async.logger.forwarding_records import record_own
from audit_async.reports import Report, TopicReport
from audit_async.reports.topics import TOPIC_OF_TYPE, TOPICS
from tests.delivery.delivering import deliver_once, http, settings, write_events
from tests.delivery.http_receiver import Receiver
from tests.reports.reporting import reported

pytestmark = pytest.mark.anyio

RULES = """
[[rule]]
name = "five"
reason = "five of an address"
match = { event_types = ["auth.failure"] }
threshold = 5
window_s = 3600
group_by = "event.ip"
"""


def topic(report: Report, name: str) -> TopicReport:
    """Return one topic of a report."""
    return next(one for one in report.topics if one.name == name)


def test_each_event_of_the_library_s_own_belongs_to_a_topic() -> None:
    """None is left out of reports, none is looked for that does not exist, and what went wrong is of its topic."""
    assert set(TOPIC_OF_TYPE) == {name for name in known_types() if name.startswith("audit.")}
    assert sum(len(one.event_types) for one in TOPICS.values()) == len(TOPIC_OF_TYPE)
    assert all(set(one.fault_types) <= set(one.event_types) for one in TOPICS.values())


async def test_deliveries_and_alerts_are_in_the_report(tmp_path: Path) -> None:
    """What a deliverer records: the delivery is shown; a receiver's refusal and an alert need attention."""
    failed = [AuthFailure(attempted_user="mallory", reason="bad", ip="203.0.113.9", path="/login")] * 6
    await write_events(tmp_path / "audit", *failed)
    (tmp_path / "alerts.toml").write_text(RULES, encoding="utf-8")
    receiver = Receiver(answer=lambda _: web.Response(status=401))
    async with receiver.listening() as url:
        await deliver_once(
            settings(
                tmp_path,
                AlertSettings(name="alerts", rules=str(tmp_path / "alerts.toml")),
                FileSettings(name="file", path=str(tmp_path / "out.ndjson")),
                http(url),
            )
        )
    report = await reported(AuditReader(tmp_path / "audit"), tmp_path)
    assert report.verification.valid
    deliveries = topic(report, "deliveries")
    counts = {seen.event_type: seen.records for seen in deliveries.types}
    assert counts.keys() == {"audit.delivered", "audit.delivery_problem", "audit.alert_raised"}
    delivered = [entry.details for entry in deliveries.entries if entry.event_type == "audit.delivered"]
    assert any("sink=file" in details for details in delivered)
    concerns = "\n".join(deliveries.concerns)
    assert "1 record of audit.alert_raised in the period; the newest, audit-deliver/00 seq" in concerns
    assert "five of an address" in concerns
    assert "1 record of audit.delivery_problem" in concerns
    assert "siem" in concerns
    assert all(f"Deliveries to other systems: {text}" in report.concerns for text in deliveries.concerns)
    monitoring = next(control for control in report.controls if control.id == "CC7.2")
    assert any("five of an address" in text for text in monitoring.shows)


async def test_findings_of_forwarding_are_in_the_report(tmp_path: Path) -> None:
    """What a forwarder and a collector record: each kind with its reason, and who has looked at it is none."""
    events = (
        AuditForwardingProblem(log="orders/00", log_id="0" * 32, kind="fork", reason="the engine has another record"),
        AuditCollectionFinding(log="acme/web-1/orders/00", kind="gap", reason="records 7 to 9 never came", seq=7),
        AuditFindingAcknowledged(
            log="acme/web-1/orders/00", kind="gap", reason="disk replaced", acknowledged_by="carol", seq=7
        ),
        AuditSigningRefused(reason="a checkpoint would contradict another one"),
        AuditKeyStoreRestored(key_store="0" * 32, epoch=1, expected_epoch=2, keys=3),
    )
    config = AuditConfig(mode=Local(tmp_path / "audit"), service_id="audit-forward", handle_signals=False)
    async with AuditLogger(config) as audit:
        for event in events:
            await record_own(audit, event).durable()
    report = await reported(AuditReader(tmp_path / "audit"), tmp_path, "iso27001")
    forwarding = topic(report, "forwarding")
    assert forwarding.records == 3
    said = "\n".join(forwarding.concerns)
    assert "the engine has another record" in said
    assert "records 7 to 9 never came" in said
    assert "disk replaced" not in said
    assert any("disk replaced" in entry.details for entry in forwarding.entries)
    (refused,) = topic(report, "signatures").concerns
    assert "would contradict" in refused
    (restored,) = topic(report, "erasures").concerns
    assert "audit.key_store_restored" in restored
