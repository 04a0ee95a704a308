"""What a logger reports about itself: the status, the reason, and trouble that puts no record at risk."""

from __future__ import annotations

import logging

import pytest

from audit_async import AuditLogger, HealthStatus
from audit_async.status import Condition
from tests.logs import ConfigFor


def condition() -> Condition:
    """Return the condition of a log that is open."""
    made = Condition(HealthStatus.NOT_STARTED)
    made.set_status(HealthStatus.OK)
    return made


def test_trouble_lasts_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """Each subject's trouble is in the reason until it ends, however often the status is confirmed meanwhile."""
    caplog.set_level(logging.WARNING)
    of_log = condition()
    of_log.set_trouble("retention", "no space")
    of_log.set_trouble("checkpoint", "the key is locked")
    of_log.set_status(HealthStatus.OK)
    assert of_log.reason == "retention: no space; checkpoint: the key is locked"
    of_log.set_trouble("retention", None)
    assert of_log.reason == "checkpoint: the key is locked"
    of_log.set_trouble("checkpoint", None)
    assert of_log.reason is None
    assert len(caplog.records) == 4


def test_trouble_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    """The same trouble again is not news, and the end of none is none."""
    caplog.set_level(logging.WARNING)
    of_log = condition()
    of_log.set_trouble("retention", None)
    for text in ("one", "one", "two"):
        of_log.set_trouble("retention", text)
    assert [record.message for record in caplog.records] == [
        "audit log: retention: one",
        "audit log: retention: two",
    ]


def test_a_status_that_is_not_ok_gives_its_own_reason() -> None:
    """What puts records at risk comes before what does not, which is there again afterwards."""
    of_log = condition()
    of_log.set_trouble("checkpoint", "the key is locked")
    of_log.set_status(HealthStatus.DEGRADED, "no space left")
    assert of_log.reason == "no space left"
    of_log.set_status(HealthStatus.OK)
    assert of_log.reason == "checkpoint: the key is locked"
    assert repr(of_log) == "<Condition ok of audit log, reason='checkpoint: the key is locked'>"


@pytest.mark.anyio
async def test_health_keeps_the_low_disk_that_the_opening_saw(config_for: ConfigFor) -> None:
    """A log that is opened on a disk that is nearly full is `low_disk` from the first moment on, also while idle."""
    async with AuditLogger(config_for(low_disk_bytes=1 << 40)) as audit:
        health = audit.health()
        assert (health.status, health.ok) == (HealthStatus.LOW_DISK, True)
        assert "bytes are left on the file system" in str(health.reason)
