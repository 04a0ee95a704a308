"""What docs/operations.md says about disks, moves and keys, done as it says, with a real service."""

from __future__ import annotations

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

import pytest
from backports import zstd

from audit_async import AuditConfig, Local
from tests.cli.commands import COMMAND
from tests.cli.running_service import running_service
from tests.deploy.recipes import DEPLOY
from tests.deploy.runbooks import DOCS, commands, run_here, section
from tests.integrations.servers import Visitors, serving
from tests.processes import wait_until
from tests.trails import check_trail, read_events

PAGE = (DOCS / "operations.md").read_text(encoding="utf-8")
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


def service_environment(base_dir: Path, **more: str) -> dict[str, str]:
    """Return what the service of the recipes needs."""
    return {"AUDIT_BASE_DIR": str(base_dir), "AUDIT_SERVICE_ID": "orders", **more}


def audit_async(*arguments: str | Path) -> str:
    """Run a command, which has to end with status 0, and return what it wrote."""
    return run_here(shlex.join(["audit-async", *map(str, arguments)]), places={})


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
    """Live and archived bytes are what the retention of `AuditConfig()` keeps at 530 bytes, compressed to an eighth."""
    live_days = CONFIG.retention.archive_after_days
    archived_days = CONFIG.retention.delete_after_days - live_days
    rows = size_rows()
    assert len(rows) == 4
    for row in rows:
        live, archived = row.a_day * 530 * live_days / 1e9, row.a_day * 530 / 8 * archived_days / 1e9
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
    text = section("operations.md", "How much disk")
    said = {
        "http.request": int(re.findall(r"`http.request`\) has about (\d+) bytes", text)[0]),
        "resource.read": int(re.findall(r"`resource.read`\) about (\d+);", text)[0]),
    }
    for name, number in said.items():
        assert mean(sizes[name]) == pytest.approx(number, rel=0.1), name
    assert "Archives take an eighth" in text
    assert len(zstd.compress(segment.read_bytes())) == pytest.approx(segment.stat().st_size / 8, rel=0.15)


# Moving.


def test_the_steps_of_a_move(tmp_path: Path) -> None:
    """The commands of the page, one after the other: the service on the new host carries the chain on."""
    old, new, backup = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    with running_service(old) as service:
        before = service.emit("on the old host")
    places = {"/var/lib/orders/audit": old, "/srv/new/audit": new, "/mnt/backup/audit": backup}
    script = commands("operations.md", "Backup, restore, move", block=1)
    run_here(script, places=places)
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
    mounting = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if mounting.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounting.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True, timeout=60)


def test_the_runbook_of_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """It fills up under requests: 503 for the balancer; room again: 200 without a restart, and nothing is lost."""
    audit, ballast = small_disk / "audit", small_disk / "other-files"
    with serving(tmp_path, UVICORN, environment=service_environment(audit, AUDIT_LOW_DISK_BYTES="0")) as server:

        def answers(status: int) -> bool:
            return probe.get("/ready").status_code == status

        with server.asking() as probe, Visitors(server.address, path=lambda n: f"/orders/{n}") as visitors:
            visitors.wait_for(50, server)
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
            wait_until(lambda: answers(503), server.process, server.log)
            assert probe.get("/live").status_code == 200
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


# A wrong clock.


def emit_at(base_dir: Path, shift_s: int, producer: str) -> None:
    """Run a service, of one event, whose clock is ahead by so much."""
    program = (
        "import sys, time\nreal = time.time_ns\ntime.time_ns = lambda: real() + int(sys.argv[2]) * 10**9\n"
        "import anyio\nfrom audit_async import AuditConfig, AuditLogger, Local\nfrom tests.logs import Counted\n"
        "async def main():\n"
        "    async with AuditLogger(AuditConfig(mode=Local(sys.argv[1]), service_id='orders')) as audit:\n"
        "        await audit.emit_durable(Counted(producer=sys.argv[3], n=0))\n"
        "anyio.run(main)"
    )
    command = [sys.executable, "-c", program, str(base_dir), str(shift_s), producer]
    subprocess.run(command, check=True, timeout=60, cwd=DOCS.parent)


def test_the_runbook_of_a_wrong_clock(tmp_path: Path) -> None:
    """The commands of the page, after a session with a clock that was 400 days ahead: nothing is deleted meanwhile."""
    audit = tmp_path / "audit"
    emit_at(audit, 400 * 86_400, "ahead")
    doctor, hold, *rest = commands("operations.md", "The clock is wrong").splitlines()
    places = {"/var/lib/orders/audit": audit}
    assert doctor == "audit-async doctor /var/lib/orders/audit"
    found = subprocess.run([*COMMAND, "doctor", audit], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert "the clock was wrong then, or is now" in " ".join(found.stdout.split())
    run_here(hold, places=places)
    emit_at(audit, 0, "right")
    verified = " ".join(run_here("\n".join(rest), places=places).split())
    assert "the clock was set back by" in verified
    check_trail(audit / "orders" / "00")
    events = [record["event"]["event_type"] for record in read_events(audit / "orders" / "00")]
    assert [name for name in events if "hold" in name] == ["audit.hold_set", "audit.hold_lifted"]
