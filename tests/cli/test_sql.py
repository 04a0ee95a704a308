"""`sql`: a SELECT over the records, which can reach nothing else, and says that nobody has verified what it shows."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from audit_async._export.record_blocks import last_seqs_of
from audit_async._export.sql_session import RecordsTable, SqlLimits, SqlSession
from audit_async._query.audit_query import AuditQuery
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import find_logs
from tests.cli.commands import COMMAND, Audit, environment, foreign_controls, run_on_terminal
from tests.cli.made_trails import HOSTILE, erasure, failure, make_hostile_trail, make_trail
from tests.processes import started, wait_until
from tests.trail.written import WrittenLog


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """Return a trail of two logs, over several segments."""
    make_trail(tmp_path / "t", [failure(("alice", "bob")[n % 2], n) for n in range(40)], max_bytes=4000)
    make_trail(tmp_path / "t", [erasure("c-1"), failure("eve")], instance="01")
    return tmp_path / "t"


def test_an_answer_in_each_form(trail: Path, audit: Audit) -> None:
    """A table for a person, objects for a program, and CSV; said to be unverified each time."""
    statement = "select actor, count(*) n, min(seq) from records where actor is not null group by actor order by 1"
    shown = audit("sql", trail, statement)
    assert shown.status == 0
    assert shown.out.split()[:3] == ["actor", "n", "min(seq)"]
    assert ["alice", "20", "0"] in [line.split() for line in shown.out.splitlines()]
    assert "3 rows" in shown.err
    assert "unverified" in shown.err
    in_json = audit("sql", trail, statement, "--json")
    assert in_json.rows == [
        {"actor": "alice", "n": 20, "min(seq)": 0},
        {"actor": "bob", "n": 20, "min(seq)": 1},
        {"actor": "eve", "n": 1, "min(seq)": 1},
    ]
    assert "unverified" in in_json.err
    rows = list(csv.reader(io.StringIO(audit("sql", trail, statement, "--csv").out, newline="")))
    assert rows == [["actor", "n", "min(seq)"], ["alice", "20", "0"], ["bob", "20", "1"], ["eve", "1", "1"]]


def test_the_table_has_the_records_whole(trail: Path, audit: Audit) -> None:
    """Each record once, with the JSON that was recorded; a table may be read several times by a statement."""
    rows = audit("sql", trail, "select log, seq, event, hash, timestamp from records order by log, seq", "--json").rows
    lines = [
        json.loads(line)
        for path in sorted(trail.rglob("*.audit"), key=lambda path: (path.parent.name, path.name))
        for line in path.read_bytes().splitlines()
    ]
    assert [(row["seq"], json.loads(row["event"]), row["hash"], row["timestamp"]) for row in rows] == [
        (line["seq"], line["event"], line["hash"], line["timestamp"].replace(".000000Z", "Z")) for line in lines
    ]
    joined = "select count(*) n from records a join records b on a.log = b.log and a.seq = b.seq + 1"
    assert audit("sql", trail, joined, "--json").rows == [{"n": 40}]
    member = "select event->>'$.customer_id' c from records where event_type = 'data.deleted'"
    assert audit("sql", trail, member, "--json").rows == [{"c": "c-1"}]


def test_what_the_options_leave_out_is_not_in_the_table(trail: Path, audit: Audit) -> None:
    """The filters of `query` say which records are in the table."""
    count = "select count(*) n from records"
    assert audit("sql", trail, count, "--actor", "bob", "--json").rows == [{"n": 20}]
    assert audit("sql", trail, count, "--instance", "01", "--type", "data.*", "--json").rows == [{"n": 1}]
    assert audit("sql", trail, count, "--until", "2026-11-22T12:00:00.010Z", "--json").rows == [{"n": 12}]
    assert audit("sql", trail, count, "--type", "no.such.type").status == 2


def test_parquet_exports_are_a_table_of_their_own(trail: Path, tmp_path: Path, audit: Audit) -> None:
    """What was exported can be compared with the trail."""
    for name in ("a", "b"):
        assert (
            audit("export", trail, tmp_path / f"{name}.parquet", "--actor", {"a": "bob", "b": "eve"}[name]).status == 0
        )
    files: list[str | Path] = ["--parquet", tmp_path / "a.parquet", "--parquet", tmp_path / "b.parquet"]
    statement = "select count(*) n from exported semi join records using (log, seq, hash)"
    assert audit("sql", trail, statement, *files, "--json").rows == [{"n": 21}]
    (tmp_path / "no.parquet").write_text("no")
    for name in ("no", "absent"):
        ended = audit("sql", trail, "select 1", "--parquet", tmp_path / f"{name}.parquet")
        assert (ended.status, ended.out) == (3, "")
        assert f"{name}.parquet" in ended.err


@pytest.mark.parametrize(
    "statement",
    [
        "copy records to '{out}'", "copy (select 1) to '{out}' (format parquet)", "export database '{out}'",
        "attach '{out}' as x", "create table x as select 1", "create view x as select 1",
        "insert into records select * from records", "update records set seq = 1", "delete from records",
        "drop table records", "install httpfs", "load httpfs", "set threads = 1", "set lock_configuration = false",
        "reset threads", "pragma database_list", "call pragma_version()", "checkpoint", "vacuum",
        "import database '{out}'", "create secret (type s3)", "prepare x as select 1", "explain select 1",
        "select 1; select 2", "begin", "use memory", "", "  -- nothing", "selekt 1",
        "select * from read_text('/etc/passwd')", "select * from read_blob('/etc/passwd')",
        "select * from read_csv('/etc/passwd')", "select * from read_json('/etc/passwd')",
        "select * from read_parquet('{parquet}')", "select * from '{parquet}'", "select * from '/etc/passwd'",
        "select * from glob('/etc/*')", "select * from sniff_csv('/etc/passwd')", "select getenv('HOME')",
        "select * from query('copy records to ''{out}''')", "select * from enable_logging()",
        "select * from duckdb_secrets()", "select * from 'https://example.org/x.parquet'",
        "select * from read_csv('s3://bucket/x')", "with x as (delete from records returning *) select * from x",
        "select * from sys", "select * from session", "pivot records on actor",
    ],
)  # fmt: skip
def test_nothing_else_can_be_reached(statement: str, trail: Path, tmp_path: Path, audit: Audit) -> None:
    """No file is written or read, no extension, setting or other statement gets through; the message is one line."""
    if not (tmp_path / "all.parquet").exists():
        audit("export", trail, tmp_path / "all.parquet")
    before = sorted(tmp_path.rglob("*"))
    ended = audit("sql", trail, statement.format(out=tmp_path / "out", parquet=tmp_path / "all.parquet"))
    assert (ended.status, ended.out) == (2, "")
    assert "root:" not in ended.err
    assert ended.err.startswith("audit-async: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_locks_hold_without_the_look_at_the_statement(trail: Path, tmp_path: Path) -> None:
    """DuckDB itself refuses it all, so a statement that the look at its type lets through reaches nothing either."""
    logs = find_logs(trail)
    table = RecordsTable(logs, AuditQuery(), Damage(skip=False), ends=last_seqs_of(logs))
    session = SqlSession(table, (), SqlLimits())
    try:
        for statement in (
            f"copy (select 1) to '{tmp_path / 'out'}'", f"attach '{tmp_path / 'out'}'", "install httpfs", "load httpfs",
            f"export database '{tmp_path / 'out'}'", "set threads = 1", "set enable_external_access = true",
            "reset lock_configuration",
            "pragma threads = 1", "select * from read_text('/etc/passwd')", "set temp_directory = '/tmp'",
            "create persistent secret x (type http)",
        ):  # fmt: skip
            with pytest.raises(duckdb.Error):
                session._connection.execute(statement)
    finally:
        session.close()
    assert not (tmp_path / "out").exists()


def test_what_records_hold_reaches_no_terminal(tmp_path: Path, audit: Audit) -> None:
    """Hostile texts and names of columns are shown as escapes, at 80 columns, in JSON and in CSV."""
    make_hostile_trail(tmp_path / "t")
    statement = f'select *, event as "{HOSTILE}" from records'  # noqa: S608 - a hostile name of a column
    status, written = run_on_terminal("sql", tmp_path / "t", statement, columns=80)
    assert status == 0
    assert foreign_controls(written) == set()
    assert audit("sql", tmp_path / "t", statement, "--json").out.isascii()
    in_csv = audit("sql", tmp_path / "t", statement, "--csv").out
    assert not {character for character in HOSTILE if not character.isprintable()} - {"\n", "\r"} & set(in_csv)
    assert in_csv.count("\n") == 4


def test_rows_that_are_too_wide_are_lists(trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns a record with all its columns is a list of what it has; nothing of it is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = audit("sql", trail, "select * from records where actor = 'eve'").out
    assert shown.splitlines()[0] == "row 1"
    assert all(len(line) <= 80 for line in shown.splitlines())
    (row,) = audit("sql", trail, "select * from records where actor = 'eve'", "--json").rows
    assert row["event"] in "".join(line.removeprefix(" " * 14).strip() for line in shown.splitlines())
    assert "tenant" not in shown


def test_csv_computes_nothing(tmp_path: Path, audit: Audit) -> None:
    """A text that a spreadsheet would take for a formula gets an apostrophe, a negative number does not."""
    make_trail(tmp_path / "t", [failure("=1+1")])
    out = audit("sql", tmp_path / "t", "select actor, -5 n, null x, [1] l from records", "--csv").out
    assert list(csv.reader(io.StringIO(out, newline=""))) == [["actor", "n", "x", "l"], ["'=1+1", "-5", "", "[1]"]]


def test_values_of_every_type(trail: Path, audit: Audit) -> None:
    """What JSON has no form for is a text; columns of the same name are told apart."""
    statement = (
        "select 170141183460469231731687303715884105727::hugeint h, 1.50::decimal(9,2) d, 'nan'::double f, "
        "'\\x00\\xff'::blob b, date '2026-01-02' t, timestamptz '2026-01-02 03:04:05+00' z, {'a': [1, null]} s, "
        "interval 3 days i, true y, 1 one, 2 one, map {'k': 1} m"
    )
    (row,) = audit("sql", trail, statement, "--json").rows
    assert row["h"] == 170141183460469231731687303715884105727
    assert (row["d"], row["f"], row["b"], row["t"], row["y"]) == ("1.50", "nan", "00ff", "2026-01-02", True)
    assert (row["z"], row["s"], row["one"], row["one_2"]) == ("2026-01-02T03:04:05Z", {"a": [1, None]}, 1, 2)
    assert audit("sql", trail, statement).status == 0


def test_verified_first(trail: Path, audit: Audit) -> None:
    """With `--verify` the answer is of what was verified; a finding is said, and is the exit status."""
    count = "select count(*) n from records"
    good = audit("sql", trail, count, "--verify", "--json")
    assert (good.status, good.rows) == (0, [{"n": 42}])
    assert "verified: 42 records" in good.err
    assert "unverified" not in good.err
    (first, *_) = sorted((trail / "orders" / "00").glob("*.audit"))
    first.chmod(0o600)
    first.write_bytes(first.read_bytes().replace(b'"path":"/3"', b'"path":"/4"'))
    bad = audit("sql", trail, count, "--verify", "--json")
    assert bad.status == 1
    assert "NOT valid" in bad.err
    assert "line 4" in bad.err
    skipped = audit("sql", trail, count, "--verify", "--skip-damage", "--json")
    assert (skipped.status, skipped.rows) == (1, [{"n": 41}])
    assert "passed over" in skipped.err
    unchecked = audit("sql", trail, count)
    assert (unchecked.status, unchecked.out) == (1, "")


def test_what_is_being_written(trail: Path, audit: Audit) -> None:
    """A half-written last line is not there yet."""
    statement = "select count(*) n, max(seq) m from records where log = 'orders/00'"
    before = audit("sql", trail, statement, "--json").rows
    assert before == [{"n": 40, "m": 39}]
    newest = max((trail / "orders" / "00").glob("*.audit"))
    with newest.open("ab") as file:
        file.write(b'{"seq":40,"audit_id":"')
    assert audit("sql", trail, statement, "--json").rows == before


def test_archives(tmp_path: Path, audit: Audit) -> None:
    """What retention has compressed is in the table as before."""
    log = WrittenLog(tmp_path / "t")
    for n in range(40):
        log.write(failure("bob", n))
    log.archive(log.sealed()[::2])
    log.close()
    assert list((tmp_path / "t").rglob("*.zst"))
    statement = "select count(*) n, count(distinct hash) h, max(seq) m from records"
    assert audit("sql", tmp_path / "t", statement, "--json").rows == [{"n": 40, "h": 40, "m": 39}]


def test_who_asks_is_recorded(trail: Path, audit: Audit) -> None:
    """With `--as` the statement, the filters and the number of rows are in the log of audit-cli."""
    audit("sql", trail, "select seq from records", "--actor", "bob", "--as", "joe", "--service", "orders")
    audit("sql", trail, "selekt", "--as", "joe", "--service", "orders")
    rows = audit("query", trail, "--service", "audit-cli", "--type", "audit.log_accessed", "--json").rows
    assert [(row["event"]["actor"], row["event"]["query"], row["event"].get("records")) for row in rows] == [
        ("joe", {"sql": "select seq from records", "actor": "bob"}, 20),
        ("joe", {"sql": "selekt"}, None),
    ]


def test_no_name_that_the_trail_seals_is_recorded(trail: Path, audit: Audit) -> None:
    """The log of who asked would hold in the clear what the trail seals, so the statement is left out of it."""
    opened = b'{"event_type":"audit.log_opened","session":"00","privacy":1}'
    make_trail(trail, [opened], instance="02")
    statement = "select seq from records where actor = 'bob'"
    assert audit("sql", trail, statement, "--actor", "bob", "--as", "joe", "--service", "orders").status == 0
    rows = audit("query", trail, "--service", "audit-cli", "--type", "audit.log_accessed", "--json").rows
    assert [row["event"]["query"] for row in rows] == [{"sql": "[not recorded]", "actor": "[not recorded]"}]


def test_memory_is_bounded(trail: Path, tmp_path: Path, audit: Audit) -> None:
    """What doesn't fit is an error that says what to do, and no file."""
    statement = "select list(r) from (select range(100000) r, i from range(1000) t(i))"
    ended = audit("sql", trail, statement, "--memory", "64", "--threads", "1")
    assert (ended.status, ended.out) == (3, "")
    assert "--memory" in ended.err


def test_more_rows_than_a_person_reads(trail: Path, audit: Audit) -> None:
    """A table ends after a thousand rows and says so; JSON has them all."""
    shown = audit("sql", trail, "select * from range(1500)")
    assert "and 500 more rows" in shown.out
    assert len(shown.out.splitlines()) == 1000 + 3
    assert len(audit("sql", trail, "select * from range(1500)", "--json").rows) == 1500


def test_without_the_extra(trail: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the command that installs it."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.delitem(sys.modules, "audit_async._export.sql_session", raising=False)
    ended = audit("sql", trail, "select 1")
    assert (ended.status, ended.out) == (3, "")
    assert "pip install 'audit-async[cli,sql]'" in ended.err


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_interrupted(trail: Path) -> None:
    """Ctrl-C ends a statement that would run for hours."""
    statement = "select count(*) from range(100000000) a, range(100000000) b where a.range + b.range = 7"
    with started(
        [*COMMAND, "sql", str(trail), statement], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        # Once DuckDB is loaded it ends the same way at any moment.
        wait_until(lambda: "duckdb" in Path(f"/proc/{process.pid}/maps").read_text(), process)
        for _ in range(12):  # but for its own import, which may swallow one
            os.kill(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
                break
        assert process.returncode == 130
