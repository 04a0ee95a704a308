"""Interpreters that lack something: no `sqlite3`, and a package that is in a zip file."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli.commands import environment
from tests.cli.made_trails import failure, make_trail

PACKAGE = Path(__file__).parents[2] / "audit_async"


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """A trail of several segments."""
    make_trail(tmp_path / "t", [failure(("bob", "eve")[n % 2], n) for n in range(40)], max_bytes=4000)
    return tmp_path / "t"


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment())


def test_without_sqlite_everything_is_read_without_an_index(trail: Path) -> None:
    """An interpreter that was built without `sqlite3` queries, exports, follows and verifies all the same."""
    code = """
import io, sys
sys.modules["sqlite3"] = sys.modules["_sqlite3"] = None
from audit_async import AuditQuery, AuditReader
import anyio
from audit_async.cli import main

trail, target = sys.argv[1:]

async def ask():
    found = [record.seq async for record in AuditReader(trail).query(AuditQuery(actor="eve"))]
    page = await AuditReader(trail).page(AuditQuery(actor="eve", limit=3, newest_first=True))
    return found, [record.seq for record in page.records]

found, newest = anyio.run(ask)
assert found == list(range(1, 40, 2)), found
assert newest == [39, 37, 35], newest
for command in ("query", "stats", "tail", "verify", "doctor"):
    assert main([command, trail]) in (0, 1), command
assert main(["export", trail, target, "--actor", "eve"]) == 0
assert main(["query", trail, "--actor", "eve", "--since", "2020-01-01"]) == 0
"""
    ended = run(code, trail, trail.with_name("e.zip"))
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(trail.rglob("index.sqlite3"))
    assert zipfile.is_zipfile(trail.with_name("e.zip"))


def test_a_package_in_a_zip_makes_a_bundle(trail: Path, tmp_path: Path) -> None:
    """The verifier gets into a bundle also if the package was imported from a zip file, and checks it."""
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in PACKAGE.rglob("*.py"):
            archive.write(path, path.relative_to(PACKAGE.parent).as_posix())
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import audit_async
assert audit_async.__file__.startswith(sys.argv[1]), audit_async.__file__
from audit_async.cli import main
sys.exit(main(["export", *sys.argv[2:]]))
"""
    ended = run(code, packed, trail, tmp_path / "e.zip", "--actor", "eve")
    assert ended.returncode == 0, ended.stderr
    with zipfile.ZipFile(tmp_path / "e.zip") as bundle:
        bundle.extractall(tmp_path / "e")
    assert (tmp_path / "e" / "verify_trail.py").read_bytes() == (PACKAGE / "standalone.py").read_bytes()
    checked = subprocess.run(
        [sys.executable, "-I", "verify_trail.py", "."], cwd=tmp_path / "e", capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
