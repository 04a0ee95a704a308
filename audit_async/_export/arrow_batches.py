"""Records as record batches of Apache Arrow, with typed columns; needs the extra `parquet`."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import datetime
from itertools import accumulate
from typing import Final

import pyarrow as pa

from audit_async._export.columns import COLUMNS, Values, columns_of
from audit_async._export.record_blocks import RecordBlock, merged

__all__ = ["SCHEMA", "batch_of", "batches_of"]

_TYPES: Final = {
    "int64": pa.int64(),
    "text": pa.string(),
    "json": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
}
SCHEMA: Final = pa.schema(
    [pa.field(column.name, _TYPES[column.type], nullable=column.may_be_null) for column in COLUMNS]
)
_HASH_CHARS: Final = 64


#: Records in a batch: the calls for each column count less, and what is made of the records stays small.
BATCH_ROWS: Final = 2_500
BATCH_BYTES: Final = 2 << 20


def batches_of(
    blocks: Generator[RecordBlock | None, None, None],
) -> Generator[pa.RecordBatch | None, None, None]:
    """Yield records as batches, and None as they do; closing it closes them."""
    waiting: list[RecordBlock] = []
    rows = bytes_ = 0
    with closing(blocks):
        for block in blocks:
            if block is None:
                yield None
                continue
            waiting.append(block)
            rows += len(block.lines)
            bytes_ += sum(map(len, block.lines))
            if rows >= BATCH_ROWS or bytes_ >= BATCH_BYTES:
                yield batch_of(merged(waiting))
                waiting, rows, bytes_ = [], 0, 0
    if waiting:
        yield batch_of(merged(waiting))


def batch_of(block: RecordBlock) -> pa.RecordBatch:
    """Return records that were checked as one batch."""
    values = columns_of(block)
    arrays = []
    for column in COLUMNS:
        of_column = values[column.name]
        if column.type == "json" and not column.may_be_null:
            arrays.append(_from_utf8(of_column))
        elif column.type == "json":
            arrays.append(pa.array([json and bytes(json) for json in of_column], pa.binary()).view(pa.string()))
        elif column.type == "time":
            arrays.append(_times(of_column))
        elif column.name in {"hash", "prev_hash"}:
            arrays.append(_hashes(of_column))
        else:
            arrays.append(pa.array(of_column, _TYPES[column.type]))
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _from_utf8(texts: Sequence[bytes]) -> pa.Array:
    """Return texts that were checked to be UTF-8, without a copy of each."""
    return _text_array(array("i", accumulate(map(len, texts), initial=0)), b"".join(texts))


def _hashes(hashes: Sequence[str]) -> pa.Array:
    return _text_array(array("i", range(0, len(hashes) * _HASH_CHARS + 1, _HASH_CHARS)), "".join(hashes).encode())


def _text_array(offsets: array[int], data: bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _times(timestamps: Values) -> pa.Array:
    """Return recorded times; null for one that no calendar has, which only another writer can have recorded."""
    type_ = _TYPES["time"]
    try:
        return pa.array(timestamps, pa.string()).cast(type_)
    except pa.ArrowInvalid:
        return pa.array(list(map(_moment, timestamps)), type_)


def _moment(timestamp: str) -> datetime | None:
    try:
        return datetime.fromisoformat(timestamp)
    except ValueError:
        return None
