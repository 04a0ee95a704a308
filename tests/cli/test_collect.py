"""`collect` and `hosts`: the real commands, on a real engine and real logs."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest

from audit_async.forwarding import DirectorySink
from tests.age_keys import RECIPIENT
from tests.cli.commands import COMMAND, Audit, environment
from tests.forwarding.shipped_logs import files_of, identity_of, ship, write_log
from tests.processes import started, wait_until
from tests.trails import read_events


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine with the logs of two hosts."""
    (tmp_path / "engine").mkdir()
    DirectorySink.prepare(tmp_path / "engine")

    async def fill() -> None:
        async with DirectorySink(tmp_path / "engine", tenant="acme") as sink:
            for host in ("web-1", "web-2.example.org"):
                await ship(await write_log(tmp_path / host, 30), sink, host=host)

    anyio.run(fill)
    return tmp_path / "engine"


def again(tmp_path: Path, host: str, count: int = 5) -> None:
    """Let a host write and ship more."""

    async def fill() -> None:
        async with DirectorySink(tmp_path / "engine", tenant="acme") as sink:
            await ship(await write_log(tmp_path / host, count), sink, host=host)

    anyio.run(fill)


def test_collect_once_and_look(engine: Path, tmp_path: Path, audit: Audit) -> None:
    """What is received is what the hosts have, every command reads it, and `hosts` says how far each is."""
    root = tmp_path / "root"
    ended = audit("collect", root, "--from", f"file://{engine}", "--tenant", "acme", "--once")
    assert (ended.status, ended.err) == (0, "")
    assert "of 2 logs" in ended.out
    copy = root / identity_of(tmp_path / "web-1/orders/00").path()
    assert files_of(copy) == files_of(tmp_path / "web-1/orders/00")
    shown = audit("hosts", root)
    assert shown.status == 0
    for word in ("web-1", "web-2.example.org", "orders/00", "live", "2 logs of 2 hosts, 0 silent"):
        assert word in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    document = audit("hosts", root, "--json").document
    assert [log["behind_records"] for log in document["logs"]] == [0, 0]
    assert {log["seq"] for log in document["logs"]} == {31}
    assert audit("verify", root).status == 0
    assert len(audit("query", root, "--json", "--type", "auth.failure").rows) == 60
    assert len(audit("query", root, "--json", "--host", "web-1", "--type", "auth.failure").rows) == 30
    assert audit("stats", root, "--json").document
    assert audit("index", root).status == 0
    assert audit("verify", root).status == 0


def test_what_is_counted_and_checked_by_the_segment_is_said_of_the_hosts_log(
    engine: Path, tmp_path: Path, audit: Audit
) -> None:
    """A log has one name at a collector, also in what other processes find out about its sealed segments."""
    root = tmp_path / "root"
    for host in ("web-1", "web-2.example.org"):
        again(tmp_path, host, 400)  # fills a segment of 64 KiB, which is sealed
    assert audit("collect", root, "--from", f"file://{engine}", "--tenant", "acme", "--once").status == 0
    names = {str(row["log"]) for row in audit("query", root, "--json").rows}
    assert len(names) == 2
    assert list(root.rglob("*.sha256")) != []
    logs = audit("stats", root, "--json").document["logs"]
    assert {log["name"] for log in logs} == names
    assert all(log["records"] > 30 for log in logs)
    assert audit("index", root).status == 0
    for index in root.rglob("*.index"):
        index.write_bytes(b"damaged")
    damaged = audit("verify", root, "--index", "--json").document
    assert {str(one["log"]) for one in damaged["index"] if one["problem"]} == names


def test_findings_are_shown_until_they_are_acknowledged(engine: Path, tmp_path: Path, audit: Audit) -> None:
    """And recorded, each with who has looked at it and why, in the collector's own log."""
    root = tmp_path / "root"
    arguments = ("collect", root, "--from", f"file://{engine}", "--tenant", "acme", "--once")
    assert audit(*arguments).status == 0
    for stored in (engine / identity_of(tmp_path / "web-1/orders/00").path()).glob("*.lines"):
        stored.rename(stored.with_name(f"{90:012d}-{99:012d}-{'0' * 64}.lines"))
    assert audit(*arguments).status == 1
    shown = audit("hosts", root)
    assert shown.status == 1
    assert "web-1" in shown.out
    assert re.search(r"gap|went back|bad batch", shown.out)
    assert audit("hosts", root, "--problems", "--json").document["findings"]
    assert audit("hosts", "ack", root, "web-1", "--by", "", "--reason", "x").status == 2
    assert audit("hosts", "ack", root, "web-1", "--by", "alice", "--reason", "new disk, 4711").status == 0
    assert audit("hosts", root).status == 0
    assert audit("hosts", "ack", root, "web-1", "--by", "alice", "--reason", "x").status == 3
    events = [one["event"] for one in read_events(root / ".findings")]
    found = [one["kind"] for one in events if one["event_type"] == "audit.collection_finding"]
    seen = [
        (one["kind"], one["acknowledged_by"]) for one in events if one["event_type"] == "audit.finding_acknowledged"
    ]
    assert found
    assert sorted(seen) == sorted((kind, "alice") for kind in found)


def test_a_silent_host_is_told_from_an_idle_log(engine: Path, tmp_path: Path, audit: Audit) -> None:
    """A host is silent if nothing of it came for as long as was said; a quiet log of a lively host is idle."""
    root = tmp_path / "root"
    audit("collect", root, "--from", f"file://{engine}", "--tenant", "acme", "--once")
    status = msgspec.json.decode((root / "status.json").read_bytes())
    for log in status["logs"]:
        if log["host"] == "web-2.example.org":
            log |= {"received_at": "2026-01-01T00:00:00Z", "heard_at": "2026-01-01T00:00:00Z"}
    status["logs"].append(status["logs"][0] | {"instance": "01", "received_at": "2026-01-01T00:00:00Z"})
    status["logs"].append(status["logs"][1] | {"host": "web-3", "heard_at": datetime.now(UTC)})
    (root / "status.json").write_bytes(msgspec.json.encode(status))
    ended = audit("hosts", root, "--json", "--silent-after", "1h")
    assert [(log["host"], log["instance"], log["state"]) for log in ended.document["logs"]] == [
        ("web-1", "00", "live"), ("web-2.example.org", "00", "silent"), ("web-1", "01", "idle"),
        ("web-3", "00", "idle"),
    ]  # fmt: skip
    assert ended.status == 1
    status["updated_at"] = "2026-01-01T00:00:00Z"
    (root / "status.json").write_bytes(msgspec.json.encode(status))
    assert "not running" in audit("hosts", root).out


def test_a_running_collector_is_ended_by_its_signal(engine: Path, tmp_path: Path, audit: Audit) -> None:
    """It confirms what it has with its key; meanwhile another is refused."""
    root, key = tmp_path / "root", tmp_path / "key.pem"
    assert audit("keys", "new", "--out", key).status == 0
    arguments = ["collect", str(root), "--from", f"file://{engine}", "--tenant", "acme"]
    confirmed = engine / identity_of(tmp_path / "web-1/orders/00").path() / "confirmation"
    with started(
        [*COMMAND, *arguments, "--key", str(key), "--name", "c1", "--every", "0.1"], env=environment()
    ) as running:
        wait_until(confirmed.exists, running)
        assert b"c1 " in confirmed.read_bytes()
        refused = audit(*arguments, "--once")
        assert (refused.status, str(running.pid) in refused.err) == (3, True)
        again(tmp_path, "web-1")
        copy = root / identity_of(tmp_path / "web-1/orders/00").path()
        wait_until(lambda: files_of(copy) == files_of(tmp_path / "web-1/orders/00"), running)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) != 0


def test_what_makes_no_sense_is_wrong_usage(engine: Path, tmp_path: Path, audit: Audit) -> None:
    """With the option that has to change; a password is not repeated."""
    root = tmp_path / "root"
    for options, words in [
        (("--shard", "3/2"), "--shard"),
        (("--shard", "a"), "--shard"),
    ]:
        ended = audit("collect", root, "--from", f"file://{engine}", "--tenant", "acme", "--once", *options)
        assert ended.status == 2
        assert words in ended.err
    ended = audit("collect", root, "--from", "postgres://me:secret@db/audit", "--tenant", "acme", "--once")
    assert ended.status == 2
    assert "secret" not in ended.err
    assert audit("collect", tmp_path, "--from", f"file://{engine}", "--tenant", "acme", "--once").status == 2
    assert audit("hosts", tmp_path).status == 2


def test_a_collectors_directory_is_backed_up_and_restored(engine: Path, tmp_path: Path, audit: Audit) -> None:
    """Into a directory of the same kind, log by log byte for byte; again only what is new; and a collector goes on."""
    arguments = ("--from", f"file://{engine}", "--tenant", "acme", "--once")
    root, copy, restored = tmp_path / "root", tmp_path / "copy", tmp_path / "restored"

    async def fill() -> None:
        async with DirectorySink(engine, tenant="acme") as sink:
            await ship(await write_log(tmp_path / "dotted", 20, service="orders.v2"), sink, host="web-3")

    anyio.run(fill)
    assert audit("collect", root, *arguments).status == 0
    for source, target in ((root, copy), (root, copy), (copy, restored)):
        ended = audit("backup" if source is root else "restore", source, target)
        assert (ended.status, ended.err) == (0, "")
        assert audit("verify", target).status == 0
        for log in ("web-1", "web-2.example.org"):
            path = identity_of(tmp_path / log / "orders/00", log).path()
            assert files_of(target / path) == files_of(root / path)
    again(tmp_path, "web-1")
    assert audit("collect", restored, *arguments).status == 0
    path = identity_of(tmp_path / "web-1/orders/00", "web-1").path()
    assert files_of(restored / path) == files_of(tmp_path / "web-1/orders/00")


def test_doctor_and_retention_say_what_waits_for_collectors(tmp_path: Path, audit: Audit) -> None:
    """With `hold_unshipped` nothing is due that is not confirmed, and `doctor` names what is overdue."""
    anyio.run(partial(write_log, tmp_path / "host", 60, max_bytes=6_000))
    config = tmp_path / "audit.toml"
    config.write_text(
        f'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "{tmp_path}/host"\n[retention]\n'
        f'archive_after_days = 0\nhold_unshipped = true\narchive_recipients = ["{RECIPIENT}"]\n'
    )
    shown = audit("doctor", "--config", config, "--json").document["checks"]
    [check] = [one for one in shown if one["name"] == "shipping"]
    assert check["status"] == "warn"
    assert "confirmed nothing in 2 places" in check["text"]
    assert audit("retention", "--config", config, "--json").document["logs"][0]["steps"] == []


def test_no_command_adds_to_what_a_collector_has(engine: Path, tmp_path: Path, audit: Audit) -> None:
    """A log of who read, or of a hold, would be there as if a host had sent it; each command says what to do."""
    root = tmp_path / "root"
    again(tmp_path, "web-1", 400)
    assert audit("collect", root, "--from", f"file://{engine}", "--tenant", "acme", "--once").status == 0
    key = tmp_path / "master.key"
    store = ("--key-store", tmp_path / "keys", "--master-key", f"file:{key}")
    assert audit("keystore", "init", store[1], *store[2:], "--make-key").status == 0
    before = sorted(root.rglob("*"))
    who, why = ("--as", "R. Roe"), ("--reason", "case 4711")
    for arguments, advice in {
        ("query", root, *who): "--access-log DIR",
        ("export", root, tmp_path / "x.csv", *who): "--access-log DIR",
        ("report", root, "--framework", "gdpr", "--out", tmp_path / "x.html", *who): "--access-log DIR",
        ("hold", "set", root, *who, *why): "on the host",
        ("erase", root, "--subject", "alice", "--by", "R. Roe", *why, *store): "on the host",
    }.items():
        refused = audit(*arguments)
        assert refused.status == 3, (arguments, refused.out)
        assert advice in refused.err
    config = tmp_path / "deliver.toml"
    sink = f'[[sink]]\nname = "out"\ntype = "file"\npath = "{tmp_path}/out"\n'
    config.write_text(f'base_dir = "{root}"\nstate_dir = "{tmp_path}/state"\n{sink}')
    assert "own_log" in audit("deliver", "--config", config, "--once").err
    planned = audit("retention", root, "--archive-after-days", "0")
    assert "--apply is for the host" in planned.out
    assert audit("query", root, *who, "--access-log", tmp_path / "readers").status == 0
    assert (
        audit("query", tmp_path / "readers", "--type", "audit.log_accessed", "--json").rows[0]["event"]["actor"]
        == "R. Roe"
    )
    assert sorted(root.rglob("*")) == before
