"""The audit log and the actor of the moment, for code that is not given them: `get_audit`, `current_actor`, `audited`.

Domain code often runs far below whatever knows the log and the user: a web framework, a task queue, a command. Those
set the log and the actor for what they call, and the code below asks for them, or has its calls recorded:

    set_audit(audit)  # once, at the start of the process

    @audited("order.approved", arguments=("order_id",))
    def approve(order_id: str) -> None:
        order = ResourceInfo(resource_type="order", resource_id=order_id)
        get_audit().emit(ResourceUpdated(actor=current_actor() or ActorInfo(user_id="unknown"), resource=order))

Everything is imported from this package, the functions also from `audit_async`; its modules are implementation details:

| module | subject |
| --- | --- |
| `ambient_log` | which log code that is given none writes to |
| `ambient_actor` | on whose behalf code runs |
| `audited_calls` | recording calls of functions, and how they ended |
"""

from audit_async.ambient.ambient_actor import ActorSource, acting_as, bind_actor, current_actor, unbind_actor
from audit_async.ambient.ambient_log import AnyLogger, AuditSource, get_audit, set_audit, use_audit
from audit_async.ambient.audited_calls import AuditedCall, audited

__all__ = [
    "ActorSource",
    "AnyLogger",
    "AuditSource",
    "AuditedCall",
    "acting_as",
    "audited",
    "bind_actor",
    "current_actor",
    "get_audit",
    "set_audit",
    "unbind_actor",
    "use_audit",
]
