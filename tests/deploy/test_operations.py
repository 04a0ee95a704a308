"""What docs/operations.md says about disks, moves and keys, done as it says, with a real service."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import httpx
import pytest

from audit_async import AuditConfig, Local
from tests.cli.commands import COMMAND
from tests.cli.running_service import running_service
from tests.deploy.recipes import DEPLOY
from tests.integrations.servers import Visitors, serving, wait_until
from tests.trails import check_trail, read_events

PAGE = (DEPLOY.parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
UVICORN = [
    "uvicorn",
    "--app-dir",
    str(DEPLOY),
    "orders_service:app",
    "--port",
    "0",
    "--timeout-graceful-shutdown",
    "20",
]
CONFIG = AuditConfig(mode=Local("audit"), service_id="orders")


def section(headline: str) -> str:
    """Return a section of the page."""
    return PAGE.partition(f"\n## {headline}\n")[2].partition("\n## ")[0]


def service_environment(base_dir: Path, **more: str) -> dict[str, str]:
    """Return what the service of the recipes needs."""
    return {"AUDIT_BASE_DIR": str(base_dir), "AUDIT_SERVICE_ID": "orders", **more}


def audit_async(*arguments: str | Path) -> str:
    """Run a command, which has to end with status 0, and return what it wrote."""
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return ended.stdout


# Sizes.


class SizeRow(NamedTuple):
    """A line of the table of disk space."""

    a_day: float
    a_second: float
    live_gb: float
    archived_gb: float
    together_gb: float


def size_rows() -> list[SizeRow]:
    """Return the lines of the table."""
    lines = re.findall(
        r"^\| ([\d,]+) \| ([\d.]+) \| ([\d,.]+) GB \| ([\d,.]+) GB \| ([\d,.]+) GB \|$", PAGE, re.MULTILINE
    )
    return [SizeRow(*(float(number.replace(",", "")) for number in line)) for line in lines]


def test_the_table_of_sizes_follows_from_its_figures_and_the_defaults() -> None:
    """Live and archived bytes are what the retention of `AuditConfig()` keeps at 530 bytes, compressed to a tenth."""
    live_days = CONFIG.retention.archive_after_days
    archived_days = CONFIG.retention.delete_after_days - live_days
    rows = size_rows()
    assert len(rows) == 4
    for row in rows:
        live, archived = row.a_day * 530 * live_days / 1e9, row.a_day * 53 * archived_days / 1e9
        assert row[1:] == pytest.approx((row.a_day / 86400, live, archived, live + archived), rel=0.05)


def test_records_have_the_size_that_the_page_says(tmp_path: Path) -> None:
    """Of the service's own requests: bytes of a record by type, and how small an archive is."""
    audit = tmp_path / "audit"
    with (
        serving(tmp_path, UVICORN, environment=service_environment(audit)) as server,
        Visitors(server.address, path=lambda n: f"/orders/{n}") as visitors,
    ):
        visitors.wait_for(300, server)
        server.stop(signal.SIGTERM)
    sizes = defaultdict(list)
    (segment,) = audit.rglob("*.audit")
    for line, record in zip(segment.read_bytes().splitlines(keepends=True), read_events(audit), strict=True):
        sizes[record["event"]["event_type"]].append(len(line))
    text = section("How much disk")
    said = {
        "http.request": int(re.findall(r"`http.request`\) has about (\d+) bytes", text)[0]),
        "resource.read": int(re.findall(r"`resource.read`\) about (\d+);", text)[0]),
    }
    for name, number in said.items():
        assert mean(sizes[name]) == pytest.approx(number, rel=0.1), name


# Moving.


def test_the_steps_of_a_move(tmp_path: Path) -> None:
    """The commands of the page, one after the other: the service on the new host carries the chain on."""
    old, new, backup = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    (commands,) = re.findall(r"```console\n(\$ systemctl stop.*?)```", section("Backup, restore, move"), re.DOTALL)
    with running_service(old) as service:
        before = service.emit("on the old host")
    places = {"/var/lib/orders/audit": old, "/srv/new/audit": new, "/mnt/backup/audit": backup}
    for line in commands.splitlines():
        command, *arguments = shlex.split(line.removeprefix("$ "))
        if command == "audit-async":
            audit_async(*(places.get(argument, argument) for argument in arguments))
    with running_service(new) as service:
        assert service.emit("on the new host") > before
    producers = [record["event"].get("producer") for record in read_events(new)]
    assert [name for name in producers if name] == ["first", "on the old host", "first", "on the new host"]
    check_trail(new)


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a tmpfs of 4 MiB; skipped if this process may not mount."""
    path = tmp_path / "small"
    path.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(path)]
    mounting = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounting.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounting.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


def test_the_runbook_of_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """It fills up under requests: 503 for the balancer; room again: 200 without a restart, and nothing is lost."""
    audit, ballast = small_disk / "audit", small_disk / "other-files"
    with serving(tmp_path, UVICORN, environment=service_environment(audit, AUDIT_LOW_DISK_BYTES="0")) as server:

        def answers(status: int) -> bool:
            return httpx.get(f"{server.address}/ready", timeout=30).status_code == status

        with Visitors(server.address, path=lambda n: f"/orders/{n}") as visitors:
            visitors.wait_for(50, server)
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
            wait_until(lambda: answers(503), server.process, server.log)
            assert httpx.get(f"{server.address}/live", timeout=30).status_code == 200
            audit_async("retention", audit)
            ballast.unlink()
            wait_until(lambda: answers(200), server.process, server.log)
            visitors.wait_for(50, server)
            server.stop(signal.SIGTERM)
    audit_async("verify", audit)
    assert audit_async("query", audit, "--type", "audit.events_dropped", "--json").strip() == ""
    read = {
        record["event"]["resource"]["resource_id"] for record in read_events(audit) if "resource" in record["event"]
    }
    assert {str(n) for n in visitors.answered} - read == set()


# Keys.


def test_a_signing_key_is_changed_by_naming_both(tmp_path: Path) -> None:
    """The page's setting with two credentials: each checkpoint is signed by both keys, then by the new one alone."""
    (both,) = re.findall(r"`key = (\[.*?\])` below `\[transparency\]`", PAGE)
    for name in ("old", "new"):
        audit_async("keys", "new", "--out", tmp_path / name)
    program = (
        "import anyio\nfrom audit_async import AuditConfig, AuditLogger\n"
        "async def main():\n    async with AuditLogger(AuditConfig.load('audit.toml')): pass\nanyio.run(main)"
    )
    environment = os.environ | {"CREDENTIALS_DIRECTORY": str(tmp_path), "PYTHONPATH": str(DEPLOY.parents[1])}
    signatures = []
    for key in ('"credential:old"', both, '"credential:new"'):
        (tmp_path / "audit.toml").write_text(
            f'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "audit"\n[transparency]\nkey = {key}\n'
        )
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=60)
        (checkpoint,) = tmp_path.glob("audit/orders/00/tlog/checkpoint")
        signatures.append(checkpoint.read_text(encoding="utf-8").count("\n— "))
    assert signatures == [1, 2, 1]
    check_trail(tmp_path / "audit")
