"""The process that works for `worker_pool`: tasks come in, progress and answers go out, a line of JSON each.

It is started with the interpreter alone, not forked and not by way of `multiprocessing`: so it never imports the
caller's main module (a script without a guard, a notebook, a server's worker), and inherits none of its threads.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from importlib import import_module
from typing import BinaryIO, Final, TypeVar, get_type_hints

import msgspec

_Task = TypeVar("_Task")
_Answer = TypeVar("_Answer")

#: Called with the bytes and records that were done since the last call.
Advance = Callable[[int, int], None]
#: A function of a module, which other processes can find by its name: what it takes and returns travels as JSON.
Work = Callable[[_Task, Advance], _Answer]

#: Progress is reported after so many bytes: that is a trip through a pipe, or to the loop's thread and back.
_PROGRESS_BYTES: Final = 4 << 20


def command_for(module: str, *arguments: str) -> list[str]:
    """Return the command that calls `main` of a module of the package in another process."""
    # The caller's sys.path, and not -m: the package may be found by way of it alone.
    program = f"import sys; sys.path[:] = {sys.path!r}\nfrom {module} import main\nmain(*{arguments!r})"
    return [sys.executable, "-c", program]


NO_ANSWER: Final = msgspec.Raw(b"")


class Message(msgspec.Struct, omit_defaults=True):
    """What a worker reports: how many more bytes and records are done, and at the end of a task, the answer."""

    bytes: int = 0
    records: int = 0
    answer: msgspec.Raw = NO_ANSWER  # not `| None`: msgspec 0.22 decodes that as null and nothing else


class Unreported:
    """Adds up progress that was not reported yet, and reports it once it is worth it."""

    def __init__(self, report: Callable[[int, int], object]) -> None:
        self.bytes = 0
        self.records = 0
        self._report = report

    def add(self, bytes_: int, records: int) -> None:
        """Count bytes and records that are done."""
        self.bytes += bytes_
        self.records += records
        if self.bytes >= _PROGRESS_BYTES:
            self._report(self.bytes, self.records)
            self.bytes = self.records = 0


def types_of_work(work: Work[_Task, _Answer]) -> tuple[type[_Task], type[_Answer]]:
    """Return the types of a task and of an answer, as the function's annotations have them."""
    hints = get_type_hints(work)
    answer = hints.pop("return")
    return next(iter(hints.values())), answer


def serve(work: Work[_Task, _Answer], tasks: BinaryIO, messages: BinaryIO) -> None:
    """Do what comes, in order, until no more comes."""
    decode = msgspec.json.Decoder(types_of_work(work)[0]).decode
    encode = msgspec.json.Encoder().encode

    def say(message: Message) -> None:
        messages.write(encode(message) + b"\n")
        messages.flush()

    for line in tasks:
        unreported = Unreported(lambda bytes_, records: say(Message(bytes_, records)))
        answer = msgspec.Raw(encode(work(decode(line), unreported.add)))
        say(Message(unreported.bytes, unreported.records, answer))


def main(module: str, name: str) -> None:
    """Work, with the function of this name, until standard input ends or the answers are not read any more."""
    gc.disable()  # what reading a segment makes holds no cycles
    try:
        serve(getattr(import_module(module), name), sys.stdin.buffer, sys.stdout.buffer)
    except (BrokenPipeError, KeyboardInterrupt):
        # The process that asked is gone, or its terminal's Ctrl-C came here as well; closing stdout would fail again.
        sys.stdout = None  # so that the interpreter does not flush it at exit
