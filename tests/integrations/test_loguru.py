"""`AuditSink`: chosen messages of loguru become events."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import anyio
import loguru
import pytest

from audit_async import AuditLogger, ConfigError
from audit_async.context import audit_context
from audit_async.integrations.loguru import AuditSink
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

if TYPE_CHECKING:
    from loguru import Logger, Record

pytestmark = pytest.mark.anyio


class Opaque:
    """What JSON has no place for, and whose repr nobody should see."""

    def __repr__(self) -> str:
        return "hunter2"


@pytest.fixture
def log() -> Iterator[Logger]:
    """Return loguru's logger, of which there is one a process, with no sinks but the test's."""
    loguru.logger.remove()
    yield loguru.logger
    loguru.logger.remove()


def recorded(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the events in the log but its own, after an independent check of the whole."""
    check_trail(log_directory(config_for()))
    events = [record["event"] for record in read_events(log_directory(config_for()))]
    return [event for event in events if not event["event_type"].startswith("audit.")]


async def test_chosen_messages_are_recorded(config_for: ConfigFor, log: Logger) -> None:
    """An event, or True, bound as `audit` chooses a message; what else is bound is its data."""
    async with AuditLogger(config_for()) as audit:
        log.add(AuditSink(audit))
        log.critical("everything burns")
        log.bind(audit=Counted(producer="p", n=1)).debug("counted")
        log.bind(audit=True, subject="dana", odd=Opaque()).success("role changed to {}", "admin")
        log.bind(audit=False).error("no")
    counted, role_changed = recorded(config_for)
    assert counted == {"event_type": "test.counted", "producer": "p", "n": 1}
    assert role_changed.pop("occurred_at").endswith("Z")
    assert role_changed == {
        "event_type": "log.recorded",
        "logger": __name__,
        "level": "SUCCESS",
        "message": "role changed to admin",
        "data": {"subject": "dana", "odd": f"<{__name__}.Opaque>"},
    }


async def test_a_threshold_takes_every_message_from_a_level_on(config_for: ConfigFor, log: Logger) -> None:
    """Unless it says False; of an exception there is its class, never its text."""
    async with AuditLogger(config_for()) as audit:
        log.add(AuditSink(audit, threshold="SUCCESS"))
        log.info("below")
        log.success("at")
        log.bind(audit=False).critical("above, but no")
        try:
            raise KeyError("hunter2")
        except KeyError:
            log.exception("caught")
    events = recorded(config_for)
    assert [(event["message"], event["level"], event.get("exception")) for event in events] == [
        ("at", "SUCCESS", None),
        ("caught", "ERROR", "KeyError"),
    ]
    assert "hunter2" not in str(events)


async def test_secrets_are_redacted(config_for: ConfigFor, log: Logger) -> None:
    """Neither the text nor what is bound brings a secret into the trail."""
    async with AuditLogger(config_for()) as audit:
        log.add(AuditSink(audit))
        log.bind(audit=True, password="hunter2").info("refused Bearer {}", "abcdefgh12345678")
    (event,) = recorded(config_for)
    assert event["data"] == {"password": "[redacted:password]"}
    assert "abcdefgh12345678" not in str(event)


async def test_threads_and_the_context(config_for: ConfigFor, log: Logger) -> None:
    """From any thread; what is bound with `audit_context` is in the record, as with `emit`."""
    async with AuditLogger(config_for()) as audit:
        log.add(AuditSink(audit))

        def work(name: str) -> None:
            with audit_context(worker=name):
                for n in range(50):
                    log.bind(audit=Counted(producer=name, n=n)).info("threaded")

        async with anyio.create_task_group() as threads:
            for number in range(8):
                threads.start_soon(anyio.to_thread.run_sync, work, f"t{number}")
    events = recorded(config_for)
    for number in range(8):
        assert [event["n"] for event in events if event.get("producer") == f"t{number}"] == list(range(50))
    contexts = [record.get("context") for record in read_events(log_directory(config_for()))]
    assert contexts.count({"worker": "t3"}) == 50


async def test_the_library_s_own_warnings_are_not_taken(config_for: ConfigFor, log: Logger) -> None:
    """Whoever sends `logging` to loguru sends them as well: a failing log feeds nothing back."""

    class Intercept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            def name_it(said: Record) -> None:
                said["name"] = record.name

            log.patch(name_it).log(record.levelname, record.msg)

    own = logging.getLogger("audit_async.deeper")
    handler = Intercept()
    own.addHandler(handler)
    try:
        async with AuditLogger(config_for()) as audit:
            log.add(AuditSink(audit, threshold="WARNING"))
            own.error("degraded")
            log.error("of the application")
    finally:
        own.removeHandler(handler)
    assert [event["message"] for event in recorded(config_for)] == ["of the application"]


async def test_it_never_raises(config_for: ConfigFor, log: Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an open log, or with an event that can't be recorded, stderr has a line a cause, and the log counts."""
    audit = AuditLogger(config_for())
    sink = AuditSink(audit)
    log.add(sink, catch=False)
    log.bind(audit=True).info("early")
    log.bind(audit=True).info("early")
    async with audit:
        log.bind(audit=Counted(producer=Opaque(), n=1)).info("bad")  # type: ignore[arg-type]  # on purpose
        log.bind(audit=Counted(producer="p", n=2)).info("good")
        assert audit.stats().dropped_by_type == {"log.recorded": 2, "test.counted": 1}
    assert sink.dropped == 2
    early, bad = capsys.readouterr().err.splitlines()
    assert "not started" in early
    assert "field 'producer' of test.counted" in bad
    assert "hunter2" not in bad
    assert len(recorded(config_for)) == 1


def test_wrong_settings_are_refused() -> None:
    """A wrong argument is a ConfigError that names it, when the sink is made."""
    with pytest.raises(ConfigError, match=r"^audit: "):
        AuditSink("ext://audit")  # type: ignore[arg-type]  # on purpose
    for wrong in ("LOUD", True, 1.5):
        with pytest.raises(ConfigError, match=r"^threshold: "):
            AuditSink(lambda: None, threshold=wrong)  # type: ignore[arg-type]  # on purpose
