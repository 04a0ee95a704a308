"""A directory as a sink: for removable media, for shared file systems, and for tests.

    <root>/audit-async-sink                            made by `DirectorySink.prepare`: this is the medium that is meant
    <root>/<tenant>/<host>/<service>/<instance>.<log_id>/
        lock                                           flock'd while something is stored
        000000000000-000000000041-<hash>.lines         a batch: first and last seq, and the last record's hash
        confirmation                                   the collector's newest one
        log.json                                       as the host has it; never replaced

A batch is a file of its own, which gets its name only after its bytes are on the disk. So no file ever has half of a
batch, and nothing is written a second time into a file whose sync has failed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar
from urllib.parse import unquote

import anyio
import anyio.to_thread

from audit_async._chain import BadRecord
from audit_async._durable import disk
from audit_async._durable.whole_files import replace_file, sync_names
from audit_async.errors import ConfigError
from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.sink import MAX_DESCRIPTION_BYTES
from audit_async.forwarding.sink_errors import HeadMoved, SinkFull, SinkRefused, SinkUnavailable

__all__ = ["DirectorySink"]

_MARK: Final = "audit-async-sink"
_CONFIRMATION: Final = "confirmation"
_DESCRIPTION: Final = "log.json"
_UNFINISHED: Final = "unfinished"
_LOCK: Final = "lock"
_NAME: Final = re.compile(r"([0-9]{12,20})-([0-9]{12,20})-([0-9a-f]{64})\.lines")
_NO_HASH: Final = "0" * 64
_LOCK_RETRY_S: Final = 0.01
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP})

T = TypeVar("T")


class _Stored(NamedTuple):
    """A batch's file, as its name describes it."""

    first_seq: int
    last_seq: int
    last_hash: str
    name: str


class DirectorySink:
    """A tenant's logs as files of a directory that `prepare` has marked.

    May be used by several tasks, threads and processes at a time: whoever stores something has the log's lock. Whoever
    may write to the directory can change what is in it, so it is a second copy, and no evidence of its own.

    Args:
        root: the directory. It is never made here: a medium that is not mounted is unavailable, not empty.
        tenant: the tenant whose logs they are.
        timeout_s: seconds to wait for another process that stores something in the same log.

    Raises:
        ConfigError: `tenant` can't be part of a log's identity, or `timeout_s` is no time.
    """

    def __init__(self, root: str | Path, *, tenant: str, timeout_s: float = 30.0) -> None:
        if not timeout_s > 0:
            raise ConfigError("timeout_s", f"{timeout_s!r} is no time; give seconds, such as 30")
        LogIdentity(tenant=tenant, service="-", host="-", instance="-", log_id="-")  # checks the name
        self._root: Final = Path(root)
        self._tenant: Final = tenant
        self._timeout_s: Final = timeout_s
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<DirectorySink {self._root} tenant={self._tenant!r} {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @staticmethod
    def prepare(root: str | Path) -> None:
        """Mark a directory that exists as one for logs; durable when it returns, and nothing happens a second time.

        Args:
            root: the directory, such as where a removable medium is mounted.

        Raises:
            OSError: it does not exist or can't be written to.
        """
        disk.close(disk.open_or_create_file(str(Path(root, _MARK)), dir_fd=None))
        sync_names(Path(root))

    async def head(self, log: LogIdentity) -> Head | None:
        """Return the last record of a log that is durable in the directory, None if the log is not there.

        Raises:
            SinkUnavailable: the directory is not there, or can't be read.
            SinkRefused: this process has no right to it, or the log is another tenant's.
        """
        return await self._run(lambda: _head(self._directory(log)))

    async def append(self, log: LogIdentity, batch: Batch, *, after: Head | None, resume: bytes | None = None) -> None:
        """Store a batch if the log's head is still `after`; durable when it returns.

        Args:
            log: whose records they are.
            batch: the next records; every hash and link of them is checked.
            after: the head that they follow; None for record 0.
            resume: the collector's confirmation of `after` that is stored here, if no record of the log is.

        Raises:
            HeadMoved: the head is another one, `actual`; nothing was stored.
            SinkUnavailable: the directory is not there, its disk fails, or its lock is held for too long.
            SinkFull: the disk is full.
            SinkRefused: the batch does not follow `after`, `resume` is not the stored confirmation of it, or there is
                no right to write.
        """
        if (batch.first_seq, batch.prev) != ((0, _NO_HASH) if after is None else (after.seq + 1, after.hash)):
            raise SinkRefused(f"{self._root}: the batch from record {batch.first_seq} on does not follow its head")
        try:
            batch.check()
        except BadRecord as bad:
            raise SinkRefused(f"{self._root}: the batch from record {batch.first_seq} on: {bad}") from None

        def store(directory: Path) -> None:
            actual = _head(directory)
            if actual != after:
                if actual is not None or after is None or resume is None:
                    raise HeadMoved(actual)
                if not _confirmed(directory, after, resume):
                    raise SinkRefused(
                        f"{self._root}: {log} is not there, and the collector has not confirmed record {after.seq}; "
                        "let the collector confirm the log again, or ship it from record 0"
                    )
            name = f"{batch.first_seq:012d}-{batch.last_seq:012d}-{batch.last_hash}.lines"
            _store(directory, name, batch.lines)

        await self._run_locked(log, store)

    async def describe(self, log: LogIdentity, document: bytes) -> None:
        """Store a log's `log.json`, once; durable when it returns. The same bytes again change nothing.

        Args:
            log: whose description it is.
            document: what the host's `log.json` holds.

        Raises:
            SinkUnavailable: the directory is not there, its disk fails, or its lock is held for too long.
            SinkFull: the disk is full.
            SinkRefused: another description is stored, this one is too long, or there is no right to write.
        """
        if len(document) > MAX_DESCRIPTION_BYTES:
            raise SinkRefused(
                f"{self._root}: log.json has {len(document):,} bytes, {MAX_DESCRIPTION_BYTES:,} are taken"
            )

        def store(directory: Path) -> None:
            stored = _content(directory / _DESCRIPTION)
            if stored is None:
                _store(directory, _DESCRIPTION, document)
            elif stored != document:
                raise SinkRefused(
                    f"{self._root}: {log} has another log.json; was the machine cloned, or the file changed? "
                    "A log that begins again needs a new log_id"
                )
            else:
                sync_names(directory)  # as for the head: the process that gave it its name may not have synced it

        await self._run_locked(log, store)

    async def description(self, log: LogIdentity) -> bytes | None:
        """Return the log's `log.json`, None if nobody has stored it yet."""
        return await self._run(lambda: _content(self._directory(log) / _DESCRIPTION))

    async def repeat_head(self, log: LogIdentity) -> None:
        """Show that the log's host is there, with nothing new: its lock's time is now.

        Raises:
            HeadMoved: no record of the log is there.
        """
        if await self.head(log) is None:
            raise HeadMoved(None)
        await self._run_locked(log, lambda directory: disk.set_time(str(directory / _LOCK)))

    async def heard_at(self, log: LogIdentity) -> datetime | None:
        """Return when the log's host last appended or repeated its head, None if no record of the log is there."""

        def look() -> datetime | None:
            directory = self._directory(log)
            stored = _stored(directory)
            times = [(directory / name).stat().st_mtime for name in (stored[-1].name, _LOCK)] if stored else []
            return datetime.fromtimestamp(max(times), UTC) if times else None

        return await self._run(look)

    async def read(self, log: LogIdentity, after: Head | None) -> AsyncIterator[Batch]:
        """Yield what the directory has of a log after a record, in order; whole batches, the first one cut if need be.

        Raises:
            SinkUnavailable: the directory is not there, or can't be read.
            SinkRefused: this process has no right to it, or the log is another tenant's.
        """
        at = -1 if after is None else after.seq
        for stored in await self._run(lambda: _stored(self._directory(log))):
            if stored.last_seq > at:
                batch = await self._run(lambda stored=stored: _batch(self._directory(log), stored))  # type: ignore[misc]  # bound at once
                yield batch if stored.first_seq > at else batch.rest_after(at)

    async def logs(self) -> list[LogIdentity]:
        """Return the tenant's logs that the directory has."""
        return await self._run(lambda: list(self._found_logs()))

    async def confirm(self, log: LogIdentity, confirmation: bytes) -> None:
        """Store the collector's newest signed confirmation in the place of the one before; durable when it returns."""
        await self._run_locked(log, lambda directory: _store(directory, _CONFIRMATION, confirmation))

    async def confirmation(self, log: LogIdentity) -> bytes | None:
        """Return the collector's newest signed confirmation, None if there is none."""
        return await self._run(lambda: _content(self._directory(log) / _CONFIRMATION))

    async def aclose(self) -> None:
        """Take no more calls; nothing is kept open between them."""
        self._closed = True

    def _directory(self, log: LogIdentity) -> Path:
        if log.tenant != self._tenant:
            raise SinkRefused(f"{self._root}: opened for tenant {self._tenant!r}, not for {log}")
        if not (self._root / _MARK).is_file():
            raise SinkUnavailable(
                f"{self._root}: not a directory for logs: it has no file {_MARK!r}; mount the medium that is meant, or "
                "prepare a new one with DirectorySink.prepare"
            )
        return self._root / log.path()

    def _found_logs(self) -> Iterator[LogIdentity]:
        probe = LogIdentity(tenant=self._tenant, service="-", host="-", instance="-", log_id="-")
        hosts = self._directory(probe).parents[2]
        for path in sorted(hosts.glob("*/*/*.*")):
            host, service, log = path.relative_to(hosts).parts
            instance, _, log_id = log.partition(".")
            names = {"host": host, "service": service, "instance": instance, "log_id": log_id}
            with contextlib.suppress(ConfigError):  # somebody else's directory
                found = LogIdentity(tenant=self._tenant, **{name: unquote(part) for name, part in names.items()})
                if self._root / found.path() == path and _stored(path):
                    yield found

    async def _run(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise SinkUnavailable(f"{self._root}: the sink is closed")
        try:
            return await anyio.to_thread.run_sync(call)
        except OSError as error:
            kind = SinkFull if error.errno in _FULL else SinkRefused if error.errno in _REFUSED else SinkUnavailable
            raise kind(f"{error.filename or self._root}: {error.strerror}") from error

    async def _run_locked(self, log: LogIdentity, call: Callable[[Path], None]) -> None:
        """Run a call that has the log's lock, and wait for it without holding a thread."""

        def attempt() -> bool:
            directory = self._directory(log)
            _make_directories(self._root, directory)
            fd = disk.open_or_create_file(str(directory / _LOCK), dir_fd=None)
            try:
                disk.lock(fd)
            except BlockingIOError:
                return False
            else:
                call(directory)
                return True
            finally:
                disk.close_lock(fd)

        try:
            with anyio.fail_after(self._timeout_s):
                while not await self._run(attempt):  # noqa: ASYNC110  # another process's lock: nothing to wait on
                    await anyio.sleep(_LOCK_RETRY_S)
        except TimeoutError:
            raise SinkUnavailable(
                f"{self._root}: another process has had the lock of {log} for {self._timeout_s:g} s"
            ) from None


def _make_directories(root: Path, directory: Path) -> None:
    """Make a log's directory durably; also if a process died after it had made some of them and synced none."""
    if (directory / _LOCK).exists():
        return
    for parent in [*reversed(directory.relative_to(root).parents), directory.relative_to(root)][1:]:
        with contextlib.suppress(FileExistsError):
            disk.make_directory(str(root / parent))
        sync_names((root / parent).parent)


def _stored(directory: Path) -> list[_Stored]:
    """Return the batches of a log in order."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = filter(None, map(_NAME.fullmatch, names))
    return sorted(_Stored(int(match[1]), int(match[2]), match[3], match[0]) for match in found)


def _head(directory: Path) -> Head | None:
    stored = _stored(directory)
    if not stored:
        return None
    sync_names(directory)  # the process that gave the newest file its name may have died before it synced it
    return Head(seq=stored[-1].last_seq, hash=stored[-1].last_hash)


def _batch(directory: Path, stored: _Stored) -> Batch:
    lines = (directory / stored.name).read_bytes()
    prev = lines[: lines.find(b"\n")][-140:-76].decode("ascii", "replace")
    first, last, last_hash = stored.first_seq, stored.last_seq, stored.last_hash
    return Batch(first_seq=first, last_seq=last, prev=prev, last_hash=last_hash, lines=lines)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _confirmed(directory: Path, after: Head, resume: bytes) -> bool:
    return after.hash.encode() in resume and resume == _content(directory / _CONFIRMATION)


def _store(directory: Path, name: str, content: bytes) -> None:
    """Store a file under its name once its bytes are on the disk, then make the name durable; under the log's lock."""
    replace_file(directory / name, content, unfinished=directory / _UNFINISHED)
