"""Commands over a trail with encrypted archives: everything with the identity, and never silently less without it."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from tests.age_keys import key_file
from tests.cli.commands import Audit
from tests.verify.test_encrypted_trails import RECORDS, make
from tests.verify.test_signed_archives import encrypted


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    """Return a trail of which all but the newest segments are encrypted."""
    anyio.run(make, tmp_path / "audit")
    return tmp_path / "audit"


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """Return the file with the private key."""
    return key_file(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ("query", "--type", "auth.failure", "--json"),
        ("query", "--count"),
        ("query", "--actor", "user3"),
        ("stats",),
        ("stats", "--type", "auth.failure"),
        ("sql", "select count(*) from records"),
        ("verify",),
    ],
    ids=" ".join,
)
def test_without_the_identity_less_is_never_said_to_be_all(
    audit: Audit, base_dir: Path, identity: Path, command: tuple[str, ...]
) -> None:
    """Status 3 and a hint without the identity; all of it with it."""
    name, *options = command
    closed = audit(name, base_dir, *options)
    assert (closed.status, "--identity" in closed.out + closed.err) == (3, True), closed
    opened = audit(name, base_dir, *options, "--identity", identity)
    assert opened.status == 0, opened.err


def test_partitions_without_the_identity_are_not_said_to_be_all(audit: Audit, base_dir: Path, identity: Path) -> None:
    """Those that can be made are; with the identity the rest follows."""
    closed = audit("partitions", base_dir, base_dir.parent / "copy")
    assert (closed.status, "--identity" in closed.err) == (3, True), closed
    opened = audit("partitions", base_dir, base_dir.parent / "copy", "--identity", identity, "--json")
    assert (opened.status, opened.document["encrypted"]) == (0, 0)
    assert opened.document["kept"] > 0
    assert opened.document["written"] > 0


def test_stats_count_what_is_encrypted(audit: Audit, base_dir: Path, identity: Path) -> None:
    """With the identity the same numbers as a query counts."""
    counted = audit("stats", base_dir, "--json", "--identity", identity).document
    types = {entry["name"]: entry["records"] for entry in counted["types"]["top"]}
    assert types["auth.failure"] == RECORDS + 1


def test_an_index_leaves_out_what_is_encrypted(audit: Audit, base_dir: Path) -> None:
    """It would say to everybody which names may be in the archive."""
    assert audit("index", base_dir).status == 0
    encrypted = {path.name.removesuffix(".zst.age") for path in base_dir.rglob("*.age")}
    assert encrypted
    assert encrypted.isdisjoint(path.name.removesuffix(".index") for path in base_dir.rglob("index/*"))


@pytest.mark.parametrize("with_identity", [True, False])
def test_a_copy_with_encrypted_archives_is_rebuilt(
    audit: Audit, base_dir: Path, identity: Path, with_identity: bool
) -> None:
    """By reading them, or without the key by the manifest of the copy; either way they are the same bytes."""
    options = ("--identity", identity) if with_identity else ()
    target = base_dir.parent / "restored"
    done = audit("restore", base_dir, target, "--from-copy", "--json", *options)
    assert done.status == 0, done.err
    (restored,) = done.document["logs"]
    archives = {path.name: path.read_bytes() for path in base_dir.rglob("*.age")}
    assert archives
    assert {path.name: path.read_bytes() for path in target.rglob("*.age")} == archives
    assert restored["unread"] == (0 if with_identity else len(archives))
    assert restored["set_aside"] == []
    assert audit("verify", target, "--identity", identity).status == 0
    assert audit("verify", target, "--skip-encrypted").status == 0
    manifest = json.loads((base_dir / "orders" / "00" / "manifest.json").read_bytes())["segments"]
    again = json.loads((target / "orders" / "00" / "manifest.json").read_bytes())["segments"]
    assert [entry["encrypted"] for entry in again if "encrypted" in entry] == [
        entry["encrypted"] for entry in manifest if "encrypted" in entry
    ]


def test_a_restore_says_what_it_did_not_read(audit: Audit, base_dir: Path, identity: Path) -> None:
    """In words as well; and an identity is nothing for a backup, of which no record is read."""
    target = base_dir.parent / "restored"
    refused = audit("restore", base_dir, target, "--identity", identity)
    assert (refused.status, "--from-copy" in refused.err) == (2, True)
    done = audit("restore", base_dir, target, "--from-copy")
    assert done.status == 0
    assert "restored unread" in done.out + done.err


def test_a_copy_whose_manifest_is_lost_needs_the_identity(audit: Audit, base_dir: Path, identity: Path) -> None:
    """What can't be read is not taken for lost: the command says what to give it, and with it restores everything."""
    (base_dir / "orders" / "00" / "manifest.json").unlink()
    refused = audit("restore", base_dir, base_dir.parent / "refused", "--from-copy")
    assert (refused.status, "--identity" in refused.err) == (1, True), refused
    target = base_dir.parent / "restored"
    assert audit("restore", base_dir, target, "--from-copy", "--identity", identity).status == 0
    assert audit("verify", target, "--identity", identity).status == 0


def test_a_signed_log_is_verified_without_the_identity(audit: Audit, tmp_path: Path) -> None:
    """By the real command: a report with status 3, 0 once it is said that this is known, and 0 with the identity."""
    log = encrypted(tmp_path / "audit")
    options = ("--vkey", log.vkey)
    closed = audit("verify", log.base_dir, *options, "--json")
    assert closed.status == 3, closed.err
    assert closed.document["findings"] == []
    assert audit("verify", log.base_dir, *options, "--skip-encrypted").status == 0
    assert audit("verify", log.base_dir, *options, "--identity", key_file(tmp_path)).status == 0


@pytest.mark.parametrize("by", ["seq", "audit_id"])
def test_one_record_is_shown_and_proven_with_the_identity(audit: Audit, tmp_path: Path, by: str) -> None:
    """By its number or its id; the evidence is checked without the log. Without the identity nothing is made up."""
    log, identity = encrypted(tmp_path / "audit"), key_file(tmp_path)
    record = audit("query", log.base_dir, "--json", "--identity", identity).rows[3]
    which = str(record["seq"]) if by == "seq" else record["audit_id"]
    closed = audit("show", which, log.base_dir)
    assert (closed.status, "--identity" in closed.err, closed.out) == (3, True, ""), closed
    shown = audit("show", which, log.base_dir, "--identity", identity)
    assert shown.status == 0, shown.err
    assert record["audit_id"] in shown.out
    proof, line = tmp_path / "record.tlog-proof", tmp_path / "record.json"
    closed = audit("prove", which, log.base_dir, "--out", proof)
    assert (closed.status, "--identity" in closed.err, proof.exists()) == (3, True, False), closed
    made = audit("prove", which, log.base_dir, "--out", proof, "--identity", identity)
    assert made.status == 0, made.err
    assert json.loads(line.read_bytes())["audit_id"] == record["audit_id"]
    checked = audit("verify-proof", line, proof, "--vkey", log.vkey)
    assert checked.status == 0, checked.out


@pytest.mark.parametrize("name", ["all.csv", "all.ndjson", "bundle.zip", "selective.zip"])
def test_an_export_reads_archives_with_the_identity(audit: Audit, tmp_path: Path, name: str) -> None:
    """In every form; without the identity there is no file."""
    log, identity, file = encrypted(tmp_path / "audit"), key_file(tmp_path), tmp_path / name
    options = ("--evidence", "selective") if name == "selective.zip" else ()
    closed = audit("export", log.base_dir, file, *options)
    assert (closed.status, "--identity" in closed.err, file.exists()) == (3, True, False), closed
    made = audit("export", log.base_dir, file, *options, "--identity", identity)
    assert made.status == 0, made.err
    assert file.exists()
    if name == "selective.zip":
        assert audit("verify-proof", file, "--vkey", log.vkey).status == 0
