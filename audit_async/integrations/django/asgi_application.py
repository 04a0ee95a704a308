"""Django under an ASGI server: `get_asgi_application` that takes the server's life span, to close the log at its end.

Django's own refuses it. Then an ASGI server ends by the signal itself, and with it what was recorded in the last
milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from django.core import asgi

from audit_async.ambient import get_audit
from audit_async.sync import SyncAuditLogger

__all__ = ["get_asgi_application"]

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


def get_asgi_application() -> ASGIApp:
    """Return Django's ASGI application, with a life span: the log is open before the first request, and closed last.

    In place of `django.core.asgi.get_asgi_application`, in the project's `asgi.py`.

    Returns:
        The application. A server whose life span fails, since the log can't be opened, does not start.
    """
    application = asgi.get_asgi_application()

    async def with_life_span(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        await receive()
        try:
            audit = await asyncio.to_thread(get_audit)
        except Exception as error:  # noqa: BLE001 - whatever it is, the server says so and does not start
            await send({"type": "lifespan.startup.failed", "message": f"the audit log can't be opened: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            if isinstance(audit, SyncAuditLogger):
                await asyncio.to_thread(audit.close)
        except Exception as error:  # noqa: BLE001 - as above
            await send({"type": "lifespan.shutdown.failed", "message": f"the audit log can't be closed: {error}"})
            return
        await send({"type": "lifespan.shutdown.complete"})

    return with_life_span
