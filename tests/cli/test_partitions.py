"""`audit-async partitions`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import Audit
from tests.cli.made_trails import failure, make_trail


def test_the_command(tmp_path: Path, audit: Audit) -> None:
    """It says what it did, and the access is recorded if somebody is named."""
    make_trail(tmp_path / "audit", [failure("bob", n) for n in range(5)])
    made = audit("partitions", tmp_path / "audit", tmp_path / "copy", "--as", "jane")
    assert made.status == 0
    assert "new files" in made.out
    assert audit("partitions", tmp_path / "audit", tmp_path / "copy", "--json").document["removed"] == 0
    assert audit("query", tmp_path / "audit", "--type", "audit.log_accessed").out.count("jane") == 1
