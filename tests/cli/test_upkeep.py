"""`retention` and `hold` on the command line: nothing is deleted by accident, and a hold never waits."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit_async._chain import Batch
from audit_async._layout.hold_file import read_hold
from audit_async._layout.manifest import read_manifest
from audit_async._store.legal_hold import place_hold
from audit_async.cli.commands import retention
from tests.cli.commands import Audit
from tests.cli.made_trails import failure
from tests.cli.running_service import running_service
from tests.store.chained import DAY_NS, Chain, open_store

POLICY = ["--min-retention-days", "365", "--archive-after-days", "30", "--delete-after-days", "365"]


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """A trail with a segment that is two years old, one of 100 days, and one of yesterday."""
    chain = Chain()
    store = open_store(tmp_path / "t")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for days in (730, 100, 1):  # never today: shortly after midnight that would be the future
        chain.now_ns = int((today - timedelta(days=days)).timestamp()) * 10**9
        batch: Batch = chain.batch_of([failure("bob", n) for n in range(20)], step_ns=DAY_NS // 1000)
        store.commit(batch, sync=True)
    store.close()
    return tmp_path / "t"


def log_of(trail: Path) -> Path:
    """Return the log's directory."""
    return trail / "orders" / "00"


def events(trail: Path, audit: Audit, *options: str) -> list[dict[str, Any]]:
    """Return the events of a trail."""
    return [row["event"] for row in audit("query", trail, "--json", *options).rows]


# -- retention ----------------------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(trail: Path, audit: Audit) -> None:
    """Without --apply the steps that are due are shown, and no file is touched."""
    before = {path: path.stat().st_mtime_ns for path in trail.rglob("*")}
    ended = audit("retention", trail, *POLICY)
    assert ended.status == 0
    assert "Nothing was changed" in ended.out
    document = audit("retention", trail, *POLICY, "--json").document
    assert document["applied"] is False
    steps = document["logs"][0]["steps"]
    assert [(step["action"], step["first_seq"], step["done"]) for step in steps] == [
        ("delete", 0, False),
        ("archive", 20, False),
    ]
    assert {path: path.stat().st_mtime_ns for path in trail.rglob("*")} == before


def test_it_is_done_with_apply(trail: Path, audit: Audit) -> None:
    """With --apply it is done, recorded in the log's own chain, and the trail is still valid."""
    document = audit("retention", trail, *POLICY, "--apply", "--json").document
    assert [step["done"] for step in document["logs"][0]["steps"]] == [True, True]
    assert [segment.state for segment in read_manifest(log_of(trail))][:2] == ["deleted", "archived"]
    kinds = [event["event_type"] for event in events(trail, audit)]
    assert kinds.count("audit.segment_deleted") == kinds.count("audit.segment_archived") == 1
    assert kinds[-1] == "audit.log_closed"
    assert audit("verify", trail).status == 0
    again = audit("retention", trail, *POLICY)
    assert "Nothing is due." in again.out


def test_the_policy_of_a_configuration(trail: Path, tmp_path: Path, audit: Audit) -> None:
    """The policy and the place come from a configuration; then only its own service's logs are taken."""
    (tmp_path / "audit.toml").write_text(
        'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "t"\n'
        "[retention]\nmin_retention_days = 365\narchive_after_days = 30\ndelete_after_days = 365\n"
    )
    document = audit("retention", "--config", tmp_path / "audit.toml", "--json").document
    assert len(document["logs"][0]["steps"]) == 2
    (trail / "billing").mkdir(mode=0o700)
    (trail / "orders" / "00").rename(trail / "billing" / "00")
    ended = audit("retention", trail, "--config", tmp_path / "audit.toml")
    assert ended.status == 3
    assert "holds no log of service 'orders'" in ended.err
    assert audit("retention", trail, "--config", tmp_path / "audit.toml", "--service", "billing").status == 3


def test_a_policy_that_can_t_work(trail: Path, audit: Audit) -> None:
    """A policy that deletes what it promises to keep is wrong usage, and nothing is done."""
    ended = audit("retention", trail, "--delete-after-days", "1", "--apply", "--min-retention-days", "9",
                  "--archive-after-days", "0")  # fmt: skip
    assert ended.status == 2
    assert "retention.delete_after_days" in ended.err
    assert {segment.state for segment in read_manifest(log_of(trail))} == {"live"}


def test_a_hold_keeps_everything(trail: Path, audit: Audit) -> None:
    """While there is a hold, nothing is due and nothing is done."""
    audit("hold", "set", trail, "--as", "R. Roe", "--reason", "case 4711")
    for options in ([], ["--apply"]):
        ended = audit("retention", trail, *POLICY, *options)
        assert ended.status == 0
        assert "on hold since" in ended.out
        assert "case 4711" in ended.out
    assert "deleted" not in {segment.state for segment in read_manifest(log_of(trail))}


def test_a_running_service_applies_it_itself(tmp_path: Path, audit: Audit) -> None:
    """Where a service writes the log, --apply says which process, and what to do instead."""
    with running_service(tmp_path / "t") as service:
        ended = audit("retention", tmp_path / "t", *POLICY, "--apply")
        assert audit("retention", tmp_path / "t", *POLICY).status == 0
    assert ended.status == 3
    assert f"process {service.pid}" in ended.err
    assert "apply_retention()" in ended.err
    assert "Nothing is due" not in ended.out  # that is not known of a log that was not looked at


def test_only_the_owner_writes(trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user, root too, would leave files that the service can't open, so he is refused before he does."""
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    before = sorted(trail.rglob("*"))
    for arguments in (
        ["retention", str(trail), *POLICY, "--apply"],
        ["hold", "set", str(trail), "--as", "me", "--reason", "case"],
    ):
        ended = audit(*arguments)
        assert ended.status == 3
        assert "sudo -u" in ended.err
    assert sorted(trail.rglob("*")) == before


def test_a_log_that_was_moved_is_not_written(trail: Path, audit: Audit) -> None:
    """A copy of a log in another place is read, and never written as if it were another log."""
    moved = trail.parent / "copies" / "00"
    moved.parent.mkdir(mode=0o700)
    log_of(trail).rename(moved)
    ended = audit("retention", moved, *POLICY, "--apply")
    assert ended.status == 3
    assert "was moved" in ended.err
    assert sorted(path.name for path in moved.parent.parent.iterdir()) == ["copies", "t"]


def test_a_step_that_fails_is_a_finding(trail: Path, audit: Audit) -> None:
    """Where a segment is not what was sealed, it stays, the reason is shown, and the status is 1."""
    segment = sorted(log_of(trail).glob("*.audit"))[1]
    segment.chmod(0o600)
    segment.write_bytes(segment.read_bytes().replace(b'"bad"', b'"bax"'))
    segment.chmod(0o400)
    ended = audit("retention", trail, *POLICY, "--apply")
    assert ended.status == 1
    assert "SHA-256" in ended.out
    assert segment.exists()


def test_the_dry_run_asks_for_no_lock(trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run opens no log for writing."""
    monkeypatch.setattr(retention, "AuditLogger", None)
    assert audit("retention", trail, *POLICY).status == 0


# -- holds --------------------------------------------------------------------------------------------------------


def test_a_hold_is_set_shown_and_lifted(trail: Path, audit: Audit) -> None:
    """A hold on a log that nobody writes is in force, and stands in the log's own chain; so does its end."""
    ended = audit("hold", "set", trail, "--as", "R. Roe", "--reason", "case 4711")
    assert ended.status == 0
    hold = read_hold(log_of(trail))
    assert hold is not None
    assert (hold.set_by, hold.reason) == ("R. Roe", "case 4711")
    shown = audit("hold", "show", trail, "--json").document["logs"]
    assert [(entry["log"], entry["hold"]["reason"]) for entry in shown] == [("orders/00", "case 4711")]
    assert audit("hold", "lift", trail, "--as", "J. Doe", "--reason", "closed").status == 0
    assert read_hold(log_of(trail)) is None
    told = events(trail, audit, "--type", "audit.hold_*")
    named = {"hold_id": hold.id}
    assert told == [
        {"event_type": "audit.hold_set", "reason": "case 4711", "set_by": "R. Roe", **named, "since": hold.since},
        {"event_type": "audit.hold_lifted", "reason": "closed", "lifted_by": "J. Doe", **named},
    ]
    assert audit("verify", trail).status == 0


def test_a_hold_does_not_wait_for_the_service(tmp_path: Path, audit: Audit) -> None:
    """While a service writes the log a hold is in force at once, and is recorded in the log of audit-cli."""
    trail = tmp_path / "t"
    with running_service(trail) as service:
        ended = audit("hold", "set", trail, "--as", "R. Roe", "--reason", "case 4711", "--json")
        assert ended.status == 0
        (entry,) = ended.document["logs"]
        assert (entry["log"], entry["recorded_in"]) == ("orders/00", "audit-cli/00")
        assert read_hold(log_of(trail)) is not None
        assert stat.S_IMODE((log_of(trail) / "hold.json").stat().st_mode) == 0o600
        assert service.emit("goes on") > 0
    assert events(trail, audit, "--service", "audit-cli", "--type", "audit_cli.*") == [
        {"event_type": "audit_cli.hold_placed", "log": "orders/00", "reason": "case 4711", "set_by": "R. Roe"}
    ]
    assert audit("verify", trail).status == 0
    assert audit("retention", trail, *POLICY, "--apply", "--service", "orders").status == 0


def test_a_hold_is_not_lifted_beside_a_service(tmp_path: Path, audit: Audit) -> None:
    """Lifting is refused while a service writes the log, says which, and the hold stays."""
    trail = tmp_path / "t"
    with running_service(trail) as service:
        audit("hold", "set", trail, "--service", "orders", "--as", "R. Roe", "--reason", "case 4711")
        ended = audit("hold", "lift", trail, "--service", "orders", "--as", "J. Doe", "--reason", "closed")
    assert ended.status == 3
    assert f"process {service.pid}" in ended.err
    assert "lift_hold" in ended.err
    assert read_hold(log_of(trail)) is not None


def test_a_hold_on_a_damaged_log(trail: Path, audit: Audit) -> None:
    """A log that can't be opened is evidence first of all: the hold is in force, and recorded beside it."""
    last = max(log_of(trail).glob("*.audit"))
    lines = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join([lines[0].replace(b'"bad"', b'"bax"'), *lines[1:]]))
    ended = audit("hold", "set", trail, "--as", "R. Roe", "--reason", "case 4711", "--json")
    assert ended.status == 0
    assert ended.document["logs"][0]["recorded_in"] == "audit-cli/00"
    assert read_hold(log_of(trail)) is not None


def test_a_hold_that_is_in_force_stays(trail: Path, audit: Audit) -> None:
    """A second hold doesn't replace the first, and nothing is lifted that isn't there."""
    audit("hold", "set", trail, "--as", "R. Roe", "--reason", "case 4711")
    again = audit("hold", "set", trail, "--as", "J. Doe", "--reason", "case 4712")
    assert "orders/00 is on hold already" in again.err
    assert "R. Roe (case 4711)" in again.err
    hold = read_hold(log_of(trail))
    assert hold is not None
    assert hold.reason == "case 4711"
    audit("hold", "lift", trail, "--as", "J. Doe", "--reason", "closed")
    nothing = audit("hold", "lift", trail, "--as", "J. Doe", "--reason", "closed", "--json")
    assert nothing.document["logs"][0] == {"log": "orders/00", "hold": None, "recorded_in": None}


def test_a_hold_is_not_lifted_by_nobody_for_no_reason(trail: Path, audit: Audit) -> None:
    """Who lifts a hold and why is what an auditor will ask, so without either the hold stays."""
    audit("hold", "set", trail, "--as", "R. Roe", "--reason", "case 4711")
    for by, reason in (("", "closed"), ("J. Doe", " ")):
        assert audit("hold", "lift", trail, "--as", by, "--reason", reason).status == 2
    assert read_hold(log_of(trail)) is not None
    assert "audit.hold_lifted" not in {event["event_type"] for event in events(trail, audit)}


def test_one_log_s_trouble_does_not_keep_another_s_hold_waiting(trail: Path, audit: Audit) -> None:
    """Each log gets its hold whatever is wrong with the others; what went wrong is said, with status 3."""
    (trail / "billing").mkdir(mode=0o700)
    bad = trail / "billing" / "00"
    bad.mkdir(mode=0o700)
    (bad / "log.json").write_text("{}")
    (bad / "hold.json").write_text("not a hold")
    ended = audit("hold", "set", trail, "--as", "R. Roe", "--reason", "case 4711", "--json")
    assert ended.status == 3
    assert [entry["log"] for entry in ended.document["logs"]] == ["orders/00"]
    assert "hold.json" in ended.err


def test_a_placed_hold_is_whole(trail: Path) -> None:
    """The file of a hold is what a service reads, closed to other users, and nothing else is left of its making."""
    before = {path.name for path in log_of(trail).iterdir()}
    now = datetime(2026, 11, 23, 4, 35, tzinfo=UTC)
    hold = place_hold(log_of(trail), reason="case", set_by="me", now=now)
    assert read_hold(log_of(trail)) == hold
    assert hold.since == "2026-11-23T04:35:00.000000Z"
    assert {path.name for path in log_of(trail).iterdir()} - before == {"hold.json"}
    assert json.loads((log_of(trail) / "hold.json").read_bytes())["reason"] == "case"
    assert place_hold(log_of(trail), reason="other", set_by="me", now=now) == hold


def test_a_hold_that_cannot_be_placed_leaves_none(trail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk refuses half-way, there is no half a hold, and the next try works."""

    def refuse(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("audit_async._durable.disk.sync_data", refuse)
        with pytest.raises(OSError, match="No space"):
            place_hold(log_of(trail), reason="case", set_by="me", now=datetime.now(UTC))
    assert read_hold(log_of(trail)) is None
    place_hold(log_of(trail), reason="case", set_by="me", now=datetime.now(UTC))
    assert read_hold(log_of(trail)) is not None
