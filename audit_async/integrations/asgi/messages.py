"""What travels between a server and an application, in the words of the ASGI specification."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from audit_async.integrations._http.exchange import Headers

__all__ = ["ASGIApp", "Message", "Receive", "Scope", "Send", "content_length", "message_bytes", "with_request_id"]

# Their values are whatever a server or framework puts there.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID: Final = b"x-request-id"
_REQUEST_ID_LENGTH: Final = len(_REQUEST_ID)


def with_request_id(headers: Headers, request_id: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with the request's id, unless the application gives one."""
    answered = list(headers)
    for name, _ in answered:
        if len(name) == _REQUEST_ID_LENGTH and name.lower() == _REQUEST_ID:
            return answered
    answered.append((_REQUEST_ID, request_id))
    return answered


def content_length(headers: Headers) -> int:
    """Return what the headers say of the body's size; 0 if they don't."""
    for name, value in headers:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return 0


def message_bytes(message: Message) -> int:
    """Return the size of a WebSocket message's payload; text counts as the UTF-8 that it travels as."""
    data = message.get("bytes")
    if data is not None:
        return len(data)
    text = message.get("text") or ""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
