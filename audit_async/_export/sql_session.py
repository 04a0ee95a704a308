"""SQL over the records of a trail, by DuckDB, which can read nothing else and write nowhere; needs the extra `sql`.

DuckDB gets the records as a stream of Arrow batches, so it opens no file: access to files, the network, extensions and
Python's own variables is switched off, and so is switching it on again
(https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview). Only a single SELECT is run. What doesn't
fit into its memory is an error, never a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa
from pyarrow import dataset

from audit_async._export.arrow_batches import SCHEMA, batches_of
from audit_async._export.record_blocks import blocks_of
from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async.errors import AuditError

__all__ = ["EXPORTED", "RECORDS", "RecordsTable", "SqlFailed", "SqlLimits", "SqlResult", "SqlSession"]

#: The table with the trail's records, and the one with those of Parquet exports.
RECORDS: Final = "records"
EXPORTED: Final = "exported"

#: What an error calls the statement.
_STATEMENT: Final = "sql"
#: Rows that are handed on at a time.
_ROWS: Final = 1000
#: Set in this order: the first needs what the others take away, and nothing can be changed after the last.
_SETTINGS: Final = (
    "SET temp_directory = ''",
    "SET TimeZone = 'UTC'",
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


#: What running a statement raises, of DuckDB and on the way from it to here.
_RAISED: Final = (duckdb.Error, pa.ArrowException, OSError)


class SqlFailed(AuditError):
    """A statement can't be run to its end, such as for lack of memory."""


class SqlLimits(NamedTuple):
    """How much DuckDB may take."""

    memory_mb: int = 1024
    threads: int | None = None  #: None for one a core


class SqlResult(NamedTuple):
    """What a statement gives."""

    names: list[str]  #: of the columns; several may be the same
    rows: Iterator[list[tuple[object, ...]]]  #: some at a time; raises as `SqlSession.run` does


class RecordsTable:
    """The records of a trail as a table that DuckDB scans as often as a statement needs it, each time the same ones.

    They are checked as a query checks them: each against its own hash.
    """

    def __init__(self, logs: Sequence[Log], query: AuditQuery, damage: Damage, *, ends: Mapping[str, int]) -> None:
        """`ends` has the last sequence number of each log that is read; a log that is missing is read to its end."""
        self._logs = logs
        self._query = query
        self._damage = damage
        self._ends = ends
        self._stopped = Event()
        self.failure: Exception | None = None  #: what a scan came upon; DuckDB reports only its text

    def stop(self) -> None:
        """End every scan with an error; from any thread."""
        self._stopped.set()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a new stream of all records (https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html)."""
        return pa.RecordBatchReader.from_batches(SCHEMA, self._scan()).__arrow_c_stream__(requested_schema)

    def _scan(self) -> Iterator[pa.RecordBatch]:
        try:
            blocks = blocks_of(self._logs, self._query, self._damage, use_index=True, ends=self._ends)
            with closing(batches_of(blocks)) as batches:
                for batch in batches:
                    if self._stopped.is_set():
                        raise SqlFailed("interrupted")
                    if batch is not None:
                        yield batch
        except Exception as error:
            self.failure = self.failure or error
            raise


class SqlSession:
    """A DuckDB in memory that has some tables and nothing else. From one thread at a time, but for `stop`."""

    def __init__(self, records: RecordsTable, exports: Sequence[Path], limits: SqlLimits) -> None:
        """Open it; raises `SqlFailed` if an export is no Parquet file that can be read."""
        config: dict[str, Any] = {"memory_limit": f"{limits.memory_mb}MB"}
        if limits.threads is not None:
            config["threads"] = limits.threads
        self._records = records
        self._connection = duckdb.connect(":memory:", config=config)
        try:
            self._connection.register(RECORDS, records)
            if exports:
                self._connection.register(EXPORTED, _dataset_of(exports))
            for setting in _SETTINGS:
                self._connection.execute(setting)
        except BaseException:
            self._connection.close()
            raise

    def stop(self) -> None:
        """Interrupt what is running, if anything is; from any thread."""
        self._records.stop()
        with suppress(duckdb.ConnectionException):  # it is closed
            self._connection.interrupt()

    def close(self) -> None:
        """Give everything back."""
        self._connection.close()

    def run(self, statement: str) -> SqlResult:
        """Run a statement; its rows come as they are found, so what is wrong may show only after some of them.

        Raises:
            InvalidQuery: It is not a single SELECT, is wrong, or asks for what is switched off.
            SqlFailed: It can't be run to its end.
            LogCorrupted, TrailUnreadable: As a query does.
        """
        self._require_select(statement)
        try:
            reader = self._connection.sql(statement).to_arrow_reader(_ROWS)
        except _RAISED as error:
            raise self._reason(error) from error
        return SqlResult(list(reader.schema.names), self._rows(reader))

    def _rows(self, reader: pa.RecordBatchReader) -> Iterator[list[tuple[object, ...]]]:
        try:
            for batch in reader:
                columns = [column.to_pylist() for column in batch.columns]
                yield list(zip(*columns, strict=True))
        except _RAISED as error:
            raise self._reason(error) from error

    def _require_select(self, statement: str) -> None:
        try:
            statements = self._connection.extract_statements(statement)
        except duckdb.Error as error:
            raise InvalidQuery(_STATEMENT, _first_lines(error)) from error
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise InvalidQuery(_STATEMENT, "only a single SELECT is run here (WITH, DESCRIBE and SUMMARIZE included)")

    def _reason(self, error: Exception) -> Exception:
        if self._records.failure is not None:
            return self._records.failure
        if isinstance(error, duckdb.OutOfMemoryException):
            return SqlFailed(
                "it needs more memory than --memory allows, and nothing is written to disk; ask for fewer records "
                "(--since, --type), for fewer columns, or give it more"
            )
        if isinstance(error, duckdb.PermissionException):
            return InvalidQuery(
                _STATEMENT,
                "files, the network, extensions and settings are out of reach here; what can be read is "
                f"the table {RECORDS}, and {EXPORTED} if --parquet is given",
            )
        if isinstance(error, duckdb.ProgrammingError | duckdb.DataError | duckdb.NotSupportedError):
            return InvalidQuery(_STATEMENT, _first_lines(error))
        return SqlFailed(_first_lines(error))


def _dataset_of(paths: Sequence[Path]) -> dataset.Dataset:
    try:
        return dataset.dataset([str(path) for path in paths], format="parquet")
    except FileNotFoundError as error:
        raise SqlFailed(f"{', '.join(map(str, paths))}: there is no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise SqlFailed(f"{', '.join(map(str, paths))} can't be read as Parquet: {error}") from error


def _first_lines(error: Exception) -> str:
    """Return what DuckDB says is wrong, without the copy of the statement below it."""
    return " ".join(line.strip() for line in str(error).split("\n\nLINE ")[0].splitlines() if line.strip())
