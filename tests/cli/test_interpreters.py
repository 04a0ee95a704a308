"""What a command imports, and interpreters that lack something: no `sqlite3`, and a package that is in a zip file."""

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


@pytest.mark.parametrize("command", ["query", "verify", "config"])
def test_a_command_imports_no_other_one(trail: Path, command: str) -> None:
    """Starting one is most of what a short command takes; a database and Parquet are for those that were asked for."""
    code = """
import sys
from audit_async.cli import main
main(sys.argv[1:])
prefix = "audit_async.cli.commands."
heavy = {"duckdb", "pyarrow", "cryptography", "pyrage"} & sys.modules.keys()
print("IMPORTED", *(name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix)), *heavy)
"""
    ended = run(code, command, *(["check", trail / "none.toml"] if command == "config" else [trail]))
    assert ended.stdout.splitlines()[-1].split() == ["IMPORTED", {"config": "config_check"}.get(command, command)]


def test_without_sqlite_the_command_that_needs_it_says_so(tmp_path: Path) -> None:
    """`keystore` names the module that is missing; other commands are there, also in the help."""
    code = """
import sys
sys.modules["sqlite3"] = sys.modules["_sqlite3"] = None
from audit_async.cli import main
main(["--help"])
sys.exit(main(sys.argv[1:]))
"""
    ended = run(code, "keystore", "init", tmp_path / "keys")
    assert ended.returncode == 2
    assert "the module sqlite3" in " ".join(ended.stderr.replace("│", " ").split())
    assert "subject-data" in ended.stdout


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
