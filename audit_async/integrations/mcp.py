"""`AuditedCalls`: every tool call that an MCP server serves, recorded before it runs and after it.

    server = MCPServer("shop", extensions=[AuditedCalls(audit, agent_of)])

`agent_of` says who calls: an `ActorInfo`, or a function of the request, which knows the client's access token. It needs
mcp 2 (https://py.sdk.modelcontextprotocol.io); with an older one decorate each tool with `AuditedTools.tool`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from audit_async._first_use import installed_by

with installed_by("audit-async[mcp]", __name__):
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.server.extension import Extension
    from mcp_types import CallToolRequestParams, CallToolResult, InputRequiredResult, TextContent
    from pydantic import BaseModel

from audit_async.errors import ConfigError
from audit_async.events import ActorInfo
from audit_async.events.base import AuditResult, Failure, PartialSuccess, Success
from audit_async.integrations._logger_source import LoggerSource, shown
from audit_async.integrations.agent_tools import Approve, AuditedTools, Decide, ToolDenied

__all__ = ["AuditedCalls"]


class AuditedCalls(Extension):
    """An extension of an MCP server that records its tool calls, as `AuditedTools` does.

    A call whose decision can't be recorded fails, and its tool has not run. One that is not allowed is answered with
    an error that says so. Resources and prompts are not recorded.

    Args:
        audit: The logger, or a function that returns it.
        agent: Who calls: an `ActorInfo`, or a function of the request's context.
        decide: The policy, as `AuditedTools` takes it.
        approve: Asks a person, likewise.
        timeout_s: How long a call waits for the disk before it gives up, in seconds.

    Raises:
        ConfigError: An argument is wrong.
    """

    identifier = "io.github.audit-async/audit"

    def __init__(
        self,
        audit: LoggerSource,
        agent: ActorInfo | Callable[[ServerRequestContext[Any, Any]], ActorInfo],
        *,
        decide: Decide | None = None,
        approve: Approve | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        if not isinstance(agent, ActorInfo) and (isinstance(agent, type) or not callable(agent)):
            raise ConfigError("agent", f"must be an ActorInfo or a function of a request, not {shown(agent)}")
        self._agent: Final = agent
        self._tools: Final = AuditedTools(audit, _nobody, decide=decide, approve=approve, timeout_s=timeout_s)

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Record a call, and let it run if it is allowed; the server calls this."""
        actor = self._agent if isinstance(self._agent, ActorInfo) else self._agent(ctx)
        try:
            return await self._tools.call(
                params.name,
                params.arguments or {},
                lambda: call_next(ctx),
                actor=actor,
                result_of=_result_of,
                output_of=_sent,
            )
        except ToolDenied as denied:
            return CallToolResult(content=[TextContent(type="text", text=str(denied))], is_error=True)


def _result_of(output: HandlerResult) -> AuditResult:
    if isinstance(output, CallToolResult) and output.is_error:
        return Failure(reason="tool_error")
    if isinstance(output, InputRequiredResult):
        return PartialSuccess(details="input_required")
    return Success()


def _sent(output: HandlerResult) -> object:
    """Return a result as the client gets it."""
    return output.model_dump(mode="json", by_alias=True, exclude_none=True) if isinstance(output, BaseModel) else output


def _nobody() -> ActorInfo:
    raise AssertionError("each call names its actor")
