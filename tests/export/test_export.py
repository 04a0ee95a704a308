"""Exports: what is in the file is what the query finds, and the file is whole or not there."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from pyarrow import parquet

from audit_async._export import export_file
from audit_async._export.columns import COLUMNS
from audit_async._export.record_export import ExportFailed, ExportFormat, ExportReport, export
from audit_async._query.audit_query import AuditQuery
from audit_async._trail.log_files import find_logs
from audit_async.errors import LogCorrupted
from tests.cli.made_trails import HOSTILE, erasure, failure, make_hostile_trail, make_trail, rehashed

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run on one loop: files are written in threads."""
    return "asyncio"


async def exported(
    base_dir: Path,
    target: Path,
    kind: ExportFormat,
    query: AuditQuery | None = None,
    *,
    overwrite: bool = False,
    raw_cells: bool = False,
) -> ExportReport:
    """Export from all logs below a directory."""
    logs = find_logs(base_dir)
    return await export(logs, query or AuditQuery(), target, kind, overwrite=overwrite, raw_cells=raw_cells)


def events(count: int) -> list[bytes]:
    """Return log-in failures of three users in turn."""
    return [failure(("alice", "bob", "mallory")[n % 3], n) for n in range(count)]


async def test_ndjson_has_the_recorded_lines(tmp_path: Path) -> None:
    """An NDJSON export holds the lines of the query, byte for byte and in order, also across segments."""
    chain = make_trail(tmp_path / "t", events(60), max_bytes=4000)
    report = await exported(tmp_path / "t", tmp_path / "out.ndjson", "ndjson", AuditQuery(actor="bob"))
    content = (tmp_path / "out.ndjson").read_bytes()
    assert content == b"".join(chain.lines[1::3])
    assert report == ExportReport(
        path=str(tmp_path / "out.ndjson"),
        format="ndjson",
        records=20,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


async def test_several_logs_and_the_limit(tmp_path: Path) -> None:
    """Records of several logs are merged by time, and no more come than were asked for."""
    first = make_trail(tmp_path / "t", events(5), step_ns=2_000_000)
    second = make_trail(tmp_path / "t", events(5), instance="01", step_ns=3_000_000)
    await exported(tmp_path / "t", tmp_path / "out.ndjson", "ndjson", AuditQuery(limit=4))
    expected = [first.lines[0], second.lines[0], first.lines[1], second.lines[1]]
    assert (tmp_path / "out.ndjson").read_bytes() == b"".join(expected)


async def test_csv_has_fixed_columns(tmp_path: Path) -> None:
    """A CSV has the same columns whatever is recorded, and whoever it says acted and on what."""
    chain = make_trail(tmp_path / "t", [failure("bob"), erasure("c-1"), b'{"event_type":"x.y"}'])
    await exported(tmp_path / "t", tmp_path / "out.csv", "csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text("utf-8"), newline="")))
    assert tuple(rows[0]) == tuple(column.name for column in COLUMNS)
    assert [(row["seq"], row["event_type"], row["actor"], row["resource"]) for row in rows] == [
        ("0", "auth.failure", "bob", ""),
        ("1", "data.deleted", "", "c-1"),
        ("2", "x.y", "", ""),
    ]
    assert rows[1]["event"] == erasure("c-1").decode()
    assert [row["hash"] for row in rows] == [head.hash.decode() for head in chain.heads]


@pytest.mark.parametrize(
    "begin",
    [
        *(
            "=",
            "+",
            "-",
            "@",
            "\t",
            "\uff1d",
            "\uff0b",
            "\uff0d",
            "\uff20",
            "\ufe66",
            "\ufe62",
            "\ufe63",
            "\ufe6b",
            "\u2212",
        ),
        *(" =", "   @", "\t=", " \t +", "\u00a0-", "\u3000\uff1d", "\u2003=", "\u00ad=", "\u3164=", "\u2800="),
    ],
)
async def test_csv_injects_no_formula(begin: str, tmp_path: Path) -> None:
    """A cell that a spreadsheet would compute gets an apostrophe in front, and with `raw_cells` it does not."""
    make_trail(tmp_path / "t", [failure(f"{begin}cmd|' /C calc'!A0")])
    for raw in (False, True):
        await exported(tmp_path / "t", tmp_path / f"{raw}.csv", "csv", raw_cells=raw)
        (row,) = csv.DictReader(io.StringIO((tmp_path / f"{raw}.csv").read_text("utf-8"), newline=""))
        assert row["actor"].startswith("'") is not raw or row["actor"].startswith("\\")  # or visible: \u00ad=
        assert json.loads(row["event"])["attempted_user"] == f"{begin}cmd|' /C calc'!A0"


async def test_csv_injects_no_formula_after_a_semicolon(tmp_path: Path) -> None:
    """Where a spreadsheet divides lines at semicolons, no cell begins with a formula either; JSON stays the same."""
    user = "a;=1+1;  @x; ordinary-text;-1"
    make_trail(tmp_path / "t", [failure(user)])
    for raw in (False, True):
        await exported(tmp_path / "t", tmp_path / f"{raw}.csv", "csv", raw_cells=raw)
        line = (tmp_path / f"{raw}.csv").read_text("utf-8").splitlines()[1]
        assert any(cell.strip()[:1] in {"=", "+", "-", "@"} for cell in line.split(";")) is raw
        (row,) = csv.DictReader(io.StringIO((tmp_path / f"{raw}.csv").read_text("utf-8"), newline=""))
        assert json.loads(row["event"])["attempted_user"] == user


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\u2028", "\x85", "\x0b"])
async def test_csv_has_a_line_for_each_record(end: str, *, raw: bool, tmp_path: Path) -> None:
    """A line break in a text is shown as an escape, so that no text forges a line for `grep`."""
    forged = f'eve{end}9,orders/00,ffff,"2026-11-22T12:00:00.000000Z",orders,00,auth.success,root'
    make_trail(tmp_path / "t", [failure(forged), failure("bob")])
    await exported(tmp_path / "t", tmp_path / "out.csv", "csv", raw_cells=raw)
    content = (tmp_path / "out.csv").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r") == 3
    assert len(content.decode().splitlines()) == 3
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [row["seq"] for row in rows] == ["0", "1"]
    assert rows[0]["actor"].startswith("eve\\")


async def test_csv_shows_what_misleads(tmp_path: Path) -> None:
    """No control or bidirectional character of a record gets into a CSV."""
    make_hostile_trail(tmp_path / "t")
    await exported(tmp_path / "t", tmp_path / "out.csv", "csv")
    text = (tmp_path / "out.csv").read_bytes().decode().replace("\r\n", "\n")
    assert "evil" in text
    assert not {character for character in HOSTILE if not character.isprintable()} - {"\n"} & set(text)


async def test_what_misleads_is_the_same_in_the_json_of_a_csv(tmp_path: Path) -> None:
    """Characters are escaped in an event's JSON as JSON does it, so it says the same; also those beyond U+FFFF."""
    user = "a\U000e0041\u202e\u3164b"
    make_trail(tmp_path / "t", [failure(user)])
    await exported(tmp_path / "t", tmp_path / "out.csv", "csv")
    content = (tmp_path / "out.csv").read_text("utf-8")
    assert not {"\U000e0041", "\u202e", "\u3164"} & set(content)
    (row,) = csv.DictReader(io.StringIO(content, newline=""))
    assert json.loads(row["event"])["attempted_user"] == user


async def test_parquet_is_typed(tmp_path: Path) -> None:
    """A Parquet export has numbers as numbers, times as times in UTC, and nothing where nothing was recorded."""
    chain = make_trail(tmp_path / "t", [failure("bob"), erasure("c-1")])
    await exported(tmp_path / "t", tmp_path / "out.parquet", "parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert tuple(table.column_names) == tuple(column.name for column in COLUMNS)
    rows = table.to_pylist()
    assert [row["seq"] for row in rows] == [0, 1]
    assert [row["timestamp"] for row in rows] == [
        datetime(2026, 11, 22, 12, tzinfo=UTC) + timedelta(milliseconds=n) for n in range(2)
    ]
    assert [(row["log"], row["actor"], row["resource"], row["context"]) for row in rows] == [
        ("orders/00", "bob", None, None),
        ("orders/00", None, "c-1", None),
    ]
    assert [row["hash"].encode() for row in rows] == [head.hash for head in chain.heads]


async def test_parquet_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records there are, no more than a group of them is in memory."""
    monkeypatch.setattr("audit_async._export.parquet_table._GROUP_ROWS", 10)
    monkeypatch.setattr("audit_async._export.parquet_table.BATCH_ROWS", 1)
    make_trail(tmp_path / "t", events(35), max_bytes=2000)  # a block of records is at most a segment
    await exported(tmp_path / "t", tmp_path / "out.parquet", "parquet")
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sum(groups) == 35
    assert len(groups) > 2
    assert all(10 <= rows < 17 for rows in groups[:-1])
    assert file.read().column("seq").to_pylist() == list(range(35))


async def test_a_time_that_no_calendar_has(tmp_path: Path) -> None:
    """A record of 30 February, which another program may have written, stands in a Parquet file without a time."""
    make_trail(tmp_path / "t", [failure("bob")])
    (segment,) = (tmp_path / "t" / "orders" / "00").glob("*.audit")
    segment.write_bytes(rehashed(segment.read_bytes().replace(b"2026-11-22T", b"2026-02-30T")))
    await exported(tmp_path / "t", tmp_path / "out.parquet", "parquet")
    assert parquet.read_table(tmp_path / "out.parquet").column("timestamp").to_pylist() == [None]


async def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is missing, the error says what to install, and nothing is left behind."""
    make_trail(tmp_path / "t", events(1))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("arrow_batches", "parquet_table"):  # which another test may have imported with it
        monkeypatch.delitem(sys.modules, f"audit_async._export.{name}", raising=False)
    with pytest.raises(ExportFailed, match=r"audit-async\[parquet\]"):
        await exported(tmp_path / "t", tmp_path / "out.parquet", "parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


async def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    """A file that is there stays as it is, unless overwriting was asked for."""
    make_trail(tmp_path / "t", events(3))
    target = tmp_path / "out.ndjson"
    target.write_text("mine")
    with pytest.raises(ExportFailed, match="is there already"):
        await exported(tmp_path / "t", target, "ndjson")
    assert target.read_text() == "mine"
    await exported(tmp_path / "t", target, "ndjson", overwrite=True)
    assert target.read_bytes().count(b"\n") == 3


async def test_a_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    """Also a file that appears while the export is written is not replaced."""
    target = tmp_path / "out.bin"
    with export_file.new_file(target, overwrite=False) as new:
        new.file.write(b"ours")
        target.write_text("theirs")
        with pytest.raises(ExportFailed):
            new.finish()
    assert target.read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]


async def test_the_file_is_private(tmp_path: Path) -> None:
    """An export holds what its trail holds, so only its owner may read it, whatever the umask."""
    make_trail(tmp_path / "t", events(1))
    before = os.umask(0)
    try:
        await exported(tmp_path / "t", tmp_path / "out.csv", "csv")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet", "bundle"])
async def test_damage_leaves_no_file(kind: ExportFormat, tmp_path: Path) -> None:
    """An export of a damaged trail is an error that says where, and no half a file."""
    make_trail(tmp_path / "t", events(30))
    (segment,) = (tmp_path / "t" / "orders" / "00").glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b'"path":"/17"', b'"path":"/71"'))
    with pytest.raises(LogCorrupted) as caught:
        await exported(tmp_path / "t", tmp_path / "out", kind)
    assert caught.value.line == 18
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


async def test_a_cancelled_export_leaves_no_file(tmp_path: Path) -> None:
    """Whoever stops waiting for an export leaves nothing behind."""
    make_trail(tmp_path / "t", events(3000), max_bytes=4000)
    with anyio.CancelScope() as scope:
        await export(
            find_logs(tmp_path / "t"),
            AuditQuery(),
            tmp_path / "out.ndjson",
            "ndjson",
            progress=lambda _: anyio.from_thread.run_sync(scope.cancel),
        )
    assert scope.cancelled_caught
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
