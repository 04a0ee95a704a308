"""`audit-async bucket` as people and timers run it, on a real server that locks, and killed while it stores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import anyio
import msgspec
import pytest

from audit_async._layout.collected_file import Collected
from audit_async._layout.manifest import read_manifest
from audit_async.forwarding import LogIdentity
from audit_async.forwarding.collector_root import prepare_root
from tests.cli.commands import COMMAND, Audit, environment
from tests.cli.conftest import audit as audit_fixture
from tests.forwarding.s3_server import BucketOfTest, S3Server, credentials
from tests.forwarding.stored_logs import digests, sealed_in, write_log
from tests.forwarding.test_worm_archive import be, key_of, log_id_of

audit = audit_fixture
DAYS = ("--retention-days", "30")
PLAIN = "--keep-plain-personal-data"


def log_in(base_dir: Path, count: int = 40, *, max_bytes: int = 4096) -> Path:
    """Write a log; return its directory."""
    from audit_async import RotationPolicy  # noqa: PLC0415

    return anyio.run(lambda: write_log(base_dir, count, rotation=RotationPolicy(max_bytes=max_bytes)))


def test_from_nothing_to_a_restored_trail(
    audit: Audit, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command as its documentation has it: made, checked, pushed, listed, restored, verified."""
    bucket = BucketOfTest(s3)
    be(monkeypatch, "admin")
    monkeypatch.setenv("AUDIT_BUCKET_URL", bucket.url())
    made = audit("bucket", "init", "--json")
    assert made.status == 0, made.err
    assert "made, with Object Lock" in made.document["done"][0]
    assert audit("bucket", "check").status == 0

    log = log_in(tmp_path / "audit")
    segments = sealed_in(log)
    be(monkeypatch, "pusher")
    missing = audit("bucket", "list", tmp_path / "audit", "--max-lag", "0s", "--json")
    assert missing.status == 1
    assert missing.document["logs"][0]["missing"] == segments
    assert audit("bucket", "push", tmp_path / "audit").status == 2
    refused = audit("bucket", "push", tmp_path / "audit", *DAYS)
    assert refused.status == 1
    assert PLAIN in refused.err
    assert "alice" not in refused.err
    pushed = audit("bucket", "push", tmp_path / "audit", *DAYS, PLAIN, "--json")
    assert pushed.status == 0, pushed.err
    assert pushed.document["logs"][0]["stored"] == len(segments)
    nothing_missing = audit("bucket", "list", tmp_path / "audit", "--max-lag", "0s", "--json")
    assert nothing_missing.status == 0
    assert nothing_missing.document["logs"][0]["missing"] == []

    be(monkeypatch, "restorer")
    listed = audit("bucket", "list", "--json")
    (there,) = listed.document["logs"]
    assert (there["place"], there["log_id"], there["segments"]) == ("orders/00", log_id_of(log), len(segments))
    assert "orders/00" in audit("bucket", "list").out
    restored = audit("bucket", "restore", tmp_path / "new", "--log-id", log_id_of(log))
    assert restored.status == 0, restored.err
    assert "orders/00" in restored.out
    assert digests(tmp_path / "new/orders/00") == {
        name: digest for name, digest in digests(log).items() if name in segments
    }
    verified = audit("verify", tmp_path / "new", "--json")
    assert verified.status == 0
    again = audit("bucket", "restore", tmp_path / "new")
    assert again.status == 3
    assert "never overwritten" in again.err
    assert audit("bucket", "restore", tmp_path / "other", "--log-id", "0" * 32).status == 3


def test_the_retention_is_that_of_the_configuration(
    audit: Audit, worm: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise to auditors, not when the host deletes: a lock can't be shortened."""
    be(monkeypatch, "pusher")
    log_in(tmp_path / "audit")
    config = tmp_path / "audit.toml"
    config.write_text(
        f'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "{tmp_path / "audit"}"\n'
        "[retention]\nmin_retention_days = 40\ndelete_after_days = 400\narchive_after_days = 30\n"
    )
    pushed = audit("bucket", "push", tmp_path / "audit", "--bucket", worm.url(), "--config", config, PLAIN)
    assert pushed.status == 0, pushed.err
    for key in worm.objects():
        until = worm.admin.get_object_retention(Bucket=worm.name, Key=key)["Retention"]["RetainUntilDate"]
        assert 39.9 < (until.timestamp() - time.time()) / 86_400 < 40.1
    at = ("--bucket", worm.url(), "--retention-days")
    longer = audit("bucket", "lengthen", tmp_path / "audit", *at, "50", "--json")
    assert longer.status == 0, longer.err
    assert (longer.document["logs"][0]["lengthened"], longer.document["logs"][0]["unchanged"]) == (
        len(worm.objects()),
        0,
    )
    shorter = audit("bucket", "lengthen", tmp_path / "audit", *at, "20")
    assert shorter.status == 0
    for key in worm.objects():
        until = worm.admin.get_object_retention(Bucket=worm.name, Key=key)["Retention"]["RetainUntilDate"]
        assert 49.9 < (until.timestamp() - time.time()) / 86_400 < 50.1


def test_a_hold_becomes_a_legal_hold_and_only_a_person_ends_it(
    audit: Audit, worm: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By credentials of their own: those that push can't, and those that hold can't push."""
    base_dir = tmp_path / "audit"
    log = log_in(base_dir)
    at = ("--bucket", worm.url(), *DAYS)
    be(monkeypatch, "pusher")
    assert audit("bucket", "push", base_dir, *at, PLAIN).status == 0
    assert audit("bucket", "hold", base_dir, *at).status == 0  # no hold is in force
    assert audit("hold", "set", base_dir, "--as", "R. Roe", "--reason", "case 4711").status == 0
    assert audit("bucket", "hold", base_dir, *at).status == 3

    be(monkeypatch, "holder")
    held = audit("bucket", "hold", base_dir, *at, "--json")
    assert held.status == 0, held.err
    stored = [key for key in worm.objects() if "/holds/" not in key]
    assert held.document["logs"][0]["changed"] == len(stored)
    for key in stored:
        assert worm.admin.get_object_legal_hold(Bucket=worm.name, Key=key)["LegalHold"]["Status"] == "ON"
    assert audit("bucket", "hold", base_dir, *at, "--json").document["logs"][0]["changed"] <= 1

    asked = ("--as", "R. Roe", "--reason", "case closed")
    refused = audit("bucket", "release", base_dir, *at, *asked)
    assert refused.status == 3
    assert "audit-async hold lift" in refused.err
    assert audit("hold", "lift", base_dir, "--as", "R. Roe", "--reason", "case closed").status == 0
    assert audit("bucket", "release", base_dir, *at, "--as", " ", "--reason", "x").status == 2
    released = audit("bucket", "release", base_dir, *at, *asked)
    assert released.status == 0, released.err
    for key in stored:
        assert worm.admin.get_object_legal_hold(Bucket=worm.name, Key=key)["LegalHold"]["Status"] == "OFF"
    (statement,) = [key for key in worm.objects() if key.endswith("-released.json")]
    said = json.loads(worm.content(statement))
    assert (said["by"], said["reason"]) == ("R. Roe", "case closed")
    assert log_id_of(log) in statement


def test_a_collectors_root_is_pushed_whole_and_restored_to_the_same_places(
    audit: Audit, worm: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four levels below the root, two hosts with the same service and slot; whichever directory was given."""
    be(monkeypatch, "pusher")
    root = tmp_path / "root"
    prepare_root(root)
    places = []
    for host in ("web-1.example", "web-2.example"):
        log = log_in(tmp_path / host)
        names = Collected(tenant="acme", host=host, service="orders", instance="00", log_id=log_id_of(log))
        (log / "collected.json").write_bytes(msgspec.json.encode(names) + b"\n")
        place = root / LogIdentity(**msgspec.structs.asdict(names)).path()
        place.parent.mkdir(parents=True)
        log.rename(place)
        places.append(place)
    at = ("--bucket", worm.url(), *DAYS, PLAIN)
    assert audit("bucket", "push", places[0], *at).status == 0
    before = worm.objects()
    pushed = audit("bucket", "push", root, *at, "--json")
    assert pushed.status == 0, pushed.err
    assert [log["stored"] > 0 for log in pushed.document["logs"]] == [False, True]
    assert {key: worm.objects()[key] for key in before} == before
    restored = audit("bucket", "restore", tmp_path / "new", "--bucket", worm.url())
    assert restored.status == 0, restored.err
    verified = audit("verify", tmp_path / "new", "--json")
    assert verified.status == 0, verified.out
    for place in places:
        assert (tmp_path / "new" / place.relative_to(root) / "collected.json").read_bytes() == (
            place / "collected.json"
        ).read_bytes()
        copy = tmp_path / "new" / place.relative_to(root)
        assert digests(copy) == {name: digest for name, digest in digests(place).items() if name in sealed_in(place)}


def test_doctor_looks_at_the_bucket(
    audit: Audit, worm: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it locks, and what it lacks; later versions are findings."""
    be(monkeypatch, "admin")
    log = log_in(tmp_path)
    first = audit("doctor", tmp_path, "--bucket", worm.url(), "--json")
    checks = {(one["subject"], one["name"]): one["status"] for one in first.document["checks"]}
    assert checks["bucket", "deleting a locked object"] == "ok"
    assert checks["orders/00", "bucket"] == "warn"
    assert audit("bucket", "push", tmp_path, "--bucket", worm.url(), *DAYS, PLAIN).status == 0
    worm.put(key_of(log, sealed_in(log)[0]), b"other")
    second = audit("doctor", tmp_path, "--bucket", worm.url(), "--json")
    assert second.status == 1
    statuses = [(one["status"], one["text"]) for one in second.document["checks"] if one["name"] == "bucket"]
    assert [status for status, _ in statuses] == ["fail", "ok"]
    assert "later version" in statuses[0][1]


def kill_while_it_stores(worm: BucketOfTest, tmp_path: Path, kills: int) -> None:
    """Kill a push again and again after it has stored something more; then let one end, and compare everything."""
    log = log_in(tmp_path / "audit", 25 * (kills + 1), max_bytes=1024)
    wanted = {key_of(log, name) for name in sealed_in(log)}
    command = [*COMMAND, "bucket", "push", str(tmp_path / "audit"), "--bucket", worm.url(), *DAYS, PLAIN]
    variables = environment(**credentials("pusher"))
    for _ in range(kills):
        before = len(worm.objects())
        process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 120
            while len(worm.objects()) < before + 3 and process.poll() is None:
                assert time.monotonic() < deadline
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
        _check_receipts(log, worm)
    done = subprocess.run([*command, "--json"], env=variables, capture_output=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    objects = worm.objects()
    assert {key for key in objects if "/segments/" in key} == wanted
    assert all(len(versions) == 1 for versions in objects.values())
    environ = {**os.environ, **credentials("restorer")}
    restore = [*COMMAND, "bucket", "restore", str(tmp_path / "new"), "--bucket", worm.url()]
    assert subprocess.run(restore, env=environ, check=False, timeout=240).returncode == 0
    original = digests(log)
    assert digests(tmp_path / "new/orders/00") == {name: original[name] for name in sealed_in(log)}


def _check_receipts(log: Path, worm: BucketOfTest) -> None:
    """Whatever moment it was killed at, what a receipt says is stored, and its digest is that of the segment."""
    entries = {entry.segment: entry for entry in read_manifest(log)}
    for path in log.glob("bucket-*.json"):
        for receipt in msgspec.json.decode(path.read_bytes())["segments"]:
            assert entries[receipt["segment"]].sha256 == receipt["sha256"]
            assert worm.objects()[f"web-1/{receipt['key']}"][-1][0] == receipt["version"]


def test_a_push_that_is_killed_leaves_nothing_wrong(worm: BucketOfTest, tmp_path: Path) -> None:
    """A sample of the campaign."""
    kill_while_it_stores(worm, tmp_path, kills=2)


@pytest.mark.campaign
def test_ten_times_kill_9(worm: BucketOfTest, tmp_path: Path) -> None:
    """No segment is missing, twice, or under a wrong key."""
    kill_while_it_stores(worm, tmp_path, kills=10)


def test_a_push_with_every_goes_on_after_an_error(
    worm: BucketOfTest, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sealed meanwhile is stored at the next turn."""
    be(monkeypatch, "pusher")
    log = log_in(tmp_path / "audit")
    command = [*COMMAND, "bucket", "push", str(tmp_path / "audit"), "--bucket", worm.url(), *DAYS, PLAIN]
    process = subprocess.Popen(
        [*command, "--every", "1s", "--json"], env=environment(**credentials("pusher")), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["logs"][0]["stored"] == len(sealed_in(log))
        (log / "manifest.json").rename(tmp_path / "manifest.json")
        (log / "manifest.json").mkdir()
        assert any(line.startswith("audit-async: ") for line in process.stdout)
        (log / "manifest.json").rmdir()
        (tmp_path / "manifest.json").rename(log / "manifest.json")
        log_in(tmp_path / "audit")
        for line in process.stdout:
            if line.startswith('{"logs":[{') and json.loads(line)["logs"][0]["there"] == len(sealed_in(log)):
                break
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == -signal.SIGTERM
