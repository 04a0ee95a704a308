"""What a person sees of sealed members: in the clear with the key store, `[sealed]` without, and why if not."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_async._export.subject_page import SubjectPage
from audit_async.events import GenericEvent, Record
from audit_async.privacy import NewKey, key_id_text, new_master_key, open_key_store
from audit_async.privacy.sealed_text import RANDOM_BYTES, event_place, key_prefix, seal_text
from tests.cli.commands import Audit
from tests.privacy.key_stores import ALICE, make_store, open_store, some_keys
from tests.trail.written import WrittenLog


class Trail(NamedTuple):
    """A trail with one sealed record, and its key store."""

    base_dir: Path
    keys: tuple[str, ...]  #: the options that name the store
    sealed: str
    key: NewKey


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    """A person logged in, and her name is sealed."""
    base_dir = tmp_path / "audit"
    store = open_store(make_store(tmp_path))
    (made,) = some_keys(store, ALICE, 1)
    session = store.open_session("orders/00")
    assert session.insert([made]) == []
    session.close()
    store.close()
    log = WrittenLog(base_dir)
    log_id = json.loads((log.directory / "log.json").read_bytes())["log_id"]
    key_id = key_id_text(made.key_id)
    associated = key_prefix(log_id, key_id) + event_place("auth.success", ("actor", "user_id"))
    sealed = seal_text(AESGCM(made.key), key_id, associated, b'"alice"', os.urandom(RANDOM_BYTES))
    actor = {"user_id": sealed, "auth_method": "api_key"}
    log.write(
        {"event_type": "audit.log_opened", "privacy": 1},
        {"event_type": "auth.success", "actor": actor, "method": "api_key", "path": "/"},
    )
    log.close()
    keys = ("--key-store", str(tmp_path / "keys"), "--master-key", f"file:{tmp_path / 'master.key'}")
    return Trail(base_dir, keys, sealed, made)


def test_a_person_sees_no_ciphertext(audit: Audit, trail: Trail) -> None:
    """Without the key store a sealed member is `[sealed]` in every view for people, and as recorded in JSON."""
    for command in (("query", trail.base_dir), ("tail", trail.base_dir), ("show", "1", trail.base_dir)):
        shown = audit(*command)
        assert shown.status == 0
        assert "[sealed]" in shown.out
        assert "sealed:1:" not in shown.out
    (record,) = audit("query", trail.base_dir, "--type", "auth.*", "--json").rows
    assert record["event"]["actor"]["user_id"] == trail.sealed


def test_a_count_says_what_could_not_be_searched(audit: Audit, trail: Trail) -> None:
    """A count of what may be sealed is status 3 without the keys, and right with them."""
    counted = audit("query", trail.base_dir, "--actor", "alice", "--count")
    assert (counted.status, counted.out) == (3, "0 records\n")
    assert "1 record" in counted.err
    counted = audit("query", trail.base_dir, "--actor", "alice", "--count", *trail.keys)
    assert (counted.status, counted.out) == (0, "1 record\n")


def test_with_the_key_store_names_are_shown(audit: Audit, trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options may come from the environment as well."""
    for command in (("query", trail.base_dir), ("tail", trail.base_dir), ("show", "1", trail.base_dir)):
        shown = audit(*command, *trail.keys)
        assert shown.status == 0
        assert "alice" in shown.out
        assert "sealed" not in shown.out
    (record,) = audit("query", trail.base_dir, "--type", "auth.*", "--json", *trail.keys).rows
    assert record["event"]["actor"]["user_id"] == "alice"
    monkeypatch.setenv("AUDIT_KEY_STORE", trail.keys[1])
    monkeypatch.setenv("AUDIT_MASTER_KEY", trail.keys[3])
    assert "alice" in audit("query", trail.base_dir).out


def test_an_erased_person_is_shown_as_erased(audit: Audit, trail: Trail) -> None:
    """With the date on which the key was destroyed."""
    store = open_key_store(trail.keys[1], trail.keys[3])
    begun = store.begin_erasure(ALICE, "e1")
    assert begun.key_ids == [trail.key.key_id]
    store.destroy(begun.key_ids, erasure_id="e1")
    store.close()
    shown = audit("query", trail.base_dir, "--type", "auth.*", *trail.keys)
    assert "[erased 20" in shown.out
    assert "alice" not in shown.out


def test_wrong_options_are_refused(audit: Audit, trail: Trail, tmp_path: Path) -> None:
    """A store without its key, one that is not there, and another key: each says what is wrong, and shows no key."""
    _, store, _, master_key = trail.keys
    missing = audit("query", trail.base_dir, "--key-store", store)
    assert (missing.status, "--master-key" in missing.err) == (2, True)
    nowhere = audit("query", trail.base_dir, "--key-store", tmp_path / "none", "--master-key", master_key)
    assert (nowhere.status, nowhere.out) == (3, "")
    other = tmp_path / "other.key"
    other.write_bytes(new_master_key())
    other.chmod(0o600)
    wrong = audit("query", trail.base_dir, "--key-store", store, "--master-key", f"file:{other}")
    assert (wrong.status, wrong.out) == (3, "")
    assert other.read_bytes().hex() not in wrong.err


def files_with(directory: Path, text: bytes) -> list[Path]:
    """Return the files below a directory that hold these bytes."""
    return [path for path in directory.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_who_was_asked_about_is_not_in_the_clear(audit: Audit, trail: Trail) -> None:
    """In the log of who read the trail a name is sealed with the key store, and left out without it."""
    named = ("query", trail.base_dir, "--actor", "alice", "--as", "roe")
    without = audit(*named)
    assert (without.status, "1 record could not be searched" in without.err) == (3, True)
    assert audit(*named, *trail.keys).status == 0
    assert audit("show", "1", trail.base_dir, "--log", "orders/00", "--as", "roe", *trail.keys).status == 0
    assert files_with(trail.base_dir, b"alice") == []
    read = audit("query", trail.base_dir, "--type", "audit.log_accessed", "--json", *trail.keys).rows
    assert [row["event"]["query"].get("actor") for row in read] == ["[not recorded]", "alice", None]
    assert [row["event"]["actor"] for row in read] == ["roe", "roe", "roe"]


def test_a_person_gets_what_is_recorded(audit: Audit, trail: Trail, tmp_path: Path) -> None:
    """As NDJSON and as a page, both only for their owner; that they were made is recorded, and names nobody."""
    asked = ("--subject", "alice", "--as", "roe", *trail.keys)
    done = audit("subject-data", trail.base_dir, tmp_path / "alice.ndjson", *asked)
    assert (done.status, done.err) == (0, "")
    (line,) = (tmp_path / "alice.ndjson").read_text().splitlines()
    assert json.loads(line)["event"]["actor"]["user_id"] == "alice"
    report = audit("subject-data", trail.base_dir, tmp_path / "alice.html", *asked, "--json").document
    page = (tmp_path / "alice.html").read_text()
    # That somebody asked for her data is about her, too; who it was is not hers.
    assert (report["records"], report["format"]) == (2, "html")
    assert "roe" not in page
    assert "<dd>alice</dd>" in page
    assert "default-src 'none'" in page
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("alice.*")} == {0o600}
    assert files_with(trail.base_dir, b"alice") == []
    exported = audit("query", trail.base_dir, "--type", "audit.exported", "--json", *trail.keys).rows
    assert [(row["event"]["format"], row["event"]["unsealed"]) for row in exported] == [
        ("ndjson", True),
        ("html", True),
    ]
    assert exported[1]["event"]["sha256"] == report["sha256"]
    nobody = audit("subject-data", trail.base_dir, tmp_path / "n.ndjson", "--subject", "x", "--as", "roe", *trail.keys)
    assert (nobody.status, (tmp_path / "n.ndjson").read_bytes()) == (0, b"")


def test_what_a_person_gets_is_asked_for_properly(audit: Audit, trail: Trail, tmp_path: Path) -> None:
    """Without a name, a key store, a known ending or a subject nothing is written, and it says what to give."""
    target = tmp_path / "alice.ndjson"
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((target, "--subject", "alice", "--as", "roe"), "--key-store"),
        ((target, "--subject", "alice", *trail.keys), "--as"),
        ((target, "--as", "roe", *trail.keys), "--subject"),
        ((tmp_path / "alice.txt", "--subject", "alice", "--as", "roe", *trail.keys), ".html"),
        ((target, "--subject", " ", "--as", "roe", *trail.keys), "--subject"),
    ]
    for arguments, said in cases:
        refused = audit("subject-data", trail.base_dir, *arguments)
        assert (refused.status, said in refused.err) == (2, True), refused.err
    target.write_text("kept")
    taken = audit("subject-data", trail.base_dir, target, "--subject", "alice", "--as", "roe", *trail.keys)
    assert (taken.status, target.read_text()) == (3, "kept")


def test_a_page_shows_hostile_texts_as_texts() -> None:
    """What a record holds can't become part of the page."""
    hostile = "</dd><script>alert(1)</script>&amp;\x1b[31m"
    record = Record(
        seq=1,
        audit_id="0" * 16 + "-1",
        timestamp=datetime(2026, 11, 28, tzinfo=UTC),
        service_id=hostile,
        event=GenericEvent(event_type=hostile, fields={hostile: hostile, "o": {"p": {"q": {"r": {"s": hostile}}}}}),
        context={hostile: [hostile]},
        prev_hash="0" * 64,
        hash="0" * 64,
        log=hostile,
    )
    page = SubjectPage(hostile, made=datetime(2026, 11, 28, tzinfo=UTC))
    made = page.head() + page.section(record) + page.end(1)
    assert "<script" not in made
    assert made.count("<dd>") == made.count("</dd>")


@pytest.mark.parametrize("ending", ["ndjson", "csv", "parquet"])
def test_exports_are_sealed_unless_they_are_asked_not_to(
    audit: Audit, trail: Trail, tmp_path: Path, ending: str
) -> None:
    """Without --unseal a file has the sealed text; with it the plain one, and the trail says that the file was made."""
    kept, opened = tmp_path / f"kept.{ending}", tmp_path / f"opened.{ending}"
    assert audit("export", trail.base_dir, kept, "--type", "auth.*", *trail.keys).status == 0
    assert audit("query", trail.base_dir, "--type", "audit.exported", "--json").rows == []
    done = audit("export", trail.base_dir, opened, "--actor", "alice", "--unseal", "--as", "roe", *trail.keys, "--json")
    assert (done.document["records"], done.document["unsealed"]) == (1, True)
    (name,) = actors_in(opened)
    assert name == "alice"
    assert actors_in(kept) == [trail.sealed]
    (made,) = audit("query", trail.base_dir, "--type", "audit.exported", "--json").rows
    assert made["event"]["sha256"] == done.document["sha256"]
    assert files_with(trail.base_dir, b"alice") == []


def actors_in(path: Path) -> list[str]:
    """Return who acts in the records of an export."""
    if path.suffix == ".ndjson":
        return [json.loads(line)["event"]["actor"]["user_id"] for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [row["actor"] for row in csv.DictReader(file)]
    return [str(name) for name in pq.read_table(path).column("actor").to_pylist()]


def test_stats_count_a_sealed_person_by_the_key(audit: Audit, tmp_path: Path) -> None:
    """Each ciphertext is another text: counted by these, everybody would come once, and the busiest be in no list."""
    log = WrittenLog(tmp_path)
    log.write({"event_type": "audit.log_opened", "privacy": 1})
    keys = [key_id_text(bytes([n]) * 16) for n in range(2)]
    for n in range(7):
        key = keys[n < 4]
        sealed = seal_text(AESGCM(bytes(32)), key, b"", b'"somebody"', os.urandom(RANDOM_BYTES))
        log.write({"event_type": "auth.success", "actor": {"user_id": sealed}})
    log.close()
    expected = [{"name": f"sealed:1:{keys[1]}", "records": 4}, {"name": f"sealed:1:{keys[0]}", "records": 3}]
    for options in ((), ("--type", "auth.*")):  # by the segment, and by the record
        counted = audit("stats", tmp_path, "--json", *options).document["actors"]["top"]
        assert [one for one in counted if one["name"] != "(nobody)"] == expected


def test_a_bundle_about_a_sealed_person_verifies(audit: Audit, trail: Trail, tmp_path: Path) -> None:
    """Its verifier has no keys: it accuses nobody of what it can't decide, and says of how many records that is."""
    made = audit("export", trail.base_dir, tmp_path / "alice.zip", "--actor", "alice", "--as", "roe", *trail.keys)
    assert made.status == 0
    with zipfile.ZipFile(tmp_path / "alice.zip") as archive:
        archive.extractall(tmp_path / "alice")
    command = [sys.executable, "-I", "verify_trail.py", "."]
    checked = subprocess.run(command, cwd=tmp_path / "alice", capture_output=True, text=True, timeout=120, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "1 record: whether it was asked for, is sealed: not checked" in checked.stdout


def test_an_export_that_may_be_incomplete_says_so(audit: Audit, trail: Trail, tmp_path: Path) -> None:
    """Without the keys a person can't be looked for; a bundle can't be unsealed, and nothing leaves unrecorded."""
    left = audit("export", trail.base_dir, tmp_path / "a.ndjson", "--actor", "alice")
    assert (left.status, "1 record could not be searched" in left.err) == (3, True)
    for target, options, said in (
        ("b.ndjson", ("--unseal", "--as", "roe"), "--key-store"),
        ("b.ndjson", ("--unseal", *trail.keys), "--as"),
        ("b.zip", ("--unseal", "--as", "roe", *trail.keys), "bundle"),
    ):
        refused = audit("export", trail.base_dir, tmp_path / target, *options)
        assert (refused.status, said in refused.err, (tmp_path / target).exists()) == (2, True, False)
