"""Trails to deliver, and the settings of deliverers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from audit_async import AuditConfig, AuditEvent, AuditLogger, Local
from audit_async.config import RotationPolicy
from audit_async.delivery import Deliverer, DeliverSettings, DeliveryStatus, HttpSettings, SinkSettings
from audit_async.delivery.position_file import Position
from tests.logs import failure, segment_lines

DEADLINE_S = 60.0


async def write_trail(base_dir: Path, events: int = 20, service: str = "orders", first: int = 0) -> Path:
    """Write a session of a log; return its directory."""
    config = AuditConfig(
        mode=Local(base_dir), service_id=service, handle_signals=False, rotation=RotationPolicy(max_bytes=50_000)
    )
    async with AuditLogger(config) as audit:
        for n in range(first, first + events):
            audit.emit(failure(n))
    return base_dir / service / "00"


async def write_events(base_dir: Path, *events: AuditEvent, service: str = "orders", **limits: Any) -> Path:
    """Write a session with these events; return the log's directory."""
    config = AuditConfig(mode=Local(base_dir), service_id=service, handle_signals=False, **limits)
    async with AuditLogger(config) as audit:
        for event in events:
            audit.emit(event)
    return base_dir / service / "00"


def settings(tmp_path: Path, *sinks: SinkSettings, **more: Any) -> DeliverSettings:
    """Return the settings of a deliverer of `tmp_path`/audit."""
    given = {"base_dir": str(tmp_path / "audit"), "state_dir": str(tmp_path / "state"), "host": "web-1"}
    return DeliverSettings(**(given | {"sinks": sinks} | more))


def http(url: str, **more: Any) -> HttpSettings:
    """Return a sink of the service `orders` that gets records as lines."""
    given: dict[str, Any] = {"name": "siem", "url": url, "services": ("orders",), "timeout_s": 60.0}
    return HttpSettings(**(given | more))


async def deliver_once(given: DeliverSettings) -> list[DeliveryStatus]:
    """Deliver what is there."""
    return await Deliverer(given).run_once()


@asynccontextmanager
async def delivering(given: DeliverSettings) -> AsyncIterator[Deliverer]:
    """Deliver while the block runs."""
    deliverer = Deliverer(given)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliverer.run)
        try:
            yield deliverer
        finally:
            tasks.cancel_scope.cancel()


async def until(done: Callable[[], object]) -> None:
    """Wait until something is so."""
    with anyio.fail_after(DEADLINE_S):
        while not done():
            await anyio.sleep(0.02)


def lines_of_log(directory: Path) -> list[bytes]:
    """Return the lines of a log, without line feeds."""
    return [line.rstrip(b"\n") for line in segment_lines(directory)]


def position_of(tmp_path: Path, sink: str = "siem") -> Position:
    """Return the only stored position of a sink."""
    [path] = (tmp_path / "state" / sink).glob("*.json")
    return msgspec.json.decode(path.read_bytes(), type=Position)
