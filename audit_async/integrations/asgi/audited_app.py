"""An ASGI application with a log of its own: for Django, and for all that has no life span to open one in."""

from __future__ import annotations

from typing import Final, Unpack

import anyio

from audit_async.config import AuditConfig
from audit_async.integrations._http.settings import MiddlewareSettings, check_config
from audit_async.integrations.asgi.connection import STATE_KEY
from audit_async.integrations.asgi.messages import ASGIApp, Message, Receive, Scope, Send
from audit_async.integrations.asgi.middleware import AuditMiddleware
from audit_async.logger import AuditLogger

__all__ = ["AuditedApp"]


class AuditedApp:
    """Opens a log for the life of `app`, and records every request as `AuditMiddleware` does.

        application = AuditedApp(get_asgi_application(), config)        # Django's asgi.py

    The log is opened at the server's `lifespan.startup`, and drained and closed at `lifespan.shutdown`, whether `app`
    knows the life span or not. With a server that has none, or has it switched off, the first request opens the log; at
    SIGTERM and SIGINT everything is made durable, if the configuration leaves `handle_signals` on, but the log is
    closed in order only if the server then ends as programs do, and not by the signal. The logger is at
    `scope["state"]["audit"]`: `logger_of_scope(request.scope)`.

    To be used on one event loop, as servers do.

    Args:
        app: The ASGI application.
        config: The configuration of the log.
        settings: Those of `AuditMiddleware`.

    Raises:
        ConfigError: A setting has a wrong value, or a name that is none.
    """

    def __init__(self, app: ASGIApp, config: AuditConfig, **settings: Unpack[MiddlewareSettings[Scope]]) -> None:
        self.app: Final = app
        self._config: Final = check_config(config, "AuditedApp")
        self._middleware: Final = AuditMiddleware(app, self._logger, **settings)
        self._audit: AuditLogger | None = None
        self._opening: Final = anyio.Lock()

    def __repr__(self) -> str:
        return f"<AuditedApp {'not open yet' if self._audit is None else self._audit!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the server's life span."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        audit = await self._opened()
        state = scope.get("state")
        if state is None:
            state = scope["state"] = {}
        state.setdefault(STATE_KEY, audit)
        await self._middleware(scope, receive, send)

    def _logger(self, _scope: Scope) -> AuditLogger:
        assert self._audit is not None  # noqa: S101 - a request reaches the middleware only after the opening
        return self._audit

    async def _opened(self) -> AuditLogger:
        audit = self._audit
        if audit is None:
            async with self._opening:
                if self._audit is None:
                    opened = AuditLogger(self._config)
                    await opened.start()
                    self._audit = opened
                audit = self._audit
        return audit

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the log before `app` begins, and close it after `app` has ended."""
        first = await receive()
        try:
            audit = await self._opened()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"the audit log can't be opened: {error}"})
            raise
        state = scope.get("state")
        if state is not None:
            state[STATE_KEY] = audit
        life = _LifeSpan(first, receive, send)
        try:
            await life.run(self.app, scope)
        finally:
            with anyio.CancelScope(shield=True):
                await audit.aclose()
        await life.complete()


class _LifeSpan:
    """The messages of a server's life span on their way to an application that may not understand them."""

    def __init__(self, first: Message, receive: Receive, send: Send) -> None:
        self._first: Message | None = first
        self._receive: Final = receive
        self._send: Final = send
        self._started = False  #: the server knows how the start went
        self._last: Message | None = None  #: what is sent to the server once the log is closed

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let `app` live its life span; if it knows none, return at the server's shutdown.

        Raises what `app` raises once it has shown that it knows life spans.
        """
        try:
            await app(scope, self._pass_in, self._pass_out)
        except Exception:
            if self._started:
                raise
            # What an application does that knows no life span, such as Django's: the specification asks to go on.
        if self._last is None:
            if not self._started:
                await self._send({"type": "lifespan.startup.complete"})
            while (await self._receive())["type"] != "lifespan.shutdown":
                pass
            self._last = {"type": "lifespan.shutdown.complete"}

    async def complete(self) -> None:
        """Tell the server that all is over."""
        if self._last is not None:
            await self._send(self._last)

    async def _pass_in(self) -> Message:
        if self._first is not None:
            message, self._first = self._first, None
            return message
        return await self._receive()

    async def _pass_out(self, message: Message) -> None:
        kind = message["type"]
        if kind in {"lifespan.shutdown.complete", "lifespan.shutdown.failed", "lifespan.startup.failed"}:
            self._last = message  # after the log is closed, so that nothing is lost with the process
            return
        self._started = self._started or kind == "lifespan.startup.complete"
        await self._send(message)
