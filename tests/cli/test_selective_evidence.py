"""Selective evidence on the command line: made with `export`, checked with `verify-proof` and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from audit_async.tlog.checkpoint import SignedCheckpoint
from tests.cli.commands import Audit, run_in_pipes
from tests.export.evidence_trails import ORIGINS, EvidenceTrail, entries_of, write_entries
from tests.tlog.trees import Cosigner, cosigned


@pytest.fixture
def trail(tmp_path: Path) -> EvidenceTrail:
    """Two logs that sign and seal."""
    (tmp_path / "host").mkdir()
    return EvidenceTrail(tmp_path / "host")


def vkeys(trail: EvidenceTrail) -> list[str]:
    """Return the options that trust both logs."""
    return [word for vkey in trail.vkeys for word in ("--vkey", vkey)]


SELECTIVE = ("--evidence", "selective", "--type", "auth.success")


def test_the_round_trip(audit: Audit, trail: EvidenceTrail, tmp_path: Path) -> None:
    """Made on the log's host with a member disclosed, checked after the log, its keys and its host are gone."""
    target = tmp_path / "e.zip"
    made = audit(
        "export", trail.base_dir, target, *SELECTIVE, "--actor", "bob-00",
        "--disclose", "actor.user_id,context.user_id", "--as", "roe", *trail.keys,
    )  # fmt: skip
    assert (made.status, made.err) == (0, "")
    assert "2 sealed members disclosed" in made.out
    (exported,) = audit("query", trail.base_dir, "--type", "audit.exported", "--json").rows
    assert (exported["event"]["format"], exported["event"]["unsealed"]) == ("bundle", True)
    trusted = vkeys(trail)
    shutil.rmtree(trail.home)
    ended = audit("verify-proof", target, *trusted)
    assert (ended.status, ended.err) == (0, "")
    for text in (
        "proven",
        "1 record",
        ORIGINS["00"],
        'actor.user_id: "bob-00"',
        'context.user_id: "support-of-bob-00"',
    ):
        assert text in ended.out
    assert ended.out.count("checked: this was sealed") == 2
    assert "no witness that you trust" in ended.out
    assert "no other record answers" in ended.out
    document = audit("verify-proof", target, *trusted, "--json").document
    (log,) = document["logs"]
    (record,) = log["records"]
    assert (document["proven"], document["reason"], log["origin"]) == (True, None, ORIGINS["00"])
    assert record["disclosed"] == [
        {"place": ["event", "actor", "user_id"], "value": "bob-00"},
        {"place": ["context", "user_id"], "value": "support-of-bob-00"},
    ]
    assert log["signed_by"] == trusted[1::4]


def test_without_disclosing_no_name_and_no_key_is_needed(audit: Audit, trail: EvidenceTrail, tmp_path: Path) -> None:
    """As a process of its own, with --json and --format."""
    done = run_in_pipes(
        "export", trail.base_dir, tmp_path / "e.evidence.zip", "--format", "bundle", *SELECTIVE, "--json"
    )
    assert (done.status, done.err) == (0, "")
    report = done.document
    assert (report["records"], report["unsealed"], report["disclosed"], report["undisclosed"]) == (6, False, 0, 0)
    checked = run_in_pipes("verify-proof", tmp_path / "e.evidence.zip", *vkeys(trail))
    assert (checked.status, checked.err) == (0, "")
    assert "6 records in the file" in checked.out
    assert audit("query", trail.base_dir, "--type", "audit.exported", "--json").rows == []


def test_what_does_not_hold_is_a_finding(audit: Audit, trail: EvidenceTrail, tmp_path: Path) -> None:
    """Status 1 and the reason, also as JSON; nothing of such a file is shown as proven."""
    assert audit("export", trail.base_dir, tmp_path / "e.zip", *SELECTIVE).status == 0
    entries = entries_of(tmp_path / "e.zip")
    name = "orders/00/records.ndjson"
    entries[name] = entries[name].replace(b'"method":"mfa"', b'"method":"sso"', 1)
    write_entries(tmp_path / "e.zip", entries)
    ended = audit("verify-proof", tmp_path / "e.zip", *vkeys(trail))
    assert ended.status == 1
    assert "NOT proven" in ended.out
    assert "not one genuine record" in ended.out
    document = audit("verify-proof", tmp_path / "e.zip", *vkeys(trail), "--json")
    assert (document.status, document.document["proven"], document.document["logs"]) == (1, False, [])
    write_entries(tmp_path / "e.zip", entries | {"\u202e\x1b[2Jevil": b""})
    hostile = audit("verify-proof", tmp_path / "e.zip", *vkeys(trail))
    assert (hostile.status, "\x1b" in hostile.out, "\u202e" in hostile.out) == (1, False, False)
    assert audit("export", trail.base_dir, tmp_path / "chain.zip", "--type", "auth.success").status == 0
    chain = audit("verify-proof", tmp_path / "chain.zip", *vkeys(trail))
    assert (chain.status, "no selective evidence" in chain.out) == (1, True)


def test_witnesses_count_if_the_policy_asks_for_them(audit: Audit, trail: EvidenceTrail, tmp_path: Path) -> None:
    """The cosignatures that the log has published are in the file, and their times are shown."""
    witness = Cosigner(1)
    policy = tmp_path / "policy"
    policy.write_text(f"log {trail.vkeys[0]}\nwitness w {witness.key}\nquorum w\n")
    one_log = ("export", trail.logs["00"].directory, tmp_path / "e.zip", *SELECTIVE, "--force")
    assert audit(*one_log).status == 0
    ended = audit("verify-proof", tmp_path / "e.zip", "--policy", policy)
    assert ended.status == 1
    assert "not cosigned by the quorum" in " ".join(ended.out.split())
    path = trail.logs["00"].directory / "tlog/checkpoint"
    path.write_bytes(cosigned(SignedCheckpoint.parse(path.read_bytes()), witness).encode())
    assert audit(*one_log).status == 0
    ended = audit("verify-proof", tmp_path / "e.zip", "--policy", policy)
    assert ended.status == 0
    assert "witness.example/w1 at 2026-11-22T12:00:00Z" in ended.out


def test_a_record_that_is_not_covered_yet(audit: Audit, trail: EvidenceTrail, tmp_path: Path) -> None:
    """Status 3, what to do, and no file."""
    trail.logs["00"].unsigned()
    ended = audit("export", trail.base_dir, tmp_path / "e.zip", "--evidence", "selective")
    assert ended.status == 3
    assert "not covered yet" in ended.err
    assert "Wait for the next one" in " ".join(ended.err.split())
    assert not (tmp_path / "e.zip").exists()


def test_options_that_do_not_fit_are_refused(audit: Audit, trail: EvidenceTrail, tmp_path: Path) -> None:
    """Wrong usage says what is missing, and no file is made."""
    bundle, table = tmp_path / "e.zip", tmp_path / "e.csv"
    disclose = ("--disclose", "actor.user_id")
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((table, *SELECTIVE), "--evidence is for a bundle"),
        ((bundle, *disclose, "--as", "roe", *trail.keys), "--evidence selective"),
        ((bundle, "--published", tmp_path), "--evidence selective"),
        ((bundle, *SELECTIVE, *disclose, *trail.keys), "--as"),
        ((bundle, *SELECTIVE, *disclose, "--as", "roe"), "--key-store"),
        ((bundle, *SELECTIVE, "--disclose", "actor.user_id,", "--as", "roe", *trail.keys), "empty name"),
        ((bundle, *SELECTIVE, "--disclose", "actor..ip", "--as", "roe", *trail.keys), "--disclose"),
        ((bundle, *SELECTIVE, "--unseal", "--as", "roe", *trail.keys), "--disclose MEMBER"),
    ]
    for arguments, said in cases:
        refused = audit("export", trail.base_dir, *arguments)
        assert (refused.status, said in " ".join(refused.err.split())) == (2, True), refused.err
    assert not bundle.exists()
    assert not table.exists()
    missing = audit("verify-proof", tmp_path / "record.json", *vkeys(trail))
    assert (missing.status, "PROOF is missing" in " ".join(missing.err.split())) == (2, True)
    assert audit("verify-proof", tmp_path / "none.zip", *vkeys(trail)).status == 3
    assert audit("verify-proof", tmp_path / "none.zip").status == 2


def test_members_that_stay_sealed_are_said(audit: Audit, trail: EvidenceTrail, tmp_path: Path) -> None:
    """After an erasure the record is proven as before, and what could not be disclosed is counted."""
    erased = audit("erase", trail.base_dir, "--subject", "alice-00", "--by", "roe", "--reason", "art17", *trail.keys)
    assert erased.status == 0, erased.err
    made = audit(
        "export", trail.logs["00"].directory, tmp_path / "e.zip", *SELECTIVE, "--disclose", "actor.user_id",
        "--as", "roe", *trail.keys, "--json",
    )  # fmt: skip
    assert made.status == 0, made.err
    assert (made.document["disclosed"], made.document["undisclosed"]) == (2, 1)
    assert "1 member could not be disclosed" in " ".join(made.err.split())
    shown = audit("verify-proof", tmp_path / "e.zip", *vkeys(trail), "--json").document
    assert [len(record["disclosed"]) for record in shown["logs"][0]["records"]] == [0, 1, 1]
    assert json.dumps(shown).count("alice") == 0
