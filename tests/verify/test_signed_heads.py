"""With the log's key `verify` finds what a chain alone can't show; each attack is carried out on a real directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import anyio
import pytest

from audit_async import AuditLogger, ConfigError
from audit_async._trail.log_files import find_logs
from audit_async._verify.signed_heads import check_signed_heads
from audit_async._verify.verify_report import Progress, VerifyReport
from audit_async._verify.verify_scope import LastRecords
from audit_async.reader import AuditReader
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.failures import SourceFailed
from audit_async.tlog.log_monitor import directory_source
from audit_async.tlog.notes import VerifierKey
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import new_key, write_key
from tests.logs import Counted
from tests.tlog.trees import Cosigner, cosigned, mth
from tests.trail.lived import verify
from tests.trail.signed import (
    ORIGIN,
    SMALL_SEGMENTS,
    SigningLog,
    changed,
    renumbered,
    run,
    verify_signed,
    without_checkpoints,
)
from tests.writer.test_upkeep import POLICY, Clock, believe, clock

__all__ = ["clock"]


@pytest.fixture
def log(tmp_path: Path) -> SigningLog:
    """A log of two sessions, signed up to its last record, and three records that are not."""
    return SigningLog(tmp_path / "audit").session().session().unsigned()


def kinds(report: VerifyReport) -> set[str]:
    """Return the kinds of what was found."""
    assert report.valid == (not report.findings)
    assert sum(one.findings for one in report.logs) <= len(report.findings)
    return {finding.kind for finding in report.findings}


def reasons(report: VerifyReport) -> str:
    """Return all reasons."""
    return "\n".join([finding.reason for finding in report.findings])


def notes(report: VerifyReport) -> dict[str, str]:
    """Return the notes by their kinds."""
    return {note.kind: note.text for note in report.notes}


# -- a sound log -------------------------------------------------------------------------------------------------------


def test_a_sound_log_leads_to_all_that_was_signed(log: SigningLog) -> None:
    """Nothing is found; the report says up to where records are signed, and no more that a head is needed."""
    report = log.report()
    assert kinds(report) == set()
    assert f"the hashes of {log.size} records are those that {ORIGIN} has signed" in notes(report)["signed"]
    assert "truncation_unseen" not in notes(report)
    behind = [note for note in report.notes if note.kind == "behind_checkpoint"]
    assert [note.seq for note in behind] == [log.size]
    assert f"{len(log.lines) - log.size} are there" in behind[0].text
    assert "truncation_unseen" in notes(verify(log.base_dir))


def test_a_part_is_held_to_the_signatures_as_a_whole(log: SigningLog) -> None:
    """With a scope only some records are checked, but the tree is over all of them."""
    report = log.report(scope=LastRecords(2))
    assert kinds(report) == set()
    assert report.logs[0].records == 2
    assert "signed" in notes(report)
    log.rewrite(changed(2))
    assert "history" in kinds(log.report(scope=LastRecords(2)))


def test_a_log_in_use_is_sound(tmp_path: Path) -> None:
    """Beside a running service, while it records and signs, nothing is found."""
    log = SigningLog(tmp_path / "audit")

    async def live() -> None:
        async with AuditLogger(log.config(interval=0.02)) as audit:
            await audit.checkpoint()
            for n in range(20):
                await audit.emit_durable(Counted(producer="p", n=n))
                found = check_signed_heads(
                    find_logs(log.base_dir)[0], log.policy, directory_source(log.directory / "tlog")
                )
                assert found.observed.findings == []
                assert found.is_held

    run(live)


def test_archived_and_deleted_records(tmp_path: Path, clock: Clock) -> None:
    """Archives are read; of what retention deleted the published hashes stand in, and nothing is believed without."""
    log = SigningLog(tmp_path / "audit", rotation=SMALL_SEGMENTS).session(checkpoints=4, per_checkpoint=6)
    assert len(list(log.directory.glob("*.audit"))) > 3
    assert kinds(log.report()) == set()
    retain(log, clock, days=100)
    assert list((log.directory / "archive").iterdir())
    assert kinds(log.report()) == set()
    retain(log, clock, days=400)
    report = log.report()
    assert kinds(report) == set()
    assert {"signed", "deleted"} <= notes(report).keys()
    assert report.logs[0].first_seq != 0
    # From here on the log is not sound any more.
    tile = log.directory / f"tlog/tile/0/000.p/{log.size}"
    content = tile.read_bytes()
    tile.write_bytes(content[:3] + bytes([content[3] ^ 1]) + content[4:])
    assert "history" in kinds(log.report())
    tile.unlink()
    assert "their published hashes are damaged" in reasons(log.report())
    shutil.rmtree(log.directory / "tlog")
    assert "no accepted checkpoint covers them" in reasons(log.report())


def retain(log: SigningLog, clock: Clock, *, days: int) -> None:
    """Let so many days go by, and have retention applied; the end of the session signs everything anew."""
    clock.days = days

    async def live() -> None:
        async with AuditLogger(log.config(retention=POLICY)) as audit:
            believe(audit, clock)
            assert (await audit.apply_retention()).ok

    run(live)


def test_a_changed_key(tmp_path: Path) -> None:
    """While keys change both sign; afterwards the new one is enough, also for what the old one has signed."""
    log = SigningLog(tmp_path / "audit").session()
    old, new = log.key_file, tmp_path / "new.pem"
    write_key(new, new_key())
    log.session(key=(new, old))
    log.key_file = new
    log.session()
    assert kinds(log.report()) == set()
    log.key_file = old
    assert "not signed by any trusted key" in reasons(log.report())


def test_the_order_of_the_records_counts_not_how_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are compared in pieces of any size, at checkpoints within and at the edge of one."""
    log = SigningLog(tmp_path / "audit").session(checkpoints=9, per_checkpoint=4)
    checkpoints = sum(b"audit.checkpoint" in line for line in log.lines)
    assert checkpoints > 8
    for piece, chunk_bytes in ((1, 500), (2, 500), (5, 500), (1000, 64 << 10)):
        monkeypatch.setattr("audit_async._verify.signed_heads._PIECE", piece)
        monkeypatch.setattr("audit_async._trail.record_hashes._CHUNK_BYTES", chunk_bytes)
        assert kinds(log.report()) == set()
        (found, *more) = log.report(known_checkpoints={"a forgery": log.sign(7, bytes(32))}).findings
        assert (found.kind, found.seq, more) == ("history", 5, [])


def test_progress_is_told_from_the_first_signature_to_the_last_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes over what is compared and what is verified, of all logs, never back, and ends with all of it."""
    monkeypatch.setattr("audit_async._verify.signed_heads._PIECE", 2)
    monkeypatch.setattr("audit_async._trail.record_hashes._CHUNK_BYTES", 500)
    base_dir, policy, first = two_logs(tmp_path)
    sizes = {name: sum(map(len, lines_of(base_dir, name))) for name in ("00", "01")}
    every, newest = sum(sizes.values()), sum(len(lines[-1]) for lines in map(partial(lines_of, base_dir), sizes))
    for trusted, scope, to_compare, to_verify in (
        (policy, None, every, every),
        (policy, LastRecords(1), every, newest),
        (first.policy, None, sizes["00"], every),
    ):
        seen: list[Progress] = []
        verify_signed(base_dir, trusted, scope=scope, progress=seen.append)
        done = [told.bytes_done for told in seen]
        assert done == sorted(done)
        assert {told.bytes_total for told in seen} == {to_compare + to_verify}
        assert done[-1] == to_compare + to_verify
        comparing = [told for told in seen if told.bytes_done <= to_compare]
        assert len(comparing) > 3
        assert comparing[0].log == "orders/00"
        assert 0 < comparing[0].bytes_done < sizes["00"]


def lines_of(base_dir: Path, instance: str) -> list[bytes]:
    """Return the records of a log with one segment."""
    (segment,) = (base_dir / "orders" / instance).glob("*.audit")
    return segment.read_bytes().splitlines(keepends=True)


def test_comparing_with_signatures_can_be_cancelled(log: SigningLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that it tells of may be the last."""
    monkeypatch.setattr("audit_async._verify.signed_heads._PIECE", 1)
    monkeypatch.setattr("audit_async._trail.record_hashes._CHUNK_BYTES", 500)
    seen: list[Progress] = []

    async def live() -> None:
        with anyio.move_on_after(60) as scope:

            def cancel(told: Progress) -> None:
                seen.append(told)
                scope.cancel()

            await AuditReader(log.base_dir).verify(policy=log.policy, progress=cancel)
        assert scope.cancelled_caught

    run(live)
    assert len(seen) == 1


# -- who changes files, without the key --------------------------------------------------------------------------------


ATTACKS: dict[str, Callable[[SigningLog], object]] = {
    "a record changed": lambda log: log.rewrite(changed(2)),
    "a record removed": lambda log: log.rewrite(lambda lines: renumbered(lines[:2] + lines[3:])),
    "a record inserted": lambda log: log.rewrite(lambda lines: renumbered([*lines[:2], lines[3], *lines[2:]])),
    "two records exchanged": lambda log: log.rewrite(lambda ln: renumbered([*ln[:1], ln[2], ln[1], *ln[3:]])),
    "the tail cut off": lambda log: log.rewrite(lambda lines: lines[: log.size - 1]),
    "all records removed": lambda log: log.rewrite(lambda _: []),
    "the last signed record changed": lambda log: log.rewrite(lambda lines: renamed(lines, log.size - 1)),
}


def renamed(lines: list[bytes], seq: int) -> list[bytes]:
    """Return the records with another audit_id in one of them."""
    digit = lines[seq].index(b'"audit_id":"') + 12
    other = b"0" if lines[seq][digit : digit + 1] != b"0" else b"1"
    return [*lines[:seq], lines[seq][:digit] + other + lines[seq][digit + 1 :], *lines[seq + 1 :]]


@pytest.mark.parametrize("attack", ATTACKS)
def test_records_that_a_checkpoint_covers(attack: str, log: SigningLog) -> None:
    """Changed, inserted, removed or cut off, with every hash made anew: found by the signature, and by nothing else."""
    ATTACKS[attack](log)
    found = log.report().findings
    assert any(finding.kind == "history" and "published checkpoint" in finding.reason for finding in found)
    assert all(note.kind not in {"signed", "behind_checkpoint"} for note in log.report().notes)


def test_a_changed_record_is_not_called_signed(log: SigningLog) -> None:
    """A record that was changed and kept its hash is a finding of the chain; only its hash is what was signed."""
    log.segment.write_bytes(b"".join(renamed(log.lines, 2)))
    report = log.report()
    assert kinds(report) == {"record"}
    assert notes(report)["signed"].startswith("the hashes of ")


def test_a_chain_made_anew_holds_without_the_key(log: SigningLog) -> None:
    """The same attack is invisible to the chain alone: that is what the signature is for, and the note says so."""
    log.rewrite(lambda lines: renumbered(changed(2)(lines)[: log.size - 1]))
    report = verify(log.base_dir)
    assert kinds(report) == set()
    assert "truncation_unseen" in notes(report)
    assert kinds(log.report()) == {"history"}


def test_the_place_of_a_change_is_told(tmp_path: Path) -> None:
    """Findings say up to where the records are those that were signed."""
    log = SigningLog(tmp_path / "audit").session(checkpoints=5)
    sizes = [json.loads(line)["event"]["size"] for line in log.lines if b'"audit.checkpoint"' in line]
    log.rewrite(changed(sizes[2] + 1))
    first = next(finding for finding in log.report().findings if finding.kind == "history")
    assert first.seq == sizes[2]
    assert f"those up to {sizes[2]} are" in first.reason


def test_a_chain_and_tree_made_anew_with_another_key(log: SigningLog, tmp_path: Path) -> None:
    """Whoever has no key can publish another tree, and no signature for it."""
    other = tmp_path / "other.pem"
    write_key(other, new_key())
    log.rewrite(changed(2)).publish_anew(other)
    report = log.report()
    assert "checkpoint" in kinds(report)
    assert "the published checkpoint is not accepted" in reasons(report)
    assert "signed" not in notes(report)


@pytest.mark.parametrize("left", ["nothing", "no checkpoint", "nonsense", "a signature cut off"])
def test_what_is_published_was_removed_or_damaged(left: str, log: SigningLog) -> None:
    """A log that has a key and shows no checkpoint by it is no sound log, whatever became of that."""
    path = log.directory / "tlog" / "checkpoint"
    match left:
        case "nothing":
            shutil.rmtree(path.parent)
        case "no checkpoint":
            path.unlink()
        case "nonsense":
            path.write_bytes(b"nonsense")
        case _:
            path.write_bytes(path.read_bytes()[:-5])
    report = log.report()
    assert kinds(report) == {"checkpoint"}
    assert {"signed", "behind_checkpoint"}.isdisjoint(notes(report))
    assert "truncation_unseen" in notes(report)


def test_a_removed_tree_does_not_free_from_what_the_chain_records(log: SigningLog) -> None:
    """Without any publication the checkpoints in the chain still hold the records to them."""
    shutil.rmtree(log.directory / "tlog")
    log.rewrite(changed(2))
    assert kinds(log.report()) == {"checkpoint", "history"}
    assert "the checkpoint in record" in reasons(log.report())


def test_an_older_state_of_everything_put_back(tmp_path: Path) -> None:
    """A backup is sound by itself; a newer checkpoint that somebody kept shows what is gone."""
    log = SigningLog(tmp_path / "audit").session()
    shutil.copytree(log.directory, tmp_path / "backup")
    log.session()
    newer, size, records = log.checkpoint, log.size, len(log.lines)
    shutil.rmtree(log.directory)
    shutil.copytree(tmp_path / "backup", log.directory)
    assert records > len(log.lines)
    assert kinds(log.report()) == set()
    report = log.report(known_checkpoints={"the auditor's safe": newer})
    assert kinds(report) == {"history"}
    assert f"the checkpoint kept in the auditor's safe is for {size}" in reasons(report)


def test_an_old_publication_beside_newer_records(tmp_path: Path) -> None:
    """That the published copy is older than what was signed is told; the records are still held to all of it."""
    log = SigningLog(tmp_path / "audit").session()
    shutil.copytree(log.directory / "tlog", tmp_path / "www")
    log.session()
    report = log.report(published=tmp_path / "www")
    assert kinds(report) == set()
    assert "it is an old copy" in notes(report)["publication_behind"]
    assert "publication_behind" not in notes(log.report())


def test_records_behind_the_last_checkpoint(log: SigningLog) -> None:
    """They can be changed without being found, and the report says that it can't see that."""
    assert len(log.lines) > log.size + 2
    log.rewrite(changed(log.size + 1))
    log.rewrite(lambda lines: lines[: log.size + 2])
    report = log.report()
    assert kinds(report) == set()
    assert f"from seq {log.size} on, were cut off or rewritten can't be seen" in notes(report)["behind_checkpoint"]


def test_a_line_changed_under_its_old_hash(log: SigningLog) -> None:
    """The tree is made of the hashes that the lines claim; that they are the lines' own is checked as ever."""
    lines = changed(2)(log.lines)
    log.segment.write_bytes(b"".join(lines))
    assert kinds(log.report()) == {"record"}


# -- who has the key ---------------------------------------------------------------------------------------------------


def test_history_rewritten_and_signed_anew(log: SigningLog) -> None:
    """Against an insider with the key a checkpoint from before convicts the log; without one he is not found."""
    before = log.checkpoint
    log.rewrite(lambda lines: without_checkpoints(changed(2)(lines))).publish_anew()
    assert kinds(log.report()) == set()
    report = log.report(known_checkpoints={"a monitor's state": before})
    assert kinds(report) == {"history"}
    assert "the checkpoint kept in a monitor's state" in reasons(report)


def test_rolled_back_and_gone_on_from_there(tmp_path: Path) -> None:
    """An older state that has grown again, to the same size or beyond, is another history."""
    log = SigningLog(tmp_path / "audit").session()
    shutil.copytree(log.directory, tmp_path / "backup")
    log.session()
    before = log.checkpoint
    shutil.rmtree(log.directory)
    shutil.copytree(tmp_path / "backup", log.directory)
    log.session().session()
    assert kinds(log.report()) == set()
    assert kinds(log.report(known_checkpoints={"a reader": before})) == {"history"}


def test_two_histories_for_two_readers(log: SigningLog) -> None:
    """Two signed checkpoints of one size and different roots need no records to convict the log."""
    other = log.sign(log.size, bytes(32))
    report = log.report(known_checkpoints={"the other reader": other})
    assert kinds(report) == {"history"}
    assert "have different roots" in reasons(report)
    log.rewrite(lambda _: [])
    assert "have different roots" in reasons(log.report(known_checkpoints={"the other reader": other}))


# -- what the chain tells ----------------------------------------------------------------------------------------------


def edit_note(log: SigningLog, change: Callable[[dict[str, object]], object]) -> None:
    """Change the last record that tells of a checkpoint, and have the tree signed anew: only that record is wrong."""

    def edit(lines: list[bytes]) -> list[bytes]:
        at = max(seq for seq, line in enumerate(lines) if b'"audit.checkpoint"' in line)
        record = json.loads(lines[at])
        change(record["event"])
        return [*lines[:at], json.dumps(record, separators=(",", ":")).encode() + b"\n", *lines[at + 1 :]]

    log.rewrite(edit).publish_anew()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("foreign", "is not accepted"),
        ("nonsense", "is not accepted"),
        ("root", "has another root"),
        ("member", "is not the one that the record's members state"),
        ("future", "which were not there yet"),
        ("smaller", "and one before it for more"),
    ],
)
def test_a_recorded_checkpoint_that_can_not_be_true(what: str, reason: str, tmp_path: Path) -> None:
    """What the chain tells of checkpoints is checked as well: signature, members, and that it fits where it stands."""
    log = SigningLog(tmp_path / "audit").session().session()

    def forge(event: dict[str, object]) -> None:
        size, root = int(str(event["size"])), str(event["root"])
        match what:
            case "foreign":
                event["note"] = str(event["note"]).replace("host.example/orders/00 ", "host.example/orders/00 AAAA")
            case "nonsense":
                event["note"] = "nonsense"
            case "member":
                event["root"] = "00" * 32
            case "root":
                event.update(size=size, root="00" * 32, note=log.sign(size, bytes(32)).decode())
            case "future":
                event.update(size=900, note=log.sign(900, bytes.fromhex(root)).decode())
            case _:
                event.update(size=1, note=log.sign(1, bytes.fromhex(root)).decode())

    edit_note(log, forge)
    report = log.report()
    assert not report.valid
    assert all(reason in finding.reason for finding in report.findings), reasons(report)


def test_many_checkpoints_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    """In a trail that was rewritten from its beginning every checkpoint is wrong; a few are named, all are counted."""
    log = SigningLog(tmp_path / "audit").session(checkpoints=30, per_checkpoint=1)
    log.rewrite(lambda lines: renamed(lines, 0))
    report = log.report()
    assert len(report.findings) < 20
    assert report.logs[0].findings > 30


# -- witnesses, and several logs ---------------------------------------------------------------------------------------


def test_a_quorum_is_demanded_of_what_is_published(log: SigningLog) -> None:
    """Without the witnesses that the policy demands the checkpoint is not accepted; with them the report names them."""
    witness = Cosigner(1)
    policy = Policy.parse(f"log {log.vkey}\nwitness w {witness.key}\nquorum w\n".encode())
    assert "not cosigned by the quorum" in reasons(verify_signed(log.base_dir, policy))
    path = log.directory / "tlog" / "checkpoint"
    path.write_bytes(cosigned(SignedCheckpoint.parse(path.read_bytes()), witness).encode())
    report = verify_signed(log.base_dir, policy)
    assert kinds(report) == set()
    assert "cosigned by witness.example/w1 at 2026-11-22T12:00:00Z" in notes(report)["signed"]


def two_logs(tmp_path: Path) -> tuple[Path, Policy, SigningLog]:
    """Make the logs orders/00 and orders/01, each with a key of its name; return them with the policy for both."""
    first = SigningLog(tmp_path / "audit").session()
    second = SigningLog(tmp_path / "second", instance="01").session(origin="host.example/orders/01")
    shutil.move(second.directory, first.directory.with_name("01"))
    key = VerifierKey.parse((first.directory.with_name("01") / "tlog" / "vkey").read_text().strip())
    return first.base_dir, Policy.of([*[entry.key for entry in first.policy.logs], key]), first


def test_the_key_of_one_log_does_not_speak_for_another(tmp_path: Path) -> None:
    """Each log is held to the key of its name, so one log's directory can't stand in for another's."""
    base_dir, policy, first = two_logs(tmp_path)
    assert kinds(verify_signed(base_dir, policy)) == set()
    shutil.rmtree(first.directory)
    shutil.copytree(first.directory.with_name("01"), first.directory)
    report = verify_signed(base_dir, policy)
    assert kinds(report) >= {"checkpoint"}
    assert any(finding.log == "orders/00" and "is of the log" in finding.reason for finding in report.findings)


def test_a_key_whose_name_says_no_log_is_for_one_log(tmp_path: Path) -> None:
    """Two logs that publish under one free name are no two logs: one is a copy."""
    log = SigningLog(tmp_path / "audit", origin="example.com/trail").session()
    policy = Policy.of([VerifierKey.parse((log.directory / "tlog" / "vkey").read_text().strip())])
    assert kinds(verify_signed(log.base_dir, policy)) == set()
    shutil.copytree(log.directory, log.directory.with_name("01"))
    assert "one of them is a copy" in reasons(verify_signed(log.base_dir, policy))


def test_logs_without_a_key_and_keys_without_a_log_are_told(tmp_path: Path) -> None:
    """Neither is a finding; that they were not checked is in the report."""
    base_dir, policy, first = two_logs(tmp_path)
    report = verify_signed(base_dir, first.policy)
    assert kinds(report) == set()
    assert [note.log for note in report.notes if note.kind == "not_signed"] == ["orders/01"]
    assert [note.log for note in report.notes if note.kind == "truncation_unseen"] == ["orders/01"]
    shutil.rmtree(first.directory.with_name("01"))
    report = verify_signed(base_dir, policy)
    assert kinds(report) == set()
    assert [note.log for note in report.notes if note.kind == "log_absent"] == ["host.example/orders/01"]


def test_a_known_checkpoint_of_a_log_that_is_gone(tmp_path: Path) -> None:
    """A log of which somebody holds a checkpoint must be there."""
    base_dir, policy, first = two_logs(tmp_path)
    kept = (first.directory.with_name("01") / "tlog" / "checkpoint").read_bytes()
    shutil.rmtree(first.directory.with_name("01"))
    report = verify_signed(base_dir, policy, known_checkpoints={"a safe": kept})
    assert [(finding.kind, finding.log) for finding in report.findings] == [("checkpoint", "host.example/orders/01")]


# -- what can't be done ------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_said(log: SigningLog, tmp_path: Path) -> None:
    """A kept checkpoint that no accepted key has signed is no evidence; one place can't be that of several logs."""
    with pytest.raises(ConfigError, match=r"safe.*no blank line"):
        log.report(known_checkpoints={"safe": b"nonsense"})
    other = SigningLog(tmp_path / "other").session()
    with pytest.raises(ConfigError, match="safe: the note is not signed"):
        log.report(known_checkpoints={"safe": other.checkpoint})
    with pytest.raises(ConfigError, match="published"):
        log.report(published="http://user@host/")
    base_dir, policy, _ = two_logs(Path(mkdtemp(dir=tmp_path)))
    with pytest.raises(ConfigError, match="belongs to one log"):
        verify_signed(base_dir, policy, published=tmp_path)


def test_a_log_that_can_not_be_reached_is_no_finding(log: SigningLog) -> None:
    """Where the published log does not answer, the verification can't be done, and says so."""
    (log.directory / "tlog" / "checkpoint").unlink()
    (log.directory / "tlog" / "checkpoint").mkdir()
    with pytest.raises(SourceFailed, match="checkpoint"):
        log.report()


def test_a_damaged_trail_is_found_and_not_compared(log: SigningLog) -> None:
    """What can't be read can't be held to a signature: that is a finding of its own beside the damage."""
    (log.directory / "manifest.json").write_bytes(b"nonsense")
    assert kinds(log.report()) >= {"manifest", "checkpoint"}
    (log.directory / "manifest.json").unlink()
    log.segment.write_bytes(log.segment.read_bytes() + b"\n" * 3)
    assert "checkpoint" in kinds(log.report()) or "record" in kinds(log.report())
    log.segment.unlink()
    assert not log.report().valid


def test_the_root_is_that_of_the_standard(log: SigningLog) -> None:
    """What the records are held to is the tree of RFC 6962 over their hashes, computed by its definition."""
    hashes = [bytes.fromhex(json.loads(line)["hash"]) for line in log.lines]
    known = {str(size): log.sign(size, mth(hashes[:size])) for size in range(1, len(hashes) + 1)}
    report = log.report(known_checkpoints=known)
    assert kinds(report) == set()
