"""What is known of one WebSocket besides what every exchange has: its messages, and who closed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from audit_async.events import WebSocketClosed
from audit_async.integrations._http.exchange import Exchange

if TYPE_CHECKING:
    from audit_async.integrations._http.recorder import Conclusion

__all__ = ["WebSocketExchange", "closes_by_client"]


class WebSocketExchange(Exchange):
    """One WebSocket, and what was seen of it so far; owned as every exchange is."""

    close_code: int | None = None
    closed_by: str | None = None  #: `client` or `server`; None if it was not closed in order, or that is not known
    messages_in: int | None = 0  #: None if the framework does not show them
    messages_out: int | None = 0

    def event(self, conclusion: Conclusion, *, path: str, user_agent: str | None) -> WebSocketClosed:
        """Return the event of its end; the texts are given without their secrets."""
        counted = self.messages_in is not None
        return WebSocketClosed(
            actor=conclusion.actor,
            path=path,
            route=conclusion.route,
            status=self.status,
            duration_ms=self.duration_ms,
            close_code=self.close_code,
            closed_by=self.closed_by,
            messages_in=self.messages_in,
            messages_out=self.messages_out,
            bytes_in=self.bytes_in if counted else None,
            bytes_out=self.bytes_out if counted else None,
            ip=conclusion.ip,
            user_agent=user_agent,
            outcome=self.outcome,
            error=self.error,
            note=conclusion.note,
        )


#: Codes of RFC 6455's registry that only the one who wants no more sends. With the others a server's own protocol
#: code also ends connections: 1002, 1007 and 1009 for a message that breaks the rules, 1011 for a ping without an
#: answer, 1012 and 1013 for a restart; and 1005, 1006 and 1015 say that no code was received at all.
_CLIENT_CODES: Final = frozenset({1000, 1001, 1003, 1008, 1010})


def closes_by_client(code: int) -> bool:
    """Return whether a close code that a server reports can only be what the client sent."""
    return code in _CLIENT_CODES or 3000 <= code <= 4999
