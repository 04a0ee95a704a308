"""`make release-check`: build wheel and sdist, look into both, and use them on each Python of this machine.

What is tried on each Python, in a fresh environment: the wheel without an extra (an event is emitted, the trail
verifies, each public module imports or says what to install), its command line, and a core of the tests from the
unpacked sdist. The tree itself is not on the import path of any of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from releasing.contents import (
    PROJECT,
    package_files,
    sdist_problems,
    tracked_files,
    untracked_files,
    wheel_problems,
    wheel_version,
)
from releasing.interpreters import Interpreter, interpreters

#: The rooms that the record on disk depends on, less than a minute of them: `make test-all` runs everything.
CORE_TESTS: Final = ("tests/chain", "tests/events", "tests/sanitize", "tests/layout", "tests/store")
_LONG: Final = "not sample and not campaign and not copies"
#: What the core's tests need besides the package and its extras.
TEST_PACKAGES: Final = (
    *("pytest>=8.3", "pytest-asyncio>=1.0", "pytest-xdist>=3.6", "hypothesis>=6.115"),
    *("attrs>=24", "pydantic>=2.7"),
)
_SMOKE: Final = Path(__file__).with_name("smoke.py")
_MINUTES: Final = 15  # for one command, which takes a minute on a machine that does nothing else


class CheckFailed(Exception):
    """A release of this tree would be broken; the message says by what."""


def build(directory: Path) -> tuple[Path, Path]:
    """Build the sdist from the tree and the wheel from the sdist, as PyPI's users get them; return wheel and sdist."""
    _run([sys.executable, "-m", "build", "--outdir", str(directory), str(PROJECT)])
    (wheel,) = directory.glob("*.whl")
    (sdist,) = directory.glob("*.tar.gz")
    return wheel, sdist


def look_into(wheel: Path, sdist: Path) -> None:
    """Raise if one of them lacks a file, or PyPI would refuse its metadata or not show its description."""
    problems = list(wheel_problems(wheel, package_files()))
    if (PROJECT / ".git").exists():
        problems += sdist_problems(sdist, tracked_files(), untracked_files())
    if problems:
        raise CheckFailed("\n".join(problems))
    _run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)])


def use(python: Interpreter, wheel: Path, sdist: Path, directory: Path, tests: Sequence[str]) -> None:
    """Install the wheel in a fresh environment of this Python, and use it."""
    environment = directory / "venv"
    _run([str(python.path), "-m", "venv", str(environment)])
    installed = environment / "bin" / "python"
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    _install(installed, str(wheel))
    modules = sorted(path.stem for path in (PROJECT / "docs" / "api").glob("audit_async*.md"))
    said = _run([str(installed), "-I", str(_SMOKE), wheel_version(wheel), *modules], cwd=elsewhere)
    print(f"   {said.strip()}")
    _check_command_line(environment, wheel, elsewhere)
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (unpacked,) = directory.glob("audit_async-*")
    _install(installed, f"{wheel}[cli,privacy,tlog]", *TEST_PACKAGES)
    said = _run([str(installed), "-m", "pytest", "-q", "-n", "auto", "-k", _LONG, *tests], cwd=unpacked)
    print(f"   {said.strip().splitlines()[-1].strip('= ')}")


def _check_command_line(environment: Path, wheel: Path, directory: Path) -> None:
    """Raise if the command does not say what it needs, or does not check and show the trail that is there."""
    command = str(environment / "bin" / "audit-async")
    asked = [command, "verify", "audit"]
    bare = subprocess.run(asked, cwd=directory, env=_environment(), capture_output=True, text=True, check=False)
    if bare.returncode != 2 or "pip install 'audit-async[cli]'" not in bare.stderr:
        raise CheckFailed(f"without the extra cli, {command} says: {bare.stdout}{bare.stderr}")
    _install(environment / "bin" / "python", f"{wheel}[cli]")
    if _run([command, "--version"], cwd=directory).split() != ["audit-async", wheel_version(wheel)]:
        raise CheckFailed("audit-async --version does not print the version that was built")
    _run([command, "verify", "audit"], cwd=directory)
    found = _run([command, "query", "audit", "--actor", "mallory", "--json"], cwd=directory).splitlines()
    types = [json.loads(line)["event"]["event_type"] for line in found]
    if types != ["auth.failure"]:
        raise CheckFailed(f"audit-async query finds {types} instead of the event that was emitted")


def _install(python: Path, *requirements: str) -> None:
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])


def _run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command and return what it prints; raise with all of it if it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=_environment(), capture_output=True, text=True, check=False, timeout=60 * _MINUTES
        )
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(f"{' '.join(command)} has not ended after {_MINUTES} minutes") from error
    if done.returncode:
        raise CheckFailed(f"{' '.join(command)} (exit status {done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Return the variables of this process without those that lead to the tree or to another environment."""
    leading = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in os.environ.items() if name not in leading}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks and leave wheel and sdist in `dist/`; return 1, with the reason, if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m releasing.check", description=__doc__.partition("\n")[0])
    parser.add_argument("--dist", type=Path, default=PROJECT / "dist", help="where they are built (%(default)s)")
    parser.add_argument(
        "--python", action="append", metavar="3.X", help="only this one, can be repeated; all that are found by default"
    )
    parser.add_argument("tests", nargs="*", default=CORE_TESTS, help="what is run from the sdist (the core's tests)")
    options = parser.parse_args(arguments)
    found = interpreters()
    chosen = [one for one in found if options.python is None or one.minor in options.python]
    if not chosen:
        parser.error(f"no such Python is on this machine; there are {', '.join(one.minor for one in found) or 'none'}")
    try:
        wheel, sdist = _built(options.dist)
        for python in chosen:
            print(f"== Python {python.name}: {python.path}", flush=True)
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="release-check-") as directory:
                os.chmod(directory, 0o755)  # noqa: S103 - a few tests run the package as another user
                use(python, wheel, sdist, Path(directory), options.tests)
            print(f"   {time.monotonic() - begun:.0f} s", flush=True)
    except CheckFailed as error:
        print(f"release-check: {error}", file=sys.stderr)
        return 1
    print(f"{wheel.name} and {sdist.name} are fit for release, on {', '.join(one.name for one in chosen)}")
    return 0


def _built(dist: Path) -> tuple[Path, Path]:
    """Build and check in a directory of its own; replace what was built before only by what is sound."""
    with tempfile.TemporaryDirectory(prefix="release-check-") as directory:
        wheel, sdist = build(Path(directory))
        look_into(wheel, sdist)
        dist.mkdir(exist_ok=True)
        for old in [*dist.glob("audit_async-*.whl"), *dist.glob("audit_async-*.tar.gz")]:
            old.unlink()
        print(f"== {wheel.name}, {sdist.name}: complete, and twine finds nothing", flush=True)
        return Path(shutil.copy(wheel, dist)), Path(shutil.copy(sdist, dist))


if __name__ == "__main__":
    sys.exit(main())
