"""What programs did that decide by themselves, such as language models with tools: decision, approval, call.

The actor is the agent, and `on_behalf_of` the user id of the person whose task it has, if there is one. Inputs and
outputs are recorded as hashes, never as they are: `sha256:` and 64 hex digits of the bytes that the service keeps
elsewhere, if it keeps them. What belongs to one call has the same `call_id`.
"""

from __future__ import annotations

from typing import Annotated

from audit_async.events.base import ActorInfo, AuditEvent, AuditResult
from audit_async.events.personal import Personal


class AgentDecision(AuditEvent, tag="agent.decision"):
    """It was decided whether an agent may call a tool; recorded before the call. `policy_decision` says how."""

    actor: ActorInfo
    on_behalf_of: Annotated[str | None, Personal("on_behalf_of")] = None
    tool: str
    input_hash: str
    output_hash: str | None = None
    policy_decision: str | None = None
    call_id: str | None = None


class AgentApproval(AuditEvent, tag="agent.approval"):
    """A person was asked whether an agent may call a tool, and has answered; `policy_decision` says what."""

    actor: ActorInfo
    on_behalf_of: Annotated[str | None, Personal("on_behalf_of")] = None
    tool: str
    input_hash: str
    output_hash: str | None = None
    policy_decision: str | None = None
    call_id: str | None = None
    approver: Annotated[str | None, Personal("approver")] = None


class AgentToolCalled(AuditEvent, tag="agent.tool_called"):
    """An agent called a tool; without an output's hash the call has returned nothing, and `result` may say why."""

    actor: ActorInfo
    on_behalf_of: Annotated[str | None, Personal("on_behalf_of")] = None
    tool: str
    input_hash: str
    output_hash: str | None = None
    policy_decision: str | None = None
    call_id: str | None = None
    result: AuditResult | None = None


class ModelCalled(AuditEvent, tag="agent.model_called"):
    """A model was asked, and has answered."""

    actor: ActorInfo
    on_behalf_of: Annotated[str | None, Personal("on_behalf_of")] = None
    model: str
    input_hash: str
    output_hash: str | None = None
    policy_decision: str | None = None
    call_id: str | None = None
    result: AuditResult | None = None
