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
