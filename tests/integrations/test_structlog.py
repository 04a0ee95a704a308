"""`AuditProcessor`: chosen entries of structlog become events, and every entry goes on as it came."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
import structlog

from audit_async import AuditLogger, ConfigError
from audit_async.integrations.structlog import AuditProcessor
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


@dataclass
class Order:
    """What an application may bind."""

    number: int


class Opaque:
    """What JSON has no place for, and whose repr nobody should see."""

    def __repr__(self) -> str:
        return "hunter2"


class Kept:
    """The last processor of a chain: keeps what came through."""

    def __init__(self) -> None:
        self.entries: list[dict[str, object]] = []

    def __call__(self, _logger: object, _name: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Keep a copy of the entry, and render nothing."""
        self.entries.append(dict(entry))
        raise structlog.DropEvent


def logger_through(*processors: Any, wrapper: type[Any] | None = None, logger: Any = None) -> Any:
    """Return a logger with these processors, without touching structlog's global configuration."""
    return structlog.wrap_logger(
        logger or structlog.PrintLogger(),
        processors=processors,
        wrapper_class=wrapper or structlog.make_filtering_bound_logger(logging.DEBUG),
    )


@pytest.fixture
def kept() -> Kept:
    """The end of the chain."""
    return Kept()


def recorded(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the events in the log but its own, after an independent check of the whole."""
    check_trail(log_directory(config_for()))
    events = [record["event"] for record in read_events(log_directory(config_for()))]
    return [event for event in events if not event["event_type"].startswith("audit.")]


async def test_chosen_entries_are_recorded_and_all_go_on_unchanged(config_for: ConfigFor, kept: Kept) -> None:
    """An event, or True, under `audit` chooses an entry; each is passed on with every member it had."""
    event = Counted(producer="p", n=1)
    order = Order(7)
    async with AuditLogger(config_for()) as audit:
        log = logger_through(structlog.processors.add_log_level, AuditProcessor(audit), kept).bind(tenant="acme")
        log.critical("everything burns")
        log.debug("counted", audit=event, n=1)
        log.warning("role_changed", audit=True, order=order, subject="dana")
        log.info("no", audit=False)
    assert recorded(config_for) == [
        {"event_type": "test.counted", "producer": "p", "n": 1},
        {
            "event_type": "log.recorded",
            "logger": "",
            "level": "WARNING",
            "message": "role_changed",
            "data": {"tenant": "acme", "order": {"number": 7}, "subject": "dana"},
        },
    ]
    assert kept.entries == [
        {"tenant": "acme", "event": "everything burns", "level": "critical"},
        {"tenant": "acme", "event": "counted", "level": "debug", "audit": event, "n": 1},
        {
            "tenant": "acme",
            "event": "role_changed",
            "level": "warning",
            "audit": True,
            "order": order,
            "subject": "dana",
        },
        {"tenant": "acme", "event": "no", "level": "info", "audit": False},
    ]
    assert kept.entries[2]["order"] is order


async def test_a_threshold_takes_every_entry_from_a_level_on(config_for: ConfigFor, kept: Kept) -> None:
    """From the threshold on each entry is recorded, unless it says False; `exception` counts as an error."""
    async with AuditLogger(config_for()) as audit:
        log = logger_through(AuditProcessor(audit, threshold="ERROR"), kept)
        log.warning("below")
        log.error("at")
        log.critical("above, but no", audit=False)
        try:
            raise KeyError("hunter2")
        except KeyError:
            log.exception("caught")
    assert [(event["message"], event["level"], event.get("exception")) for event in recorded(config_for)] == [
        ("at", "ERROR", None),
        ("caught", "ERROR", "KeyError"),
    ]


async def test_an_exception_is_recorded_by_its_class_alone(config_for: ConfigFor, kept: Kept) -> None:
    """Also behind structlog's own formatting, no traceback and no text of an exception gets into the trail."""
    async with AuditLogger(config_for()) as audit:
        behind = AuditProcessor(audit)
        log = logger_through(
            structlog.processors.StackInfoRenderer(), structlog.processors.format_exc_info, behind, kept
        )
        try:
            raise KeyError("hunter2")
        except KeyError as error:
            log.exception("formatted", audit=True, stack_info=True)
            logger_through(behind, kept).error("given", audit=True, exc_info=error)
            logger_through(behind, kept).error("triple", audit=True, exc_info=(type(error), error, None))
    formatted, given, triple = recorded(config_for)
    assert (given["exception"], triple["exception"]) == ("KeyError", "KeyError")
    assert "hunter2" not in str([formatted, given, triple])
    assert "data" not in formatted


async def test_data_that_json_has_no_place_for_does_not_lose_the_event(
    config_for: ConfigFor, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    """A foreign object is recorded as the name of its type, never by its repr; cycles and odd numbers do no harm."""
    cycle: list[object] = []
    cycle.append(cycle)
    async with AuditLogger(config_for()) as audit:
        log = logger_through(AuditProcessor(audit), kept)
        log.info("odd", audit=True, opaque=[Opaque()], cycle=cycle, nan=float("nan"), keys={1: "a"}, big=10**30)
    (event,) = recorded(config_for)
    assert event["data"]["opaque"] == [f"<{__name__}.Opaque>"]
    assert event["data"]["cycle"] == "<builtins.list>"
    assert event["data"]["nan"] == "NaN"
    assert event["data"]["keys"] == {"1": "a"}
    assert "hunter2" not in str(event)
    assert capsys.readouterr().err == ""


async def test_secrets_are_redacted(config_for: ConfigFor, kept: Kept) -> None:
    """Neither the text nor the data of an entry brings a token into the trail; the entry itself keeps it."""
    token = (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    )
    async with AuditLogger(config_for()) as audit:
        log = logger_through(AuditProcessor(audit), kept)
        said = f"refused Bearer {token}"
        log.info(said, audit=True, password="hunter2", headers={"authorization": f"Bearer {token}"})
    (event,) = recorded(config_for)
    assert token not in str(event)
    assert "hunter2" not in str(event)
    assert kept.entries[0]["password"] == "hunter2"


async def test_any_thread_and_asynchronous_loggers(config_for: ConfigFor, kept: Kept) -> None:
    """Structlog runs the processors of its asynchronous loggers in threads; every chosen entry is recorded."""
    async with AuditLogger(config_for()) as audit:
        processor = AuditProcessor(audit)
        log = logger_through(processor, kept)
        standard = logger_through(
            processor, kept, wrapper=structlog.stdlib.AsyncBoundLogger, logger=logging.getLogger("orders.structlog")
        )
        log.info("sync", audit=True)
        await log.ainfo("async", audit=True)
        await standard.info("standard", audit=True)

        def work(name: str) -> None:
            for n in range(50):
                log.info("threaded", audit=Counted(producer=name, n=n))

        async with anyio.create_task_group() as threads:
            for number in range(8):
                threads.start_soon(anyio.to_thread.run_sync, work, f"t{number}")
    events = recorded(config_for)
    assert [event["message"] for event in events[:3]] == ["sync", "async", "standard"]
    assert events[2]["logger"] == "orders.structlog"
    for number in range(8):
        assert [event["n"] for event in events if event.get("producer") == f"t{number}"] == list(range(50))


async def test_records_of_logging_that_structlog_formats(
    config_for: ConfigFor, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """In a ProcessorFormatter's chain the library's own warnings are left out: a failing log feeds nothing back."""
    async with AuditLogger(config_for()) as audit:
        formatter = structlog.stdlib.ProcessorFormatter(
            processor=lambda *_: "", foreign_pre_chain=[AuditProcessor(audit, threshold="WARNING")]
        )
        for name in ("audit_async", "audit_async.deeper", "audit_asyncish"):
            formatter.format(logging.LogRecord(name, logging.ERROR, "", 0, "%s", ("degraded",), None))
    assert [event["logger"] for event in recorded(config_for)] == ["audit_asyncish"]
    assert not caplog.records


async def test_data_whose_own_code_logs_does_not_recurse(config_for: ConfigFor, kept: Kept) -> None:
    """What is logged while an entry is converted is not converted in its turn; it is passed on."""

    class Chatty:
        def __str__(self) -> str:
            log.error("asked for my text", audit=True)
            return "chatty"

    async with AuditLogger(config_for()) as audit:
        log = logger_through(AuditProcessor(audit), kept)
        log.info(Chatty(), audit=True)
    assert [event["message"] for event in recorded(config_for)] == ["chatty"]
    assert kept.entries[0]["event"] == "asked for my text"


async def test_it_never_raises(config_for: ConfigFor, kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an open log, or with an event that can't be recorded, the entry goes on; stderr has a line a cause."""
    audit = AuditLogger(config_for())
    processor = AuditProcessor(audit)
    log = logger_through(processor, kept)
    log.info("early", audit=True)
    log.info("early", audit=True)
    async with audit:
        log.info("bad", audit=Counted(producer=Opaque(), n=1))  # type: ignore[arg-type]  # on purpose
        log.info("good", audit=Counted(producer="p", n=2))
    assert processor.dropped == 2
    assert [entry["event"] for entry in kept.entries] == ["early", "early", "bad", "good"]
    early, bad = capsys.readouterr().err.splitlines()
    assert "not started" in early
    assert "field 'producer' of test.counted" in bad
    assert "hunter2" not in bad
    assert len(recorded(config_for)) == 1


def test_wrong_settings_are_refused() -> None:
    """A wrong argument is a ConfigError that names it, when the chain is made."""
    with pytest.raises(ConfigError, match=r"^audit: "):
        AuditProcessor("ext://audit")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match=r"^threshold: "):
        AuditProcessor(lambda: None, threshold="LOUD")


async def test_bytes_hide_no_secret(config_for: ConfigFor, kept: Kept) -> None:
    """Bytes are searched before they become base64, in which nobody would recognise what they hold."""
    async with AuditLogger(config_for()) as audit:
        log = logger_through(AuditProcessor(audit), kept)
        log.info("called", audit=True, header=b"Authorization: Bearer abcdefgh12345678", body={"raw": [b"pwd=hunter2"]},
                 plain=b"\x00\xff")  # fmt: skip
    (event,) = [r["event"] for r in read_events(log_directory(config_for())) if "data" in r["event"]]
    assert event["data"] == {
        "header": "Authorization: [redacted:authorization]",
        "body": {"raw": ["pwd=[redacted:pwd]"]},
        "plain": "AP8=",
    }
