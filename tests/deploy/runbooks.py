"""The commands of a page, run as they are written, with other places and a `systemctl` that the test defines."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path

from audit_async.cli import main

DOCS = Path(__file__).parents[2] / "docs"


def section(page: str, headline: str) -> str:
    """Return a section of a page below `docs/`."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = text.partition(f"\n## {headline}\n")[2].partition("\n## ")[0]
    assert found, f"{page} has no section {headline}"
    return found


def commands(page: str, headline: str, *, block: int = 0) -> str:
    """Return the commands of a section's console block as a shell script, without the prompts."""
    found = re.findall(r"```console\n(.*?)```", section(page, headline), re.DOTALL)[block]
    return "".join(line.removeprefix("$ ") for line in found.splitlines(keepends=True))


def run_commands(
    script: str,
    directory: Path,
    *,
    places: Mapping[str, Path | str],
    systemctl: str = "exit 1",
) -> str:
    """Run a page's commands by bash, which ends at the first one that fails; return what they wrote.

    Args:
        script: The commands.
        directory: The current directory, and the place of the programs that are defined here.
        places: What is written in place of a path, or of anything else, on the page.
        systemctl: The shell commands that `systemctl` stands for.
    """
    for place in sorted(places, key=len, reverse=True):
        script = script.replace(place, str(places[place]))
    programs = directory / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "systemctl").write_text(f"#!/bin/sh\n{systemctl}\n")
    (programs / "systemctl").chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", script],
        cwd=directory, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def run_here(script: str, *, places: Mapping[str, Path | str], service: Callable[[str], None] = print) -> str:
    """Run a page's commands within this process, if they are `audit-async` and `systemctl` alone.

    Args:
        script: The commands, without anything that a shell would do but for quotes.
        places: What is written in place of a word.
        service: What is done for `systemctl`, with its first word.

    Returns:
        What they wrote; each of them ended with status 0.
    """
    written = io.StringIO()
    for line in script.splitlines():
        program, *words = shlex.split(line)
        arguments = [str(places.get(word, word)) for word in words]
        if program == "systemctl":
            service(arguments[0])
            continue
        assert program == "audit-async", line
        with redirect_stdout(written):
            assert main(arguments) == 0, line
    return written.getvalue()
