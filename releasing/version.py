"""The version of a release: `python -m releasing.version 0.9.0` sets it, `--tag v0.9.0` compares it with a tag.

It is written in two places, `audit_async/_version.py`, from which the build takes it, and a heading of CHANGELOG.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from releasing.contents import PROJECT

_VERSION: Final = re.compile(r'^__version__ = "(\d+)\.(\d+)\.(\d+)"$', re.MULTILINE)
_HEADING: Final = re.compile(r"^## \[(.*?)\](?: - (.*))?$", re.MULTILINE)
_UNRELEASED: Final = "## [Unreleased]\n"


class VersionRefused(Exception):
    """The version can't be set; the message says why."""


def version_of(project: Path = PROJECT) -> tuple[int, int, int]:
    """Return the version of the code."""
    found = _VERSION.search((project / "audit_async" / "_version.py").read_text(encoding="utf-8"))
    if found is None:
        raise VersionRefused('audit_async/_version.py has no line __version__ = "X.Y.Z"')
    return _numbers(".".join(found.groups()))


def disagreements(project: Path = PROJECT) -> Iterator[str]:
    """Yield what the code, pyproject.toml and CHANGELOG.md don't say alike of the version."""
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    if settings["tool"]["hatch"]["version"]["path"] != "audit_async/_version.py" or "version" in settings["project"]:
        yield "pyproject.toml does not take the version from audit_async/_version.py"
    headings = _HEADING.findall((project / "CHANGELOG.md").read_text(encoding="utf-8"))
    if not headings or headings[0] != ("Unreleased", ""):
        yield "CHANGELOG.md does not begin with a section [Unreleased]"
        return
    released = [(_numbers(name), date.fromisoformat(day)) for name, day in headings[1:]]
    code = version_of(project)
    if released and released[0][0] != code:
        yield f"CHANGELOG.md's newest release is {_text(released[0][0])}, the code's version {_text(code)}"
    if released != sorted(released, reverse=True) or len({number for number, _ in released}) < len(released):
        yield "CHANGELOG.md's releases are not in order, the newest first"


def set_version(version: str, project: Path = PROJECT, *, day: date | None = None) -> None:
    """Give the code a new version, and make what CHANGELOG.md calls unreleased the section of that version.

    Raises:
        VersionRefused: The version is not the one of a next release, or nothing is unreleased. Nothing is written.
    """
    numbers = _numbers(version)
    if numbers <= version_of(project):
        raise VersionRefused(f"{version} is not after {_text(version_of(project))}, which the code has")
    changelog = (project / "CHANGELOG.md").read_text(encoding="utf-8")
    before, heading, rest = changelog.partition(_UNRELEASED)
    if not heading or not rest.partition("\n## [")[0].strip():
        raise VersionRefused("CHANGELOG.md has nothing under [Unreleased]")
    day = day or datetime.now(UTC).date()
    code = project / "audit_async" / "_version.py"
    code.write_text(_VERSION.sub(f'__version__ = "{version}"', code.read_text(encoding="utf-8")), encoding="utf-8")
    released = f"{before}{_UNRELEASED}\n## [{version}] - {day.isoformat()}\n{rest}"
    (project / "CHANGELOG.md").write_text(released, encoding="utf-8")


def tag_problems(tag: str, project: Path = PROJECT) -> Iterator[str]:
    """Yield why a tag is not the one of a release of this tree."""
    yield from disagreements(project)
    expected = f"v{_text(version_of(project))}"
    if tag != expected:
        yield f"the tag is {tag}, the code's version makes it {expected}"
    if f"\n## [{expected[1:]}] - " not in (project / "CHANGELOG.md").read_text(encoding="utf-8"):
        yield f"CHANGELOG.md has no section [{expected[1:]}]"


def _numbers(version: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}", version):
        raise VersionRefused(f"{version!r} is no version: write three numbers, as in 0.9.0")
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


def _text(numbers: tuple[int, int, int]) -> str:
    return ".".join(map(str, numbers))


def main(arguments: Sequence[str] | None = None) -> int:
    """Set the version, or compare it with a tag; return 1, with the reasons, if that is not right."""
    parser = argparse.ArgumentParser(
        prog="python -m releasing.version",
        description="Set the version of the next release, in the code and in CHANGELOG.md; or check a tag.",
        epilog="for example: python -m releasing.version 0.9.0",
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("version", nargs="?", help="the next version: three numbers")
    asked.add_argument("--tag", help="check that this is the tag of a release of this tree: v0.9.0")
    options = parser.parse_args(arguments)
    try:
        if options.version is not None:
            set_version(options.version)
        problems = list(disagreements() if options.tag is None else tag_problems(options.tag))
    except VersionRefused as error:
        problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
