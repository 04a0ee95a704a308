"""Retention that is ahead of a delivery: what a sink never got is gone, and nobody is led to think that it has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async.delivery import DeliveryState, FileSettings
from tests.delivery.delivering import deliver_once, position_of, settings
from tests.trail.written import WrittenLog
from tests.trails import read_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run on one event loop: this is about files."""
    return "asyncio"


async def test_records_that_were_deleted_before_they_were_delivered_are_not_passed_over(tmp_path: Path) -> None:
    """The position stays, the state asks for a person, and it is recorded with the segment's name."""
    log = WrittenLog(tmp_path / "audit")
    log.write(*[{"event_type": "t", "n": n} for n in range(20)])
    out = tmp_path / "out.ndjson"
    given = settings(tmp_path, FileSettings(name="siem", path=str(out), services=(log.directory.parent.name,)))
    [status] = await deliver_once(given)
    assert status.state is DeliveryState.CAUGHT_UP
    delivered, known = out.read_bytes(), set(log.sealed())
    reached = position_of(tmp_path).seq
    log.write(*[{"event_type": "t", "n": n} for n in range(60)])
    undelivered = sorted(set(log.sealed()) - known)
    for name in sorted(set(log.sealed()) - set(undelivered[2:])):
        log.archive([name])
        log.delete(name)
    [status] = await deliver_once(given)
    log.close()
    assert status.state is DeliveryState.UNREADABLE
    assert "deleted; retention does not wait for deliveries" in (status.problem or "")
    assert "--replay-from" in (status.problem or "")
    assert "hold_unshipped" not in (status.problem or "")  # which waits for collectors alone
    assert out.read_bytes() == delivered
    assert position_of(tmp_path).seq == reached
    own = [record["event"] for record in read_events(tmp_path / "audit" / "audit-deliver" / "00")]
    [problem] = [event for event in own if event["event_type"] == "audit.delivery_problem"]
    assert problem["kind"] == "unreadable"
    assert undelivered[0] in problem["reason"] or undelivered[1] in problem["reason"]
