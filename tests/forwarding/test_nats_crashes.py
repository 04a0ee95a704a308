"""What a cluster of three has acknowledged is there after every crash, once, byte by byte."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from tests.forwarding.logs_to_ship import a_log
from tests.forwarding.nats_engines import NatsEngineOfTest, nats_engine
from tests.forwarding.nats_server import NatsNode
from tests.forwarding.shipping import Shipping

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The servers are what crashes, so one loop will do.

    Not uvloop: nats-py, as it closes, writes to a connection that was reset, which uvloop refuses. The sink goes on,
    but the error ends a task of nats-py's, and anyio fails a test for that.
    """
    return ("asyncio", {"use_uvloop": False})


@pytest.fixture
async def cluster() -> AsyncIterator[NatsEngineOfTest]:
    """Three servers with an engine."""
    with nats_engine(3) as made:
        await made.start()
        yield made


async def crash(cluster: NatsEngineOfTest, *, leaders: int, quorums: int, wholes: int, logs: int) -> None:
    """Kill the stream's leader, two of the three, and all, so many times each, under load; compare at the end."""
    servers = cluster.servers
    async with await cluster.host(timeout_s=5) as sink, await cluster.collector(timeout_s=60) as collector:
        ships = [Shipping(sink, a_log(instance=f"{number:02d}")) for number in range(logs)]

        async def progress() -> None:
            for ship in ships:
                await ship.wait_for(2)

        async def kill(nodes: list[NatsNode], *, while_down: bool) -> None:
            for node in nodes:
                node.kill()
            if while_down:  # the two that are left choose a leader
                await progress()
            for node in nodes:
                node.start()
            await progress()

        async with anyio.create_task_group() as group:
            for ship in ships:
                group.start_soon(ship.run)
            await progress()
            for _ in range(leaders):
                await kill([await cluster.leader()], while_down=True)
            for number in range(quorums):
                left = servers.nodes[number % 3]
                await kill([node for node in servers.nodes if node is not left], while_down=False)
            for _ in range(wholes):
                await kill(servers.nodes, while_down=False)
            group.cancel_scope.cancel()
        for ship in ships:
            await ship.check(collector)


async def test_nothing_acknowledged_is_lost_or_doubled(cluster: NatsEngineOfTest) -> None:
    """The leader killed, the quorum killed, all killed: a sample of the campaign."""
    await crash(cluster, leaders=1, quorums=1, wholes=1, logs=2)


@pytest.mark.campaign
async def test_ten_leaders_and_three_times_all(cluster: NatsEngineOfTest) -> None:
    """With four logs at a time."""
    await crash(cluster, leaders=10, quorums=3, wholes=3, logs=4)
