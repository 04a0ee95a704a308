"""Litestar: one plugin opens the log with the application, records every request, and injects the logger.

@post("/invoices/{invoice_id:str}/payment")
async def pay(invoice_id: str, audit: AuditLogger, request: Request) -> None:
    audit.emit(InvoicePaid(actor=actor_of(request), invoice_id=invoice_id))

app = Litestar([pay], plugins=[AuditPlugin(config)])
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Unpack, cast

from audit_async._first_use import installed_by

with installed_by("audit-async[litestar]", __name__):
    from litestar import Litestar
    from litestar.config.app import AppConfig
    from litestar.connection import ASGIConnection
    from litestar.datastructures import State
    from litestar.di import Provide
    from litestar.plugins import InitPlugin
    from litestar.types import ASGIApp as LitestarASGIApp

from audit_async.config import AuditConfig
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo
from audit_async.integrations import asgi
from audit_async.integrations._http.settings import MiddlewareSettings, Settings, check_config
from audit_async.integrations.asgi import ASGIApp, AuditMiddleware, Level, Policy, Rule, Scope, session_actor
from audit_async.integrations.asgi.connection import STATE_KEY
from audit_async.logger import AuditLogger

__all__ = ["AuditPlugin", "Level", "Policy", "Rule", "actor_of", "get_audit", "session_actor"]


class AuditPlugin(InitPlugin):
    """Opens a log for the application's life, at `app.state.audit` and as the dependency `audit`, and records requests.

    It is around the whole application and not in Litestar's stack of middleware, which is a route's own: a request that
    no route takes would pass it by.

    Args:
        config: The configuration of the log.
        settings: Those of `audit_async.integrations.asgi.AuditMiddleware`.

    Raises:
        ConfigError: A setting has a wrong value, or a name that is none.
    """

    def __init__(self, config: AuditConfig, **settings: Unpack[MiddlewareSettings[Scope]]) -> None:
        self._config: Final = check_config(config, "AuditPlugin")
        if "trusted_proxies" in settings and not isinstance(settings["trusted_proxies"], str):
            settings["trusted_proxies"] = tuple(settings["trusted_proxies"])  # it is read twice
        self._settings: Final = settings
        Settings(
            settings, default_actor=asgi.actor_of_scope
        )  # so that what is wrong is said here, and not at the start

    def __repr__(self) -> str:
        return f"<AuditPlugin {self._config.service_id}>"

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add the life span and the dependency to the application's configuration."""
        # First, so that the application's own life spans run within ours and may record.
        app_config.lifespan = [self._lifespan, *app_config.lifespan]
        app_config.dependencies = {"audit": Provide(get_audit, sync_to_thread=False), **app_config.dependencies}
        return app_config

    @asynccontextmanager
    async def _lifespan(self, app: Litestar) -> AsyncIterator[None]:
        async with AuditLogger(self._config) as audit:
            handler = app.asgi_handler
            # The same protocol, in types of Litestar's own.
            middleware = AuditMiddleware(cast("ASGIApp", handler), audit, **self._settings)
            setattr(app.state, STATE_KEY, audit)
            app.asgi_handler = cast("LitestarASGIApp", middleware)
            try:
                yield
            finally:
                app.asgi_handler = handler
                delattr(app.state, STATE_KEY)


def get_audit(state: State) -> AuditLogger:
    """Return the application's logger.

    Args:
        state: The application's state.

    Raises:
        ConfigError: The life span has not opened a logger.
    """
    audit = state.get(STATE_KEY)
    if isinstance(audit, AuditLogger):
        return audit
    raise ConfigError("audit", "there is no audit logger in this application: its life span has not begun")


def actor_of(connection: ASGIConnection[Any, Any, Any, Any]) -> ActorInfo:
    """Return who asks, exactly as the record of the request names the actor: for the application's own events.

    Args:
        connection: The request or WebSocket.

    Returns:
        The actor; `anonymous`, with its address, if nobody is authenticated.

    Raises:
        Exception: Whatever the actor hook raises.
    """
    return asgi.actor_of(cast("Scope", connection.scope))
