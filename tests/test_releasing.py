"""What is done before a release: one version everywhere, its tag, and the workflow that publishes it."""

from __future__ import annotations

import re
import shutil
import sys
from datetime import date
from pathlib import Path

import pytest

import audit_async
from releasing.contents import PROJECT
from releasing.interpreters import interpreters
from releasing.version import VersionRefused, disagreements, main, set_version, tag_problems, version_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Copy what states the version, with one unreleased change, as version 0.1.0."""
    (tmp_path / "audit_async").mkdir()
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    (tmp_path / "audit_async" / "_version.py").write_text('"""The version."""\n\n__version__ = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n")
    return tmp_path


def test_one_version_everywhere() -> None:
    """The code, the build and the changelog state one version."""
    assert list(disagreements()) == []
    assert ".".join(map(str, version_of())) == audit_async.__version__


def test_a_release_is_set_by_one_command(tree: Path) -> None:
    """The code has the new version, what was unreleased is its section, and the tag that belongs to it is accepted."""
    assert list(tag_problems("v0.1.0", tree)) == ["CHANGELOG.md has no section [0.1.0]"]
    set_version("0.9.0", tree, day=date(2026, 11, 29))
    assert (tree / "audit_async" / "_version.py").read_text().endswith('\n__version__ = "0.9.0"\n')
    assert (tree / "CHANGELOG.md").read_text() == (
        "# Changelog\n\n## [Unreleased]\n\n## [0.9.0] - 2026-11-29\n\n### Added\n\n- A thing.\n"
    )
    assert list(disagreements(tree)) == []
    assert list(tag_problems("v0.9.0", tree)) == []
    assert list(tag_problems("v0.9.1", tree)) == ["the tag is v0.9.1, the code's version makes it v0.9.0"]


@pytest.mark.parametrize(
    ("version", "why"),
    [("0.1.0", "not after 0.1.0"), ("0.0.9", "not after"), ("0.9", "three numbers"), ("v0.9.0", "three numbers")],
)
def test_a_version_that_is_none_is_refused(tree: Path, version: str, why: str) -> None:
    """The message says what is wrong, and nothing is written."""
    before = [path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()]
    with pytest.raises(VersionRefused, match=why):
        set_version(version, tree)
    assert [path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()] == before


def test_a_release_of_nothing_is_refused(tree: Path) -> None:
    """A second release at once has no changes to name."""
    set_version("0.9.0", tree)
    with pytest.raises(VersionRefused, match="nothing under"):
        set_version("0.9.1", tree)


def test_versions_that_differ_are_found(tree: Path) -> None:
    """A changelog that was forgotten, one out of order, and one that has lost its first section."""
    set_version("0.9.0", tree, day=date(2026, 11, 29))
    changelog = (tree / "CHANGELOG.md").read_text()
    (tree / "audit_async" / "_version.py").write_text('__version__ = "0.9.1"\n')
    assert list(disagreements(tree)) == ["CHANGELOG.md's newest release is 0.9.0, the code's version 0.9.1"]
    (tree / "audit_async" / "_version.py").write_text('__version__ = "0.9.0"\n')
    (tree / "CHANGELOG.md").write_text(changelog + "\n## [0.10.0] - 2026-12-01\n\n- A later thing.\n")
    assert list(disagreements(tree)) == ["CHANGELOG.md's releases are not in order, the newest first"]
    (tree / "CHANGELOG.md").write_text(changelog.replace("## [Unreleased]\n\n", ""))
    assert list(disagreements(tree)) == ["CHANGELOG.md does not begin with a section [Unreleased]"]


def test_a_tag_of_another_version_stops_the_workflow(capsys: pytest.CaptureFixture[str]) -> None:
    """The command says which tag belongs to this tree."""
    assert main(["--tag", "v999.0.0"]) == 1
    assert f"makes it v{audit_async.__version__}" in capsys.readouterr().err


def test_what_publishes_is_pinned_and_can_do_nothing_else() -> None:
    """Each action that runs before or next to the upload is a commit, and only the upload may ask for an identity."""
    workflow = (PROJECT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    actions = re.findall(r"uses: (\S+)", workflow)
    assert actions
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions), actions
    before, found, publishing = workflow.partition("\n  publish:\n")
    assert found
    assert "write" not in before
    assert "permissions: {}" in before
    assert re.search(r"permissions:\n      id-token: write\n    steps:", publishing)
    assert "environment:" in publishing
    assert "run:" not in publishing


def test_only_interpreters_that_run_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each minor version once, from PATH or pyenv; not a shim that runs nothing, nor a release that is too old."""
    pytest.importorskip("ensurepip", reason="this Python can't make environments")
    this = f"python3.{sys.version_info.minor}"
    chosen, pyenv = tmp_path / "bin", tmp_path / "pyenv" / "versions" / "3.9.1" / "bin"
    for directory in (chosen, pyenv):
        directory.mkdir(parents=True)
    (chosen / this).symlink_to(Path(sys.executable).resolve())
    for name, place in (("python3.99", chosen), ("python3.9", pyenv)):
        (place / name).write_text("#!/bin/sh\necho 3 9 1 0\nexit 127\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(chosen))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    (found,) = interpreters()
    assert found.version == sys.version_info[:3]
    assert found.path == chosen / this
    assert found.name.startswith(found.minor)
