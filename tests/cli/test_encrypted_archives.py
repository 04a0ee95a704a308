"""Commands over a trail with encrypted archives: everything with the identity, and never silently less without it."""

from __future__ import annotations

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


def test_a_copy_with_encrypted_archives_is_not_rebuilt(audit: Audit, base_dir: Path) -> None:
    """What can't be read is not lost: nothing is changed, and the message says what to do."""
    log = base_dir / "orders" / "00"
    before = (log / "manifest.json").read_bytes()
    refused = audit("restore", base_dir, base_dir.parent / "restored", "--from-copy")
    assert (refused.status, "age -d" in refused.err) != (0, True), refused
    assert "encrypted" in refused.err
    assert (log / "manifest.json").read_bytes() == before


def test_a_signed_log_is_verified_without_the_identity(audit: Audit, tmp_path: Path) -> None:
    """By the real command: a report with status 3, 0 once it is said that this is known, and 0 with the identity."""
    log = encrypted(tmp_path / "audit")
    options = ("--vkey", log.vkey)
    closed = audit("verify", log.base_dir, *options, "--json")
    assert closed.status == 3, closed.err
    assert closed.document["findings"] == []
    assert audit("verify", log.base_dir, *options, "--skip-encrypted").status == 0
    assert audit("verify", log.base_dir, *options, "--identity", key_file(tmp_path)).status == 0
