"""More logs than a process may have files open: each export has all of their records, by time, in bounded memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from pyarrow import parquet

from audit_async._export.record_blocks import blocks_of
from audit_async._query.audit_query import AuditQuery
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import find_logs
from tests.cli.commands import COMMAND
from tests.cli.made_trails import failure, make_trail

resource = pytest.importorskip("resource", reason="limits of a process are of POSIX")

#: Logs that are made, and descriptors that the process may have.
LOGS = 150
DESCRIPTORS = 64


def make_logs(base_dir: Path, records: int) -> list[bytes]:
    """Write a log and copies of it; return its lines."""
    chain = make_trail(base_dir, [failure("bob", n) for n in range(records)])
    for n in range(1, LOGS):
        shutil.copytree(base_dir / "orders" / "00", base_dir / "orders" / f"i{n:03d}")
    return chain.lines


def run_with_few(*arguments: str | Path) -> bytes:
    """Run `audit-async` with few descriptors; return what it wrote."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS)),
        env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_way_out_has_all_records(tmp_path: Path) -> None:
    """NDJSON by time, of equal times by the log's name; Parquet and SQL have as many."""
    lines = make_logs(tmp_path / "t", 8)
    assert run_with_few("export", tmp_path / "t").splitlines(keepends=True) == [
        line for line in lines for _ in range(LOGS)
    ]
    run_with_few("export", tmp_path / "t", tmp_path / "all.parquet")
    table = parquet.read_table(tmp_path / "all.parquet", columns=["log", "seq"])
    names = [log.name for log in find_logs(tmp_path / "t")]
    assert table.column("log").to_pylist() == names * 8
    assert table.column("seq").to_pylist() == [seq for seq in range(8) for _ in names]
    counted = run_with_few("sql", tmp_path / "t", "select count(distinct log) logs, count(*) n from records", "--json")
    assert json.loads(counted) == {"logs": LOGS, "n": 8 * LOGS}


def test_a_log_that_waits_holds_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each log no more than two pieces are in memory, however long it is."""
    monkeypatch.setattr("audit_async._query.open_files._ALL_CHUNKS_BYTES", 0)  # each piece as small as it gets
    monkeypatch.setattr("audit_async._export.record_blocks.open_file_limit", lambda: 8)
    make_logs(tmp_path / "t", 200)
    logs = find_logs(tmp_path / "t")
    tracemalloc.start()
    try:
        blocks = blocks_of(logs, AuditQuery(), Damage(skip=False), use_index=False)
        next(block for block in blocks if block is not None)
        held, _ = tracemalloc.get_traced_memory()
        blocks.close()
    finally:
        tracemalloc.stop()
    assert held / LOGS < 32 << 10
