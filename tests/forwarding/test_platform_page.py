"""The commands of docs/platform.md run as they are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anyio

from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer, programs
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
