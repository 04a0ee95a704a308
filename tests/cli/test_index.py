"""`audit-async index`: what it says, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.commands import Audit
from tests.trail.written import WrittenLog


def test_it_indexes_what_is_missing_and_says_so(tmp_path: Path, audit: Audit) -> None:
    """The first run indexes every sealed segment, the second has nothing to do; a segment that changed is named."""
    log = WrittenLog(tmp_path)
    log.write(*({"event_type": "test.a", "user_id": f"u{n}"} for n in range(40)))
    sealed = log.sealed()
    log.close()
    first = audit("index", tmp_path, "--jobs", "2")
    assert first.status == 0
    assert f"in {len(sealed)} segments" in first.out
    again = audit("index", tmp_path, "--json")
    assert (again.status, json.loads(again.out)) == (0, [])
    assert "Every sealed segment has an index" in audit("index", tmp_path).out
    path = log.directory / sealed[0]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"u1", b"u9"))
    bad = audit("index", tmp_path, "--again")
    assert bad.status == 3
    assert sealed[0] in bad.out
    assert "verify the trail" in " ".join(bad.out.split())


def test_verify_compares_the_index_with_the_records(tmp_path: Path, audit: Audit) -> None:
    """`verify --index` names a file that hides records, and calls the log valid all the same."""
    log = WrittenLog(tmp_path)
    log.write(*({"event_type": "test.a", "user_id": f"u{n}"} for n in range(40)))
    sealed = log.sealed()
    log.close()
    audit("index", tmp_path)
    good = audit("verify", tmp_path, "--index")
    assert good.status == 0
    assert f"Index: {len(sealed)} files with all that is in the records" in " ".join(good.out.split())
    path = log.directory / "index" / f"{sealed[1]}.index"
    content = path.read_bytes()
    path.write_bytes(content[:32] + content[40:48] + content[32:40] + content[48:])
    (log.directory / "index" / f"{sealed[2]}.index").unlink()
    assert audit("verify", tmp_path).status == 0
    bad = audit("verify", tmp_path, "--index")
    said = " ".join(bad.out.split())
    assert bad.status == 3
    assert "valid 40 records" in said
    assert f"Index: 1 of {len(sealed) - 1} files must be made again; 1 segment without one" in said
    assert sealed[1] in said
    document = json.loads(audit("verify", tmp_path, "--index", "--json").out)
    assert document["valid"] is True
    assert [index["segment"] for index in document["index"] if index["problem"]] == [sealed[1]]
    assert audit("index", tmp_path, "--again").status == 0
    assert audit("verify", tmp_path, "--index").status == 0
