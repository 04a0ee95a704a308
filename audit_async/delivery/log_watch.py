"""Noticing which logs have something new, for all sinks at once, so that thousands of idle logs cost little.

A log's writer publishes in the file `lock` up to where it is acknowledged, and its manifest says what is sealed. Only
their times are looked at, until one of them changes: an idle log costs a `stat` or two in each round, and no open file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from audit_async._layout.lock_file import read_acknowledged
from audit_async._layout.names import LOCK_FILE, LOG_FILE, MANIFEST_FILE
from audit_async._trail.log_files import Log, read_identity
from audit_async.errors import LogCorrupted
from audit_async.forwarding.batches import Head

__all__ = ["LogWatch"]

#: Waits between looks at logs in which something happens, in seconds: doubled from the first to the last without news.
_FIRST_WAIT_S: Final = 0.02
_LAST_WAIT_S: Final = 0.5
#: How many logs are looked at in a second, if there are many: the waits are longer then.
_LOOKS_A_SECOND: Final = 2000
#: For so long after a change a log is read at each look, in seconds: two changes may have the same time in a coarse
#: clock, and the second would not be seen.
_RECENT_S: Final = 3.0

_Stamp = tuple[int, int, int]


class LogWatch:
    """Looks at logs in rounds. For one event loop; the looks are taken in a worker thread."""

    def __init__(self) -> None:
        self._logs: Final[dict[tuple[Path, str], _WatchedLog]] = {}

    def __repr__(self) -> str:
        return f"<LogWatch {len(self._logs)} logs>"

    def watch(self, log: Log, notice: Callable[[Head | None], object]) -> Callable[[], None]:
        """Have a function called with what is acknowledged of a log, soon and after each change.

        Args:
            log: The log; nothing is said of another one that has taken its place.
            notice: Called in the event loop; with None if the log's writer does not publish it.

        Returns:
            What ends it.
        """
        key = log.directory, log.log_id
        watched = self._logs.setdefault(key, _WatchedLog(log))
        watched.notice.append(notice)
        watched.is_new = True

        def end() -> None:
            watched.notice.remove(notice)
            if not watched.notice and self._logs.get(key) is watched:
                del self._logs[key]

        return end

    async def run(self) -> None:
        """Look at the logs until cancelled."""
        wait_s, all_at = _FIRST_WAIT_S, 0.0
        while True:
            now = time.monotonic()
            looks_at_all = now >= all_at
            looked_at = [
                log for log in self._logs.values() if looks_at_all or log.is_new or now - log.changed_at < _RECENT_S
            ]
            if looks_at_all:
                all_at = now + max(_LAST_WAIT_S, len(self._logs) / _LOOKS_A_SECOND)
            changed = await anyio.to_thread.run_sync(_look, looked_at) if looked_at else []
            for log in changed:
                for notice in tuple(log.notice):
                    notice(log.head)
            wait_s = _FIRST_WAIT_S if changed else min(2 * wait_s, _LAST_WAIT_S)
            await anyio.sleep(max(wait_s, 0 if looks_at_all else len(looked_at) / _LOOKS_A_SECOND))


class _WatchedLog:
    """What was seen of one log."""

    __slots__ = ("changed_at", "head", "identity", "is_new", "lock", "log", "manifest", "notice", "stamps")

    def __init__(self, log: Log) -> None:
        self.log: Final = log
        self.lock: Final = f"{log.directory}/{LOCK_FILE}"
        self.manifest: Final = f"{log.directory}/{MANIFEST_FILE}"
        self.identity: _Stamp | None = None  # of log.json, which is never changed
        self.notice: Final[list[Callable[[Head | None], object]]] = []
        self.is_new = True
        self.stamps: tuple[_Stamp | None, _Stamp | None] = (None, None)
        self.head: Head | None = None
        self.changed_at = float("-inf")


def _look(logs: list[_WatchedLog]) -> list[_WatchedLog]:
    """Return the logs in which something has changed; in a worker thread."""
    now = time.monotonic()
    return [log for log in logs if _has_changed(log, now)]


def _has_changed(log: _WatchedLog, now: float) -> bool:
    # The manifest only counts if the writer publishes nothing: what is sealed was acknowledged before.
    stamps = _stamp_of(log.lock), None if log.head is not None else _stamp_of(log.manifest)
    is_new, log.is_new = log.is_new, False
    if stamps == log.stamps and not is_new and now - log.changed_at >= _RECENT_S:
        return False
    try:
        acknowledged = read_acknowledged(log.log.directory)
    except (OSError, LogCorrupted):  # who delivers the log finds out what it is
        acknowledged = None
    if not _is_same(log):  # looked at after the lock: what was read is of this log
        return False
    head = None if acknowledged is None else Head(seq=acknowledged.seq, hash=acknowledged.hash.decode())
    changed = is_new or head != log.head or (head is None and stamps != log.stamps)
    if stamps != log.stamps:
        log.changed_at = now
    log.stamps, log.head = stamps, head
    return changed


def _is_same(log: _WatchedLog) -> bool:
    """Return whether the directory still holds this log."""
    path = log.log.directory / LOG_FILE
    stamp = _stamp_of(str(path))
    if stamp is not None and stamp == log.identity:
        return True
    try:
        is_same = read_identity(log.log.directory).log_id == log.log.log_id
    except (OSError, LogCorrupted):
        return False
    if is_same:
        log.identity = stamp
    return is_same


def _stamp_of(path: str) -> _Stamp | None:
    """Return what changes when a file is written or replaced; None if it can't be looked at."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
