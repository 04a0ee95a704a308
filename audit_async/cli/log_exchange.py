"""Putting a log aside whole, and beginning a new one in its place that says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio.to_thread

from audit_async._durable import disk
from audit_async._layout.access_modes import Access
from audit_async._store.writer_lock import take_directory
from audit_async._trail.log_files import Log, read_identity
from audit_async.cli.run import Refused
from audit_async.cli.writing import base_directory, config_for, require_owner
from audit_async.config import Local
from audit_async.errors import LogCorrupted
from audit_async.events import AuditLogReplaced
from audit_async.logger import AuditLogger
from audit_async.logger.forwarding_records import record_own

__all__ = ["exchange_log"]


async def exchange_log(log: Log, event: AuditLogReplaced, *, before: Callable[[], Awaitable[None]]) -> str:
    """Rename a log's directory to the name that `event` says, and record `event` in a new log in its place.

    The old log stays as it is: it is verified, read and exported under its new name.

    Args:
        log: The log, which no process may be writing.
        event: What is recorded; also what `before` has recorded elsewhere.
        before: Awaited once the log is locked, before anything is changed: a crash in between then leaves the record.

    Returns:
        The new log's `log_id`.

    Raises:
        LogLocked: A process writes the log.
        Refused: The directory belongs to another user, or the log was put aside before, perhaps just now.
        OSError: The system refuses; the log is where it was.
    """
    require_owner(log.directory)
    config = config_for(log)
    assert isinstance(config.mode, Local)  # noqa: S101 - it is the one of a directory
    access = Access.of(config.mode)
    base_dir, name, aside = base_directory(log), log.directory.name, event.directory
    if (log.directory.parent / aside).exists():
        raise Refused(f"{log.directory.parent / aside} exists, so the log was put aside before; look at both")

    def lock() -> Callable[[], None]:
        directory, taken = take_directory(base_dir, log.service_id, name, access=access, allow_insecure_dir=True)

        def release() -> None:
            taken.close()
            directory.close()

        try:
            _require_same(log)
        except BaseException:
            release()
            raise
        return release

    def move() -> None:
        service = disk.open_directory(str(log.directory.parent))
        try:
            disk.rename(name, aside, dir_fd=service)
            disk.sync_directory(service)
        finally:
            disk.close(service)

    release = await anyio.to_thread.run_sync(lock)
    try:
        await before()
        await anyio.to_thread.run_sync(move)
    finally:
        await anyio.to_thread.run_sync(release)
    async with AuditLogger(config) as audit:
        await record_own(audit, event).durable()
        return await anyio.to_thread.run_sync(lambda: read_identity(log.directory).log_id)


def _require_same(log: Log) -> None:
    """Raise `Refused` unless the log is still in its directory, which is locked: another process may have moved it."""
    try:
        there = read_identity(log.directory).log_id
    except (FileNotFoundError, LogCorrupted):
        there = None
    if there != log.log_id:
        raise Refused(f"another process has put {log.name} aside meanwhile; look at {log.directory} before you go on")
