"""A backup of a log that signs checkpoints: what it has of the signed tree never goes beyond the records it has."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import anyio.to_thread
import pytest

from audit_async import AuditConfig, AuditLogger, Local, RotationPolicy, Transparency
from audit_async.cli import main
from audit_async.events import AuthFailure
from audit_async.tlog import new_key, write_key

pytestmark = pytest.mark.anyio


def config(base_dir: Path, key: Path) -> AuditConfig:
    """Return the configuration of a log that signs often."""
    return AuditConfig(
        mode=Local(base_dir),
        service_id="orders",
        instance="00",
        handle_signals=False,
        rotation=RotationPolicy(max_bytes=20_000),
        transparency=Transparency(key=key, origin="example.org/orders", interval=0.001, every=5),
    )


async def test_a_backup_beside_a_log_that_signs(tmp_path: Path) -> None:
    """Each backup, taken while records come and checkpoints are signed, verifies, and goes on signing if restored."""
    key = tmp_path / "key.pem"
    write_key(key, new_key())
    stop = asyncio.Event()

    async def write(audit: AuditLogger) -> None:
        while not stop.is_set():
            await audit.emit_durable(AuthFailure(reason="invalid_token", ip="203.0.113.9", path="/v2/tasks"))

    async with AuditLogger(config(tmp_path / "t", key)) as audit, asyncio.TaskGroup() as tasks:
        tasks.create_task(write(audit))
        await audit.checkpoint()
        for number in range(4):
            target = str(tmp_path / "b")
            assert await anyio.to_thread.run_sync(main, ["backup", str(tmp_path / "t"), target]) == 0
            shutil.copytree(tmp_path / "b", tmp_path / f"look {number}")
        stop.set()
    for number in range(4):
        look = tmp_path / f"look {number}"
        policy = look / "orders" / "00" / "tlog" / "vkey"
        assert await anyio.to_thread.run_sync(main, ["verify", str(look)]) == 0
        assert policy.exists()
        async with AuditLogger(config(look, key)) as audit:
            await audit.emit_durable(AuthFailure(reason="invalid_token", ip="203.0.113.9", path="/v2/tasks"))
            signed = await audit.checkpoint()
            assert signed is not None
