"""`AuditedCalls`: the tool calls of a real MCP server, made by the SDK's own client."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.context import ServerRequestContext

from audit_async import ActorInfo, AuditLogger, ConfigError
from audit_async.events.base import ActorKind
from audit_async.integrations.agent_tools import ToolCall, hash_of
from audit_async.integrations.mcp import AuditedCalls
from tests.integrations.test_agent_tools import recorded, said
from tests.logs import ConfigFor

pytestmark = pytest.mark.anyio

AGENT = ActorInfo(user_id="client-7", kind=ActorKind.AGENT)


def shop(extension: AuditedCalls) -> MCPServer:
    """Return a server with a few tools."""
    server = MCPServer("shop", extensions=[extension])

    @server.tool()
    async def refund(order_id: str, cents: int) -> str:
        """Give money back."""
        return f"{order_id}: {cents}"

    @server.tool()
    def broken() -> str:
        """Fail."""
        raise KeyError("hunter2")

    return server


async def test_each_call_is_decided_before_it_runs_and_its_result_is_recorded(config_for: ConfigFor) -> None:
    """The actor is whoever the function of the request says; the output's hash is that of what the client gets."""
    asked: list[str] = []

    def agent_of(ctx: ServerRequestContext[Any, Any]) -> ActorInfo:
        asked.append(ctx.method)
        return AGENT

    async with AuditLogger(config_for()) as audit, Client(shop(AuditedCalls(audit, agent_of))) as client:
        result = await client.call_tool("refund", {"order_id": "o-7", "cents": 5})
        assert result.content[0].text == "o-7: 5"  # type: ignore[union-attr]  # it is text
        failed = await client.call_tool("broken", {})
        assert failed.is_error
    assert asked == ["tools/call", "tools/call"]
    events = recorded(config_for)
    assert said(events) == [
        ("agent.decision", None),
        ("agent.tool_called", "success"),
        ("agent.decision", None),
        ("agent.tool_called", "failure"),
    ]
    assert events[0]["actor"] == {"user_id": "client-7", "kind": "agent"}
    assert events[0]["input_hash"] == hash_of({"order_id": "o-7", "cents": 5})
    assert events[3]["result"]["reason"] == "tool_error"
    assert not any(text in str(events) for text in ("o-7", "hunter2"))


async def test_a_call_that_is_not_allowed_does_not_run(config_for: ConfigFor) -> None:
    """The client gets an error that says so, and names the call."""

    def decide(call: ToolCall) -> Any:
        return "denied" if call.arguments["cents"] > 100 else "allowed"  # type: ignore[operator]  # a number

    async with AuditLogger(config_for()) as audit, Client(shop(AuditedCalls(audit, AGENT, decide=decide))) as client:
        assert not (await client.call_tool("refund", {"order_id": "o", "cents": 100})).is_error
        denied = await client.call_tool("refund", {"order_id": "o", "cents": 101})
    events = recorded(config_for)
    assert said(events)[2:] == [("agent.decision", "denied")]
    assert denied.is_error
    assert events[2]["call_id"] in denied.content[0].text  # type: ignore[union-attr]  # it is text


async def test_a_call_that_can_t_be_recorded_does_not_run(config_for: ConfigFor) -> None:
    """The client gets an error, and the tool has done nothing."""
    ran: list[int] = []
    server = MCPServer("shop", extensions=[AuditedCalls(lambda: None, AGENT)])

    @server.tool()
    def count() -> int:
        """Count."""
        ran.append(1)
        return len(ran)

    async with Client(server, raise_exceptions=False) as client:
        with pytest.raises(Exception, match=r".") as caught:
            await client.call_tool("count", {})
    assert not ran
    assert type(caught.value).__module__.startswith("mcp")


def test_wrong_arguments_are_refused() -> None:
    """When the extension is made."""
    with pytest.raises(ConfigError, match=r"^agent: "):
        AuditedCalls(lambda: None, "client-7")  # type: ignore[arg-type]  # on purpose
