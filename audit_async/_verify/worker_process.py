"""The process that checks segments for `worker_pool`: tasks come in, progress and verdicts go out, a line of JSON each.

It is started with the interpreter alone, not forked and not by way of `multiprocessing`: so it never imports the
caller's main module (a script without a guard, a notebook, a server's worker), and inherits none of its threads.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import BinaryIO, Final

import msgspec

from audit_async._verify.segment_check import check_segment
from audit_async._verify.segment_verdict import SegmentTask, SegmentVerdict

#: Progress is reported after so many bytes: that is a trip through a pipe, or to the loop's thread and back.
_PROGRESS_BYTES: Final = 4 << 20


class Message(msgspec.Struct, omit_defaults=True):
    """What a worker reports: how many more bytes and records are done, and at the end of a task, its verdict."""

    bytes: int = 0
    records: int = 0
    verdict: SegmentVerdict | None = None


class Unreported:
    """Adds up progress that was not reported yet, and reports it once it is worth it."""

    def __init__(self, report: Callable[[int, int], object]) -> None:
        self.bytes = 0
        self.records = 0
        self._report = report

    def add(self, bytes_: int, records: int) -> None:
        """Count bytes and records that were checked."""
        self.bytes += bytes_
        self.records += records
        if self.bytes >= _PROGRESS_BYTES:
            self._report(self.bytes, self.records)
            self.bytes = self.records = 0


def work(tasks: BinaryIO, messages: BinaryIO) -> None:
    """Check what comes, in order, until no more comes."""
    decode = msgspec.json.Decoder(SegmentTask).decode
    encode = msgspec.json.Encoder().encode

    def say(message: Message) -> None:
        messages.write(encode(message) + b"\n")
        messages.flush()

    for line in tasks:
        unreported = Unreported(lambda bytes_, records: say(Message(bytes_, records)))
        verdict = check_segment(decode(line), unreported.add)
        say(Message(unreported.bytes, unreported.records, verdict))


def main() -> None:
    """Work until standard input ends, or the answers are not read any more."""
    gc.disable()  # what checking makes holds no cycles
    try:
        work(sys.stdin.buffer, sys.stdout.buffer)
    except (BrokenPipeError, KeyboardInterrupt):
        # The process that asked is gone, or its terminal's Ctrl-C came here as well; closing stdout would fail again.
        sys.stdout = None  # so that the interpreter does not flush it at exit
