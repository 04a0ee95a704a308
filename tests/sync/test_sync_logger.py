"""`SyncAuditLogger` from one process: what it returns, refuses and reports."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from audit_async import AuditConfig, sync
from audit_async.config import Batched, Disabled
from audit_async.errors import ConfigError, LogClosed, LogLocked
from audit_async.events import AuthFailure
from audit_async.status import HealthStatus
from audit_async.sync import SyncAuditLogger
from tests.logs import ConfigFor, log_directory
from tests.trails import check_trail, read_events

EVENT = AuthFailure(reason="bad_password", ip="192.0.2.1", path="/login")


def test_events_are_recorded_and_receipts_waited_for(config_for: ConfigFor) -> None:
    """From several threads; positions are those of the chain."""
    config = config_for()
    with SyncAuditLogger(config) as audit:
        receipt = audit.emit(EVENT)
        position = receipt.wait(60)
        assert (position.seq, receipt.is_durable) == (receipt.seq, True)
        assert receipt.wait() == position
        assert audit.emit_durable(EVENT, 60).seq == position.seq + 1
        threads = [threading.Thread(target=lambda: audit.emit(EVENT).wait(60)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        audit.flush(60)
        assert audit.health().status is HealthStatus.OK
        assert audit.stats().durable >= 10
        assert "open" in repr(audit)
    check_trail(log_directory(config))
    kinds = [record["event"]["event_type"] for record in read_events(log_directory(config))]
    assert kinds.count("auth.failure") == 10
    assert kinds[-1] == "audit.log_closed"


def test_a_wait_has_an_end(config_for: ConfigFor) -> None:
    """A record that waits for its batch is not durable yet; it stays recorded."""
    config = config_for(flush_mode=Batched(size=1000, interval=3600.0))
    with SyncAuditLogger(config) as audit:
        receipt = audit.emit(EVENT)
        with pytest.raises(TimeoutError, match="stays recorded"):
            receipt.wait(0.05)
        audit.flush(60)
        assert receipt.wait(0).seq == receipt.seq


def test_it_is_opened_once_and_takes_nothing_afterwards(config_for: ConfigFor) -> None:
    """Before the start, after the end, at a second start; a second log in the same slot is refused."""
    config = config_for()
    audit = SyncAuditLogger(config)
    with pytest.raises(LogClosed, match=r"with SyncAuditLogger\(config\)"):
        audit.emit(EVENT)
    with pytest.raises(LogClosed):
        audit.flush()
    audit.start()
    with pytest.raises(LogClosed, match="was started before"):
        audit.start()
    if config.instance is not None:
        with pytest.raises(LogLocked):
            SyncAuditLogger(config).start()
    audit.close()
    audit.close()
    for call in (lambda: audit.emit(EVENT), lambda: audit.emit_durable(EVENT), audit.flush):
        with pytest.raises(LogClosed):
            call()
    with pytest.raises(LogClosed, match="was closed before"):
        audit.start()


async def _start(audit: SyncAuditLogger) -> None:
    audit.start()


def test_what_would_block_an_event_loop_is_refused(config_for: ConfigFor) -> None:
    """Opening, waiting, flushing: the message says what to use there."""
    with pytest.raises(RuntimeError, match="AuditLogger"):
        asyncio.run(_start(SyncAuditLogger(config_for())))

    async def wait(audit: SyncAuditLogger) -> None:
        receipt = audit.emit(EVENT)  # which never blocks
        with pytest.raises(RuntimeError, match="event loop"):
            receipt.wait()
        with pytest.raises(RuntimeError, match="event loop"):
            audit.flush()
        with pytest.raises(RuntimeError, match="event loop"):
            audit.emit_durable(EVENT)
        await receipt

    with SyncAuditLogger(config_for(instance="07")) as audit:
        asyncio.run(wait(audit))


def test_a_server_whose_loop_loads_synchronous_code_can_open_a_log_there(config_for: ConfigFor) -> None:
    """What is said to block the loop while the log opens does so, records from the loop, and is closed after it."""
    config = config_for()
    audit = SyncAuditLogger(config)

    async def serve() -> None:
        audit.start(blocks_event_loop=True)
        audit.emit(EVENT)

    asyncio.run(serve())
    audit.close()
    events = [record["event"]["event_type"] for record in read_events(log_directory(config))]
    assert events == ["audit.log_opened", "auth.failure", "audit.log_closed"]


def test_a_close_that_an_event_loop_refuses_changes_nothing(config_for: ConfigFor) -> None:
    """The log stays open and takes events, and the next `close` closes it."""
    audit = SyncAuditLogger(config_for())
    audit.start()

    async def close() -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            audit.close()

    asyncio.run(close())
    audit.emit_durable(EVENT, 60)
    audit.close()
    with pytest.raises(LogClosed):
        audit.emit(EVENT)
    check_trail(log_directory(audit.config))


def test_a_child_does_not_wait_for_a_thread_of_its_parent(config_for: ConfigFor) -> None:
    """A thread closes the log, and has its lock, while the process forks: the child's `close` returns."""
    audit = SyncAuditLogger(config_for())
    audit.start()
    for _ in range(5_000):
        audit.emit(EVENT)
    closing = threading.Thread(target=audit.close)
    closing.start()
    deadline = time.monotonic() + 60
    while not repr(audit).startswith("<SyncAuditLogger closed"):
        assert time.monotonic() < deadline
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # ends a child that waits for ever
        audit.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    closing.join()


def test_a_disabled_log_records_nothing() -> None:
    """And answers at once."""
    with SyncAuditLogger(AuditConfig(mode=Disabled())) as audit:
        assert audit.emit(EVENT).wait(1).seq == -1
        assert audit.emit_durable(EVENT).seq == -1
        audit.flush()
        assert audit.health().status is HealthStatus.DISABLED


def test_a_loop_that_can_t_be_made_is_an_error(config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts the log gets it, and does not wait for a thread that has ended."""

    def broken(name: str) -> None:
        raise ImportError(f"no {name} here")

    monkeypatch.setattr(sync, "_the_home", None)
    monkeypatch.setattr("audit_async.sync.importlib.import_module", broken)
    with pytest.raises(ImportError, match="no uvloop here"):
        SyncAuditLogger(config_for()).start()


def test_wrong_arguments_are_refused(config_for: ConfigFor) -> None:
    """When it is made."""
    with pytest.raises(ConfigError, match="in_child"):
        SyncAuditLogger(config_for(), in_child="maybe")  # type: ignore[arg-type]  # it is the point
    with pytest.raises(ConfigError, match="pass an AuditConfig"):
        SyncAuditLogger("audit")  # type: ignore[arg-type]  # likewise


def test_a_child_that_has_closed_its_log_opens_none(config_for: ConfigFor) -> None:
    """The end of `with` is the end in a child, too, also if it has recorded nothing."""
    with SyncAuditLogger(config_for()) as audit:
        pid = os.fork()
        if pid == 0:
            audit.close()
            try:
                audit.emit(EVENT)
            except LogClosed:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        audit.emit_durable(EVENT, 60)


def test_a_child_may_be_refused_a_log(config_for: ConfigFor) -> None:
    """`in_child="refuse"`: a program that forks helpers which have nothing to record."""
    with SyncAuditLogger(config_for(), in_child="refuse") as audit:
        pid = os.fork()
        if pid == 0:
            try:
                audit.emit(EVENT)
            except LogClosed:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        audit.emit_durable(EVENT, 60)
