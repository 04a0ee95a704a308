"""Tools that agents call: the decision is durable before the call, its result after it, inputs are hashes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pydantic
import pytest

from audit_async import ActorInfo, AuditError, AuditLogger, ConfigError, LogClosed
from audit_async.events.base import ActorKind, Success
from audit_async.integrations.agent_tools import Approval, AuditedTools, ToolCall, ToolDenied, hash_of
from audit_async.sync import SyncAuditLogger
from tests.logs import ConfigFor, log_directory
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio

AGENT = ActorInfo(user_id="support-bot", kind=ActorKind.AGENT, on_behalf_of="dana")


def recorded(config_for: ConfigFor) -> list[dict[str, Any]]:
    """Return the events of agents in the log, after an independent check of the whole."""
    check_trail(log_directory(config_for()))
    events = [record["event"] for record in read_events(log_directory(config_for()))]
    return [event for event in events if event["event_type"].startswith("agent.")]


def said(events: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """Return what each event is, and what it says of the policy or the result."""
    return [
        (event["event_type"], event.get("policy_decision") or (event.get("result") or {}).get("status"))
        for event in events
    ]


async def test_a_call_is_decided_before_it_runs_and_its_result_is_recorded(config_for: ConfigFor) -> None:
    """All events of a call have its id, the agent and the person; the input is its arguments by name."""
    durable_before: list[int] = []
    async with AuditLogger(config_for()) as audit:
        tools = AuditedTools(audit, AGENT, decide=lambda _: "allowed")

        @tools.tool
        async def refund(order_id: str, cents: int = 5) -> dict[str, int]:
            """Give money back."""
            durable_before.append(audit.stats().durable)
            return {"cents": cents}

        before = audit.stats().durable
        assert await refund("o-7") == {"cents": 5}
        assert durable_before == [before + 1]
        assert (refund.__name__, refund.__doc__) == ("refund", "Give money back.")
    decided, called = recorded(config_for)
    assert decided["actor"] == {"user_id": "support-bot", "kind": "agent", "on_behalf_of": "dana"}
    assert decided["on_behalf_of"] == called["on_behalf_of"] == "dana"
    assert decided["call_id"] == called["call_id"]
    given = json.dumps({"cents": 5, "order_id": "o-7"}, separators=(",", ":")).encode()
    assert decided["input_hash"] == called["input_hash"] == f"sha256:{hashlib.sha256(given).hexdigest()}"
    assert called["output_hash"] == hash_of({"cents": 5})
    assert said([decided, called]) == [("agent.decision", "allowed"), ("agent.tool_called", "success")]
    assert "o-7" not in str([decided, called])


async def test_without_a_policy_nothing_is_said_to_be_decided(config_for: ConfigFor) -> None:
    """The record states that the call was about to be made, and no decision."""
    async with AuditLogger(config_for()) as audit:
        await AuditedTools(audit, lambda: AGENT).call("search", {"q": "x"}, _nothing)
    assert said(recorded(config_for)) == [("agent.decision", None), ("agent.tool_called", "success")]


async def test_what_a_policy_denies_does_not_run(config_for: ConfigFor) -> None:
    """The decision is recorded, the tool is not called, and the caller has an error that names the call."""
    seen: list[ToolCall] = []

    async def decide(call: ToolCall) -> str:
        seen.append(call)
        return "denied"

    async with AuditLogger(config_for()) as audit:
        tools = AuditedTools(audit, AGENT, decide=decide)  # type: ignore[arg-type]  # a str, as JSON policies return
        with pytest.raises(ToolDenied, match="denied") as caught:
            await tools.call("drop_table", {"name": "users"}, _must_not_run)
    [decided] = recorded(config_for)
    assert said([decided]) == [("agent.decision", "denied")]
    assert caught.value.call_id == decided["call_id"] == seen[0].call_id
    assert seen[0].arguments == {"name": "users"}
    assert isinstance(caught.value, AuditError)


@pytest.mark.parametrize("approved", [True, False])
async def test_a_person_is_asked(config_for: ConfigFor, approved: bool) -> None:
    """The answer is recorded with who gave it, before the tool runs."""

    async def approve(call: ToolCall) -> Approval:
        assert call.tool == "refund"
        return Approval(approved=approved, approver="erin")

    async with AuditLogger(config_for()) as audit:
        tools = AuditedTools(audit, AGENT, decide=lambda _: "approval_required", approve=approve)
        if approved:
            await tools.call("refund", {}, _nothing)
        else:
            with pytest.raises(ToolDenied, match="rejected"):
                await tools.call("refund", {}, _must_not_run)
    events = recorded(config_for)
    assert events[1]["approver"] == "erin"
    assert said(events) == [
        ("agent.decision", "approval_required"),
        ("agent.approval", "approved" if approved else "rejected"),
        *([("agent.tool_called", "success")] if approved else []),
    ]


async def test_a_failure_is_recorded_by_its_class(config_for: ConfigFor) -> None:
    """An exception's text may hold anything; a cancelled call has failed as well."""

    async def fails() -> None:
        raise KeyError("hunter2")

    async with AuditLogger(config_for()) as audit:
        tools = AuditedTools(audit, AGENT)
        with pytest.raises(KeyError):
            await tools.call("fails", {}, fails)
        with anyio.move_on_after(0.2):
            await tools.call("slow", {}, anyio.sleep_forever)
    events = [event for event in recorded(config_for) if event["event_type"] == "agent.tool_called"]
    assert [event["result"]["reason"] for event in events] == ["KeyError", "asyncio.exceptions.CancelledError"]
    assert not any("output_hash" in event for event in events)
    assert "hunter2" not in str(events)


async def test_a_tool_whose_decision_can_t_be_recorded_does_not_run(config_for: ConfigFor) -> None:
    """No log yet, or not any more: the call raises, and nothing has happened."""
    with pytest.raises(ConfigError, match="no audit log yet"):
        await AuditedTools(lambda: None, AGENT).call("refund", {}, _must_not_run)
    async with AuditLogger(config_for()) as audit:
        pass
    with pytest.raises(LogClosed):
        await AuditedTools(audit, AGENT).call("refund", {}, _must_not_run)


async def test_a_result_that_can_t_be_recorded_does_not_undo_the_call(
    config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    """The tool has run: its output is returned, and the loss is counted and logged."""
    async with AuditLogger(config_for()) as audit:
        tools = AuditedTools(audit, AGENT)

        async def closes() -> str:
            await audit.aclose()
            return "done"

        assert await tools.call("closes", {}, closes) == "done"
    assert audit.stats().dropped_by_type == {"agent.tool_called": 1}
    assert "a tool has run, and its result can't be recorded" in caplog.text


async def test_an_output_that_can_t_be_judged_does_not_undo_the_call(config_for: ConfigFor) -> None:
    """What the application says of its outputs may fail: the output is returned, and the loss is counted."""

    def judge(_: object) -> Success:
        raise LookupError("hunter2")

    async with AuditLogger(config_for()) as audit:
        tools = AuditedTools(audit, AGENT)
        await tools.call("search", {}, _nothing, result_of=judge)
        assert audit.stats().dropped_by_type == {"agent.tool_called": 1}
    assert said(recorded(config_for)) == [("agent.decision", None)]


async def test_synchronous_tools_wait_in_their_thread(config_for: ConfigFor) -> None:
    """With a log of either kind; in a thread that runs the event loop they are refused and have not run."""
    ran: list[str] = []
    async with AuditLogger(config_for()) as audit:
        tools = AuditedTools(audit, AGENT, decide=lambda _: "allowed")

        @tools.tool(name="look_up", leave_out=("context",))
        def look_up(key: str, context: object) -> str:
            ran.append(threading.current_thread().name)
            return key

        assert await anyio.to_thread.run_sync(look_up, "a", object()) == "a"
        with pytest.raises(RuntimeError, match="event loop"):
            look_up("b", object())
    assert len(ran) == 1
    decided, called, _refused = recorded(config_for)
    assert (decided["tool"], decided["input_hash"]) == ("look_up", hash_of({"key": "a"}))
    assert said([called]) == [("agent.tool_called", "success")]


def test_synchronous_tools_with_a_synchronous_log(config_for: ConfigFor) -> None:
    """Decision, answer and result as for asynchronous ones; a policy that is a coroutine function is refused."""

    class Desk:
        def __init__(self, tools: AuditedTools) -> None:
            self.close = tools.tool(self.close_ticket)

        def close_ticket(self, number: int) -> int:
            """Close it."""
            if number < 0:
                raise ValueError("hunter2")
            return number

    async def decide(_: ToolCall) -> str:
        return "allowed"

    with SyncAuditLogger(config_for()) as audit:
        desk = Desk(
            AuditedTools(
                audit,
                AGENT,
                decide=lambda call: "approval_required" if call.arguments["number"] == 1 else "allowed",
                approve=lambda _: Approval(approved=False, approver="erin"),
            )
        )
        assert desk.close(7) == 7
        with pytest.raises(ToolDenied, match="rejected"):
            desk.close(1)
        with pytest.raises(ValueError, match="hunter2"):
            desk.close(-1)
        other = AuditedTools(audit, AGENT, decide=decide)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(ConfigError, match=r"^decide: is a coroutine function"):
            other.tool(len)([])
    assert said(recorded(config_for)) == [
        ("agent.decision", "allowed"),
        ("agent.tool_called", "success"),
        ("agent.decision", "approval_required"),
        ("agent.approval", "rejected"),
        ("agent.decision", "allowed"),
        ("agent.tool_called", "failure"),
    ]


def test_hashes() -> None:
    """Of text and bytes their own; of the rest JSON with sorted keys, whatever an object is made of."""

    class Model(pydantic.BaseModel):
        b: int = 1
        a: bytes = b"x"

    class Opaque:
        def __repr__(self) -> str:
            raise AssertionError("nobody asks for it")

    cycle: list[object] = []
    cycle.append(cycle)
    assert hash_of("é") == hash_of("é".encode()) == f"sha256:{hashlib.sha256('é'.encode()).hexdigest()}"
    assert hash_of({"b": 1, "a": "x"}) == hash_of('{"a":"x","b":1}') == hash_of({"a": "x", "b": 1})
    assert hash_of(Model()) == hash_of({"a": "eA==", "b": 1})
    assert hash_of([Opaque()]) == hash_of([f"<{__name__}.test_hashes.<locals>.Opaque>"])
    assert hash_of(cycle) == hash_of('"<builtins.list>"')
    assert hash_of("\ud800") != hash_of("\ud801")
    assert hash_of({"n": 10**5000}) == hash_of('"<builtins.dict>"')


def test_wrong_arguments_are_refused(config_for: ConfigFor) -> None:
    """When the object or the tool is made."""
    tools = AuditedTools(lambda: None, AGENT)

    def numbers() -> Iterator[int]:
        yield 1

    async def numbers_async() -> AsyncIterator[int]:
        yield 1

    for generator in (numbers, numbers_async):
        with pytest.raises(ConfigError, match="generator"):
            tools.tool(generator)
    with pytest.raises(ConfigError, match="no parameter 'ctx'"):
        tools.tool(leave_out=("ctx",))(len)
    with pytest.raises(ConfigError, match=r"^agent: "):
        AuditedTools(lambda: None, "support-bot")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match=r"^decide: "):
        AuditedTools(lambda: None, AGENT, decide="allowed")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match=r"^audit: "):
        AuditedTools("audit", AGENT)  # type: ignore[arg-type]  # on purpose


async def test_what_a_policy_or_a_person_says_is_checked(config_for: ConfigFor) -> None:
    """A word that means nothing is no permission."""
    async with AuditLogger(config_for()) as audit:
        for tools in (
            AuditedTools(audit, AGENT, decide=lambda _: "yes"),  # type: ignore[arg-type, return-value]  # on purpose
            AuditedTools(audit, AGENT, decide=lambda _: True),  # type: ignore[arg-type, return-value]  # on purpose
            AuditedTools(audit, AGENT, decide=lambda _: "approval_required"),
            AuditedTools(audit, AGENT, decide=lambda _: "approval_required", approve=lambda _: True),  # type: ignore[arg-type, return-value]  # on purpose
        ):
            with pytest.raises(ConfigError, match=r"decide|approve"):
                await tools.call("refund", {}, _must_not_run)


async def _nothing() -> None:
    pass


async def _must_not_run() -> None:
    raise AssertionError("it ran")
