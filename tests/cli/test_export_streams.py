"""`export` to standard output: as a process in a pipe, and as a person who forgot the pipe."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pytest
from pyarrow import parquet

from audit_async.reader import AuditReader, ExportFailed
from tests.cli.commands import COMMAND, environment, run_in_pipes, run_on_terminal
from tests.cli.made_trails import failure, make_trail
from tests.processes import started


def piped(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run `audit-async export` in a pipe."""
    return subprocess.run(
        [*COMMAND, "export", *map(str, arguments)], capture_output=True, timeout=60, check=False, env=environment()
    )


def test_each_format_goes_through_a_pipe(tmp_path: Path) -> None:
    """The bytes are those that a file would have; what is said of them is on standard error."""
    chain = make_trail(tmp_path / "t", [failure("bob", n) for n in range(50)])
    done = piped(tmp_path / "t")
    assert (done.returncode, done.stdout) == (0, b"".join(chain.lines))
    assert b"50 records, SHA-256 " in done.stderr
    in_csv = piped(tmp_path / "t", "-", "--format", "csv", "--limit", "3")
    rows = list(csv.DictReader(io.StringIO(in_csv.stdout.decode(), newline="")))
    assert [row["seq"] for row in rows] == ["0", "1", "2"]
    in_parquet = piped(tmp_path / "t", "--format", "parquet")
    assert in_parquet.returncode == 0
    table = parquet.read_table(pa.BufferReader(in_parquet.stdout))
    assert table.column("hash").to_pylist() == [head.hash.decode() for head in chain.heads]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]


@pytest.mark.parametrize("format_name", ["ndjson", "csv", "parquet"])
def test_never_to_a_terminal(format_name: str, tmp_path: Path) -> None:
    """Records may hold anything, so a terminal gets none of them; the message says what to do."""
    make_trail(tmp_path / "t", [failure("bob\u202eevil")])
    status, written = run_on_terminal("export", tmp_path / "t", "--format", format_name)
    assert status == 2
    assert b"audit-async query" in written
    assert b"evil" not in written


@pytest.mark.parametrize("more", [["--json"], ["--format", "bundle"]], ids=" ".join)
def test_what_standard_output_can_t_take(more: list[str], tmp_path: Path) -> None:
    """The report has no place next to the records, and a bundle is whole or not there."""
    make_trail(tmp_path / "t", [failure("bob")])
    ended = run_in_pipes("export", tmp_path / "t", *more)
    assert (ended.status, ended.out) == (2, "")


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`audit-async export ... | head` ends as a shell expects it, without a word."""
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(3000)])
    with started(
        [*COMMAND, "export", str(tmp_path / "t")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""


def test_damage_half_way_is_no_success(tmp_path: Path) -> None:
    """What was written before the damage is there, and the status and the message say that it is not all."""
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(30)])
    (segment,) = (tmp_path / "t" / "orders" / "00").glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b'"path":"/17"', b'"path":"/71"'))
    done = piped(tmp_path / "t")
    assert done.returncode == 1
    assert done.stdout.count(b"\n") == 17
    assert b"line 18" in done.stderr


@pytest.mark.parametrize("suffix", ["ndjson", "csv", "parquet"])
def test_killed_half_way_leaves_nothing_under_the_name(suffix: str, tmp_path: Path) -> None:
    """A file appears when it is whole: after a kill at any moment nothing has its name."""
    make_trail(tmp_path / "t", [failure("bob", n) for n in range(4000)])
    target = tmp_path / f"out.{suffix}"
    code = (  # stops after the first records, so that the kill comes half-way
        "import sys, time\n"
        "from audit_async._export import record_export\n"
        "from audit_async.cli import main\n"
        "blocks_of = record_export.blocks_of\n"
        "def slowly(*arguments, **options):\n"
        "    for block in blocks_of(*arguments, **options):\n"
        "        yield block\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(60)\n"
        "record_export.blocks_of = slowly\n"
        "main(sys.argv[1:])\n"
    )
    with started(
        [sys.executable, "-c", code, "export", str(tmp_path / "t"), str(target)],
        stdout=subprocess.PIPE, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        unfinished = [path.name for path in tmp_path.iterdir() if path.name != "t"]
        assert len(unfinished) == 1
        assert unfinished[0].endswith(".unfinished")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert not target.exists()
    assert piped(tmp_path / "t", target).returncode == 0  # what was left does not hinder the next one
    assert target.exists()


@pytest.mark.anyio
async def test_to_a_stream_of_one_s_own(tmp_path: Path) -> None:
    """From Python a binary stream takes the place of the path, and stays open."""
    chain = make_trail(tmp_path / "t", [failure("bob", n) for n in range(5)])
    stream = io.BytesIO()
    report = await AuditReader(tmp_path / "t").export(stream)
    assert stream.getvalue() == b"".join(chain.lines)
    assert (report.path, report.records, report.bytes) == ("-", 5, len(stream.getvalue()))
    with pytest.raises(ExportFailed, match="give a path"):
        await AuditReader(tmp_path / "t").export(stream, "bundle")


@pytest.mark.anyio
async def test_to_a_stream_that_takes_parts_or_nothing(tmp_path: Path) -> None:
    """A raw stream may take a part at a time, some streams don't say how much; one that can't wait is an error."""
    chain = make_trail(tmp_path / "t", [failure("bob", n) for n in range(5)])
    taken: list[bytes] = []

    class Parts(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: bytes, /) -> int | None:  # type: ignore[override]  # bytes are what comes
            taken.append(bytes(data[:7]))
            return len(taken[-1])

    class Silent(io.BytesIO):
        def write(self, data: bytes, /) -> None:  # type: ignore[override]  # as many do
            super().write(data)

    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: bytes, /) -> int | None:  # type: ignore[override]  # bytes are what comes
            return None

    reader = AuditReader(tmp_path / "t")
    await reader.export(cast("BinaryIO", Parts()))
    assert b"".join(taken) == b"".join(chain.lines)
    silent = Silent()
    await reader.export(silent)
    assert silent.getvalue() == b"".join(chain.lines)
    with pytest.raises(ExportFailed, match="blocks"):
        await reader.export(cast("BinaryIO", Full()))


def test_a_file_that_cant_grow_is_named(tmp_path: Path) -> None:
    """Whatever ends the writing of an export, such as a full disk, the message names the file, and nothing is left."""
    make_trail(tmp_path / "t", [failure("x" * 900, n) for n in range(300)])
    (tmp_path / "out").mkdir()
    code = (
        "import resource, sys; from audit_async.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, 1 << 13)); sys.exit(main(sys.argv[1:]))"
    )
    # Without caches, which would be cut off as well.
    command = [sys.executable, "-B", "-c", code, "export", str(tmp_path / "t"), str(tmp_path / "out" / "all.zip")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment())
    assert (ended.returncode, "File too large" in ended.stderr) == (3, True), ended.stderr
    assert str(tmp_path / "out" / "all.zip") in ended.stderr.replace("\n", "")
    assert list((tmp_path / "out").iterdir()) == []
