"""The process that indexes the segments of a log for its writer: of low priority, and gone when its parent is.

It is started with the interpreter alone, as `worker_process` is, so it imports nothing of the service.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from threading import Thread

import msgspec

from audit_async._query.term_index import build_index
from audit_async._trail.log_files import find_logs
from audit_async._trail.segment_parts import parts_of
from audit_async.errors import AuditError


class Indexed(msgspec.Struct):
    """What the process prints at its end."""

    newest: str  #: the newest segment that it has looked at, by file name; empty if there is none
    problem: str | None = None  #: why a segment was not indexed, of the first one


def main(directory: str, after: str) -> None:
    """Index what has no index of the log in `directory`, of segments after the one that is named; print `Indexed`."""
    if hasattr(os, "nice"):
        os.nice(19)
    gc.disable()  # what reading a segment makes holds no cycles
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = _index(Path(directory), after)
    except (AuditError, OSError) as error:
        outcome = Indexed(after, str(error))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    sys.stdout.flush()
    os._exit(0)  # the interpreter would wait for the thread that reads


def _index(directory: Path, after: str) -> Indexed:
    [log] = find_logs(directory)
    parts = [part for part in parts_of(log) if part.segment.sealed is not None and part.segment.name > after]
    problems = [f"{made.segment}: {made.problem}" for made in build_index(log, parts) if made.problem is not None]
    return Indexed(parts[-1].segment.name if parts else after, problems[0] if problems else None)


def _end_with_parent() -> None:
    """End the process when its standard input does; a file that is not finished yet the next process removes."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)
