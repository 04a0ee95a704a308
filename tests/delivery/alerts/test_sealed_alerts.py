"""Alerts of a trail that seals: a rule may need what is sealed, and nobody who may not see it gets it by an alert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit_async import AuditConfig, AuditLogger, AuditQuery, AuditReader, Local
from audit_async.delivery import AlertSettings
from audit_async.events import AuthFailure
from audit_async.events.recorded import event_members
from tests.delivery.delivering import deliver_once, http, settings
from tests.delivery.http_receiver import Receiver
from tests.forwarding.stored_logs import sealing
from tests.privacy.key_stores import open_store

pytestmark = pytest.mark.anyio

RULES = """
[[rule]]
name = "five"
reason = "five of an address"
match = { event_types = ["auth.failure"] }
threshold = 5
window_s = 3600
group_by = ["event.ip", "event.attempted_user"]
"""
ADDRESS = "203.0.113.9"


@pytest.fixture
def anyio_backend() -> str:
    """Run on one event loop: this is about files."""
    return "asyncio"


@pytest.mark.parametrize("unseal", [True, False])
async def test_an_alert_names_nobody_in_the_clear(tmp_path: Path, unseal: bool) -> None:
    """Neither in the deliverer's own log nor to another sink, though the rule had to know the address."""
    (tmp_path / "rules.toml").write_text(RULES)
    privacy = sealing(tmp_path)
    config = AuditConfig(mode=Local(tmp_path / "audit"), service_id="orders", handle_signals=False, privacy=privacy)
    for _ in range(2):  # two sessions, which seal under different keys
        async with AuditLogger(config) as audit:
            for n in range(3):
                audit.emit(AuthFailure(attempted_user="mallory", reason="x", ip=ADDRESS, path=f"/{n}"))
    alerts = AlertSettings(name="alerts", rules=str(tmp_path / "rules.toml"), unseal=unseal)
    keys = {"key_store": str(privacy.key_store), "master_key": str(privacy.master_key)}
    receiver = Receiver()
    async with receiver.listening() as url:
        given = settings(tmp_path, alerts, http(url, services=()), **keys)
        await deliver_once(given)
        await deliver_once(given)  # what the first has recorded
    raised = [event for event in map(event_of, receiver.accepted) if event["event_type"] == "audit.alert_raised"]
    assert len(raised) == unseal  # an address is told apart by its key, which is another in each session
    everything = b"".join(path.read_bytes() for path in (tmp_path / "audit").rglob("*.audit"))
    for seen in (everything, *receiver.accepted):
        assert ADDRESS.encode() not in seen
        assert b"mallory" not in seen
    if unseal:
        assert await groups(tmp_path) == [{"event.ip": ADDRESS, "event.attempted_user": "mallory"}]


def event_of(line: bytes) -> dict[str, object]:
    """Return the event of a record that was delivered."""
    event: dict[str, object] = json.loads(line)["event"]
    return event


async def groups(tmp_path: Path) -> list[object]:
    """Return what the alerts are about, as a reader with the keys sees it."""
    store = open_store(tmp_path / "keys")
    try:
        reader = AuditReader(tmp_path / "audit", service="audit-deliver", key_store=store)
        query = AuditQuery(event_types=("audit.alert_raised",))
        return [event_members(record.event)["group"] async for record in reader.query(query)]
    finally:
        store.close()
