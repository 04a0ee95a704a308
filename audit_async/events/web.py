"""Requests that a web service answered, as its middleware saw them from outside.

Everything here is plain text and numbers, on purpose: no member has room for free-form data, so that the event of each
request takes the plain path into the trail. Headers and bodies are lists of text, redacted before they come here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from audit_async.events.base import ActorInfo, AuditEvent, IPAddress
from audit_async.events.personal import Personal


class HttpOutcome(StrEnum):
    """How an exchange ended."""

    COMPLETED = "completed"
    FAILED = "failed"  #: the application raised; `error` names the exception's class
    NO_RESPONSE = "no_response"  #: the application returned without an answer, or without the end of one
    CLIENT_DISCONNECTED = "client_disconnected"  #: the client went away before the answer's end
    CANCELLED = "cancelled"  #: the server gave up the request: a timeout, or its own end


class CapturedBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A body, or its beginning, with its secrets taken out.

    `text` is in pieces that are short enough to be recorded whole; joined they are the text. It is empty if the body
    is not text of a listed type, and then `left_out` says why.
    """

    content_type: str = ""
    bytes: int  #: of the whole body, as far as it passed
    truncated: bool = False  #: more passed than was kept
    text: Annotated[list[str], Personal("actor.user_id", joined=True)] = []
    left_out: str | None = None


class HttpRequest(AuditEvent, tag="http.request"):
    """A request was answered, or came to another end; what is not known is left out.

    `route` is the template that the path matched (`/orders/{order_id}`). `status` is what the client received: if
    the application raised before it answered, the server's 500. `duration_ms` lasts to the answer's last byte,
    and `bytes_in` counts the body as far as the application read it. `query`, headers and bodies are there only if the
    policy asks for them. If the application is served below a prefix, the record's context has it as `http_root_path`,
    and the application sees `path` without it.
    """

    actor: ActorInfo | None = None
    method: str
    path: Annotated[str, Personal("actor.user_id", when="path")]
    route: str | None = None
    status: int | None = None
    duration_ms: int
    bytes_in: int
    bytes_out: int
    ip: Annotated[IPAddress | None, Personal("actor.user_id")] = None
    user_agent: Annotated[str | None, Personal("actor.user_id")] = None
    outcome: HttpOutcome = HttpOutcome.COMPLETED
    error: str | None = None
    note: str | None = None
    query: Annotated[str | None, Personal("actor.user_id")] = None
    request_headers: Annotated[list[str] | None, Personal("actor.user_id")] = None
    request_body: CapturedBody | None = None
    response_headers: Annotated[list[str] | None, Personal("actor.user_id")] = None
    response_body: CapturedBody | None = None


class HttpRequestStarted(AuditEvent, tag="http.request_started"):
    """A request, or a WebSocket's handshake, has arrived; recorded before the application is asked, if a rule says so.

    The record of its end has the same `request_id` in its context. If there is none, the process ended first. Who asked
    is not known yet.
    """

    method: str
    path: Annotated[str, Personal(when="path")]
    ip: Annotated[IPAddress | None, Personal()] = None
    user_agent: Annotated[str | None, Personal()] = None


class WebSocketClosed(AuditEvent, tag="http.websocket_closed"):
    """A WebSocket came to its end. `status` is 101 if it was accepted, otherwise the refusal's.

    `close_code` is that of RFC 6455 and `closed_by` is `client` or `server`; both are left out if it was not closed
    in order. Messages are counted, never kept; if a framework does not show them, the counts are left out.
    """

    actor: ActorInfo | None = None
    path: Annotated[str, Personal("actor.user_id", when="path")]
    route: str | None = None
    status: int | None = None
    duration_ms: int
    close_code: int | None = None
    closed_by: str | None = None
    messages_in: int | None = None
    messages_out: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    ip: Annotated[IPAddress | None, Personal("actor.user_id")] = None
    user_agent: Annotated[str | None, Personal("actor.user_id")] = None
    outcome: HttpOutcome = HttpOutcome.COMPLETED
    error: str | None = None
    note: str | None = None
