"""Exporting what a query finds: to one file, in constant memory.

The records are those of a query and in its order, each checked as a query checks it; what the file looks like is for
`formats` and `bundle`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, NamedTuple, cast

import anyio.from_thread
import anyio.to_thread

from audit_async._export import formats
from audit_async._export.bundle import write_bundle
from audit_async._export.export_file import ExportFailed, StreamOut, new_file
from audit_async._export.record_blocks import RecordBlock, blocks_of
from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.opened_records import SealedReading
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._trail.log_files import Log
from audit_async.events.plain_data import PlainData

if TYPE_CHECKING:
    from audit_async._export.selective_evidence import SelectiveEvidence
    from audit_async.privacy.key_store import KeyStore

__all__ = ["NEEDS_PYARROW", "Evidence", "ExportFailed", "ExportFormat", "ExportReport", "Selection", "export"]

ExportFormat = Literal["ndjson", "csv", "parquet", "bundle"]
#: What a bundle has besides the records: the chain around them, or a proof against a signed checkpoint for each.
Evidence = Literal["chain", "selective"]

NEEDS_PYARROW: Final = "Parquet and Arrow need pyarrow; install it with: pip install 'audit-async[parquet]'"
_NEEDS_TLOG: Final = "selective evidence needs the extra tlog; install it with: pip install 'audit-async[tlog]'"

#: Progress is reported this often.
_RECORDS_A_TIME: Final = 1000


class ExportReport(PlainData, frozen=True, kw_only=True):
    """What was exported."""

    path: str  #: `-` for a stream
    format: ExportFormat
    records: int
    bytes: int  #: of the file, or written to the stream
    sha256: str  #: of the same; keep it apart from it
    unsealed: bool = False  #: sealed members are in the clear in it, where no erasure reaches them
    undecided: int = 0  #: records that may be wanted or not: what was asked for is sealed in them
    disclosed: int = 0  #: members that are in the clear next to their sealed records, in selective evidence
    undisclosed: int = 0  #: members that were to be, and stay sealed: their key was destroyed, or is missing


class Selection(NamedTuple):
    """How a bundle of selective evidence is made."""

    disclose: tuple[str, ...] = ()  #: members, such as `actor.user_id`
    published: str | os.PathLike[str] | None = None  #: where the log publishes its tree; None for `tlog/` in it


#: Called with the report on what is complete; a file gets its name after that.
Completed = Callable[[ExportReport], None]


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
    key_store: KeyStore | None = None,
    unseal: bool = False,
    selection: Selection | None = None,
    completed: Completed | None = None,
) -> ExportReport:
    """Export the records of a query: their lines (`ndjson`), a table (`csv`, `parquet`), or an evidence bundle.

    With a key store what is asked for is found also if it is sealed; with `unseal` what is sealed is written opened,
    except to a bundle, which is evidence. A bundle with a `selection` has no records but those of the query, and needs
    a log that signs.

    A file appears when it is whole and on stable storage, and is closed to other users. A stream is written to as the
    records come, and stays open; a bundle is never written to one. `raw_cells` leaves the cells of a CSV as they are,
    see `formats.CsvTable`. `progress` is called with the number of records, from another thread.

    Raises `ExportFailed` if `target` exists and `overwrite` is not set, if pyarrow is missing for Parquet, and if a
    bundle can't be made; `LogCorrupted` for damage, as a query does; `OSError`.
    """
    if unseal:
        _require_unsealable(format, key_store)
    evidence = _selective(format, selection, key_store)
    reading = SealedReading(query, key_store)

    def write(file: BinaryIO) -> int:
        if format == "bundle":
            found = _found(logs, query, reading.wanted, use_index=use_index, progress=progress)
            return _write_bundle(found, logs, query, file, evidence)
        blocks = _blocks(logs, query, reading.wanted, use_index=use_index, progress=progress)
        if unseal:
            blocks = map(_opened_by(reading), blocks)
        return _write_table(blocks, format, file, raw_cells=raw_cells)

    def report(path: str, records: int, size: int, digest: str) -> ExportReport:
        disclosed, undisclosed = (0, 0) if evidence is None else (evidence.disclosed, evidence.undisclosed)
        return ExportReport(
            path=path,
            format=format,
            records=records,
            bytes=size,
            sha256=digest,
            unsealed=unseal or disclosed > 0,
            undecided=reading.undecided,
            disclosed=disclosed,
            undisclosed=undisclosed,
        )

    if isinstance(target, Path):
        to_file = partial(_write_file, target, write, report, completed, overwrite=overwrite)
        return await anyio.to_thread.run_sync(to_file)
    if format == "bundle":
        raise ExportFailed("a bundle is a file, which is complete or not there at all; give a path")
    return await anyio.to_thread.run_sync(_write_stream, target, write, report, completed)


def _write_file(
    path: Path,
    write: Callable[[BinaryIO], int],
    report: Callable[[str, int, int, str], ExportReport],
    completed: Completed | None,
    *,
    overwrite: bool,
) -> ExportReport:
    with new_file(path, overwrite=overwrite) as new:
        records = write(new.file)
        made = report(str(path), records, *new.digest())
        if completed is not None:
            completed(made)
        new.finish()
    return made


def _write_stream(
    stream: BinaryIO,
    write: Callable[[BinaryIO], int],
    report: Callable[[str, int, int, str], ExportReport],
    completed: Completed | None,
) -> ExportReport:
    out = StreamOut(stream)
    records = write(cast("BinaryIO", out))
    made = report("-", records, *out.finish())
    if completed is not None:
        completed(made)
    return made


def _require_unsealable(format: ExportFormat, key_store: KeyStore | None) -> None:  # noqa: A002
    if format == "bundle":
        raise ExportFailed("a bundle has the lines as they were recorded, so nothing in it can be unsealed")
    if key_store is None:
        raise ExportFailed("what is sealed can be unsealed with its key store alone; give that")


def _selective(
    format: ExportFormat,  # noqa: A002
    selection: Selection | None,
    key_store: KeyStore | None,
) -> SelectiveEvidence | None:
    """Return what writes selective evidence, None if that is not what was asked for."""
    if selection is None:
        return None
    if format != "bundle":
        raise ExportFailed("selective evidence is a bundle; ask for that format")
    try:
        import audit_async.tlog.signature_check  # noqa: PLC0415, F401 - an extra, without which nobody can check it
        from audit_async._export.selective_evidence import SelectiveEvidence  # noqa: PLC0415 - the same
    except ImportError as error:
        raise ExportFailed(_NEEDS_TLOG) from error
    return SelectiveEvidence(selection.disclose, key_store, selection.published)


def _write_bundle(
    found: Iterable[Found], logs: Sequence[Log], query: AuditQuery, file: BinaryIO, evidence: SelectiveEvidence | None
) -> int:
    return write_bundle(found, query, file) if evidence is None else evidence.write(found, logs, file)


def _opened_by(reading: SealedReading) -> Callable[[RecordBlock], RecordBlock]:
    """Return what opens the lines of a block."""

    def opened(block: RecordBlock) -> RecordBlock:
        lines = iter(block.lines)
        opened = [reading.open_line(line, log) for log, count in block.sources for line in islice(lines, count)]
        return RecordBlock(opened, block.sources)

    return opened


def _found(
    logs: Sequence[Log],
    query: AuditQuery,
    wanted: Filter,
    *,
    use_index: bool,
    progress: Callable[[int], None] | None,
) -> Iterator[Found]:
    """Yield the records of a query; ends early if the task that waits for the export is cancelled."""
    number = 0
    damage = Damage(skip=False)
    search_all = Search(logs, query, damage, use_index=use_index, wanted=wanted)
    with closing(search_all.run()) as search:
        for found in search:
            if found is None:
                anyio.from_thread.check_cancelled()
                continue
            number += 1
            yield found
            if progress is not None and number % _RECORDS_A_TIME == 0:
                progress(number)
            if number == query.limit:
                break
    damage.require_searched()


def _blocks(
    logs: Sequence[Log],
    query: AuditQuery,
    wanted: Filter,
    *,
    use_index: bool,
    progress: Callable[[int], None] | None,
) -> Iterator[RecordBlock]:
    """Yield the same in blocks."""
    number = 0
    with closing(blocks_of(logs, query, Damage(skip=False), use_index=use_index, wanted=wanted)) as blocks:
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
