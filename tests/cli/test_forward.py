"""`audit-async forward` as it runs on a host: a process next to the services, ended by signals and by power cuts."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async._store.writer_lock import take_directory
from audit_async._trail.log_files import find_logs
from audit_async.cli import log_exchange
from audit_async.cli.run import Refused
from audit_async.config import RotationPolicy
from audit_async.events import AuditLogReplaced
from audit_async.forwarding import DirectorySink, LogIdentity
from tests.campaign import Campaign
from tests.cli.commands import Audit, Ended, run_in_pipes
from tests.logs import failure, segment_lines
from tests.processes import started, wait_until
from tests.trails import check_trail, read_events


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """A prepared directory as the engine."""
    root = tmp_path / "medium"
    root.mkdir()
    DirectorySink.prepare(root)
    return root


def arguments(base_dir: Path, medium: Path, *more: str) -> list[str]:
    """Return the arguments of a forwarder."""
    return ["forward", str(base_dir), "--to", f"file://{medium}", "--tenant", "acme", "--host", "web-1", *more]


def forward(base_dir: Path, medium: Path, *more: str) -> Ended:
    """Run it to its end."""
    return run_in_pipes(*arguments(base_dir, medium, *more))


def write(base_dir: Path, events: int = 20, service: str = "orders") -> Path:
    """Write a session of a log; return its directory."""

    async def run() -> None:
        config = AuditConfig(
            mode=Local(base_dir), service_id=service, handle_signals=False, rotation=RotationPolicy(max_bytes=20_000)
        )
        async with AuditLogger(config) as audit:
            for n in range(events):
                audit.emit(failure(n))

    asyncio.run(run())
    return base_dir / service / "00"


def stored(medium: Path, service: str = "orders", log_id: str | None = None) -> bytes:
    """Return what the engine has of a service's log, every record once and linked."""

    async def run() -> bytes:
        async with DirectorySink(medium, tenant="acme") as sink:
            [log] = [log for log in await sink.logs() if log.service == service and log_id in {None, log.log_id}]
            return await lines_of(sink, log)

    return asyncio.run(run())


async def lines_of(sink: DirectorySink, log: LogIdentity) -> bytes:
    """Return the lines of a log, checked."""
    lines, due, prev = b"", 0, "0" * 64
    async for batch in sink.read(log, None):
        batch.check()
        assert (batch.first_seq, batch.prev) == (due, prev)
        lines, due, prev = lines + batch.lines, batch.last_seq + 1, batch.last_hash
    return lines


@contextmanager
def running(
    base_dir: Path, medium: Path, *more: str, prepare: Callable[[], object] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a forwarder, killed at the end."""
    command = [sys.executable, "-m", "audit_async.cli", *arguments(base_dir, medium, *more)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, **pipes, preexec_fn=prepare) as process:
        yield process


def test_once_status_and_json(tmp_path: Path, medium: Path) -> None:
    """What is there is shipped; before and after the status says how far, at 80 columns and for a program."""
    base_dir = tmp_path / "audit"
    directory = write(base_dir)
    write(base_dir, service="a-service-with-quite-a-long-name")
    before = forward(base_dir, medium, "--status", "--json")
    assert before.status == 0
    assert [(log["state"], log["lag_records"], log["shipped_seq"]) for log in before.document["logs"]] == [
        ("behind", 22, None)
    ] * 2
    once = forward(base_dir, medium, "--once")
    assert once.status == 0, once.err
    assert stored(medium) == b"".join(segment_lines(directory))
    after = run_in_pipes(*arguments(base_dir, medium, "--status"), COLUMNS="80")
    assert after.status == 0
    assert after.out.count("caught up") == 2
    assert all(len(line) <= 80 for line in after.out.splitlines())
    assert not (base_dir / "audit-forward").exists()  # nothing was found


def test_a_refused_log_ends_with_a_finding_that_is_recorded_and_shipped(tmp_path: Path, medium: Path) -> None:
    """In the log of the service audit-forward; every other log is shipped; the output says which and why."""
    base_dir = tmp_path / "audit"
    directory = write(base_dir)
    forward(base_dir, medium, "--once")
    for path in medium.rglob("*.lines"):
        first, last, _ = path.name.split("-")
        path.rename(path.with_name(f"{first}-{last}-{'f' * 64}.lines"))
    other = write(base_dir, service="other")
    ended = forward(base_dir, medium, "--once")
    assert ended.status == 1
    assert "refused" in ended.out
    assert "record 21 has the hash" in " ".join(ended.out.split())
    assert stored(medium, "other") == b"".join(segment_lines(other))
    [problem] = [
        record["event"]
        for record in read_events(base_dir / "audit-forward")
        if record["event"]["event_type"] == "audit.forwarding_problem"
    ]
    assert (problem["kind"], problem["log"], problem["engine_seq"]) == ("fork", "orders/00", 21)
    assert problem["log_id"] == json.loads((directory / "log.json").read_bytes())["log_id"]
    assert b"audit.forwarding_problem" in stored(medium, "audit-forward")


def test_an_engine_that_is_not_there_is_status_3(tmp_path: Path, audit: Audit) -> None:
    """It is said, and nothing is made."""
    base_dir = tmp_path / "audit"
    write(base_dir)
    for option in ("--once", "--status"):
        ended = audit(*arguments(base_dir, tmp_path / "nowhere", option))
        assert ended.status == 3
        assert "not a directory for logs" in " ".join(ended.out.split())
    assert audit(*arguments(tmp_path / "nothing", tmp_path / "nowhere", "--once")).status == 3


def test_wrong_usage_says_what_to_write(tmp_path: Path, medium: Path, audit: Audit) -> None:
    """A password on the command line, options that exclude each other or miss another, a key that is none."""
    base_dir = tmp_path / "audit"
    secret = audit("forward", base_dir, "--to", "postgres://me:hunter2@db.example/audit", "--tenant", "acme")
    assert secret.status == 2
    assert "hunter2" not in secret.out + secret.err
    for more, said in {
        ("--once", "--status"): "exclude each other",
        ("--new-log", "orders/00"): "--reason",
        ("--new-log", "orders/00", "--as", "", "--reason", "x"): "neither may be empty",
        ("--once", "--collector-key", "nonsense"): "collector_keys",
        ("--once", "--tenant", "a/b"): "tenant",
    }.items():
        ended = audit(*arguments(base_dir, medium, *more))
        assert ended.status == 2, more
        assert said in " ".join(ended.err.replace("│", " ").split())


def test_a_sidecar_ships_as_records_become_durable_and_ends_on_a_signal(tmp_path: Path, medium: Path) -> None:
    """With status 0 and its own log closed; its own log is shipped too, and tells that the host is alive."""
    base_dir = tmp_path / "audit"
    with running(base_dir, medium) as sidecar:
        directory = write(base_dir, 200)
        write(base_dir, 200)
        expected = b"".join(segment_lines(directory))
        wait_until(lambda: list(medium.glob("acme/web-1/orders/*/*.lines")))
        wait_until(lambda: stored(medium) == expected)
        wait_until(lambda: list(medium.glob("acme/web-1/audit-forward/*/*.lines")))
        sidecar.send_signal(signal.SIGTERM)
        out, err = sidecar.communicate(timeout=60)
    assert (sidecar.returncode, out) == (0, b"")
    assert b"forwarding" in err
    check_trail(base_dir)
    assert read_events(base_dir / "audit-forward")[-1]["event"]["event_type"] == "audit.log_closed"


def test_a_host_may_have_more_logs_than_files_may_be_open_by_default(tmp_path: Path, medium: Path) -> None:
    """Each log that is shipped keeps a file open, so the limit is raised as far as the process may."""
    names = [f"service-{n:02}" for n in range(60)]
    for name in names:
        write(tmp_path / "audit", 1, name)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 400))

    with running(tmp_path / "audit", medium, prepare=limit):
        wait_until(lambda: all(list(medium.glob(f"acme/web-1/{name}/*/*.lines")) for name in names))


def test_a_replaced_log_is_kept_and_the_new_one_names_what_the_engine_has(tmp_path: Path, medium: Path) -> None:
    """Not while a writer has it; who asked and why is in the new log and in the sidecar's own; all is shipped."""
    base_dir = tmp_path / "audit"
    directory = write(base_dir)
    forward(base_dir, medium, "--once")
    [batch] = medium.glob("acme/web-1/orders/*/*.lines")
    batch.rename(batch.with_name(batch.name[:26] + "f" * 64 + ".lines"))
    assert forward(base_dir, medium, "--once").status == 1
    old = segment_lines(directory)
    old_id = json.loads((directory / "log.json").read_bytes())["log_id"]
    how = ("--new-log", "orders/00", "--as", "eve", "--reason", "restored from backup")

    async def locked() -> Ended:
        config = AuditConfig(mode=Local(base_dir), service_id="orders", instance="00", handle_signals=False)
        async with AuditLogger(config):
            return await asyncio.to_thread(forward, base_dir, medium, *how)

    refused = asyncio.run(locked())
    assert refused.status == 3
    assert "is being written" in refused.err
    old = segment_lines(directory)
    done = forward(base_dir, medium, *how, "--json")
    assert done.status == 0, done.err
    kept = directory.with_name(f"00.{old_id}")
    assert segment_lines(kept) == old
    records = read_events(directory)
    assert [record["event"]["event_type"] for record in records[:2]] == ["audit.log_opened", "audit.log_replaced"]
    event = records[1]["event"]
    assert (event["old_log_id"], event["engine_seq"], event["engine_hash"]) == (old_id, 21, "f" * 64)
    assert (event["requested_by"], event["reason"]) == ("eve", "restored from backup")
    assert event["local_seq"] == len(old) - 1
    assert "audit.log_replaced" in {record["event"]["event_type"] for record in read_events(base_dir / "audit-forward")}
    write(base_dir)
    check_trail(base_dir)
    assert forward(base_dir, medium, "--once").status == 0
    assert stored(medium, log_id=done.document["new_log_id"]) == b"".join(segment_lines(directory))


def test_a_log_is_replaced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two commands at once the second records nothing, and leaves the new log where it is."""
    write(tmp_path / "audit")
    [log] = find_logs(tmp_path / "audit")
    event = AuditLogReplaced(
        log=log.name, old_log_id=log.log_id, directory=f"00.{log.log_id}", reason="restored", requested_by="eve"
    )
    recorded: list[bool] = []

    async def record() -> None:
        recorded.append(True)

    def overtaken(*of: Any, **how: Any) -> Any:
        monkeypatch.undo()
        asyncio.run(log_exchange.exchange_log(log, event, before=record))
        return take_directory(*of, **how)

    monkeypatch.setattr(log_exchange, "take_directory", overtaken)
    with pytest.raises(Refused, match="another process has put orders/00 aside meanwhile"):
        asyncio.run(log_exchange.exchange_log(log, event, before=record))
    assert recorded == [True]
    assert "audit.log_replaced" in {record["event"]["event_type"] for record in read_events(log.directory)}


def has_batches(medium: Path, number: int) -> bool:
    """Return whether so many batches of the service were shipped."""
    return len(list(medium.glob("acme/web-1/orders/*/*.lines"))) >= number


def kill_forwarders(base_dir: Path, medium: Path, kills: int) -> None:
    """Write for as long as forwarders are killed, one after the other, then compare all bytes."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from audit_async import AuditConfig, AuditLogger, Local\n"
        "from audit_async.config import RotationPolicy\n"
        "from tests.logs import failure\n"
        "async def main():\n"
        "    rotation = RotationPolicy(max_bytes=200_000)\n"
        "    config = AuditConfig(mode=Local(sys.argv[1]), service_id='orders', rotation=rotation)\n"
        "    async with AuditLogger(config) as audit:\n"
        "        while not Path(sys.argv[2]).exists():\n"
        "            for n in range(20):\n"
        "                audit.emit(failure(n))\n"
        "            await asyncio.sleep(0.02)\n"
        "asyncio.run(main())\n"
    )
    stop = base_dir.with_name("stop")
    with started([sys.executable, "-c", code, str(base_dir), str(stop)]) as service:
        for number in range(kills):
            with running(base_dir, medium) as forwarder:
                enough = len(list(medium.glob("acme/web-1/orders/*/*.lines"))) + 2
                wait_until(partial(has_batches, medium, enough), forwarder)
                time.sleep(0.013 * (number % 7))
                os.kill(forwarder.pid, signal.SIGKILL)
        stop.touch()
        assert service.wait(timeout=60) == 0
    assert forward(base_dir, medium, "--once").status == 0
    local = b"".join(segment_lines(base_dir / "orders" / "00"))
    assert sha256(stored(medium)).hexdigest() == sha256(local).hexdigest()
    check_trail(base_dir / "orders")


def test_killed_forwarders_lose_nothing_and_store_nothing_twice(tmp_path: Path, medium: Path) -> None:
    """A sample of the campaign."""
    kill_forwarders(tmp_path / "audit", medium, 3)


@pytest.mark.campaign
def test_thirty_killed_forwarders(tmp_path: Path, medium: Path, campaign: Campaign) -> None:
    """The bytes in the engine are those on the disk, whenever the forwarders were killed."""
    kill_forwarders(tmp_path / "audit", medium, len(list(campaign.rounds(30))))
