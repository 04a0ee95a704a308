"""What the logging integrations can't record counts as a loss, and what they are given is not lost on the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from audit_async import AuditConfig, AuditLogger, ConfigError
from audit_async.integrations.logging import AuditHandler, AuditLoggerAdapter
from audit_async.integrations.structlog import AuditProcessor
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A logger with no handlers but the test's."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = logging.Logger("orders", logging.DEBUG)  # noqa: LOG001 - not one that other tests have
    yield logger
    logger.handlers.clear()


def events(config: AuditConfig) -> list[dict[str, Any]]:
    """Return the events of a log, after a check of its chain."""
    check_trail(log_directory(config))
    return [record["event"] for record in read_events(log_directory(config))]


def losses(config: AuditConfig) -> list[tuple[str, dict[str, int]]]:
    """Return reason and counts of each recorded loss."""
    dropped = [event for event in events(config) if event["event_type"] == "audit.events_dropped"]
    return [(event["reason"], event["by_type"]) for event in dropped]


async def test_an_event_that_a_log_refuses_counts_as_lost(config_for: ConfigFor, log: logging.Logger) -> None:
    """An event that can't be encoded is in the counters, the health and the chain, by its type."""
    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit))
        log.warning("x", extra={"audit": Counted(producer=object(), n=1)})  # type: ignore[arg-type]  # on purpose
        AuditProcessor(audit)(None, "info", {"audit": Counted(producer=object(), n=1)})  # type: ignore[arg-type]
        assert audit.stats().dropped_by_type == {"test.counted": 2}
        assert audit.health().dropped == 2
    assert sum(by_type["test.counted"] for reason, by_type in losses(config_for()) if reason == "invalid_event") == 2


async def test_a_conversion_that_fails_counts_as_lost(config_for: ConfigFor, log: logging.Logger) -> None:
    """A function that raises instead of converting a record costs that record, and the chain says so."""

    def convert(record: logging.LogRecord) -> None:
        raise LookupError(record.name)

    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit, convert=convert))
        log.warning("x")
        assert audit.stats().dropped_by_type == {"log.recorded": 1}
    assert losses(config_for()) == [("conversion_failed", {"log.recorded": 1})]


async def test_what_came_before_the_log_is_in_its_chain_as_lost(config_for: ConfigFor, log: logging.Logger) -> None:
    """Records that were chosen before a log was open are counted by the log as soon as it takes one."""
    current: list[AuditLogger] = []
    handler = AuditHandler(lambda: current[0] if current else None)
    log.addHandler(handler)
    log.warning("early", extra={"audit": True})
    async with AuditLogger(config_for()) as audit:
        current.append(audit)
        log.warning("in time", extra={"audit": True})
    assert handler.dropped == 1
    assert losses(config_for()) == [("no_open_log", {"log.recorded": 1})]


async def test_an_adapter_keeps_what_a_call_gives(config_for: ConfigFor, log: logging.Logger) -> None:
    """The extras of an adapter and of a call are both there, and the call's wins; both are the event's data."""
    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit))
        adapter = AuditLoggerAdapter(log, {"worker": 3, "shift": "day"})
        adapter.warning("role changed", extra={"audit": True, "shift": "night"})
        adapter.warning("not chosen")
        adapter.warning("an event", extra={"audit": Counted(producer="p", n=1)})
    recorded = [event for event in events(config_for()) if event["event_type"] == "log.recorded"]
    assert [event["data"] for event in recorded] == [{"worker": 3, "shift": "night"}]
    assert [event["n"] for event in events(config_for()) if event["event_type"] == "test.counted"] == [1]


async def test_extra_is_the_data_of_the_event(config_for: ConfigFor, log: logging.Logger) -> None:
    """What a call gives by `extra` is recorded without its secrets; what JSON has no place for by its type."""
    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit))
        log.warning("x", extra={"audit": True, "role": "admin", "password": "hunter2", "what": object()})
    (event,) = [event for event in events(config_for()) if event["event_type"] == "log.recorded"]
    assert event["data"] == {"role": "admin", "password": "[redacted:password]", "what": "<builtins.object>"}


async def test_standard_attributes_are_no_data(config_for: ConfigFor, log: logging.Logger) -> None:
    """A record without `extra` has no data, whatever formatters have left on it."""
    async with AuditLogger(config_for()) as audit:
        other = logging.StreamHandler()
        other.setFormatter(logging.Formatter("%(asctime)s %(taskName)s %(message)s", defaults={"taskName": ""}))
        log.addHandler(other)
        log.addHandler(AuditHandler(audit))
        log.warning("x", extra={"audit": True})
    (event,) = [event for event in events(config_for()) if event["event_type"] == "log.recorded"]
    assert "data" not in event


@pytest.mark.parametrize("make", [AuditHandler, AuditProcessor])
def test_a_wrong_source_says_what_to_give(config_for: ConfigFor, make: Any) -> None:
    """A configuration in place of a logger, and a class in place of an instance, are named as such."""
    with pytest.raises(ConfigError, match="an AuditConfig: open a logger with it"):
        make(config_for())
    with pytest.raises(ConfigError, match="the class AuditLogger: give an instance"):
        make(AuditLogger)
