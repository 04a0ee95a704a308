"""`AuditHandler`: chosen log records become events, from anywhere, without a loop, a leak or an error on the way."""

from __future__ import annotations

import errno
import logging
import logging.config
import logging.handlers
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit_async import AuditEvent, AuditLogger, ConfigError, HealthStatus
from audit_async._store.log_store import LogStore
from audit_async.events import LogRecorded, decode_event
from audit_async.events.base import encode
from audit_async.integrations.logging import AuditHandler, log_recorded
from tests.logs import ConfigFor, Counted, failure, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger that lets everything through and that nobody else, pytest least of all, has a handler on."""
    logger = logging.Logger("orders.test", logging.DEBUG)  # noqa: LOG001 - getLogger's would be the whole process's
    yield logger
    for handler in logger.handlers:
        handler.close()


def recorded(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the events in the log but its own, after an independent check of the whole."""
    check_trail(log_directory(config_for()))
    events = [record["event"] for record in read_events(log_directory(config_for()))]
    return [event for event in events if not event["event_type"].startswith("audit.")]


class Failing:
    """An object whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


# What is chosen.


async def test_only_what_is_chosen_is_recorded(config_for: ConfigFor, log: logging.Logger) -> None:
    """Without a threshold what carries an event is recorded, or True; nothing else, whatever its level."""
    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit))
        log.critical("everything burns")
        log.debug("who", extra={"audit": failure(1)})
        log.info("role of %s is now %s", "dana", "admin", extra={"audit": True})
        log.info("no", extra={"audit": False})
    carried, marked = recorded(config_for)
    assert carried == {
        "event_type": "auth.failure",
        "attempted_user": "mallory",
        "reason": "bad_password",
        "ip": "203.0.113.9",
        "path": "/login/1",
    }
    logged_at = datetime.fromisoformat(marked.pop("occurred_at"))
    assert abs((datetime.now(UTC) - logged_at).total_seconds()) < 60
    assert marked == {
        "event_type": "log.recorded",
        "logger": "orders.test",
        "level": "INFO",
        "message": "role of dana is now admin",
    }


async def test_a_threshold_takes_every_record_from_a_level_on(config_for: ConfigFor, log: logging.Logger) -> None:
    """From the threshold on each record is recorded, unless it says False; below it only what is marked."""
    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit, threshold="ERROR"))
        log.warning("below")
        log.error("at")
        log.critical("above")
        log.critical("above, but no", extra={"audit": False})
        log.info("below, but yes", extra={"audit": True})
    assert [(event["message"], event["level"]) for event in recorded(config_for)] == [
        ("at", "ERROR"),
        ("above", "CRITICAL"),
        ("below, but yes", "INFO"),
    ]


async def test_a_function_may_decide(config_for: ConfigFor, log: logging.Logger) -> None:
    """`convert` makes the events, in place of the default; what it answers None to is left out."""

    def convert(record: logging.LogRecord) -> AuditEvent | None:
        return Counted(producer=record.name, n=len(record.getMessage())) if record.levelno == logging.INFO else None

    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit, convert=convert))
        log.info("four")
        log.error("not this", extra={"audit": True})
    assert recorded(config_for) == [{"event_type": "test.counted", "producer": "orders.test", "n": 4}]


async def test_an_exception_is_recorded_by_its_class_alone(config_for: ConfigFor, log: logging.Logger) -> None:
    """Neither the traceback nor the text of an exception, which may show secrets, gets into the trail."""
    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit, threshold=logging.ERROR))
        try:
            raise queue.Empty("hunter2")
        except queue.Empty:
            log.exception("payment failed", stack_info=True)
    (event,) = recorded(config_for)
    assert (event["message"], event["exception"]) == ("payment failed", "_queue.Empty")
    assert "hunter2" not in str(event)
    assert "Traceback" not in str(event)


async def test_secrets_in_a_message_are_redacted(config_for: ConfigFor, log: logging.Logger) -> None:
    """A developer who logs a header does not put its token into the trail."""
    token = (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    )
    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit, threshold="WARNING"))
        log.warning("refused: Authorization: Bearer %s", token)
    (event,) = recorded(config_for)
    assert "[redacted:" in event["message"]
    assert token not in event["message"]


# From anywhere.


async def test_eight_threads_log_at_once(config_for: ConfigFor, log: logging.Logger) -> None:
    """Every record of eight threads is in the trail, each thread's in its order."""
    count = 250
    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit))

        def work(name: str) -> None:
            for n in range(count):
                log.info("%d", n, extra={"audit": Counted(producer=name, n=n) if n % 2 else True})

        async with anyio.create_task_group() as threads:
            for number in range(8):
                threads.start_soon(anyio.to_thread.run_sync, work, f"t{number}")
    events = recorded(config_for)
    assert len(events) == 8 * count
    for number in range(8):
        own = [event["n"] for event in events if event.get("producer") == f"t{number}"]
        assert own == list(range(1, count, 2))


async def test_a_thread_inside_the_log_may_log(config_for: ConfigFor, log: logging.Logger) -> None:
    """A finalizer or signal handler that logs while its thread is inside `emit` waits for no other thread's record."""
    converting = threading.Event()

    def convert(record: logging.LogRecord) -> AuditEvent:
        converting.set()
        return Counted(producer=str(record.name), n=record.levelno)

    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit, convert=convert))
        done = threading.Event()

        def inside() -> None:
            with audit._intake.buffer.inbox.lock:
                other.start()
                converting.wait(60)
                log.warning("from a finalizer")
            done.set()

        other = threading.Thread(target=log.warning, args=("from another thread",), daemon=True)
        threading.Thread(target=inside, daemon=True).start()
        finished = await anyio.to_thread.run_sync(done.wait, 60)
        if not finished:  # pragma: no cover - else closing would wait for the lock for ever
            os._exit(3)
        await anyio.to_thread.run_sync(other.join)
    assert len(recorded(config_for)) == 2


async def test_a_signal_handler_may_log(config_for: ConfigFor, log: logging.Logger) -> None:
    """A signal that strikes while its thread converts or emits a record loses neither's event, and locks nothing up."""
    struck = 0

    def on_signal(signum: int, _frame: object) -> None:
        nonlocal struck
        struck += 1
        log.warning("signal %d", signum, extra={"audit": Counted(producer="signal", n=struck)})

    def convert(record: logging.LogRecord) -> AuditEvent | None:
        if record.getMessage() == "interrupted":
            signal.raise_signal(signal.SIGUSR1)
        carried = record.audit  # type: ignore[attr-defined]  # each record of this test carries an event
        assert isinstance(carried, AuditEvent)
        return carried

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        async with AuditLogger(config_for()) as audit:
            log.addHandler(AuditHandler(audit, convert=convert))
            for n in range(3):
                log.info("interrupted", extra={"audit": Counted(producer="main", n=n)})
                signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    events = recorded(config_for)
    assert [event["n"] for event in events if event["producer"] == "main"] == [0, 1, 2]
    assert [event["n"] for event in events if event["producer"] == "signal"] == [1, 2, 3, 4, 5, 6]


async def test_behind_a_queue_handler_nothing_of_a_traceback_is_recorded(
    config_for: ConfigFor, log: logging.Logger
) -> None:
    """A QueueHandler puts the traceback into the message; it is taken out again, and the class is read from it."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    async with AuditLogger(config_for()) as audit:
        listener = logging.handlers.QueueListener(records, AuditHandler(audit, threshold="ERROR"))
        log.addHandler(logging.handlers.QueueHandler(records))
        listener.start()
        log.info("carried", extra={"audit": Counted(producer="queue", n=1)})
        try:
            try:
                raise KeyError("hunter2")
            except KeyError as error:
                raise LookupError("hunter3: x\nValueError: not this") from error
        except LookupError:
            log.exception("chained\nin two lines", stack_info=True)
        try:
            raise ExceptionGroup("hunter4", [ValueError("hunter5"), queue.Empty("hunter6")])
        except ExceptionGroup:
            log.exception("grouped")
        log.error("plain", stack_info=True)
        listener.stop()
    carried, chained, grouped, plain = recorded(config_for)
    assert carried == {"event_type": "test.counted", "producer": "queue", "n": 1}
    assert (chained["message"], chained["exception"]) == ("chained\nin two lines", "LookupError")
    assert (grouped["message"], grouped["exception"]) == ("grouped", "ExceptionGroup")
    assert plain["message"] == "plain"
    assert "exception" not in plain
    assert "hunter" not in str([chained, grouped, plain])


SERVICE = """
import asyncio, logging, logging.config
from audit_async import AuditConfig, AuditLogger, Local

audit = None

def audit_of_the_moment():
    return audit

async def main():
    global audit
    logging.info("nobody listens yet", extra={"audit": True})
    config = AuditConfig(mode=Local("audit"), service_id="orders")
    async with AuditLogger(config) as audit:
        logging.error("taken")
        logging.debug("below the handler's level", extra={"audit": True})

if __name__ == "__main__":
    import service
    logging.config.dictConfig({
        "version": 1,
        "handlers": {
            "audit": {
                "()": "audit_async.integrations.logging.AuditHandler",
                "audit": "ext://service.audit_of_the_moment",
                "threshold": "ERROR",
                "level": "INFO",
            },
        },
        "root": {"handlers": ["audit"], "level": "DEBUG"},
    })
    asyncio.run(service.main())
"""


def test_configured_by_a_dict(tmp_path: Path, config_for: ConfigFor) -> None:
    """`dictConfig` makes the handler at import time, with a function that finds the logger later."""
    (tmp_path / "service.py").write_text(SERVICE)
    command = [sys.executable, "service.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == (
        "audit-async: log records that were chosen for the audit trail are dropped: there is no audit log yet\n"
    )
    assert [event["message"] for event in recorded(config_for)] == ["taken"]


# Without a loop.


async def test_what_the_library_logs_itself_is_not_recorded(
    config_for: ConfigFor, log: logging.Logger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing disk is warned of in the debugging log; a handler on the root feeds nothing of it into the trail."""
    broken = True
    commit = LogStore.commit
    accepted: list[Any] = []

    def failing(self: LogStore, batch: Any, *, sync: bool) -> Any:
        if broken:
            accepted.append(batch)
            raise OSError(errno.EIO, "Input/output error")
        while accepted:
            commit(self, accepted.pop(0), sync=False)
        return commit(self, batch, sync=sync)

    handler = AuditHandler(lambda: audit, threshold=logging.DEBUG)
    logging.getLogger().addHandler(handler)
    try:
        async with AuditLogger(config_for()) as audit:
            await audit.emit_durable(failure(1))
            monkeypatch.setattr(LogStore, "commit", failing)
            receipt = audit.emit(failure(2))
            with anyio.fail_after(60):
                while audit.health().status is not HealthStatus.DEGRADED:
                    await anyio.sleep(0.001)
            broken = False
            with anyio.fail_after(60):
                await receipt.durable()
            logging.getLogger("orders.other").error("this is taken")
    finally:
        logging.getLogger().removeHandler(handler)
    own = [record.getMessage() for record in caplog.records if record.name == "audit_async"]
    assert [("degraded" in text, "ok again" in text) for text in own] == [(True, False), (True, True)]
    messages = [event["message"] for event in recorded(config_for) if event["event_type"] == "log.recorded"]
    assert messages == ["this is taken"]
    assert handler.dropped == 0


async def test_a_conversion_that_logs_does_not_recurse(config_for: ConfigFor, log: logging.Logger) -> None:
    """What `convert`, or the text of an argument, logs is not converted in its turn, in this handler or another."""
    converted, converting = 0, False

    class Chatty:
        def __str__(self) -> str:
            if converting:
                log.critical("asked for my text")
            return "chatty"

    def convert(record: logging.LogRecord) -> AuditEvent | None:
        nonlocal converted, converting
        converted, converting = converted + 1, True
        log.critical("converting %s", record.name)
        event = log_recorded(record)
        converting = False
        return event

    async with AuditLogger(config_for()) as audit:
        log.addHandler(AuditHandler(audit, convert=convert))
        log.addHandler(AuditHandler(audit, threshold="CRITICAL"))
        log.critical("%s", Chatty())
    assert converted == 1
    assert [event["message"] for event in recorded(config_for)] == ["chatty", "chatty"]


# Without an error.


async def test_logging_never_raises(
    config_for: ConfigFor, log: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can't be formatted, and an event that can't be recorded, go to handleError; the rest is recorded."""
    async with AuditLogger(config_for()) as audit:
        handler = AuditHandler(audit, threshold="INFO")
        handled: list[logging.LogRecord] = []
        monkeypatch.setattr(handler, "handleError", handled.append)  # as an application may
        log.addHandler(handler)
        log.info("%s", Failing())
        log.info("%d %d", 1)  # noqa: PLE1206 - on purpose
        log.info("bad event", extra={"audit": Counted(producer=object(), n=1)})  # type: ignore[arg-type]  # on purpose
        log.info("good")
    assert [record.msg for record in handled] == ["%s", "%d %d", "bad event"]
    assert [event["message"] for event in recorded(config_for)] == ["good"]
    assert capsys.readouterr().err == ""


async def test_a_full_buffer_is_counted_by_the_log(
    config_for: ConfigFor, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused records raise nothing and tell nothing; the trail has their number."""
    async with AuditLogger(config_for(buffer_events=10)) as audit:
        handler = AuditHandler(audit, threshold="INFO")
        log.addHandler(handler)
        for n in range(30):
            log.info("%d", n)
        assert audit.stats().dropped_by_type == {"log.recorded": 21}
    assert [event["message"] for event in recorded(config_for)] == [str(n) for n in range(9)]
    (dropped,) = [
        record["event"]
        for record in read_events(log_directory(config_for()))
        if record["event"]["event_type"] == "audit.events_dropped"
    ]
    assert dropped["by_type"] == {"log.recorded": 21}
    assert (handler.dropped, capsys.readouterr().err) == (0, "")


async def test_without_an_open_log_records_are_dropped_and_told_once(
    config_for: ConfigFor, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the start and after the end each chosen record is counted as dropped; one line on stderr says why."""
    audit = AuditLogger(config_for())
    handler = AuditHandler(audit, threshold="ERROR")
    log.addHandler(handler)
    for _ in range(3):
        log.error("too early")
        log.info("not chosen")
    assert handler.dropped == 3
    async with audit:
        log.error("in time")
    for _ in range(2):
        log.error("too late")
    assert handler.dropped == 5
    before, after = capsys.readouterr().err.splitlines()
    assert "not started" in before
    assert "closed" in after
    assert [event["message"] for event in recorded(config_for)] == ["in time"]


async def test_there_may_be_no_stderr(log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without stderr, a service of Windows or a daemon, logs all the same."""
    handler = AuditHandler(lambda: None)
    log.addHandler(handler)
    monkeypatch.setattr("sys.stderr", None)
    log.error("nobody hears", extra={"audit": True})
    assert handler.dropped == 1


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"audit": "ext://forgotten"}, "audit"),
        ({"audit": None}, "audit"),
        ({"threshold": "LOUD"}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"convert": "a.b"}, "convert"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], field: str) -> None:
    """A wrong argument is a ConfigError that names it, when the handler is made and not when something is logged."""
    with pytest.raises(ConfigError, match=rf"^{field}: "):
        AuditHandler(**({"audit": lambda: None} | settings))


async def test_a_handler_in_another_thread_outlives_the_log(config_for: ConfigFor, log: logging.Logger) -> None:
    """Threads that log while the log closes lose nothing that was taken, count what was not, and see no error."""
    handler_dropped = 0
    async with AuditLogger(config_for()) as audit:
        handler = AuditHandler(audit)
        log.addHandler(handler)
        enough = threading.Event()
        logged = 0

        def work() -> None:
            nonlocal logged
            while not enough.is_set():
                log.info("%d", logged, extra={"audit": Counted(producer="late", n=logged)})
                logged += 1

        thread = threading.Thread(target=work)
        thread.start()
        with anyio.fail_after(60):
            while audit.stats().durable < 20:
                await anyio.sleep(0.001)
    with anyio.fail_after(60):
        while not handler.dropped:
            await anyio.sleep(0.001)
    enough.set()
    thread.join()
    handler_dropped = handler.dropped + audit.stats().dropped
    taken = [event["n"] for event in recorded(config_for)]
    assert len(taken) + handler_dropped == logged
    assert taken == sorted(taken)


def test_the_event_can_be_read_back() -> None:
    """`log.recorded` is a built-in event like any other: a reader knows it by its class, with its data."""
    event = LogRecorded(logger="a", level="INFO", message="b", exception="KeyError", data={"n": [1, None]})
    assert (event.event_type, event.critical) == ("log.recorded", False)
    assert decode_event(encode(event)) == event
