"""What a wheel and an sdist have to hold, next to the tree that they were built from."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]
PACKAGE: Final = PROJECT / "audit_async"


def package_files(package: Path = PACKAGE) -> dict[str, bytes]:
    """Return each file of the package that is no cache, by its path in a wheel: modules and what they read."""
    return {
        str(path.relative_to(package.parent)): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def tracked_files(project: Path = PROJECT) -> set[str]:
    """Return the paths of what is under version control and there.

    Raises:
        CalledProcessError: If this is not a checkout.
    """
    listed = _git_files(project)
    return {name for name in listed if (project / name).exists()}


def untracked_files(project: Path = PROJECT) -> set[str]:
    """Return the paths of what is neither under version control nor ignored."""
    return _git_files(project, "--others", "--exclude-standard")


def wheel_problems(wheel: Path, expected: dict[str, bytes]) -> Iterator[str]:
    """Yield what is wrong with a wheel: a file that is missing, differs, or has no business there."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    metadata = {name for name in held if name.partition("/")[0].endswith(".dist-info")}
    yield from (f"{wheel.name}: {name} is missing" for name in sorted(expected.keys() - held.keys()))
    yield from (
        f"{wheel.name}: {name} is not of the package" for name in sorted(held.keys() - expected.keys() - metadata)
    )
    yield from (
        f"{wheel.name}: {name} differs from the tree"
        for name in sorted(expected.keys() & held.keys())
        if held[name] != expected[name]
    )
    inside = {name.partition("/")[2] for name in metadata}
    wanted = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    yield from (f"{wheel.name}: no {name} in its .dist-info" for name in wanted if name not in inside)


def wheel_version(wheel: Path) -> str:
    """Return the version that a wheel's metadata states."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())["Version"]


def sdist_problems(sdist: Path, tracked: set[str], untracked: set[str]) -> Iterator[str]:
    """Yield what is wrong with an sdist: a tracked file that is missing, or a file that is not part of the tree.

    A file that is not committed yet may be there: whoever changes the tree builds from it as well.
    """
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    yield from (f"{sdist.name}: {name} is missing" for name in sorted(tracked - held))
    yield from (
        f"{sdist.name}: {name} is not under version control"
        for name in sorted(held - tracked - untracked - {"PKG-INFO"})
    )


def _git_files(project: Path, *options: str) -> set[str]:
    command = ["git", "ls-files", "-z", *options]
    listed = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if name}
