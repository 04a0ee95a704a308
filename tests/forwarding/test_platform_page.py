"""The commands of docs/platform.md run as they are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer, programs

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
