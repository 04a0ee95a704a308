"""Litestar: one plugin opens the log with the application, records every request, and injects the logger.

@delete("/customers/{customer_id:str}")
async def erase(customer_id: str, audit: AuditLogger) -> None:
    audit.emit(DataDeleted(customer_id=customer_id, data_types=["orders"], reason="gdpr_art_17"))

app = Litestar([erase], plugins=[AuditPlugin(config)])
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final, cast

from litestar import Litestar
from litestar.config.app import AppConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.plugins import InitPlugin
from litestar.types import ASGIApp as LitestarASGIApp

from audit_async.config import AuditConfig
from audit_async.errors import ConfigError
from audit_async.integrations._http.client_address import ForwardedHeader
from audit_async.integrations._http.recorder import ActorHook
from audit_async.integrations.asgi import ASGIApp, AuditMiddleware, Level, Policy, Rule, Scope, session_actor
from audit_async.integrations.asgi.connection import STATE_KEY
from audit_async.logger import AuditLogger

__all__ = ["AuditPlugin", "Level", "Policy", "Rule", "get_audit", "session_actor"]


class AuditPlugin(InitPlugin):
    """Opens a log for the application's life, at `app.state.audit` and as the dependency `audit`, and records requests.

    The settings are those of `AuditMiddleware`. It stands around the whole application and not in Litestar's stack of
    middleware, which is a route's own: a request that no route takes would pass it by.
    """

    def __init__(
        self,
        config: AuditConfig,
        *,
        policy: Policy | None = None,
        actor: ActorHook[Scope] | None = None,
        trusted_proxies: Iterable[str] = (),
        forwarded_header: ForwardedHeader = "x-forwarded-for",
        fail_closed: bool = False,
        send_request_id: bool = True,
    ) -> None:
        self._config: Final = config
        self._policy: Final = policy
        self._actor: Final = actor
        self._trusted_proxies: Final = tuple(trusted_proxies)
        self._forwarded_header: Final[ForwardedHeader] = forwarded_header
        self._fail_closed: Final = fail_closed
        self._send_request_id: Final = send_request_id

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
            middleware = AuditMiddleware(
                cast("ASGIApp", handler),  # the same protocol, in types of Litestar's own
                audit,
                policy=self._policy,
                actor=self._actor,
                trusted_proxies=self._trusted_proxies,
                forwarded_header=self._forwarded_header,
                fail_closed=self._fail_closed,
                send_request_id=self._send_request_id,
            )
            setattr(app.state, STATE_KEY, audit)
            app.asgi_handler = cast("LitestarASGIApp", middleware)
            try:
                yield
            finally:
                app.asgi_handler = handler
                delattr(app.state, STATE_KEY)


def get_audit(state: State) -> AuditLogger:
    """Return the application's logger; raises `ConfigError` where the life span has not opened one."""
    audit = state.get(STATE_KEY)
    if isinstance(audit, AuditLogger):
        return audit
    raise ConfigError("audit", "there is no audit logger in this application: its life span has not begun")
