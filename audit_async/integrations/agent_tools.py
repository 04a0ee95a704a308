"""Tools that programs call which decide by themselves: what was decided before each call, and what came of it.

    tools = AuditedTools(audit, ActorInfo(user_id="support-bot", kind="agent"), decide=decide)

    @tools.tool
    async def refund(order_id: str, cents: int) -> str: ...

The decision is on stable storage before the tool runs; a tool whose decision can't be recorded does not run. Inputs and
outputs are recorded as hashes (`hash_of`), never as they are: whoever keeps them elsewhere can prove that these are
they.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Final, Literal, ParamSpec, TypeVar, cast, overload
from uuid import uuid4

import anyio
import msgspec

from audit_async._sanitize.foreign_values import exception_name, type_name
from audit_async.errors import AuditError, BufferFull, ConfigError
from audit_async.events import ActorInfo, AgentApproval, AgentDecision, AgentToolCalled, AuditEvent
from audit_async.events.base import (
    TIMES_AND_NUMBERS,
    AuditResult,
    Failure,
    Success,
    of_standard_library,
    pydantic_dump,
)
from audit_async.integrations._logger_source import AnyLogger, LoggerSource, check_source, logger_from, shown
from audit_async.logger import AuditLogger
from audit_async.status import describe_error
from audit_async.sync import SyncAuditLogger

__all__ = ["Approval", "AuditedTools", "Decision", "ToolCall", "ToolDenied", "hash_of"]

_log: Final = logging.getLogger("audit_async")
_P = ParamSpec("_P")
_T = TypeVar("_T")

#: What a policy says of a call: it may run, it may not, or a person is to be asked.
Decision = Literal["allowed", "denied", "approval_required"]
#: Makes a decision of a call; a coroutine function for asynchronous tools only.
Decide = Callable[["ToolCall"], "Decision | Awaitable[Decision]"]
#: Asks a person; likewise.
Approve = Callable[["ToolCall"], "Approval | Awaitable[Approval]"]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that is about to be made, for a policy to decide on."""

    tool: str
    arguments: Mapping[str, object]  #: by name; the policy sees them, the trail has their hash
    actor: ActorInfo
    input_hash: str
    call_id: str  #: what all events of this call have in common


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What a person has answered."""

    approved: bool
    approver: str  #: the person's user id


class ToolDenied(AuditError):
    """The policy, or the person who was asked, did not allow a tool to run; that is recorded, and it has not run.

    Args:
        tool: The tool's name.
        call_id: As the recorded events have it.
        reason: `denied` by the policy, or `rejected` by a person.
    """

    def __init__(self, tool: str, call_id: str, reason: Literal["denied", "rejected"]) -> None:
        self.tool = tool
        self.call_id = call_id
        self.reason = reason
        super().__init__(f"the call {call_id} of the tool {tool!r} was {reason}; it has not run")


def hash_of(value: object) -> str:
    """Return the hash under which an input or output is recorded: `sha256:` and 64 hex digits.

    Of bytes it is the SHA-256 of themselves, of a text of its UTF-8 form, of anything else of its JSON in UTF-8 with
    sorted keys and no spaces. The input of a call is its arguments by name. What JSON has no place for counts by the
    name of its type alone. Whoever may guess a short input can confirm the guess by its hash.

    Args:
        value: Anything; models of pydantic and dataclasses as what they hold.
    """
    if isinstance(value, str):
        content = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes | bytearray | memoryview):
        content = bytes(value)
    else:
        content = _json_of(value)
    return f"sha256:{sha256(content).hexdigest()}"


def _json_of(value: object) -> bytes:
    try:
        data = msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except Exception:  # noqa: BLE001 - what contains itself, or whose own code raises: the call counts for more
        text = json.dumps(type_name(value))
    return text.encode("utf-8", "surrogatepass")


def _plain(value: object) -> object:
    if isinstance(value, TIMES_AND_NUMBERS):
        return of_standard_library(value)
    dump = pydantic_dump(value)
    return type_name(value) if dump is None else dump()


class AuditedTools:
    """Records the calls of an agent's tools: a decorator for functions, and `call` for anything else.

    For each call `agent.decision` is made durable first, then, if the policy wants it, `agent.approval` with a person's
    answer; the tool runs; `agent.tool_called` says what came of it, of an exception its class alone. If the decision
    can't be made durable the call raises, and the tool has not run. A tool that has run is not undone if its result
    can't be recorded: the log counts the loss.

    From any thread and any event loop. A synchronous tool waits for the disk, so it can't be called in a thread that
    runs an event loop: make it a coroutine function, or call it in a worker thread.

    Args:
        audit: The logger, or a function that returns it.
        agent: Who calls, an `ActorInfo` of the kind "agent", or a function that returns it at each call. Its
            `on_behalf_of` is the user id of the person whose task it has.
        decide: The policy: gets the `ToolCall` and returns "allowed", "denied" or "approval_required". None decides
            nothing, and the record has no `policy_decision`.
        approve: Asks a person if the decision is "approval_required".
        timeout_s: How long a call waits for the disk before it gives up, in seconds.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(
        self,
        audit: LoggerSource,
        agent: ActorInfo | Callable[[], ActorInfo],
        *,
        decide: Decide | None = None,
        approve: Approve | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        if not isinstance(agent, ActorInfo) and (isinstance(agent, type) or not callable(agent)):
            raise ConfigError("agent", f"must be an ActorInfo or a function that returns one, not {shown(agent)}")
        for name, function in (("decide", decide), ("approve", approve)):
            if function is not None and not callable(function):
                raise ConfigError(name, f"must be a function of a ToolCall, not {shown(function)}")
        self._source: Final = check_source(audit)
        self._agent: Final = agent
        self._decide: Final = decide
        self._approve: Final = approve
        self._timeout_s: Final = timeout_s

    @overload
    def tool(self, function: Callable[_P, _T], /) -> Callable[_P, _T]: ...
    @overload
    def tool(
        self, function: None = None, /, *, name: str | None = None, leave_out: tuple[str, ...] = ()
    ) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
    def tool(
        self,
        function: Callable[_P, _T] | None = None,
        /,
        *,
        name: str | None = None,
        leave_out: tuple[str, ...] = (),
    ) -> Callable[_P, _T] | Callable[[Callable[_P, _T]], Callable[_P, _T]]:
        """Record the calls of a function: `@tools.tool`, or `@tools.tool(name="refund")`.

        Args:
            function: A function or a coroutine function.
            name: What the tool is called in the trail; by default the function's name.
            leave_out: Parameters that are not part of the input, such as a framework's context; `self` and `cls` never
                are.

        Raises:
            ConfigError: It is a generator function, whose output is not there when it returns, or has no such
                parameter.
        """
        if function is None:
            return functools.partial(self._wrapped, name=name, leave_out=leave_out)
        return self._wrapped(function, name=name, leave_out=leave_out)

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, object],
        run: Callable[[], Awaitable[_T]],
        *,
        actor: ActorInfo | None = None,
        result_of: Callable[[_T], AuditResult] = lambda _: Success(),
        output_of: Callable[[_T], object] = lambda output: output,
    ) -> _T:
        """Record one call of any kind: `await tools.call("search", {"q": q}, lambda: search(q))`.

        Args:
            tool: The tool's name.
            arguments: Its input, by name.
            run: Makes the call.
            actor: Who calls, instead of the agent of all calls.
            result_of: Says of an output whether the call succeeded, if it may report a failure without raising.
            output_of: What of the output is hashed; by default all of it.

        Returns:
            What `run` returns.

        Raises:
            ToolDenied: It was not allowed to run.
            TimeoutError: The decision is not durable yet; it has not run.
            ConfigError: The agent, the policy or the person who approves returned something else; it has not run.
            AuditError: The decision can't be recorded; it has not run. And whatever `run` raises.
        """
        made = self._made(tool, arguments, actor)
        decision = None if self._decide is None else await _answer(self._decide(made))
        await self._durable(_decided(made, decision))
        if decision == "approval_required":
            approval = await _answer(self._asked(made))
            await self._durable(_answered(made, approval))
            _refuse_unless(approval.approved, made, "rejected")
        else:
            _refuse_unless(decision != "denied", made, "denied")
        try:
            output = await run()
        except BaseException as error:
            self._record(functools.partial(_failed, made, error))
            raise
        self._record(lambda: _called(made, hash_of(output_of(output)), result_of(output)))
        return output

    def _call_in_thread(self, made: ToolCall, run: Callable[[], _T]) -> _T:
        decision = None if self._decide is None else _answer_at_once(self._decide(made), "decide")
        self._wait_durable(_decided(made, decision))
        if decision == "approval_required":
            approval = _answer_at_once(self._asked(made), "approve")
            self._wait_durable(_answered(made, approval))
            _refuse_unless(approval.approved, made, "rejected")
        else:
            _refuse_unless(decision != "denied", made, "denied")
        try:
            output = run()
        except BaseException as error:
            self._record(functools.partial(_failed, made, error))
            raise
        self._record(lambda: _called(made, hash_of(output), Success()))
        return output

    def _wrapped(self, function: Callable[_P, _T], *, name: str | None, leave_out: tuple[str, ...]) -> Callable[_P, _T]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError("tool", "a generator's output is not there when it returns; collect it in a function")
        signature = inspect.signature(function)
        if missing := [parameter for parameter in leave_out if parameter not in signature.parameters]:
            raise ConfigError("leave_out", f"the tool has no parameter {missing[0]!r}")
        tool = name or str(getattr(function, "__name__", type(function).__name__))
        unrecorded = {*leave_out, *(first for first in list(signature.parameters)[:1] if first in {"self", "cls"})}

        def arguments_of(args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return {name: value for name, value in bound.arguments.items() if name not in unrecorded}

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def audited(*args: _P.args, **kwargs: _P.kwargs) -> object:
                return await self.call(tool, arguments_of(args, kwargs), lambda: function(*args, **kwargs))

            return cast("Callable[_P, _T]", audited)

        @functools.wraps(function)
        def audited_in_thread(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            made = self._made(tool, arguments_of(args, kwargs), None)
            return self._call_in_thread(made, lambda: function(*args, **kwargs))

        return audited_in_thread

    def _made(self, tool: str, arguments: Mapping[str, object], actor: ActorInfo | None) -> ToolCall:
        if actor is None:
            actor = self._agent if isinstance(self._agent, ActorInfo) else self._agent()
        return ToolCall(tool=tool, arguments=arguments, actor=actor, input_hash=hash_of(arguments), call_id=uuid4().hex)

    def _asked(self, made: ToolCall) -> Approval | Awaitable[Approval]:
        if self._approve is None:
            raise ConfigError("approve", "missing: the policy wants a person's approval, and there is nobody to ask")
        return self._approve(made)

    # Recording.

    async def _durable(self, event: AuditEvent) -> None:
        audit = self._logger()
        with anyio.fail_after(self._timeout_s):
            if isinstance(audit, AuditLogger):
                await audit.emit_durable(event)
            else:
                await audit.emit(event).durable()

    def _wait_durable(self, event: AuditEvent) -> None:
        audit = self._logger()
        if isinstance(audit, SyncAuditLogger):
            audit.emit_durable(event, self._timeout_s)
        else:
            audit.emit(event).wait(self._timeout_s)

    def _record(self, make: Callable[[], AgentToolCalled]) -> None:
        """Emit what came of a call; a tool that has run is not undone, so a failure here is counted and logged."""
        audit = logger_from(self._source)
        try:
            self._logger().emit(make())
        except BufferFull:
            pass  # the log has counted it
        except Exception as error:  # noqa: BLE001 - also of what the application says of its outputs
            if audit is not None:
                audit.count_lost("agent.tool_called", "not_recordable")
            _log.error("a tool has run, and its result can't be recorded: %s", describe_error(error))

    def _logger(self) -> AnyLogger:
        audit = logger_from(self._source)
        if audit is None:
            raise ConfigError("audit", "there is no audit log yet; open it before an agent calls a tool")
        return audit


def _decided(made: ToolCall, decision: str | None) -> AgentDecision:
    if decision not in {None, "allowed", "denied", "approval_required"}:
        raise ConfigError("decide", f"returned {shown(decision)}; return 'allowed', 'denied' or 'approval_required'")
    return AgentDecision(
        actor=made.actor,
        on_behalf_of=made.actor.on_behalf_of,
        tool=made.tool,
        input_hash=made.input_hash,
        policy_decision=decision,
        call_id=made.call_id,
    )


def _answered(made: ToolCall, approval: Approval) -> AgentApproval:
    if not isinstance(approval, Approval):
        raise ConfigError("approve", f"returned {shown(approval)}; return an Approval")
    return AgentApproval(
        actor=made.actor,
        on_behalf_of=made.actor.on_behalf_of,
        tool=made.tool,
        input_hash=made.input_hash,
        policy_decision="approved" if approval.approved else "rejected",
        call_id=made.call_id,
        approver=approval.approver,
    )


def _failed(made: ToolCall, error: BaseException) -> AgentToolCalled:
    return _called(made, None, Failure(reason=exception_name(type(error))))


def _called(made: ToolCall, output_hash: str | None, result: AuditResult) -> AgentToolCalled:
    return AgentToolCalled(
        actor=made.actor,
        on_behalf_of=made.actor.on_behalf_of,
        tool=made.tool,
        input_hash=made.input_hash,
        output_hash=output_hash,
        call_id=made.call_id,
        result=result,
    )


def _refuse_unless(allowed: bool, made: ToolCall, reason: Literal["denied", "rejected"]) -> None:
    if not allowed:
        raise ToolDenied(made.tool, made.call_id, reason)


async def _answer(given: _T | Awaitable[_T]) -> _T:
    return await given if inspect.isawaitable(given) else given


def _answer_at_once(given: _T | Awaitable[_T], name: str) -> _T:
    if inspect.isawaitable(given):
        if inspect.iscoroutine(given):
            given.close()
        raise ConfigError(name, "is a coroutine function, and the tool is not; make both the same")
    return given
