"""Remote procedure calls that a service answered."""

from __future__ import annotations

from typing import Annotated

from audit_async.events.base import ActorInfo, AuditEvent, IPAddress
from audit_async.events.personal import Personal


class RpcEnded(AuditEvent, tag="rpc.ended"):
    """A remote procedure call was answered, or came to another end.

    `method` is the full name (`/shop.Orders/Refund`), `status` the code by name (`OK`, `NOT_FOUND`). `error` is the
    class of the exception that the service raised, if it raised one. `messages_in` and `messages_out` count what passed
    of a stream; `metadata` is what the service asks for by name, with its secrets taken out.
    """

    actor: ActorInfo | None = None
    method: str
    status: str
    duration_ms: int
    messages_in: int
    messages_out: int
    ip: Annotated[IPAddress | None, Personal("actor.user_id")] = None
    error: str | None = None
    metadata: Annotated[list[str] | None, Personal("actor.user_id")] = None
