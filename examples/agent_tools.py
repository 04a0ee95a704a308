"""An agent's tools, recorded: the decision before each call, what came of it afterwards.

Run it with `python -m examples.agent_tools`.

The agent is a script here; a real one is a language model that chooses tool and arguments.
"""

import sys
from pathlib import Path

import anyio

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuditReader, Local
from audit_async.events import ActorKind
from audit_async.integrations.agent_tools import Approval, AuditedTools, Decision, ToolCall, ToolDenied

LIMIT_CENTS = 10_000


def decide(call: ToolCall) -> Decision:
    """Let small refunds pass, ask a person about larger ones, and allow nothing else."""
    cents = call.arguments.get("cents")
    if call.tool != "refund" or not isinstance(cents, int):
        return "denied"
    return "allowed" if cents <= LIMIT_CENTS else "approval_required"


def ask(call: ToolCall) -> Approval:
    """Ask a person; here the person says no."""
    print(f"erin, may {call.actor.user_id} do this? {call.tool} {dict(call.arguments)}")
    return Approval(approved=False, approver="erin")


async def main(directory: Path) -> None:
    """Let the agent call tools, and show what the trail has of it."""
    agent = ActorInfo(user_id="support-bot", kind=ActorKind.AGENT, on_behalf_of="dana")
    config = AuditConfig.preset("eu_ai_act", mode=Local(directory), service_id="support")
    async with AuditLogger(config) as audit:
        tools = AuditedTools(audit, agent, decide=decide, approve=ask)

        @tools.tool
        async def refund(order_id: str, cents: int) -> str:
            return f"refunded {cents} cents for {order_id}"

        @tools.tool
        async def drop_table(name: str) -> None:
            raise AssertionError(f"nobody drops {name}")

        print(await refund("o-7", 500))
        for attempt in (lambda: refund("o-8", 50_000), lambda: drop_table("users")):
            try:
                await attempt()
            except ToolDenied as denied:
                print(denied)
    async for record in AuditReader(directory).query():
        if record.event.event_type.startswith("agent."):
            print(record.seq, record.event.event_type, getattr(record.event, "policy_decision", None) or "")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1] if len(sys.argv) > 1 else "audit"))
