"""What is acknowledged is there after every crash of the server, once, byte by byte; also on a promoted standby."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest

from audit_async.forwarding import HeadMoved, PostgresSink, SinkUnavailable
from tests.forwarding.logs_to_ship import a_batch, a_log
from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer
from tests.forwarding.shipping import Shipping

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The server is what crashes, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


async def crash_many_times(server: PostgresServer, directory: Path, kills: int, logs: int) -> None:
    """Kill the server again and again while several logs are shipped to it, and compare at the end."""
    chance = random.Random(kills)  # noqa: S311 - when a server is killed
    with server.database("audit_crash") as url:
        engine = EngineOfTest(url, directory)
        await engine.engine.init()
        async with await engine.sink("web-1", timeout_s=5) as sink:
            ships = [Shipping(sink, a_log(instance=f"{number:02d}")) for number in range(logs)]
            async with anyio.create_task_group() as group:
                for ship in ships:
                    group.start_soon(ship.run)
                for _ in range(kills):
                    for ship in ships:
                        await ship.wait_for(3)
                    await anyio.sleep(chance.uniform(0, 0.3))
                    await anyio.to_thread.run_sync(server.kill)
                    await anyio.to_thread.run_sync(server.start)
                for ship in ships:
                    await ship.wait_for(3)
                group.cancel_scope.cancel()
        async with await engine.sink("web-1", timeout_s=60) as patient:
            for ship in ships:
                assert ship.unavailable >= kills
                await ship.check(patient)


async def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """A sample of the campaign."""
    await crash_many_times(own_postgres, tmp_path, kills=2, logs=2)


@pytest.mark.campaign
async def test_ten_times_kill_9(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """With four logs at a time."""
    await crash_many_times(own_postgres, tmp_path, kills=10, logs=4)


async def test_a_head_that_no_standby_has_is_not_taken_for_stored(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """The standby is gone, the commit is on the primary only: neither the append nor the head answers; then both do.

    Otherwise a forwarder would go on from a record that a promoted standby does not have, and the host might delete it.
    """
    primary = own_postgres
    log, batch = a_log(), a_batch(None)
    with primary.database("audit_ha") as url:
        engine = EngineOfTest(url, tmp_path)
        await engine.engine.init()
        standby = primary.standby("one")
        try:
            standby.start()
            primary.configure(synchronous_standby_names="one")
            primary.reload()
            async with await engine.sink("web-1", timeout_s=60) as patient:
                await patient.append(log, batch, after=None)
                standby.stop()
                following = a_batch(batch.head)
                async with await engine.sink("web-1", timeout_s=1) as sink:
                    # Until it is visible on the primary, where nobody waits any more: connecting may take longer.
                    with anyio.fail_after(60):
                        while engine.run("SELECT seq FROM SCHEMA.heads") != [(following.last_seq,)]:
                            with pytest.raises(SinkUnavailable):
                                await sink.append(log, following, after=batch.head)
                    with pytest.raises(SinkUnavailable):
                        await sink.head(log)
                    with pytest.raises(SinkUnavailable):
                        await sink.append(log, following, after=batch.head)
                standby.start()
                assert await patient.head(log) == following.head
                with pytest.raises(HeadMoved) as caught:
                    await patient.append(log, following, after=batch.head)
                assert caught.value.actual == following.head
        finally:
            primary.configure(synchronous_standby_names="")
            primary.reload()
            standby.remove()


async def promote(primary: PostgresServer, directory: Path) -> None:
    """Kill the primary under load and promote its synchronous standby; a forwarder knows both, and goes on."""
    url = primary.admin_url("postgres")
    engine = EngineOfTest(url, directory)
    await engine.engine.init()
    granted = await engine.granted("web-1")
    standby = primary.standby("one")
    try:
        standby.start()
        primary.configure(synchronous_standby_names="one")
        primary.reload()
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = f"postgres://{granted.account}@{hosts}/postgres?passfile={granted.files[0]}"
        async with PostgresSink(url, tenant="acme", timeout_s=5) as sink, anyio.create_task_group() as group:
            ship = Shipping(sink, a_log())
            group.start_soon(ship.run)
            await ship.wait_for(10)
            await anyio.to_thread.run_sync(primary.kill)
            before = ship.acknowledged
            await anyio.to_thread.run_sync(standby.promote)
            await ship.wait_for(10)
            group.cancel_scope.cancel()
        assert before is not None
        async with PostgresSink(url, tenant="acme", timeout_s=60) as patient:
            await ship.check(patient)
    finally:
        standby.remove()


async def test_a_promoted_standby_has_all_that_was_acknowledged(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """The primary is killed under load; the synchronous standby takes over, and shipping goes on without a person."""
    await promote(own_postgres, tmp_path)


@pytest.mark.campaign
@pytest.mark.parametrize("time", range(5))
async def test_five_promotions(tmp_path: Path, own_postgres: PostgresServer, time: int) -> None:
    """Each of a cluster of its own."""
    await promote(own_postgres, tmp_path)
