"""The service that `bench.web` and `bench.soak` put under load: FastAPI, as it is usually written, of several kinds.

`python -m bench.web_service KIND port_file`: serves on a free port, whose number it writes into the file. KIND is one
of `KINDS`. The environment: `BENCH_TRAIL` is the trail's directory, next to which the logs of the others are,
`BENCH_FLUSH` the flush mode of `audited`, one of `immediate`, `delayed`, `batched`, `hybrid`; `BENCH_HTTP` uvicorn's
parser, `h11` or `httptools`.
"""

from __future__ import annotations

import logging.config
import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal, cast
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from audit_async import AuditConfig, Batched, Disabled, Hybrid, Immediate, Local
from audit_async.config import FlushMode
from audit_async.integrations.fastapi import AuditMiddleware, audit_lifespan

FLUSH_MODES: dict[str, FlushMode] = {
    "immediate": Immediate(),
    "delayed": Immediate(max_delay=0.002),
    "batched": Batched(),
    "hybrid": Hybrid(),
}

#: What the services are, and how each records its requests.
KINDS: Final = {
    "bare": "not at all",
    "uvicorn": "by uvicorn's own access log, into a file",
    "structlog": "by a middleware that writes a JSON line of structlog into a file",
    "disabled": "by the audit middleware, into a log that does nothing",
    "audited": "by the audit middleware, in the flush mode of BENCH_FLUSH",
    "delayed": "the same with Immediate(max_delay=0.002)",
}

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class StructlogAccessLog:
    """What a service would have instead: a line of JSON a request, with an id that the application's own lines share.

    Args:
        app: The ASGI application.
        path: The file.
    """

    def __init__(self, app: _App, path: Path) -> None:
        import structlog  # noqa: PLC0415 - only this kind of service needs it

        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.WriteLoggerFactory(file=path.open("a", encoding="utf-8")),
            cache_logger_on_first_use=True,
        )
        self._app: Final = app
        self._log: Final = structlog.get_logger()
        self._contextvars: Final = structlog.contextvars

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve a connection, and log it if it is a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, sent = perf_counter(), 500, 0

        async def noting(message: _Scope) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        headers = dict(scope["headers"])
        self._contextvars.clear_contextvars()
        self._contextvars.bind_contextvars(request_id=uuid4().hex)
        try:
            await self._app(scope, receive, noting)
        finally:
            self._log.info(
                "http.request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ms=round((perf_counter() - began) * 1e3),
                bytes_out=sent,
                ip=scope["client"][0],
                user_agent=headers.get(b"user-agent", b"").decode("latin-1"),
            )


def application(kind: str) -> FastAPI:
    """Return the service; see `KINDS`."""
    trail = Path(os.environ["BENCH_TRAIL"])
    if kind in {"disabled", "audited", "delayed"}:
        flush = "delayed" if kind == "delayed" else os.environ.get("BENCH_FLUSH", "immediate")
        config = AuditConfig(
            mode=Disabled() if kind == "disabled" else Local(trail),
            service_id=f"bench-{kind}",
            flush_mode=FLUSH_MODES[flush],
        )
        app = FastAPI(lifespan=audit_lifespan(config))
        app.add_middleware(AuditMiddleware)
    else:
        app = FastAPI()
        if kind == "structlog":
            app.add_middleware(StructlogAccessLog, path=trail.with_name("structlog.log"))

    @app.get("/orders/{order_id}")
    async def read_order(order_id: int) -> dict[str, object]:
        """Answer as an ordinary handler does, from memory."""
        return {"order_id": order_id, "customer": "c-20931", "items": ["tea", "milk"], "cents": 1290}

    return app


class _AnnouncingServer(uvicorn.Server):
    """Writes its port into a file once it answers there."""

    def __init__(self, config: uvicorn.Config, port_file: Path) -> None:
        super().__init__(config)
        self._port_file = port_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        self._port_file.with_suffix(".new").write_text(str(port))
        self._port_file.with_suffix(".new").rename(self._port_file)


def _access_log_into(path: Path) -> dict[str, Any]:
    """Return uvicorn's own logging configuration, its access log in a file."""
    config = {**LOGGING_CONFIG, "handlers": {**LOGGING_CONFIG["handlers"]}}
    config["handlers"]["access"] = {"class": "logging.FileHandler", "formatter": "access", "filename": str(path)}
    return config


def main() -> None:
    """Serve until SIGTERM."""
    kind, port_file = sys.argv[1:]
    logged = kind == "uvicorn"
    config = uvicorn.Config(
        application(kind),
        host="127.0.0.1",
        port=0,
        http=cast('Literal["h11", "httptools", "auto"]', os.environ.get("BENCH_HTTP", "auto")),
        log_level="info" if logged else "warning",
        access_log=logged,
        log_config=_access_log_into(Path(port_file).with_name("uvicorn.log")) if logged else LOGGING_CONFIG,
    )
    _AnnouncingServer(config, Path(port_file)).run()


if __name__ == "__main__":
    main()
