"""A forwarder and a real server that is killed again and again, with the rights of a host."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.config import RotationPolicy
from audit_async.forwarding import Forwarder, ShippingFinding, ShippingState
from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer
from tests.forwarding.test_forwarder import stored, write
from tests.logs import failure, segment_lines

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The server is what fails, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


async def kill_servers(server: PostgresServer, directory: Path, kills: int) -> None:
    """Write and ship while the server is killed; then compare all bytes."""
    base_dir = directory / "audit"
    with server.database("audit_forward") as url:
        engine = EngineOfTest(url, directory)
        await engine.engine.init()
        async with await engine.sink("web-1", timeout_s=5) as sink:
            forwarder = Forwarder(base_dir, sink, tenant=engine.tenant, host="web-1")
            forwarding = asyncio.create_task(forwarder.run())
            config = AuditConfig(
                mode=Local(base_dir), service_id="orders", handle_signals=False,
                rotation=RotationPolicy(max_bytes=50_000),
            )  # fmt: skip
            async with AuditLogger(config) as audit:
                for _ in range(kills):
                    for n in range(300):
                        await audit.emit_durable(failure(n))
                    await anyio.to_thread.run_sync(server.kill)
                    for n in range(300):
                        await audit.emit_durable(failure(n))
                    await anyio.to_thread.run_sync(server.start)
            async with asyncio.timeout(120):
                while (
                    not forwarder.statuses
                    or forwarder.statuses[0].lag_records
                    or (forwarder.statuses[0].acknowledged_seq < kills * 600 + 1)
                ):
                    assert not forwarding.done()
                    await asyncio.sleep(0.05)
            forwarding.cancel()
            await asyncio.wait([forwarding])
            [status] = forwarder.statuses
            assert status.finding is None
        async with await engine.sink("web-1", timeout_s=60) as patient:
            assert await stored(patient, status.log) == b"".join(segment_lines(base_dir / "orders" / "00"))


async def test_killed_servers_lose_and_double_nothing(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """A sample of the campaign."""
    await kill_servers(own_postgres, tmp_path, 2)


@pytest.mark.campaign
async def test_ten_killed_servers(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """The writer does not notice, and the bytes are the same at the end."""
    await kill_servers(own_postgres, tmp_path, 10)


async def test_a_changed_log_is_refused_by_name(tmp_path: Path, engine: EngineOfTest) -> None:
    """What the engine has stays as it was."""
    base_dir, findings = tmp_path / "audit", list[ShippingFinding]()
    await write(base_dir, 50)
    async with await engine.sink("web-1") as sink:
        forwarder = Forwarder(base_dir, sink, tenant=engine.tenant, host="web-1", on_finding=findings.append)
        [status] = await forwarder.run_once()
        assert status.state is ShippingState.CAUGHT_UP
        before = await stored(sink, status.log)
        assert before == b"".join(segment_lines(base_dir / "orders" / "00"))
        identity = (base_dir / "orders" / "00" / "log.json").read_bytes()
        assert await sink.description(status.log) == identity
        shutil.rmtree(base_dir)
        (base_dir / "orders" / "00").mkdir(parents=True, mode=0o700)
        (base_dir / "orders" / "00" / "log.json").write_bytes(identity)
        await write(base_dir, 60)
        again = Forwarder(base_dir, sink, tenant=engine.tenant, host="web-1", on_finding=findings.append)
        assert [one.state for one in await again.run_once()] == [ShippingState.REFUSED]
        assert await stored(sink, status.log) == before
    assert [finding.kind for finding in findings] == ["fork"]
