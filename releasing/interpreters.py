"""The Python interpreters that are on this machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_OLDEST: Final = (3, 11)
_NAME: Final = re.compile(r"python3\.(\d+)t?")
#: A shim of pyenv runs nothing without a chosen version, so an interpreter is believed only if it answers.
_ASK: Final = (
    "import ensurepip, sys, sysconfig, venv; "
    "print(*sys.version_info[:3], int(bool(sysconfig.get_config_var('Py_GIL_DISABLED'))))"
)


class Interpreter(NamedTuple):
    """A CPython that can make virtual environments."""

    version: tuple[int, int, int]
    free_threaded: bool
    path: Path

    @property
    def name(self) -> str:
        """Version as people write it, with `t` if it has no GIL: 3.13.0, 3.14.1t."""
        return ".".join(map(str, self.version)) + "t" * self.free_threaded

    @property
    def minor(self) -> str:
        """The name without its last number: 3.13, 3.14t."""
        return f"{self.version[0]}.{self.version[1]}" + "t" * self.free_threaded


def interpreters() -> list[Interpreter]:
    """Return the newest interpreter of each minor version that is on PATH or from pyenv, oldest first.

    A free-threaded build is a version of its own.
    """
    newest: dict[tuple[int, int, bool], Interpreter] = {}
    for path in _candidates():
        found = _asked(path)
        if found is None or found.version < _OLDEST:
            continue
        key = (*found.version[:2], found.free_threaded)
        if key not in newest or found.version > newest[key].version:
            newest[key] = found
    return [newest[key] for key in sorted(newest)]


def _candidates() -> Iterator[Path]:
    """Yield what may be an interpreter, each file once."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    directories = [Path(name) for name in os.environ.get("PATH", "").split(os.pathsep) if name]
    seen: set[Path] = set()
    for directory in [*directories, *sorted(pyenv.glob("versions/*/bin"))]:
        for path in sorted(directory.glob("python3.*")):
            named = _NAME.fullmatch(path.name)
            if named and int(named[1]) >= _OLDEST[1] and path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _asked(path: Path) -> Interpreter | None:
    """Return what an interpreter says of itself; None if it does not run or can't make an environment."""
    try:
        answer = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, check=True, timeout=60).stdout
        major, minor, micro, free_threaded = map(int, answer.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter((major, minor, micro), bool(free_threaded), path)
