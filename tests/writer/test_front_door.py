"""The front door as its users meet it: what can be overridden, what it shows, what it answers to mistakes."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import warnings
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import anyio.lowlevel
import pytest

import audit_async
from audit_async import AuditConfig, AuditEvent, AuditLogger, ConfigError, Disabled, Local, LogClosed, Position, Receipt
from audit_async.sync import SyncAuditLogger
from tests.logs import ConfigFor, Counted, failure, log_directory
from tests.trails import read_events

pytestmark = pytest.mark.anyio


# A public method can be overridden and patched.


class Stamping(AuditLogger):
    """A logger that numbers what is emitted."""

    seen = 0

    def emit(self, event: AuditEvent) -> Receipt:
        """Count, and emit."""
        self.seen += 1
        return super().emit(event)


async def test_the_emit_of_a_subclass_is_called(config_for: ConfigFor) -> None:
    """And reaches the log by `super()`; what else records does not go through it."""
    async with Stamping(config_for()) as audit:
        audit.emit(failure(1))
        assert audit.seen == 1
        await audit.emit_durable(failure(2))
        audit.record_access("ada", {"actor": "mallory"})
        assert audit.seen == 1
    events = [record["event"] for record in read_events(log_directory(config_for()))]
    assert [event["path"] for event in events if "path" in event] == ["/login/1", "/login/2"]


@pytest.mark.parametrize("disabled", [False, True])
async def test_a_patched_class_is_honoured_by_loggers_that_exist(config_for: ConfigFor, *, disabled: bool) -> None:
    """`mock.patch.object(AuditLogger, "emit")` is what tests do; afterwards all is as before."""
    config = AuditConfig(mode=Disabled()) if disabled else config_for()
    async with AuditLogger(config) as audit:
        with mock.patch.object(AuditLogger, "emit") as emit:
            audit.emit(failure())
        emit.assert_called_once()
        with mock.patch.object(AuditLogger, "emit", autospec=True) as emit:
            audit.emit(failure(1))
        emit.assert_called_once_with(audit, failure(1))
        assert audit.stats().waiting == 0
        assert isinstance(audit.emit(failure()), Receipt)


async def test_a_patched_logger_is_honoured(config_for: ConfigFor) -> None:
    """`mock.patch.object(audit, "emit")` as well, and a side effect may refuse."""
    async with AuditLogger(config_for()) as audit:
        with mock.patch.object(audit, "emit", side_effect=audit_async.BufferFull("full")) as emit:
            with pytest.raises(audit_async.BufferFull):
                audit.emit(failure())
            emit.assert_called_once_with(failure())
        await audit.emit(failure()).durable()
        assert audit.stats().durable == 2


# What it shows.


async def test_a_logger_and_a_receipt_show_their_state(config_for: ConfigFor) -> None:
    """In a debugger or a log one sees which log it is, how it is, and how far it is."""
    audit = AuditLogger(config_for())
    assert repr(audit) == "<AuditLogger orders/* not_started>"
    async with audit:
        assert repr(audit) == "<AuditLogger orders/00 ok head=0 durable=0 waiting=0>"
        receipt = audit.emit(failure())
        assert repr(audit) == "<AuditLogger orders/00 ok head=0 durable=0 waiting=1>"
        assert repr(receipt) == f"<Receipt {receipt.audit_id} waiting>"
        await receipt.durable()
        assert repr(receipt) == f"<Receipt {receipt.audit_id} seq=1 durable>"
    assert repr(audit) == "<AuditLogger orders/00 closed head=2 durable=2 waiting=0>"
    assert repr(AuditLogger(AuditConfig(mode=Disabled()))) == "<AuditLogger disabled>"


async def test_users_see_no_plumbing(config_for: ConfigFor) -> None:
    """What signals and forks call is not on the public object."""
    shown = {name for name in dir(AuditLogger(config_for())) if not name.startswith("_")}
    assert not shown & {"forked", "flush_for_signal", "close_for_signal"}


@pytest.mark.parametrize("name", ["AuditReader", "AuditQuery", "AuditLogger", "AuditConfig", "Receipt", "run"])
def test_what_is_needed_first_is_importable_from_the_package(name: str) -> None:
    """Lazily: importing the package alone imports neither half of it."""
    program = f"""if True:
        import sys, audit_async
        assert not any(name.startswith("audit_async.reader") or name == "asyncio" for name in sys.modules)
        from audit_async import {name}
        assert {name} is audit_async.{name} and {name!r} in audit_async.__all__ and {name!r} in dir(audit_async)
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=180)


# Mistakes get an answer with the fix in it.


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("./audit", r"AuditLogger\(AuditConfig\(mode=Local\('\./audit'\), service_id="),
        (Path("/var/audit"), r"Local\('/var/audit'\)"),
        (Local("./audit"), r"AuditConfig\(mode=Local\('audit'\), service_id=|AuditConfig\(mode=Local\('\./audit'\)"),
        (Disabled(), r"AuditLogger\(AuditConfig\(mode=Disabled\(\)\)\)"),
        (None, r"is a NoneType; pass an AuditConfig"),
        (AuditConfig, r"is the class AuditConfig; pass an AuditConfig"),
    ],
)
def test_a_logger_of_something_else_than_a_configuration(given: AuditConfig, fix: str) -> None:
    """Says what to write, before anything touches the disk."""
    with pytest.raises(ConfigError, match=fix):
        AuditLogger(given)


async def test_with_instead_of_async_with(config_for: ConfigFor) -> None:
    """Is a `TypeError` that names `async with`, and nothing was opened."""
    audit = AuditLogger(config_for())
    with pytest.raises(TypeError, match="async with AuditLogger"), audit:
        pass
    assert audit.directory is None


async def test_a_receipt_may_be_awaited(config_for: ConfigFor) -> None:
    """`await audit.emit(event)` waits as `durable()` does, and gives the same position."""
    async with AuditLogger(config_for()) as audit:
        receipt = audit.emit(Counted(producer="p", n=1))
        position = await receipt
        assert position == await receipt.durable() == Position(1, receipt.hash)
        assert (await audit.emit(Counted(producer="p", n=2))).seq == 2
    async with AuditLogger(AuditConfig(mode=Disabled())) as disabled:
        assert (await disabled.emit(failure())).seq == -1


async def main_of(n: int = 7) -> int:
    """Return what was given, after a turn of the loop."""
    await anyio.lowlevel.checkpoint()
    return n


def test_run_takes_a_function_or_a_coroutine() -> None:
    """As `anyio.run` and as `asyncio.run` do; anything else is a `TypeError` that says so."""
    assert audit_async.run(main_of, 8) == 8
    assert audit_async.run(main_of()) == 7
    with pytest.raises(TypeError, match=r"run\(main, \*args\)"):
        audit_async.run(main_of(), 8)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="an async function or a coroutine, not int"):
        audit_async.run(7)  # type: ignore[call-overload]


@pytest.mark.parametrize("make", [AuditLogger, SyncAuditLogger])
def test_a_logger_in_an_argument_of_another_process_is_refused(
    config_for: ConfigFor, make: type[AuditLogger | SyncAuditLogger]
) -> None:
    """Starting a process with `spawn` says what to give instead of a logger, and so does a copy; a configuration is."""
    audit = make(config_for())
    process = get_context("spawn").Process(target=print, args=(audit,))
    with pytest.raises(TypeError, match=rf"a {make.__name__} can't be pickled.*give the other process config"):
        process.start()
    with pytest.raises(TypeError, match="can't be pickled or copied"):
        copy.copy(audit)
    assert pickle.loads(pickle.dumps(audit.config)) == audit.config  # noqa: S301 - our own


def test_another_librarys_loop_is_refused_with_what_to_do(config_for: ConfigFor) -> None:
    """Under trio, and without a loop, opening says that asyncio's is needed, and how to get it there."""
    audit = AuditLogger(config_for())
    start = audit.start()
    with pytest.raises(LogClosed, match=r"lives on asyncio's event loop"):
        start.send(None)
    trio = pytest.importorskip("trio")
    with pytest.raises(LogClosed, match=r"under trio, audit_async\.sync\.SyncAuditLogger"):
        trio.run(audit.start)


def test_a_loop_in_debug_mode(config_for: ConfigFor) -> None:
    """It refuses calls from other threads that are not made for that: the log makes none."""

    async def main() -> None:
        async with AuditLogger(config_for()) as audit:
            audit.emit(Counted(producer="p", n=1))
            await asyncio.to_thread(lambda: audit.emit(Counted(producer="p", n=2)).wait(60))
            await audit.emit_durable(Counted(producer="p", n=3))

    asyncio.run(main(), debug=True)
    events = [record["event"] for record in read_events(log_directory(config_for()))]
    assert [event["n"] for event in events if "n" in event] == [1, 2, 3]


# Nobody closed it.


def test_a_logger_that_nobody_closes_gives_a_warning(config_for: ConfigFor) -> None:
    """Once, with the log's directory and how many events were waiting; a closed one is silent."""

    async def main(*, close: bool) -> None:
        audit = AuditLogger(config_for())
        await audit.start()
        audit.emit(failure())
        if close:
            await audit.aclose()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main(close=True))
        gc.collect()
        assert [w for w in caught if w.category is ResourceWarning] == []
        asyncio.run(main(close=False))
        gc.collect()
        (warning,) = (w for w in caught if w.category is ResourceWarning)
    assert "orders/00 was never closed" in str(warning.message)
    assert "1 events were waiting" in str(warning.message)
    events = [record["event"]["event_type"] for record in read_events(log_directory(config_for()))]
    assert events.count("auth.failure") == 2, "and is drained all the same"
