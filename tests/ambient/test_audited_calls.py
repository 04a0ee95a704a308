"""`@audited`: what is recorded of a call, and that a record states nothing that was not observed."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit_async import (
    ActorInfo,
    AuditConfig,
    AuditEvent,
    AuditLogger,
    ConfigError,
    InvalidEvent,
    Local,
    acting_as,
    audited,
    use_audit,
)
from audit_async.ambient import AuditedCall
from audit_async.sync import SyncAuditLogger
from audit_async.testing import AuditTrail

DANA = ActorInfo(user_id="dana")


class OwnEvent(AuditEvent, tag="test_audited.own"):
    """An event class that somebody has defined."""


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[AuditTrail]:
    """Give a log that is the one of the moment."""
    with AuditTrail(tmp_path) as opened, use_audit(opened.audit):
        yield opened


def recorded(trail: AuditTrail) -> list[tuple[str, dict[str, object]]]:
    """Return the type and the members of each event in the trail, but for the function's name."""
    found = []
    for record in trail.records():
        assert isinstance(record.event, AuditedCall)
        members = {name: getattr(record.event, name) for name in ("actor", "arguments", "error")}
        found.append((record.event.event_type, {name: value for name, value in members.items() if value is not None}))
    return found


@audited("test_audited.approved", failure="test_audited.approval_failed", arguments=("order_id", "amount"))
def approve(order_id: str, amount: int = 1, *, note: str = "") -> str:
    """Approve an order."""
    if amount > 100:
        raise PermissionError(f"too much: {note}")
    return f"{order_id} {note}"


def test_success_and_failure_are_events_of_their_own(trail: AuditTrail, tmp_path: Path) -> None:
    """The actor is that of the moment; no message, no result and no argument that was not chosen is recorded."""
    with acting_as(DANA):
        assert approve("17", note="hush") == "17 hush"
        with pytest.raises(PermissionError, match="too much: hush"):
            approve(amount=101, order_id="18", note="hush")
    assert recorded(trail) == [
        ("test_audited.approved", {"actor": DANA, "arguments": {"order_id": "17", "amount": 1}}),
        (
            "test_audited.approval_failed",
            {"actor": DANA, "arguments": {"order_id": "18", "amount": 101}, "error": "PermissionError"},
        ),
    ]
    assert {record.event.function for record in trail.records()} == {f"{__name__}.approve"}  # type: ignore[attr-defined]
    assert not any(b"hush" in file.read_bytes() for file in tmp_path.rglob("*.audit"))


def test_an_unknown_actor_is_left_out(trail: AuditTrail) -> None:
    """Nobody is guessed; a failure without a name of its own is the type with `.failed`."""

    @audited("test_audited.swept")
    def sweep() -> None:
        raise KeyError("a secret")

    with pytest.raises(KeyError):
        sweep()
    assert recorded(trail) == [("test_audited.swept.failed", {"error": "KeyError"})]


def test_a_coroutine_is_recorded_at_its_end(trail: AuditTrail) -> None:
    """Not when it is made: what was never awaited has done nothing. A cancellation is a failure."""

    @audited("test_audited.sent")
    async def send(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return 7

    async def sending() -> None:
        never_awaited = send(0)
        never_awaited.close()
        assert trail.records() == []
        assert await send(0) == 7
        task = asyncio.create_task(send(60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(sending())
    assert recorded(trail) == [
        ("test_audited.sent", {}),
        ("test_audited.sent.failed", {"error": "asyncio.exceptions.CancelledError"}),
    ]


def test_a_function_that_returns_a_coroutine_is_recorded_at_its_end(trail: AuditTrail) -> None:
    """A decorator in between that makes a plain function of an asynchronous one changes nothing."""

    async def fail() -> None:
        raise OSError("no route")

    @audited("test_audited.wrapped")
    def wrapped() -> Coroutine[Any, Any, None]:
        return fail()

    async def call() -> None:
        coroutine = wrapped()
        assert trail.records() == []
        with pytest.raises(OSError, match="no route"):
            await coroutine

    asyncio.run(call())
    assert recorded(trail) == [("test_audited.wrapped.failed", {"error": "OSError"})]


def test_methods_and_foreign_values(trail: AuditTrail) -> None:
    """Of an argument that is no plain data the type is recorded; secrets are redacted by name.

    An argument is recorded as it was when the call began.
    """

    class Shop:
        @audited("test_audited.bought", arguments=("self", "basket", "options"))
        def buy(self, basket: list[str], **options: str) -> None:
            basket.clear()

        @staticmethod
        @audited("test_audited.closed")
        def close() -> None: ...

    Shop().buy(["apple"], password="correct horse")
    Shop.close()
    (_, bought), (_, closed) = recorded(trail)
    arguments = bought["arguments"]
    assert isinstance(arguments, dict)
    assert arguments["basket"] == ["apple"]
    assert arguments["self"].endswith("Shop>")
    assert arguments["options"] == {"password": "[redacted:password]"}
    assert closed == {}


def test_a_call_with_wrong_arguments_fails_as_without_the_decorator(trail: AuditTrail) -> None:
    """The function's own TypeError is raised, and the call recorded as failed."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'order_id'"):
        approve()  # type: ignore[call-arg]
    assert recorded(trail) == [("test_audited.approval_failed", {"error": "TypeError"})]


def test_nothing_runs_without_a_log() -> None:
    """If there is no log at all the function is not called: it would go unrecorded."""
    ran = []

    @audited("test_audited.unlogged")
    def run() -> None:
        ran.append(True)

    with pytest.raises(ConfigError, match="no audit log is set here"):
        run()
    assert ran == []


def test_a_log_that_fails_afterwards_is_not_the_functions_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was done is returned; the loss is counted and reported."""
    audit = SyncAuditLogger(AuditConfig(mode=Local(tmp_path), service_id="shop", handle_signals=False))
    with caplog.at_level(logging.ERROR, "audit_async"), use_audit(audit):
        assert approve("17", note="hush") == "17 hush"
    assert audit.stats().dropped_by_type == {"test_audited.approved": 1}
    assert "a call of tests.ambient.test_audited_calls.approve could not be recorded: LogClosed" in caplog.text
    assert "hush" not in caplog.text


def test_an_actor_that_cannot_be_found_out_is_counted(trail: AuditTrail, caplog: pytest.LogCaptureFixture) -> None:
    """The call is recorded without its actor, and that is counted as a loss."""

    def look_up() -> ActorInfo:
        raise RuntimeError("the password of the database")

    with acting_as(look_up):
        assert approve("17")
    assert recorded(trail)[0][0] == "test_audited.approved"
    assert trail.audit.stats().dropped_by_type == {"test_audited.approved": 1}
    assert "RuntimeError" in caplog.text
    assert "database" not in caplog.text


def test_the_decorated_function_stays_what_it_was() -> None:
    """Its name, documentation and signature are seen by frameworks, and whether it is asynchronous."""
    assert (approve.__name__, approve.__doc__) == ("approve", "Approve an order.")

    @audited("test_audited.sent")
    async def send() -> None: ...

    assert asyncio.iscoroutinefunction(send)


async def stream() -> AsyncIterator[int]:
    """Yield something."""
    yield 1


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda: (yield), "is a generator, whose call returns before anything was done"),
        (stream, "is a generator"),
        (staticmethod(len), "put @audited below @staticmethod"),
        (property(len), "put @audited below @property"),
        (AuditLogger, "takes a function, not a type"),
        (functools.partial(len), "takes a function, not a partial"),
    ],
)
def test_what_cannot_be_recorded_is_refused(function: Callable[[], object], why: str) -> None:
    """At the decoration, not at the first call."""
    with pytest.raises(ConfigError, match=why):
        audited("test_audited.refused")(function)


def test_mistakes_in_the_decoration() -> None:
    """An unknown parameter, the type of an event class, a malformed type, two grades for one type."""
    with pytest.raises(ConfigError, match=r"approve has no parameter 'order'; it has order_id, amount, note"):
        audited("test_audited.refused", arguments=("order",))(approve)
    with pytest.raises(ConfigError, match=r'must be several names; write arguments=\("order_id",\)'):
        audited("test_audited.refused", arguments="order_id")
    with pytest.raises(InvalidEvent, match=r"is the type of .*OwnEvent; choose another type"):
        audited("test_audited.own")
    with pytest.raises(InvalidEvent, match="its tag is not a category and what happened"):
        audited("approved")
    with pytest.raises(InvalidEvent, match=r"tags that begin with audit\. belong to the log itself"):
        audited("audit.approved")
    with pytest.raises(ConfigError, match="must not be the type of success"):
        audited("test_audited.refused", failure="test_audited.refused")
    with pytest.raises(ConfigError, match="is critical in one place and not in another"):
        audited("test_audited.approved", failure="test_audited.approval_failed", critical=True)
