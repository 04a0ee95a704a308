"""Exported records as Parquet: typed columns, row groups, zstd; needs the extra `parquet`."""

from __future__ import annotations

from typing import BinaryIO, Final

import pyarrow as pa
from pyarrow import parquet

from audit_async._export.arrow_batches import SCHEMA, batch_of
from audit_async._export.columns import COLUMNS
from audit_async._export.record_blocks import RecordBlock

__all__ = ["ParquetTable"]

#: Rows in a row group, and how many bytes of lines are enough for one: all of it is in memory at once.
_GROUP_ROWS: Final = 50_000
_GROUP_BYTES: Final = 32 << 20


class ParquetTable:
    """Parquet with typed columns, a row group for some ten thousand records, compressed with zstd."""

    def __init__(self, file: BinaryIO) -> None:
        repeated = [column.name for column in COLUMNS if column.repeats]
        self._writer = parquet.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=repeated)
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    def write(self, block: RecordBlock) -> None:
        """Take records; a group is written when it is full."""
        self._batches.append(batch_of(block))
        self._rows += len(block.lines)
        self._bytes += sum(map(len, block.lines))
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._batches, schema=SCHEMA), row_group_size=self._rows)
        self._batches, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        """Write the last group and the footer."""
        try:
            if self._batches:
                self._write_group()
            self._writer.close()
        finally:
            self._writer.is_open = False  # or it tries again when it is collected, on a file that is closed by then
