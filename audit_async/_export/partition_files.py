"""A copy of many logs as Parquet files by service and day, brought up to date by each run: for DuckDB and its like.

    <directory>/service=<service>/day=<YYYY-MM-DD>/<instance>.<log_id>-<first seq>-<last seq>.parquet
                                                   <instance>.<log_id>-<first seq>-open.parquet

A file is one segment of a log, and segments end at midnight (UTC), so a sealed one is written once and for ever; that
of the segment which is being written is replaced by each run. What retention has deleted from the trail is deleted
here. It is a copy: no evidence, and made again at any time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import anyio.to_thread

from audit_async._durable import disk
from audit_async._export.record_export import ExportFailed, ExportReport, export
from audit_async._query.audit_query import AuditQuery
from audit_async._trail.log_files import Log, SegmentDeleted, SegmentFile, list_segments
from audit_async.events.plain_data import PlainData

__all__ = ["PartitionReport", "write_partitions"]

_OPEN: Final = "open"
#: How long the end of another run is waited for.
_WAIT_S: Final = 1.0
_PAUSE_S: Final = 0.02
_NAME: Final = re.compile(r"(?P<log>.+)-(?P<first>[0-9]{12,})-(?P<last>[0-9]{12,}|open)\.parquet")


class PartitionReport(PlainData, frozen=True, kw_only=True):
    """What a run has done."""

    directory: str
    written: int  #: files that were made or replaced
    kept: int  #: files that were there
    removed: int  #: files of segments that the trail does not have any more
    records: int  #: in the files that were written
    encrypted: int = 0  #: segments that are in an archive which no identity that was given opens


class _Wanted(NamedTuple):
    """The file of one segment."""

    segment: SegmentFile
    path: Path
    next_seq: int | None  #: with which the next segment begins; None for the last one

    @property
    def is_open(self) -> bool:
        return self.segment.sealed is None


async def write_partitions(
    logs: Sequence[Log], directory: Path, *, progress: Callable[[int], None] | None = None
) -> PartitionReport:
    """Bring a directory of Parquet files up to date with logs; one run at a time for one directory.

    Each file is complete and on stable storage before it gets its name, and readable only for its owner (mode 0600).

    Args:
        logs: The logs; files of others are left alone.
        directory: Where the files are; it is made if it is absent.
        progress: Called with the number of records that were written so far.

    Raises:
        ExportFailed: pyarrow is missing, the directory can't be made, or another run brings it up to date.
        LogCorrupted: A record is damaged; the other files are as they were.
        OSError: A file can't be read or written.
    """
    try:
        await anyio.to_thread.run_sync(disk.make_directories, str(directory))
    except (FileExistsError, NotADirectoryError) as error:
        raise ExportFailed(f"{directory} is no directory; give one, or a name that is free") from error
    # Not in a thread, which would take the lock for nobody if this is cancelled meanwhile; neither call waits.
    lock = disk.open_directory(str(directory), follow=True)
    try:
        await _keep_others_out(lock, directory)
        return await _bring_up_to_date(logs, directory, progress)
    finally:
        disk.close_lock(lock)


async def _keep_others_out(lock: int, directory: Path) -> None:
    """Lock a directory by its descriptor; raises `ExportFailed`.

    Of two runs at once the slower one could give the file of a segment that is sealed by now its name as an open one,
    next to that of the sealed one: its records would be there twice.
    """
    with anyio.move_on_after(_WAIT_S):
        while True:
            try:
                disk.lock(lock)
            except BlockingIOError:
                await anyio.sleep(_PAUSE_S)
            except OSError:  # a file system without locks
                return
            else:
                return
    raise ExportFailed(f"another run is bringing {directory} up to date; wait for its end, and run this again")


async def _bring_up_to_date(
    logs: Sequence[Log], directory: Path, progress: Callable[[int], None] | None
) -> PartitionReport:
    counts: Counter[str] = Counter()
    for log in logs:
        segments = await anyio.to_thread.run_sync(list_segments, log)
        nexts = [segment.first_seq for segment in segments[1:]]
        wanted = [
            _Wanted(segment, _path_of(directory, segment), next_seq)
            for segment, next_seq in zip(segments, [*nexts, None], strict=True)
            if segment.is_readable
        ]
        found = await anyio.to_thread.run_sync(_found_of, directory, log)
        for one in wanted:
            if not one.is_open and one.path in found:
                counts["kept"] += 1
                continue
            try:
                made = await _write(log, one)
            except SegmentDeleted:  # since it was listed
                continue
            if made is None:
                counts["encrypted"] += 1
                continue
            with suppress(FileNotFoundError):  # as it was while it was being written: nothing is there twice for long
                if not one.is_open:
                    disk.unlink(str(_path_of(directory, one.segment, is_open=True)), dir_fd=None)
            counts["written"] += 1
            counts["records"] += made.records
            if progress is not None:
                progress(counts["records"])
        counts["removed"] += await anyio.to_thread.run_sync(_remove, found - {one.path for one in wanted})
    names = ("written", "kept", "removed", "records", "encrypted")
    return PartitionReport(directory=str(directory), **{name: counts[name] for name in names})


async def _write(log: Log, wanted: _Wanted) -> ExportReport | None:
    """Write the file of one segment; None if it is encrypted, and nothing opens it."""
    segment, path = wanted.segment, wanted.path
    if segment.needs_identity and log.identities is None:
        return None
    await anyio.to_thread.run_sync(disk.make_directories, str(path.parent))
    limit = None if wanted.next_seq is None else wanted.next_seq - segment.first_seq
    if segment.sealed is not None:
        limit = segment.sealed.last_seq - segment.first_seq + 1
    query = AuditQuery(after_seq=segment.first_seq - 1, limit=limit)
    return await export([log], query, path, "parquet", overwrite=True, use_index=False)


def _path_of(directory: Path, segment: SegmentFile, *, is_open: bool = False) -> Path:
    last = _OPEN if segment.sealed is None or is_open else f"{segment.sealed.last_seq:012d}"
    parts = (f"service={quote(segment.log.service_id, safe='')}", f"day={segment.date}")
    return directory.joinpath(*parts, f"{_stem_of(segment.log)}-{segment.first_seq:012d}-{last}.parquet")


def _stem_of(log: Log) -> str:
    """Return what the names of a log's files begin with: a collector's names have the log_id already."""
    return quote(log.instance if log.collected is not None else f"{log.instance}.{log.log_id}", safe="")


def _found_of(directory: Path, log: Log) -> set[Path]:
    """Return the files of a log that are there."""
    stem, found = _stem_of(log), set()
    for path in directory.glob(f"service={quote(log.service_id, safe='')}/day=*/*.parquet"):
        name = _NAME.fullmatch(path.name)
        if name is not None and name["log"] == stem:
            found.add(path)
    return found


def _remove(surplus: set[Path]) -> int:
    """Remove files of segments that are not there any more; return how many there were."""
    removed = 0
    for path in surplus:
        with suppress(FileNotFoundError):
            disk.unlink(str(path), dir_fd=None)
            removed += 1
    return removed
