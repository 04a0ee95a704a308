"""Exported records as Parquet: typed columns, row groups, zstd; needs the extra `parquet`.

The file's metadata has the member `audit_async`, a JSON object that says what the file is, and of each log its id, the
first and last of its records that are here, and their number.
"""

from __future__ import annotations

from typing import BinaryIO, Final

import msgspec
import pyarrow as pa
from pyarrow import parquet

from audit_async._chain import FORMAT_VERSION
from audit_async._chain.record_format import HASH_AT
from audit_async._export.arrow_batches import BATCH_BYTES, BATCH_ROWS, SCHEMA, batch_of
from audit_async._export.columns import COLUMNS
from audit_async._export.record_blocks import RecordBlock, merged
from audit_async._query.segment_scan import seq_of
from audit_async._trail.log_files import Log
from audit_async._version import __version__

__all__ = ["ParquetTable"]

#: Rows in a row group, and how many bytes of lines are enough for one: all of it is in memory at once.
_GROUP_ROWS: Final = 50_000
_GROUP_BYTES: Final = 32 << 20
_UNVERIFIED: Final = (
    "each record was checked against its own hash; whether one is missing, and whether the chain holds, was not: see "
    "audit-async verify"
)


class ParquetTable:
    """Parquet with typed columns, a row group for some ten thousand records, compressed with zstd."""

    def __init__(self, file: BinaryIO) -> None:
        repeated = [column.name for column in COLUMNS if column.repeats]
        self._writer = parquet.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=repeated)
        self._blocks: list[RecordBlock] = []
        self._blocks_size = _Size()
        self._batches: list[pa.RecordBatch] = []
        self._batches_size = _Size()
        self._parts: dict[Log, _LogPart] = {}

    def write(self, block: RecordBlock) -> None:
        """Take records; a group is written when it is full."""
        self._blocks.append(block)
        self._blocks_size.add(len(block.lines), sum(map(len, block.lines)))
        self._note_place(block)
        if self._blocks_size.reaches(BATCH_ROWS, BATCH_BYTES):
            self._make_batch()

    def _note_place(self, block: RecordBlock) -> None:
        at = 0
        for log, count in block.sources:
            part = self._parts.get(log)
            if part is None:
                part = self._parts[log] = _LogPart(log=log.name, log_id=log.log_id)
            part.note(block.lines[at], block.lines[at + count - 1], count)
            at += count

    def _make_batch(self) -> None:
        self._batches.append(batch_of(merged(self._blocks)))
        self._batches_size.add(self._blocks_size.rows, self._blocks_size.bytes)
        self._blocks, self._blocks_size = [], _Size()
        if self._batches_size.reaches(_GROUP_ROWS, _GROUP_BYTES):
            self._write_group()

    def _write_group(self) -> None:
        rows = self._batches_size.rows
        self._writer.write_table(pa.Table.from_batches(self._batches, schema=SCHEMA), row_group_size=rows)
        self._batches, self._batches_size = [], _Size()

    def close(self) -> None:
        """Write the last group and the footer."""
        try:
            if self._blocks:
                self._make_batch()
            if self._batches:
                self._write_group()
            self._writer.add_key_value_metadata({"audit_async": msgspec.json.encode(self._contents()).decode()})
            self._writer.close()
        finally:
            self._writer.is_open = False  # or it tries again when it is collected, on a file that is closed by then

    def _contents(self) -> dict[str, object]:
        return {
            "made_by": f"audit-async {__version__}",
            "format_version": FORMAT_VERSION,
            "verified": False,
            "note": _UNVERIFIED,
            "logs": sorted(self._parts.values(), key=lambda part: part.log),
        }


class _Size:
    """How much is waiting."""

    __slots__ = ("bytes", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0

    def add(self, rows: int, bytes_: int) -> None:
        self.rows += rows
        self.bytes += bytes_

    def reaches(self, rows: int, bytes_: int) -> bool:
        return self.rows >= rows or self.bytes >= bytes_


class _LogPart(msgspec.Struct, kw_only=True):
    """Which records of a log are in the file; its own are one stretch of the chain only if the query wanted all."""

    log: str
    log_id: str
    records: int = 0
    first_seq: int = -1
    last_seq: int = -1
    last_hash: str = ""  #: of the record with `last_seq`

    def note(self, first: bytes, last: bytes, count: int) -> None:
        """Count records, whose order is that of the chain or against it."""
        self.records += count
        for line in (first, last):
            seq = seq_of(line)
            assert seq is not None  # noqa: S101 - the line was checked
            if self.first_seq < 0 or seq < self.first_seq:
                self.first_seq = seq
            if seq > self.last_seq:
                self.last_seq, self.last_hash = seq, line[HASH_AT : HASH_AT + 64].decode()
