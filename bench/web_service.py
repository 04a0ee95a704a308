"""The service that `bench.web` and `bench.soak` put under load: FastAPI, as it is usually written, bare or audited.

`python -m bench.web_service bare|disabled|audited port_file`: serves on a free port, whose number it writes into the
file. The environment: `BENCH_TRAIL` is the trail's directory, `BENCH_FLUSH` one of `immediate`, `batched`, `hybrid`.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from audit_async import AuditConfig, Batched, Disabled, Hybrid, Immediate, Local
from audit_async.config import FlushMode
from audit_async.integrations.fastapi import AuditMiddleware, audit_lifespan

FLUSH_MODES: dict[str, FlushMode] = {"immediate": Immediate(), "batched": Batched(), "hybrid": Hybrid()}


def application(kind: str) -> FastAPI:
    """Return the service: `bare`, with the middleware and a log that does nothing (`disabled`), or with a real log."""
    if kind == "bare":
        app = FastAPI()
    else:
        config = AuditConfig(
            mode=Disabled() if kind == "disabled" else Local(Path(os.environ["BENCH_TRAIL"])),
            service_id="bench",
            flush_mode=FLUSH_MODES[os.environ.get("BENCH_FLUSH", "immediate")],
        )
        app = FastAPI(lifespan=audit_lifespan(config))
        app.add_middleware(AuditMiddleware)

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


def main() -> None:
    """Serve until SIGTERM."""
    kind, port_file = sys.argv[1:]
    config = uvicorn.Config(application(kind), host="127.0.0.1", port=0, log_level="warning", access_log=False)
    _AnnouncingServer(config, Path(port_file)).run()


if __name__ == "__main__":
    main()
