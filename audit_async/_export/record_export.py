"""Exporting what a query finds: to one file, in constant memory.

The records are those of a query and in its order, each checked as a query checks it; what the file looks like is for
`formats` and `bundle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, Final, Literal

import anyio.from_thread
import anyio.to_thread

from audit_async._export import formats
from audit_async._export.bundle import write_bundle
from audit_async._export.export_file import ExportFailed, new_file
from audit_async._export.record_blocks import RecordBlock, blocks_of
from audit_async._query.audit_query import AuditQuery
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._trail.log_files import Log
from audit_async.events.plain_data import PlainData

__all__ = ["ExportFailed", "ExportFormat", "ExportReport", "export"]

ExportFormat = Literal["ndjson", "csv", "parquet", "bundle"]

#: Progress is reported this often.
_RECORDS_A_TIME: Final = 1000


class ExportReport(PlainData, frozen=True, kw_only=True):
    """What was exported."""

    path: str
    format: ExportFormat
    records: int
    bytes: int  #: of the file
    sha256: str  #: of the file; keep it apart from it


async def export(
    logs: Sequence[Log],
    query: AuditQuery,
    target: Path,
    format: ExportFormat,  # noqa: A002 - what it is called everywhere
    *,
    overwrite: bool = False,
    raw_cells: bool = False,
    use_index: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Export the records of a query: their lines (`ndjson`), a table (`csv`, `parquet`), or an evidence bundle.

    The file appears when it is whole and on stable storage, and is closed to other users. `raw_cells` leaves the
    cells of a CSV as they are, see `formats.CsvTable`. `progress` is called with the number of records, from another
    thread.

    Raises `ExportFailed` if `target` exists and `overwrite` is not set, if pyarrow is missing for Parquet, and if a
    bundle can't be made; `LogCorrupted` for damage, as a query does; `OSError`.
    """

    def write() -> ExportReport:
        with new_file(target, overwrite=overwrite) as new:
            if format == "bundle":
                found = _found(logs, query, use_index=use_index, progress=progress)
                records = write_bundle(found, query, new.file)
            else:
                blocks = _blocks(logs, query, use_index=use_index, progress=progress)
                records = _write_table(blocks, format, new.file, raw_cells=raw_cells)
            size, digest = new.finish()
        return ExportReport(path=str(target), format=format, records=records, bytes=size, sha256=digest)

    return await anyio.to_thread.run_sync(write)


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
        raise ExportFailed("Parquet needs pyarrow; install it with: pip install 'audit-async[parquet]'") from error
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
