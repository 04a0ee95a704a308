"""A verification that continues from the one before: what it reads, what it finds, and what it can't."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from audit_async._layout.manifest import read_manifest
from audit_async._trail.log_files import find_logs
from audit_async._verify.state_file import KeptState
from audit_async._verify.verification import verify_trail
from audit_async._verify.verified_before import Verified, stamps_of
from audit_async._verify.verify_report import VerifyReport
from audit_async.errors import ConfigError
from audit_async.reader import AuditReader, InvalidQuery, LastRecords
from audit_async.status import Position
from tests.chain.test_chain import resealed
from tests.trail.lived import LivedLog, changed, forge, found, note_kinds, only, rewrite_manifest
from tests.trail.signed import SigningLog


@pytest.fixture
def log(tmp_path: Path) -> LivedLog:
    """A log of one closed session with several sealed segments."""
    return LivedLog(tmp_path / "audit").session()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A file for the state, in a directory of its own."""
    (tmp_path / "kept").mkdir(mode=0o700)
    return tmp_path / "kept" / "state"


def verify(log: LivedLog | Path, state: Path, **options: Any) -> VerifyReport:
    """Verify what is new."""
    base_dir = log.base_dir if isinstance(log, LivedLog) else log
    return asyncio.run(AuditReader(base_dir).verify(state=state, processes=1, **options))


def edit_unseen(log: LivedLog, state: Path, path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Edit a segment as root may: the file's times look as they did, here by putting the new ones into the state."""
    log.edit(path, change)
    content = json.loads(state.read_bytes())
    content["logs"]["orders/00"]["stamps"] = list(stamps_of(log.directory, read_manifest(log.directory)))
    write_state(state, content)


def write_state(state: Path, content: dict[str, Any]) -> None:
    """Write a state with its digest."""
    raw = json.dumps(content["logs"], separators=(",", ":"))
    head = {key: value for key, value in content.items() if key != "logs"} | {
        "sha256": sha256(raw.encode()).hexdigest()
    }
    state.write_text(json.dumps(head)[:-1] + f',"logs":{raw}}}\n')


def test_the_second_verification_reads_what_is_new(log: LivedLog, state: Path) -> None:
    """The first one reads everything, the next the head and what came after it; both say so."""
    first = verify(log, state)
    assert first.valid
    assert first.logs[0].records == len(log.chain.lines)
    assert first.logs[0].verified_before is None
    again = verify(log, state)
    assert again.valid
    assert (again.logs[0].records, again.logs[0].head) == (0, log.head)
    assert again.logs[0].bytes < 1000
    assert again.logs[0].verified_before is not None
    assert again.logs[0].last_full == first.logs[0].last_full
    before = len(log.chain.lines)
    log.session(batches=4)
    report = verify(log, state)
    assert report.valid, report.findings
    assert report.logs[0].records == len(log.chain.lines) - before
    assert report.logs[0].head == log.head
    (note,) = [note for note in report.notes if note.kind == "verified_before"]
    assert "not read again" in note.text
    assert "truncation_unseen" not in {note.kind for note in report.notes}


def test_the_state_is_the_same_however_it_came_about(log: LivedLog, state: Path) -> None:
    """What is known after several steps is what is known after one: heads, entries, openings, holds."""
    for batches in (1, 5, 2):
        assert verify(log, state).valid
        log.session(batches=batches, closed=batches != 5)
    assert verify(log, state).valid
    step_by_step = json.loads(state.read_bytes())["logs"]["orders/00"]
    state.unlink()
    assert verify(log, state).valid
    at_once = json.loads(state.read_bytes())["logs"]["orders/00"]
    for known in (step_by_step, at_once):
        known.pop("verified_at")
        known.pop("full_at")
    assert step_by_step == at_once


def test_an_end_that_was_cut_off_is_found(log: LivedLog, state: Path) -> None:
    """Behind the head that was verified, within the segment and with the whole segment."""
    verify(log, state)
    kept = log.segments[-1].read_bytes()
    log.edit(log.segments[-1], lambda lines: lines[:-1])
    assert only(verify(log, state)).kind == "head"
    log.edit(log.segments[-1], lambda lines: lines[:1] if len(lines) > 1 else [])
    assert "head" in {finding.kind for finding in verify(log, state).findings}
    log.segments[-1].write_bytes(kept)
    assert verify(log, state).valid
    log.segments[-1].unlink()
    assert not verify(log, state).valid


def test_a_log_that_was_replaced_is_found(log: LivedLog, state: Path) -> None:
    """Another log of the same name has another log_id."""
    verify(log, state)
    before = state.read_bytes()
    shutil.rmtree(log.directory)
    other = LivedLog(log.base_dir).session()
    kinds = {finding.kind for finding in verify(other, state).findings}
    assert kinds == {"identity"}, "its records happen to be the same"
    assert state.read_bytes() == before


def test_a_chain_that_was_computed_again_is_found(log: LivedLog, state: Path) -> None:
    """All of it fits together, and is not what was verified."""
    verify(log, state)
    forge(log, b"xxx", b"yyy")
    report = verify(log, state)
    reasons = {finding.reason for finding in report.findings} - {finding.reason for finding in log.report().findings}
    assert len(reasons) == 2
    assert any("does not begin with the entries that were verified" in reason for reason in reasons)
    assert any("another hash than the expected head" in reason for reason in reasons)


@pytest.mark.parametrize("which", [1, -1], ids=["sealed", "active"])
def test_a_new_record_that_was_changed_is_found(log: LivedLog, state: Path, which: int) -> None:
    """In a segment that was sealed since, and in the active one."""
    verify(log, state)
    seen = len(log.segments)
    log.session(batches=12)
    path = log.segments[seen:][which] if which > 0 else log.segments[-1]
    log.edit(path, lambda lines: [*lines[:-1], changed(lines[-1])])
    before = state.read_bytes()
    report = verify(log, state)
    assert {finding.segment for finding in report.findings} == {path.name}
    assert state.read_bytes() == before, "a log with findings is not taken as verified"


def test_an_old_record_that_was_changed_is_found(log: LivedLog, state: Path) -> None:
    """Its file has other times, so it is read again; the change is found, with line and byte."""
    verify(log, state)
    log.edit(log.segments[0], lambda lines: [lines[0], changed(lines[1]), *lines[2:]])
    finding = only(verify(log, state))
    assert (finding.kind, finding.segment, finding.line) == ("record", log.segments[0].name, 2)


def test_an_old_change_that_left_the_times_is_found_by_a_full_pass(log: LivedLog, state: Path) -> None:
    """It is not seen before, and the report says what it did not read."""
    verify(log, state)
    edit_unseen(log, state, log.segments[0], lambda lines: [lines[0], changed(lines[1]), *lines[2:]])
    report = verify(log, state)
    assert report.valid
    (note,) = [note for note in report.notes if note.kind == "verified_before"]
    assert "is not seen before everything is read" in note.text
    full = verify(log, state, full=True)
    assert only(full).kind == "record"
    assert "it was asked for" in next(note.text for note in full.notes if note.kind == "full_pass")


def test_a_segment_whose_times_alone_have_changed_is_read_again(log: LivedLog, state: Path) -> None:
    """It is what it was: nothing is found, and it is not read a third time."""
    verify(log, state)
    os.utime(log.segments[0], (1, 1))
    report = verify(log, state)
    assert report.valid
    assert report.logs[0].segments == 2
    assert verify(log, state).logs[0].segments == 1


def test_everything_is_read_from_time_to_time(log: LivedLog, state: Path) -> None:
    """By the age of the last full pass, also if the clock was set back; and the report says why."""
    verify(log, state)
    assert verify(log, state).logs[0].records == 0
    report = verify(log, state, full_every=timedelta(0))
    assert report.logs[0].records == len(log.chain.lines)
    (note,) = [note for note in report.notes if note.kind == "full_pass"]
    assert "longer ago than" in note.text
    content = json.loads(state.read_bytes())
    content["logs"]["orders/00"]["full_at"] = "2126-01-01T00:00:00.000000Z"
    write_state(state, content)
    report = verify(log, state)
    assert report.logs[0].records == len(log.chain.lines)
    assert "the clock is before" in next(note.text for note in report.notes if note.kind == "full_pass")


def test_a_head_older_than_the_state_is_looked_for(log: LivedLog, state: Path) -> None:
    """That takes reading everything; a wrong one is found."""
    verify(log, state)
    old = Position(1, log.chain.heads[1].hash.decode())
    assert verify(log, state, expected_head=old).valid
    assert verify(log, state).logs[0].records == 0
    assert only(verify(log, state, expected_head=Position(1, "0" * 64))).kind == "head"


def test_a_state_of_another_log(log: LivedLog, state: Path, tmp_path: Path) -> None:
    """A log that is in the state and not here is a finding; a new one is read from its beginning."""
    verify(log, state)
    other = tmp_path / "other"
    shutil.copytree(log.base_dir, other)
    (other / "orders" / "00").rename(other / "orders" / "01")
    report = verify(other, state)
    assert ("head", "orders/00") in {(finding.kind, finding.log) for finding in report.findings}


def test_only_the_logs_that_were_asked_for_are_missed(log: LivedLog, state: Path) -> None:
    """With a service's directory, a log's own, or a name: the others stay in the state as they are."""
    shutil.copytree(log.base_dir / "orders", log.base_dir / "billing")
    for path in (log.base_dir / "billing").rglob("log.json"):
        path.write_bytes(path.read_bytes().replace(b'"orders"', b'"billing"'))
    verify(log.base_dir / "orders", state)
    verify(log.base_dir / "orders" / "00", state)
    assert json.loads(state.read_bytes())["logs"].keys() == {"orders/00"}
    asyncio.run(AuditReader(log.base_dir, service="orders").verify(state=state))
    assert verify(log.base_dir / "orders" / "00", state).valid


def test_what_retention_did_in_between(log: LivedLog, state: Path) -> None:
    """Archives are read once more, deletions are noted, and nothing is found."""
    verify(log, state)
    log.retain(archived=3, deleted=1)
    report = verify(log, state)
    assert report.valid, report.findings
    assert "deleted" in note_kinds(report)
    assert verify(log, state).logs[0].records == 0
    log.retain(deleted=1)
    assert verify(log, state).valid


def test_a_deletion_that_the_chain_does_not_record_is_found(log: LivedLog, state: Path) -> None:
    """Whoever removes records may say in the manifest that retention did."""
    log.retain(deleted=1)
    verify(log, state)

    def delete(entries: list[dict[str, object]]) -> None:
        entries[1]["state"] = "deleted"

    rewrite_manifest(log, delete)
    Path(f"{log.segments[0]}.sha256").unlink()
    log.segments[0].unlink()
    assert only(verify(log, state)).kind == "manifest"


def test_a_missing_old_segment_is_found(log: LivedLog, state: Path) -> None:
    """A segment that is gone is read again, and is not there."""
    verify(log, state)
    log.segments[1].unlink()
    assert {finding.kind for finding in verify(log, state).findings} == {"segment"}


def test_a_gap_in_what_is_new_is_found(log: LivedLog, state: Path) -> None:
    """Records between the head that was verified and the end were removed."""
    verify(log, state)
    log.session(batches=2)
    log.edit(log.segments[-1], lambda lines: [*lines[:-3], lines[-1]])
    assert only(verify(log, state)).kind == "sequence"


def test_an_audit_id_that_was_given_before_is_found(log: LivedLog, state: Path) -> None:
    """Also if the record that has it first was verified before."""
    verify(log, state)
    first = json.loads(log.chain.lines[2])["audit_id"].encode()
    log.session(batches=3)
    own = json.loads(log.chain.lines[-1])["audit_id"].encode()
    log.edit(log.segments[-1], lambda lines: [*lines[:-1], resealed(lines[-1].replace(own, first))])
    assert [finding.kind for finding in verify(log, state).findings] == ["audit_id"]


def test_sessions_across_the_head(log: LivedLog, state: Path) -> None:
    """A session that was open when the log was verified, and never closed, is noted once the next begins."""
    log.session(batches=1, closed=False)
    verify(log, state)
    assert "unclean_end" in note_kinds(verify(log, state))
    log.session(batches=1)
    report = verify(log, state)
    assert "unclean_end" in note_kinds(report)
    assert "unclean_end" not in note_kinds(verify(log, state))


def test_what_another_verification_keeps_meanwhile_stays(
    log: LivedLog, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that overlap, as by cron, lose nothing of each other: neither other logs nor a later head of the same one."""
    second = LivedLog(tmp_path / "other").session().directory.rename(log.directory.with_name("01"))
    identity = second / "log.json"
    identity.write_bytes(identity.read_bytes().replace(b'"00"', b'"01"'))
    write = KeptState.write

    def overtaken(kept: KeptState, verified: Verified, report: VerifyReport) -> None:
        monkeypatch.setattr(KeptState, "write", write)
        assert verify(second, state).valid
        log.session()
        verify(log.directory, state)
        write(kept, verified, report)

    monkeypatch.setattr(KeptState, "write", overtaken)
    before = verify(log.directory, state).logs[0].head
    kept = json.loads(state.read_bytes())["logs"]
    assert kept.keys() == {"orders/00", "orders/01"}
    now = verify(log.directory, state).logs[0].head
    assert before is not None
    assert now is not None
    assert kept["orders/00"]["head"][0] == now.seq > before.seq


def test_several_logs_each_by_itself(log: LivedLog, state: Path) -> None:
    """A finding in one does not keep the other from being taken as verified."""
    shutil.copytree(log.base_dir / "orders", log.base_dir / "billing")
    for path in (log.base_dir / "billing").rglob("log.json"):
        path.write_bytes(path.read_bytes().replace(b'"orders"', b'"billing"'))
    verify(log, state)
    assert json.loads(state.read_bytes())["logs"].keys() == {"orders/00"}, "the copy has findings"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: b"",
        lambda content: content.replace(b'"seq"', b'"sex"'),
        lambda content: content.replace(b"orders/00", b"orders/01"),
        lambda content: b"{}",
        lambda content: b"[" * 100_000,
        lambda content: content.replace(b"verification state", b"something else..."),
    ],
)
def test_a_damaged_state_is_refused(log: LivedLog, state: Path, damage: Callable[[bytes], bytes]) -> None:
    """Nothing is verified against it, and it is not replaced."""
    verify(log, state)
    content = damage(state.read_bytes())
    if content == state.read_bytes():
        content = content.replace(b'"log_id"', b'"log_ix"')
    state.write_bytes(content)
    with pytest.raises(ConfigError, match=r"state.*not what the library writes"):
        verify(log, state)
    assert state.read_bytes() == content


def test_a_state_of_a_later_release_is_refused(log: LivedLog, state: Path) -> None:
    """The message says which, and it stays as it is."""
    verify(log, state)
    content = json.loads(state.read_bytes()) | {"version": 2}
    state.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"later release \(version 2"):
        verify(log, state)


def test_a_state_where_the_attacker_is_is_refused(log: LivedLog, state: Path, tmp_path: Path) -> None:
    """In the trail, also by way of a link; where others can write; as a link or a FIFO."""
    (tmp_path / "link").symlink_to(log.directory)
    for place in (log.base_dir, log.base_dir / "orders", log.directory, tmp_path / "link"):
        with pytest.raises(ConfigError, match="in the trail"):
            verify(log.directory, place / "state")
    verify(log, state)
    state.chmod(0o666)
    with pytest.raises(ConfigError, match="other users"):
        verify(log, state)
    state.chmod(0o600)
    state.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="other users"):
        verify(log, state)
    state.parent.chmod(0o700)
    state.rename(state.parent / "real")
    state.symlink_to(state.parent / "real")
    with pytest.raises(ConfigError, match="not a regular file"):
        verify(log, state)
    state.unlink()
    os.mkfifo(state)
    with pytest.raises(ConfigError, match="not a regular file"):
        verify(log, state)
    with pytest.raises(ConfigError, match="make it first"):
        verify(log, tmp_path / "nowhere" / "state")


def test_the_state_is_its_owners_alone_and_whole(log: LivedLog, state: Path) -> None:
    """Mode 0600, and nothing else is left in the directory."""
    os.umask(os.umask(0))
    verify(log, state)
    assert state.stat().st_mode & 0o777 == 0o600
    assert os.listdir(state.parent) == ["state"]


def test_arguments_that_contradict_each_other(log: LivedLog, state: Path) -> None:
    """A state is of whole logs."""
    with pytest.raises(InvalidQuery, match="no scope"):
        verify(log, state, scope=LastRecords(3))
    with pytest.raises(InvalidQuery, match="belongs to a state"):
        asyncio.run(AuditReader(log.base_dir).verify(full=True))


def test_a_report_as_plain_data(log: LivedLog, state: Path) -> None:
    """`to_dict` is what `--json` prints: heads by their members' names."""
    report = verify(log, state)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["valid"] is True
    assert plain["logs"][0]["head"] == {"seq": log.head.seq, "hash": log.head.hash}
    assert dict(report).keys() == plain.keys()


def test_what_comes_after_a_verification_is_not_taken_as_verified(log: LivedLog) -> None:
    """A change during the verification has a later stamp than the one that is kept."""
    verified = Verified(now=datetime(2026, 11, 28, tzinfo=UTC))
    assert asyncio.run(verify_trail(find_logs(log.base_dir), verified=verified, processes=1)).valid
    known = verified.logs["orders/00"]
    assert known.verified_at == "2026-11-28T00:00:00.000000Z"
    log.edit(log.segments[0], lambda lines: [lines[0], changed(lines[1]), *lines[2:]])
    assert found(asyncio.run(verify_trail(find_logs(log.base_dir), verified=verified, processes=1))) == [("record", 1)]
    assert verified.logs["orders/00"] == known


def test_a_torn_tail_between_two_verifications(log: LivedLog, state: Path) -> None:
    """A crash leaves one, which is noted; the next opening sets it aside and the verification goes on from the head."""
    log.session(batches=1, closed=False)
    with log.segments[-1].open("ab") as file:
        file.write(b'{"seq":99,"audit_id":"torn')
    report = verify(log, state)
    assert report.valid
    assert "torn_tail" in note_kinds(report)
    log.session(batches=4)
    report = verify(log, state)
    assert report.valid, report.findings
    assert report.logs[0].head == log.head
    assert report.logs[0].records < len(log.chain.lines) / 2


def test_several_processes_continue_as_one_does(log: LivedLog, state: Path) -> None:
    """The report is the same with any number of processes."""
    verify(log, state)
    content = state.read_bytes()
    log.session(batches=12)
    os.utime(log.segments[0], (1, 1))
    reports = []
    for processes in (1, 2):
        state.write_bytes(content)
        reports.append(asyncio.run(AuditReader(log.base_dir).verify(state=state, processes=processes)))
    assert reports[0].valid
    assert reports[0].logs == reports[1].logs
    assert reports[0].notes == reports[1].notes


def test_a_signed_log_is_compared_with_what_was_signed_each_time(tmp_path: Path, state: Path) -> None:
    """With a policy the state saves reading lines; a finding of the signatures keeps the state as it was."""
    log = SigningLog(tmp_path / "audit").session()
    reader = AuditReader(tmp_path / "audit")
    for _ in range(2):
        report = asyncio.run(reader.verify(policy=log.policy, state=state))
        assert report.valid, report.findings
        assert "signed" in {note.kind for note in report.notes}
    assert report.logs[0].records == 0
    log.session()
    before = state.read_bytes()
    (log.segment.parent / "tlog" / "checkpoint").unlink()
    report = asyncio.run(reader.verify(policy=log.policy, state=state))
    assert {finding.kind for finding in report.findings} == {"checkpoint"}
    assert state.read_bytes() == before
