"""What exported records look like in a file: their own lines, a table of comma-separated values, or Parquet.

A table has the same columns in both forms. `actor` and `resource` are the first that a query by them would find the
record under; the whole event and context are next to them as JSON.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, NamedTuple, Protocol

import msgspec

from audit_async._query.recorded_members import actors_of, resources_of, type_of
from audit_async._query.segment_scan import Found
from audit_async._sanitize.unsafe_text import UNSAFE, escape

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COLUMNS", "CsvTable", "NdjsonLines", "ParquetTable", "Table", "begin"]

COLUMNS: Final = (
    "seq", "log", "audit_id", "timestamp", "service_id", "instance", "event_type", "actor", "resource", "event",
    "context", "prev_hash", "hash",
)  # fmt: skip

#: What makes a spreadsheet take a cell for a formula: https://owasp.org/www-community/attacks/CSV_Injection.
#: Other forms of the same characters, such as full-width ones, are compared by their compatibility form (NFKC).
_FORMULA: Final = frozenset("=+-@\N{MINUS SIGN}")
#: Letters that show nothing; a spreadsheet may trim them like blanks.
_BLANK_LETTERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
#: Where the decimal separator is a comma, a spreadsheet divides a line at semicolons, also within quotation marks.
_NEXT_CELL: Final = re.compile(r"(?<=;)\s*[=+\-@]")
#: Rows in a row group of Parquet, and how many bytes of lines are enough for one: all of it is in memory at once.
_GROUP_ROWS: Final = 20_000
_GROUP_BYTES: Final = 32 << 20


class Table(Protocol):
    """A file that takes records."""

    def write(self, batch: Sequence[Found]) -> None:
        """Take records."""

    def close(self) -> None:
        """Write what is left; the file itself stays open."""


def begin(format: Literal["ndjson", "csv", "parquet"], file: BinaryIO, *, raw_cells: bool) -> Table:  # noqa: A002
    """Return a table that writes to `file`; raises `ImportError` if Parquet is wanted and pyarrow is missing."""
    if format == "ndjson":
        return NdjsonLines(file)
    if format == "csv":
        return CsvTable(file, raw_cells=raw_cells)
    return ParquetTable(file)


class NdjsonLines:
    """The lines, byte for byte as they were recorded: each can be checked by its hash."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, batch: Sequence[Found]) -> None:
        """Write lines."""
        self._file.writelines(found.line for found in batch)

    def close(self) -> None:
        """Do nothing: every line was written."""


class Row(NamedTuple):
    """A record as a row of a table, in the order of `COLUMNS`."""

    seq: int
    log: str
    audit_id: str
    timestamp: str
    service_id: str
    instance: str
    event_type: str
    actor: str | None
    resource: str | None
    event: str
    context: str | None
    prev_hash: str
    hash: str

    @classmethod
    def of(cls, found: Found) -> Row:
        """Return the row of a record."""
        members = _members(found.line)
        event: dict[str, object] = _object(members.event)
        return cls(
            members.seq,
            found.log.name,
            members.audit_id,
            members.timestamp,
            members.service_id,
            found.log.instance,
            type_of(event),
            next(actors_of(event), None),
            next(resources_of(event), None),
            bytes(members.event).decode(),
            bytes(members.context).decode() if members.context else None,
            members.prev_hash,
            members.hash,
        )


class _Members(msgspec.Struct):
    seq: int
    audit_id: str
    timestamp: str
    service_id: str
    event: msgspec.Raw
    prev_hash: str
    hash: str
    context: msgspec.Raw = msgspec.Raw(b"")


_members: Final = msgspec.json.Decoder(_Members).decode
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


class CsvTable:
    """Comma-separated values, RFC 4180, in UTF-8 with a header; a record is one line, whatever its texts hold.

    A cell that a spreadsheet would take for a formula gets an apostrophe in front, unless `raw_cells`; then don't
    open the file with a spreadsheet. Characters that mislead are made visible, in JSON by its own escapes.
    """

    def __init__(self, file: BinaryIO, *, raw_cells: bool) -> None:
        self._file = file
        self._raw_cells = raw_cells
        self._write(COLUMNS)

    def write(self, batch: Sequence[Found]) -> None:
        """Write rows."""
        for found in batch:
            row = Row.of(found)
            self._write([self._cell(name, value) for name, value in zip(COLUMNS, row, strict=True)])

    def _cell(self, name: str, value: str | int | None) -> str | int | None:
        if not isinstance(value, str):
            return value
        if name in {"event", "context"}:
            text = UNSAFE.sub(_json_escape, value)
            return text if self._raw_cells else _NEXT_CELL.sub(_json_escape, text)
        # A line break in a cell would begin a line of its own for `grep` and `wc`, such as a forged record.
        cell = escape(value).replace("\n", "\\n")
        if self._raw_cells:
            return cell
        cell = _NEXT_CELL.sub(lambda begin: f"'{begin[0]}", cell)
        return f"'{cell}" if _is_formula(cell) else cell

    def _write(self, row: Sequence[str | int | None]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(row)
        self._file.write(text.getvalue().encode())

    def close(self) -> None:
        """Do nothing: every row was written."""


def _json_escape(found: re.Match[str]) -> str:
    """Return the last character of a match as JSON escapes it, after what is before it; beyond U+FFFF as two."""
    units = found[0][-1].encode("utf-16-be", "surrogatepass").hex()
    return found[0][:-1] + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _is_formula(cell: str) -> bool:
    """Return whether a spreadsheet may take a cell for a formula, also one that trims what can't be seen."""
    if cell.startswith("\t"):
        return True
    for character in cell:
        if unicodedata.normalize("NFKC", character)[:1] in _FORMULA:
            return True
        if character.isprintable() and not character.isspace() and character not in _BLANK_LETTERS:
            return False
    return False


class ParquetTable:
    """Parquet with typed columns, a row group for some ten thousand records, compressed with zstd."""

    def __init__(self, file: BinaryIO) -> None:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415

        texts = {name: pa.string() for name in COLUMNS}
        types = texts | {"seq": pa.int64(), "timestamp": pa.timestamp("us", tz="UTC")}
        nullable = {"timestamp", "actor", "resource", "context"}
        self._schema: pa.Schema = pa.schema(
            [pa.field(name, type_, nullable=name in nullable) for name, type_ in types.items()]
        )
        repeated = ["log", "service_id", "instance", "event_type", "actor"]
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd", use_dictionary=repeated)
        self._rows: list[Row] = []
        self._bytes = 0

    def write(self, batch: Sequence[Found]) -> None:
        """Take rows; a group is written when it is full."""
        for found in batch:
            self._rows.append(Row.of(found))
            self._bytes += len(found.line)
            if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
                self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa  # noqa: PLC0415

        columns: list[Sequence[object]] = list(zip(*self._rows, strict=True))
        at = COLUMNS.index("timestamp")
        columns[at] = [_moment(row.timestamp) for row in self._rows]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        """Write the last group and the footer."""
        try:
            if self._rows:
                self._write_group()
            self._writer.close()
        finally:
            self._writer.is_open = False  # or it tries again when it is collected, on a file that is closed by then


def _moment(timestamp: str) -> datetime | None:
    """Return a record's time; None for one that no calendar has, which only another writer can have recorded."""
    try:
        return datetime.fromisoformat(timestamp)
    except ValueError:
        return None
