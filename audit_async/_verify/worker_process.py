"""The process that checks segments for `parallel`: tasks come in, progress and verdicts go out, a line of JSON each.

It is started with the interpreter alone, not forked and not by way of `multiprocessing`: so it never imports the
caller's main module (a script without a guard, a notebook, a server's worker), and inherits none of its threads.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import BinaryIO, Final

import msgspec

from audit_async._verify.segment_check import Task, Verdict, check_segment

#: Progress is told after so many bytes: telling it is a trip through a pipe, or to the loop's thread and back.
_PROGRESS_BYTES: Final = 4 << 20


class Message(msgspec.Struct, omit_defaults=True):
    """What a worker says: how many more bytes and records are done, and at the end of a task, its verdict."""

    bytes: int = 0
    records: int = 0
    verdict: Verdict | None = None


class Undone:
    """Adds up progress that was not told yet, and tells it once it is worth it."""

    def __init__(self, tell: Callable[[int, int], object]) -> None:
        self.bytes = 0
        self.records = 0
        self._tell = tell

    def add(self, bytes_: int, records: int) -> None:
        """Take note of bytes and records that were checked."""
        self.bytes += bytes_
        self.records += records
        if self.bytes >= _PROGRESS_BYTES:
            self._tell(self.bytes, self.records)
            self.bytes = self.records = 0


def work(tasks: BinaryIO, messages: BinaryIO) -> None:
    """Check what comes, in order, until no more comes."""
    decode = msgspec.json.Decoder(Task).decode
    encode = msgspec.json.Encoder().encode

    def say(message: Message) -> None:
        messages.write(encode(message) + b"\n")
        messages.flush()

    for line in tasks:
        undone = Undone(lambda bytes_, records: say(Message(bytes_, records)))
        verdict = check_segment(decode(line), undone.add)
        say(Message(undone.bytes, undone.records, verdict))


def main() -> None:
    """Work until standard input ends, or nobody reads the answers any more."""
    gc.disable()  # what checking makes holds no cycles
    try:
        work(sys.stdin.buffer, sys.stdout.buffer)
    except (BrokenPipeError, KeyboardInterrupt):
        # Whoever asked is gone, or its terminal's Ctrl-C came here as well; closing stdout would fail again.
        sys.stdout = None  # tells the interpreter not to flush it at exit
