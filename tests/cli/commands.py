"""Running `audit-async`: within the test, as a process with pipes, and as a process on a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from audit_async.cli import main

COMMAND = (sys.executable, "-m", "audit_async.cli")

#: What rich writes for colours, cursor and lines, all of it its own; a record must never bring any of it.
OWN_SEQUENCES = re.compile(rb"\r?\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[AGK])")
_DEADLINE_S = 60


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that it wrote."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[Any]:
        """The lines of NDJSON that it wrote."""
        return [json.loads(line) for line in self.out.splitlines()]


class Audit:
    """Runs `audit-async` within the test's own process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Ended:
        """Run a command; return how it ended."""
        self._capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        written = self._capsys.readouterr()
        return Ended(status, written.out, written.err)


def environment(**changes: str) -> dict[str, str]:
    """Return the test's environment without what says how terminals are."""
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR", "TERM"}}
    return kept | changes


def run_in_pipes(*arguments: str | Path, **variables: str) -> Ended:
    """Run a command as a program would."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, timeout=_DEADLINE_S, check=False,
        env=environment(**variables),
    )  # fmt: skip
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_on_terminal(
    *arguments: str | Path, columns: int = 100, until: Callable[[bytes], bool] | None = None, **variables: str
) -> tuple[int, bytes]:
    """Run a command as a person would; return its exit status and every byte that came to the terminal.

    Ctrl-C is typed once `until` says so of what came.
    """
    return _on_terminal([*COMMAND, *map(str, arguments)], columns, until, variables)


def run_at_once_on_terminal(*arguments: str | Path, **variables: str) -> tuple[int, bytes]:
    """Run a command as `run_on_terminal` does, with progress from its first moment on, however short it is."""
    code = (
        "import sys; from audit_async.cli import main, terminal\n"
        "terminal._MEASURED_AFTER_S = 0\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return _on_terminal([sys.executable, "-c", code, *map(str, arguments)], 100, None, variables)


def run_all_on_terminal(commands: Sequence[str], *, columns: int = 100, **variables: str) -> list[tuple[int, bytes]]:
    """Run several commands on a terminal, in one process to save its start; return what `run_on_terminal` does."""
    code = (
        "import json, sys; from audit_async.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    print(f'STATUS {main(command)} END', flush=True)"
    )
    arguments = json.dumps([shlex.split(command) for command in commands])
    _, written = _on_terminal([sys.executable, "-c", code, arguments], columns, None, variables)
    *ended, rest = re.split(rb"STATUS ([0-9]+) END\r\n", written)
    assert rest == b""
    return [(int(status), output) for output, status in zip(ended[::2], ended[1::2], strict=True)]


def _take_the_terminal() -> None:
    """Make standard input the process's own terminal; a shell's background job would ignore its Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _on_terminal(
    command: list[str], columns: int, until: Callable[[bytes], bool] | None, variables: dict[str, str]
) -> tuple[int, bytes]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=_take_the_terminal,  # noqa: PLW1509 - nothing else makes it the terminal of Ctrl-C
        env=environment(TERM="xterm-256color", **variables),
    )  # fmt: skip
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + _DEADLINE_S
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                block = os.read(ours, 1 << 16)
            except OSError:  # Linux says so where the other end is closed
                break
            if not block:
                break
            written += block
            if until is not None and until(written):
                os.write(ours, b"\x03")
                until = None
        return child.wait(timeout=_DEADLINE_S), written
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            child.wait()
        os.close(ours)


def foreign_controls(written: bytes) -> set[str]:
    """Return the characters that a terminal got and that are neither text nor the command's own."""
    text = OWN_SEQUENCES.sub(b"", written).decode()
    return {character for character in text.replace("\r\n", "\n") if not character.isprintable()} - {"\n"}
