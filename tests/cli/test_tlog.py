"""The transparency log on the command line: keys, evidence for a record, verifying with the log's key."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_async._verify.verify_report import VerifyReport
from audit_async.reader import AuditReader, InvalidQuery
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.notes import VerifierKey
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.cli.commands import Audit
from tests.test_examples import run_example
from tests.tlog.test_log_monitor import static_server
from tests.tlog.trees import Cosigner, cosigned
from tests.trail.signed import ORIGIN, SigningLog, changed, without_checkpoints


@pytest.fixture
def log(tmp_path: Path) -> SigningLog:
    """A log of two sessions, signed up to its last record."""
    return SigningLog(tmp_path / "audit").session().session()


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_new_key(tmp_path: Path, audit: Audit) -> None:
    """The file is its owner's alone, and the verifier key is shown where the log's name is given, then and later."""
    path = tmp_path / "key.pem"
    ended = audit("keys", "new", "--out", path, "--origin", ORIGIN)
    assert (ended.status, ended.err) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    vkey = ended.out.splitlines()[-1]
    assert VerifierKey.parse(vkey) == load_signer(path, origin=ORIGIN).key
    assert audit("keys", "show", path, "--origin", ORIGIN).out == f"{vkey}\n"
    assert audit("keys", "show", path, "--origin", ORIGIN, "--json").document == {"key": str(path), "vkey": vkey}
    other = audit("keys", "new", "--out", tmp_path / "other.pem")
    assert other.status == 0
    assert "keys show" in other.out


def test_a_key_is_never_overwritten(tmp_path: Path, audit: Audit) -> None:
    """A file that is there stays as it is."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"precious")
    ended = audit("keys", "new", "--out", path)
    assert ended.status == 3
    assert "never overwritten" in ended.err
    assert path.read_bytes() == b"precious"


def test_a_key_with_a_passphrase(tmp_path: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passphrase comes from where it is said; without it the key can't be used, and it is never shown."""
    path, secret = tmp_path / "key.pem", tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("correct horse\n")
    made = audit("keys", "new", "--out", path, "--origin", ORIGIN, "--passphrase-from", secret)
    assert made.status == 0
    assert b"ENCRYPTED" in path.read_bytes()
    monkeypatch.setenv("PASSPHRASE", "correct horse")
    shown = audit("keys", "show", path, "--origin", ORIGIN, "--passphrase-from", "env:PASSPHRASE")
    assert shown.out.strip() == made.out.splitlines()[-1]
    for wrong in (["--passphrase-from", "env:MISSING"], []):
        ended = audit("keys", "show", path, "--origin", ORIGIN, *wrong)
        assert ended.status == 3
    monkeypatch.setenv("PASSPHRASE", "battery staple")
    ended = audit("keys", "show", path, "--origin", ORIGIN, "--passphrase-from", "env:PASSPHRASE")
    assert ended.status == 3
    assert "battery" not in ended.err
    secret.write_text("\n")
    ended = audit("keys", "new", "--out", tmp_path / "b.pem", "--passphrase-from", secret)
    assert ended.status == 3
    assert "holds no passphrase" in ended.err
    assert not (tmp_path / "b.pem").exists()


@pytest.mark.parametrize("origin", ["two words", "a+b", "", "\x1b[2J"])
def test_a_name_that_no_log_can_have(origin: str, tmp_path: Path, audit: Audit) -> None:
    """A wrong name is wrong usage, and no key is made."""
    ended = audit("keys", "new", "--out", tmp_path / "key.pem", "--origin", origin)
    assert ended.status == 2
    assert "\x1b[2J" not in ended.err
    assert not (tmp_path / "key.pem").exists()


# -- evidence for one record -------------------------------------------------------------------------------------------


def prove(audit: Audit, log: SigningLog, target: Path, seq: int = 2, *options: str | Path) -> tuple[Path, Path]:
    """Write the evidence for a record; return the files of record and proof."""
    ended = audit("prove", str(seq), log.base_dir, "--out", target, *options)
    assert (ended.status, ended.err) == (0, "")
    return target.with_suffix(".json"), target


def test_evidence_by_number_and_by_audit_id(
    log: SigningLog, tmp_path: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files named after the record hold its line, byte for byte, and a proof that verifies without the log."""
    monkeypatch.chdir(tmp_path)
    audit_id = json.loads(log.lines[2])["audit_id"]
    made = audit("prove", audit_id, log.base_dir, "--json").document
    assert (made["seq"], made["size"], made["origin"]) == (2, log.size, ORIGIN)
    assert (made["record"], made["proof"]) == (f"{audit_id}.json", f"{audit_id}.tlog-proof")
    assert Path(made["record"]).read_bytes() == log.lines[2]
    assert stat.S_IMODE(Path(made["record"]).stat().st_mode) == 0o600
    _, other = prove(audit, log, tmp_path / "x.tlog-proof")
    assert other.read_bytes() == Path(made["proof"]).read_bytes()
    vkey = log.vkey
    shutil.rmtree(log.base_dir)
    ended = audit("verify-proof", made["record"], made["proof"], "--vkey", vkey)
    assert (ended.status, ended.err) == (0, "")
    for text in ("proven", f"record 2, {audit_id}", ORIGIN, str(made["size"]), vkey, "no witness"):
        assert text in ended.out


def test_every_record_that_is_covered_is_proven(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """Each of them, first and last included, by the published directory of a log as well as by the log's own."""
    shutil.move(log.directory / "tlog", tmp_path / "www")
    assert "--published" in audit("prove", "0", log.base_dir).err
    for seq in (0, 1, log_size(tmp_path) - 1):
        record, proof = prove(audit, log, tmp_path / f"{seq}.tlog-proof", seq, "--published", tmp_path / "www")
        document = audit("verify-proof", record, proof, "--vkey", log.vkey, "--json").document
        assert (document["proven"], document["seq"]) == (True, seq)


def log_size(tmp_path: Path) -> int:
    """Return how many records the log has signed that is published there."""
    return SignedCheckpoint.parse((tmp_path / "www/checkpoint").read_bytes()).checkpoint.size


def test_a_record_that_is_not_covered_yet(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """A record behind the last checkpoint can't be proven yet, and what to do is said; nothing is written."""
    log.unsigned()
    ended = audit("prove", str(log.size), log.base_dir, "--out", tmp_path / "x.tlog-proof")
    assert ended.status == 3
    assert f"not covered yet: the last checkpoint is over the first {log.size} records" in ended.err
    assert not list(tmp_path.glob("x.*"))
    ended = audit("prove", "0000000000000000-1", log.base_dir)
    assert ended.status == 3
    assert "never recorded" in ended.err
    assert audit("prove", "nonsense", log.base_dir).status == 2


def test_files_that_are_there_are_not_replaced_unasked(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """Evidence is not overwritten without --force, and record and proof never share a file."""
    record, proof = prove(audit, log, tmp_path / "x.tlog-proof")
    before = record.read_bytes(), proof.read_bytes()
    for there in (record, proof):
        (record if there is proof else proof).unlink()
        ended = audit("prove", "3", log.base_dir, "--out", proof)
        assert ended.status == 3
        assert "--force" in ended.err
        assert [path for path in (record, proof) if path.exists()] == [there]
        prove(audit, log, proof, 2, "--force")
    assert (record.read_bytes(), proof.read_bytes()) == before
    prove(audit, log, proof, 3, "--force")
    assert record.read_bytes() == log.lines[3]
    assert audit("prove", "3", log.base_dir, "--out", tmp_path / "y.json").status == 3


def test_a_record_that_was_changed_has_no_evidence(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """Where the tree has another record in its place that is a finding, and no proof is written."""
    log.rewrite(changed(2))
    ended = audit("prove", "2", log.base_dir, "--out", tmp_path / "x.tlog-proof")
    assert ended.status == 1
    assert "the record was changed" in ended.err
    assert not (tmp_path / "x.tlog-proof").exists()


def test_who_takes_evidence_is_recorded(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """With --as the access stands in the log of audit-cli, as for every command that shows a record."""
    prove(audit, log, tmp_path / "x.tlog-proof", 2, "--log", "orders/00", "--as", "R. Roe")
    rows = audit("query", log.base_dir, "--service", "audit-cli", "--type", "audit.log_accessed", "--json").rows
    assert [row["event"]["actor"] for row in rows] == ["R. Roe"]


Forge = Callable[[SigningLog, Path, Path], object]

FORGERIES: dict[str, tuple[Forge, str]] = {
    "another event": (lambda log, r, p: r.write_bytes(changed(2)(log.lines)[2]), "not the hash of this record"),
    "another event, its hash made anew": (
        lambda log, r, p: r.write_bytes(log.rewrite(changed(2)).lines[2]),
        "",
    ),
    "another record": (lambda log, r, p: r.write_bytes(log.lines[3]), "the proof is for record 2"),
    "two records": (lambda log, r, p: r.write_bytes(log.lines[2] + log.lines[3]), "one genuine record"),
    "no record": (lambda log, r, p: r.write_bytes(b""), "one genuine record"),
    "another index": (lambda log, r, p: p.write_bytes(p.read_bytes().replace(b"index 2", b"index 3")), "record 3"),
    "a hash cut out": (
        lambda log, r, p: p.write_bytes(re.sub(rb"(index 2\n)[^\n]+\n", rb"\1", p.read_bytes())),
        "proof",
    ),
    "no signature": (lambda log, r, p: p.write_bytes(p.read_bytes().rpartition("\u2014".encode())[0]), ""),
    "another log's signature": (lambda log, r, p: p.write_bytes(forged(log, p.read_bytes())), "not signed by any"),
    "no proof": (lambda log, r, p: p.write_bytes(b"nonsense"), "tlog-proof"),
}


def forged(log: SigningLog, proof: bytes) -> bytes:
    """Return a proof whose checkpoint somebody else has signed under the log's name."""
    other = log.base_dir.parent / "other.pem"
    write_key(other, new_key())
    genuine = log.checkpoint
    forgery = log.publish_anew(other).checkpoint
    return proof.replace(genuine, forgery)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_proof_proves_nothing(forgery: str, log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """Whatever is changed in record or proof: exit status 1, and the reason."""
    record, proof = prove(audit, log, tmp_path / "x.tlog-proof")
    forge, reason = FORGERIES[forgery]
    before = record.read_bytes(), proof.read_bytes()
    forge(log, record, proof)
    assert (record.read_bytes(), proof.read_bytes()) != before
    ended = audit("verify-proof", record, proof, "--vkey", log.vkey)
    assert ended.status == 1, ended.out
    assert "NOT proven" in ended.out
    document = audit("verify-proof", record, proof, "--vkey", log.vkey, "--json").document
    assert document["proven"] is False
    assert reason in document["reason"]


def test_a_policy_and_its_witnesses(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """A policy's quorum is demanded of a proof; who has cosigned is shown, and when by his own clock."""
    witness = Cosigner(1)
    policy = tmp_path / "policy"
    policy.write_text(f"log {log.vkey}\nwitness w {witness.key}\nquorum w\n")
    record, proof = prove(audit, log, tmp_path / "x.tlog-proof")
    ended = audit("verify-proof", record, proof, "--policy", policy)
    assert ended.status == 1
    assert "not cosigned by the quorum" in ended.out
    path = log.directory / "tlog/checkpoint"
    path.write_bytes(cosigned(SignedCheckpoint.parse(path.read_bytes()), witness).encode())
    record, proof = prove(audit, log, tmp_path / "y.tlog-proof")
    ended = audit("verify-proof", record, proof, "--policy", policy)
    assert ended.status == 0
    assert "witness.example/w1 at 2026-11-22T12:00:00Z" in ended.out


def test_whom_to_trust_must_be_said_once_and_well(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """Neither nothing, nor both, nor nonsense is a policy; a witness's key is no log's."""
    record, proof = prove(audit, log, tmp_path / "x.tlog-proof")
    policy = tmp_path / "policy"
    policy.write_text("nonsense\n")
    trusts: list[list[str | Path]] = [
        [],
        ["--vkey", log.vkey, "--policy", policy],
        ["--vkey", "nonsense"],
        ["--vkey", str(Cosigner(1).key)],
        ["--policy", policy],
    ]
    state = tmp_path / "seen"
    commands: list[list[str | Path]] = [
        ["verify-proof", record, proof],
        ["monitor", log.directory / "tlog", "--once", "--state", state],
    ]
    for command in commands:
        for trust in trusts:
            ended = audit(*command, *trust)
            assert ended.status == 2, (command, trust, ended.err)
        assert audit(*command, "--policy", tmp_path / "missing").status == 3
    for trust in trusts[1:]:
        assert audit("verify", log.base_dir, *trust).status == 2
    nonsense = audit("verify", log.base_dir, "--vkey", "s3cret")
    assert ("one line, NAME+ID+KEY" in nonsense.err, "s3cret" in nonsense.err) == (True, False)
    assert audit("verify", log.base_dir, "--checkpoint", policy).status == 2
    assert audit("verify-proof", tmp_path / "missing", proof, "--vkey", log.vkey).status == 3


# -- verify ------------------------------------------------------------------------------------------------------------


def test_verify_with_a_key(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """What was signed is shown instead of the word that a head is needed; findings are those of the signatures, too."""
    ended = audit("verify", log.base_dir, "--vkey", log.vkey)
    assert (ended.status, ended.err) == (0, "")
    words = " ".join(ended.out.split())
    assert f"the hashes of {log.size} records are those that {ORIGIN} has signed" in words
    assert "can't be seen; 0 are there, protected by the chain alone" in words
    assert "no expected head was given" not in words
    kept = tmp_path / "kept"
    kept.write_bytes(log.checkpoint)
    log.rewrite(lambda lines: without_checkpoints(changed(2)(lines))).publish_anew()
    assert audit("verify", log.base_dir, "--vkey", log.vkey).status == 0
    ended = audit("verify", log.base_dir, "--vkey", log.vkey, "--checkpoint", kept, "--json")
    assert ended.status == 1
    assert [finding["kind"] for finding in ended.document["findings"]] == ["history"]
    assert str(kept) in ended.document["findings"][0]["reason"]


def test_verify_with_a_policy_and_another_place(log: SigningLog, tmp_path: Path, audit: Audit) -> None:
    """The published tree may be elsewhere: in a directory, or behind a URL."""
    policy = tmp_path / "policy"
    policy.write_text(f"log {log.vkey}\nquorum none\n")
    shutil.move(log.directory / "tlog", tmp_path / "www")
    ended = audit("verify", log.base_dir, "--policy", policy)
    assert ended.status == 1
    assert "no checkpoint is published" in " ".join(ended.out.split())
    assert audit("verify", log.base_dir, "--policy", policy, "--published", tmp_path / "www").status == 0
    with static_server(tmp_path / "www") as url:
        assert audit("verify", log.base_dir, "--policy", policy, "--published", url).status == 0
    assert audit("verify", log.base_dir, "--policy", policy, "--published", url).status == 3
    (tmp_path / "nonsense").write_bytes(b"nonsense")
    ended = audit("verify", log.base_dir, "--policy", policy, "--checkpoint", tmp_path / "nonsense")
    assert ended.status == 2
    assert "nonsense" in ended.err


def test_a_hostile_note_does_not_reach_the_terminal(log: SigningLog, audit: Audit) -> None:
    """What a foreign checkpoint says of itself is shown with its controls made visible."""
    path = log.directory / "tlog/checkpoint"
    path.write_bytes(path.read_bytes().replace(ORIGIN.encode(), "\u202eevil\x9b31m".encode()))
    ended = audit("verify", log.base_dir, "--vkey", log.vkey)
    assert ended.status == 1
    assert {"\u202e", "\x9b"}.isdisjoint(ended.out)
    assert "evil" in ended.out


def test_the_reader_takes_a_policy(log: SigningLog) -> None:
    """`AuditReader.verify` finds the same from Python, and asks for the policy where only the rest is given."""
    reader = AuditReader(log.base_dir)

    def report(**settings: object) -> VerifyReport:
        async def verify() -> VerifyReport:
            return await reader.verify(**settings)  # type: ignore[arg-type]  # each call names settings that exist

        return asyncio.run(verify())

    kept = log.checkpoint
    assert {note.kind for note in report(policy=log.policy).notes} >= {"signed", "behind_checkpoint"}
    log.session().rewrite(lambda lines: lines[:5])
    found = report(policy=log.policy, known_checkpoints={"kept": kept}, published=log.directory / "tlog")
    assert {finding.kind for finding in found.findings} == {"history"}
    assert report().valid
    with pytest.raises(InvalidQuery, match="policy"):
        report(known_checkpoints={"kept": kept})


# -- without the extra, and the example --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["keys new --out x", "prove 1 .", "verify-proof a b --vkey x", "monitor u", "verify . --vkey x", "keystore init x"],
)
def test_without_the_extra_it_says_what_to_install(command: str) -> None:
    """Without `cryptography` everything else works, and these commands say what they need."""
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "import importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'cryptography' else found(name, *rest)\n"
        "from audit_async.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in {2, 3}
    extra = "privacy" if command.startswith("keystore") else "tlog"
    assert f"audit-async[cli,{extra}]" in "".join(done.stderr.split()).replace("│", "")


def test_the_example_proves_a_record(tmp_path: Path, audit: Audit) -> None:
    """The example makes a log that signs, proves a record, checks it; the command that it prints does the same."""
    run = run_example("prove_record", tmp_path / "proven")
    assert (run.returncode, run.stderr) == (0, "")
    proven, same = run.stdout.splitlines()
    assert proven.startswith("record 1 was in example.com/orders/00 when it had ")
    shutil.rmtree(tmp_path / "proven" / "audit")
    vkey = same.rpartition(" ")[2]
    files = tmp_path / "proven/record.json", tmp_path / "proven/record.tlog-proof"
    assert audit("verify-proof", *files, "--vkey", vkey).status == 0
    assert run_example("prove_record", tmp_path / "proven").returncode == 0  # again, with the same key
