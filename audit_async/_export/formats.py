"""What exported records look like in a file: their own lines, a table of comma-separated values, or Parquet.

A table has the same columns in both forms, those of `columns`.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from typing import BinaryIO, Final, Literal, Protocol

from audit_async._export.columns import COLUMNS, Column, Values, columns_of
from audit_async._export.record_blocks import RecordBlock
from audit_async._sanitize.unsafe_text import UNSAFE, escape

__all__ = ["CsvTable", "NdjsonLines", "Table", "begin", "csv_cell"]

#: What makes a spreadsheet take a cell for a formula: https://owasp.org/www-community/attacks/CSV_Injection.
#: Other forms of the same characters, such as full-width ones, are compared by their compatibility form (NFKC).
_FORMULA: Final = frozenset("=+-@\N{MINUS SIGN}")
#: Letters that show nothing; a spreadsheet may trim them like blanks.
_BLANK_LETTERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
#: Where the decimal separator is a comma, a spreadsheet divides a line at semicolons, also within quotation marks.
_NEXT_CELL: Final = re.compile(r"(?<=;)\s*[=+\-@]")
#: Cells that are written as they are in any case: none of their characters misleads, ends a cell or begins a formula.
_PLAIN_CELL: Final = re.compile(r"(?:[0-9A-Za-z_./:{][ -:<-~]*+)?")
_PLAIN_CELLS: Final = re.compile(rf"(?:{_PLAIN_CELL.pattern}\n)*+")
_PLAIN_JSON: Final = re.compile(r"[ -:<-~\n]*+")


class Table(Protocol):
    """A file that takes records."""

    def write(self, block: RecordBlock) -> None:
        """Take records."""

    def close(self) -> None:
        """Write what is left; the file itself stays open."""


def begin(format: Literal["ndjson", "csv", "parquet"], file: BinaryIO, *, raw_cells: bool) -> Table:  # noqa: A002
    """Return a table that writes to `file`; raises `ImportError` if Parquet is wanted and pyarrow is missing."""
    if format == "ndjson":
        return NdjsonLines(file)
    if format == "csv":
        return CsvTable(file, raw_cells=raw_cells)
    from audit_async._export.parquet_table import ParquetTable  # noqa: PLC0415 - needs an extra

    return ParquetTable(file)


class NdjsonLines:
    """The lines, byte for byte as they were recorded: each can be checked by its hash."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, block: RecordBlock) -> None:
        """Write lines."""
        self._file.write(b"".join(block.lines))

    def close(self) -> None:
        """Do nothing: every line was written."""


class CsvTable:
    """Comma-separated values, RFC 4180, in UTF-8 with a header; a record is one line, whatever its texts hold.

    A cell that a spreadsheet would take for a formula gets an apostrophe in front, unless `raw_cells`; then don't
    open the file with a spreadsheet. Characters that mislead are made visible, in JSON by its own escapes.
    """

    def __init__(self, file: BinaryIO, *, raw_cells: bool) -> None:
        self._file = file
        self._raw_cells = raw_cells
        self._file.write((",".join(column.name for column in COLUMNS) + "\r\n").encode())

    def write(self, block: RecordBlock) -> None:
        """Write rows."""
        values = columns_of(block)
        text = io.StringIO(newline="")
        columns = [self._cells(column, values[column.name]) for column in COLUMNS]
        csv.writer(text).writerows(zip(*columns, strict=True))
        self._file.write(text.getvalue().encode())

    def _cells(self, column: Column, values: Values) -> Values:
        if column.type == "int64":
            return values
        if column.type == "json":
            texts = [bytes(json).decode() if json else "" for json in values]
            if _PLAIN_JSON.fullmatch("\n".join(texts)):
                return texts
            return list(map(self._json_cell, texts))
        texts = [text or "" for text in values]
        whole = "\n".join([*texts, ""])
        if whole.count("\n") == len(texts) and _PLAIN_CELLS.fullmatch(whole):
            return texts
        return [csv_cell(text, raw=self._raw_cells) for text in texts]

    def _json_cell(self, json: str) -> str:
        text = UNSAFE.sub(_json_escape, json)
        return text if self._raw_cells else _NEXT_CELL.sub(_json_escape, text)

    def close(self) -> None:
        """Do nothing: every row was written."""


def csv_cell(text: str, *, raw: bool = False) -> str:
    """Return a text as a cell: what misleads is visible, and unless it is `raw`, no spreadsheet computes it."""
    if _PLAIN_CELL.fullmatch(text):
        return text
    # A line break in a cell would begin a line of its own for `grep` and `wc`, such as a forged record.
    cell = escape(text).replace("\n", "\\n")
    if raw:
        return cell
    cell = _NEXT_CELL.sub(lambda begin: f"'{begin[0]}", cell)
    return f"'{cell}" if _is_formula(cell) else cell


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
