"""Exporting what a query finds: to one file, in constant memory.

The records are those of a query and in its order, each checked as a query checks it; what the file looks like is for
`formats` and `bundle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, Final, Literal, cast

import anyio.from_thread
import anyio.to_thread

from audit_async._export import formats
from audit_async._export.bundle import write_bundle
from audit_async._export.export_file import ExportFailed, StreamOut, new_file
from audit_async._export.record_blocks import RecordBlock, blocks_of
from audit_async._query.audit_query import AuditQuery
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._trail.log_files import Log
from audit_async.events.plain_data import PlainData

__all__ = ["NEEDS_PYARROW", "ExportFailed", "ExportFormat", "ExportReport", "export"]

ExportFormat = Literal["ndjson", "csv", "parquet", "bundle"]

NEEDS_PYARROW: Final = "Parquet and Arrow need pyarrow; install it with: pip install 'audit-async[parquet]'"

#: Progress is reported this often.
_RECORDS_A_TIME: Final = 1000


class ExportReport(PlainData, frozen=True, kw_only=True):
    """What was exported."""

    path: str  #: `-` for a stream
    format: ExportFormat
    records: int
    bytes: int  #: of the file, or written to the stream
    sha256: str  #: of the same; keep it apart from it


async def export(
    logs: Sequence[Log],
    query: AuditQuery,
    target: Path | BinaryIO,
    format: ExportFormat,  # noqa: A002 - what it is called everywhere
    *,
    overwrite: bool = False,
    raw_cells: bool = False,
    use_index: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Export the records of a query: their lines (`ndjson`), a table (`csv`, `parquet`), or an evidence bundle.

    A file appears when it is whole and on stable storage, and is closed to other users. A stream is written to as the
    records come, and stays open; a bundle is never written to one. `raw_cells` leaves the cells of a CSV as they are,
    see `formats.CsvTable`. `progress` is called with the number of records, from another thread.

    Raises `ExportFailed` if `target` exists and `overwrite` is not set, if pyarrow is missing for Parquet, and if a
    bundle can't be made; `LogCorrupted` for damage, as a query does; `OSError`.
    """

    def write(file: BinaryIO) -> int:
        if format == "bundle":
            return write_bundle(_found(logs, query, use_index=use_index, progress=progress), query, file)
        blocks = _blocks(logs, query, use_index=use_index, progress=progress)
        return _write_table(blocks, format, file, raw_cells=raw_cells)

    def write_file(path: Path) -> ExportReport:
        with new_file(path, overwrite=overwrite) as new:
            records = write(new.file)
            size, digest = new.finish()
        return ExportReport(path=str(path), format=format, records=records, bytes=size, sha256=digest)

    def write_stream(stream: BinaryIO) -> ExportReport:
        out = StreamOut(stream)
        records = write(cast("BinaryIO", out))
        size, digest = out.finish()
        return ExportReport(path="-", format=format, records=records, bytes=size, sha256=digest)

    if isinstance(target, Path):
        return await anyio.to_thread.run_sync(write_file, target)
    if format == "bundle":
        raise ExportFailed("a bundle is a file, which is complete or not there at all; give a path")
    return await anyio.to_thread.run_sync(write_stream, target)


def _found(
    logs: Sequence[Log], query: AuditQuery, *, use_index: bool, progress: Callable[[int], None] | None
) -> Iterator[Found]:
    """Yield the records of a query; ends early if the task that waits for the export is cancelled."""
    number = 0
    with closing(Search(logs, query, Damage(skip=False), use_index=use_index).run()) as search:
        for found in search:
            if found is None:
                anyio.from_thread.check_cancelled()
                continue
            number += 1
            yield found
            if progress is not None and number % _RECORDS_A_TIME == 0:
                progress(number)
            if number == query.limit:
                return


def _blocks(
    logs: Sequence[Log], query: AuditQuery, *, use_index: bool, progress: Callable[[int], None] | None
) -> Iterator[RecordBlock]:
    """Yield the same in blocks."""
    number = 0
    with closing(blocks_of(logs, query, Damage(skip=False), use_index=use_index)) as blocks:
        for block in blocks:
            anyio.from_thread.check_cancelled()
            if block is not None:
                yield block
                number += len(block.lines)
                if progress is not None:
                    progress(number)


def _write_table(
    blocks: Iterable[RecordBlock],
    format: Literal["ndjson", "csv", "parquet"],  # noqa: A002
    file: BinaryIO,
    *,
    raw_cells: bool,
) -> int:
    try:
        table = formats.begin(format, file, raw_cells=raw_cells)
    except ImportError as error:
        raise ExportFailed(NEEDS_PYARROW) from error
    records = 0
    try:
        for block in blocks:
            table.write(block)
            records += len(block.lines)
    except BaseException:
        with suppress(Exception):
            table.close()
        raise
    table.close()
    return records
