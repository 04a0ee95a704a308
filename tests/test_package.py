"""What the package offers by its own name, and what its source distribution holds."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

import audit_async
from audit_async import privacy, tlog

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", [audit_async, privacy, tlog])
def test_every_name_that_is_offered_is_there(package: Any) -> None:
    """`from ... import *` gives all of `__all__`, and nothing is offered that `__all__` does not name."""
    offered: dict[str, object] = {}
    exec(f"from {package.__name__} import *", offered)  # noqa: S102 - a star is not allowed in a function
    assert offered.keys() - {"__builtins__"} == set(package.__all__)
    imported_later = [name for names in package._HOMES.values() for name in names]
    assert sorted(imported_later) == sorted(set(package.__all__) - {"__version__"})
    assert set(package.__all__) <= set(dir(package))


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    """A mistyped name raises what any other module raises."""
    with pytest.raises(AttributeError, match="module 'audit_async' has no attribute 'AuditLoger'"):
        audit_async.AuditLoger  # type: ignore[attr-defined]  # noqa: B018 - that is the point


def test_the_package_alone_imports_nothing_of_its_rooms() -> None:
    """A process that verifies pays for what verifying needs, not for the writing half."""
    program = "import sys, audit_async._chain; print([name for name in sys.modules if name.startswith('audit_async')])"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "audit_async._chain" in loaded
    assert "audit_async.logger" not in loaded


def test_the_source_distribution_is_the_whole_tree(tmp_path: Path) -> None:
    """What is under version control is in the sdist, so it passes its own tests; nothing else is."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a checkout: this is the source distribution itself")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    tracked = {name for name in listed.split("\0") if name and (PROJECT / name).exists()}
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True, timeout=120)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert tracked - held == set()
    untracked = subprocess.run(
        ["git", "ls-files", "-z", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    assert held - tracked - {"PKG-INFO"} - set(untracked) == set()


def test_metadata_points_at_the_project() -> None:
    """Each address that PyPI shows is one of the project's, and each extra that an extra names exists."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= project["urls"].keys()
    assert all("/audit-async/" in f"{url}/" for url in project["urls"].values())
    extras = project["optional-dependencies"]
    for requirements in extras.values():
        for requirement in requirements:
            if requirement.startswith("audit-async["):
                named = requirement.removeprefix("audit-async[").partition("]")[0].split(",")
                assert set(named) <= extras.keys(), requirement


def test_one_version_of_each_linter() -> None:
    """Pre-commit runs the tools of the environment of `make test`, and so no second version of them."""
    hooks = (PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    for tool in ("ruff", "mypy"):
        assert f"entry: .venv/bin/{tool}" in hooks
    assert "ruff-pre-commit" not in hooks
