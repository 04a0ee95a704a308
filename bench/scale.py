"""Reading at scale: ten million records, twenty thousand segments, ten thousand logs, next to grep, DuckDB and others.

`python -m bench scale --records 1000000`; ten million without it, and a hundred million if the disk has the room. Every
command is a process of its own whose peak memory is its own (its largest worker counts, too), on files that are in the
page cache if they fit. Its start, most of a second of imports, is not counted, nor is that of DuckDB; grep and jq have
none. Ratios are of one run. What is missing on this machine is skipped, and the table says so.

`BENCH_SCALE_PARTS` names the parts to run, out of trail, segments and logs: a hundred million records need only the
first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from signal import SIGKILL
from threading import Timer
from time import perf_counter
from typing import Final, NamedTuple

import anyio

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.events import AuthFailure
from bench.frame import Row, effort, median, ratios, row_of, show, work_directory
from bench.long_trail import Shape, Written, write_log, write_logs

#: What a record of these trails takes on the disk.
_RECORD_BYTES: Final = 520
#: 100 MiB, as the library rotates by itself.
_SEGMENT_RECORDS: Final = (100 << 20) // _RECORD_BYTES
#: Nothing is waited for longer than these seconds, and for each million records.
_PATIENCE_S: Final = 240
_PATIENCE_FOR_MILLION_S: Final = 90
#: Descriptors that a command may have over many logs.
_FEW_DESCRIPTORS: Final = 256

_COMMAND: Final = """
import json, os, resource, sys, time
from audit_async.cli import main
import audit_async.cli.app, audit_async.logger
audit_async.cli.app.command_line()
if limit := int(os.environ.get("BENCH_DESCRIPTORS", 0)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
began = time.perf_counter()
status = main(sys.argv[2:])
took_s = time.perf_counter() - began
sys.stdout.flush()
with open(sys.argv[1], "w") as file:
    json.dump([took_s, status], file)
"""
_LOOK_UP: Final = """
import json, sys, time
import anyio
from audit_async.reader import AuditQuery, AuditReader
async def ask():
    return len([record async for record in AuditReader(sys.argv[2]).query(AuditQuery(actor=sys.argv[3]))])
began = time.perf_counter()
hits = anyio.run(ask)
took_s = time.perf_counter() - began
assert hits == int(sys.argv[4]), hits
with open(sys.argv[1], "w") as file:
    json.dump([took_s, 0], file)
"""
_DUCKDB: Final = """
import json, sys, time
import duckdb
began = time.perf_counter()
found = duckdb.sql(sys.argv[2])
print(found.fetchall() if found is not None else "")
took_s = time.perf_counter() - began
with open(sys.argv[1], "w") as file:
    json.dump([took_s, 0], file)
"""
_SQLITE: Final = """
import glob, json, sqlite3, sys, time
import msgspec
class Actor(msgspec.Struct, frozen=True):
    user_id: str = ""
class Event(msgspec.Struct):
    event_type: str
    actor: Actor = Actor()
    attempted_user: str = ""
class Record(msgspec.Struct):
    seq: int
    timestamp: str
    event: Event
decode = msgspec.json.Decoder(Record).decode
def rows():
    for path in sorted(glob.glob(sys.argv[2])):
        with open(path, "rb") as file:
            for line in file:
                record = decode(line)
                event = record.event
                yield record.seq, record.timestamp, event.event_type, event.actor.user_id or event.attempted_user, line
began = time.perf_counter()
database = sqlite3.connect(sys.argv[3])
database.execute("pragma journal_mode=off")
database.execute("pragma synchronous=off")
database.execute("create table record (seq integer primary key, timestamp, type, actor, line)")
database.executemany("insert into record values (?, ?, ?, ?, ?)", rows())
database.execute("create index by_actor on record (actor)")
database.commit()
took_s = time.perf_counter() - began
with open(sys.argv[1], "w") as file:
    json.dump([took_s, 0], file)
"""
_SQLITE_LOOK_UP: Final = """
import json, sqlite3, sys, time
began = time.perf_counter()
found = sqlite3.connect(sys.argv[2]).execute("select line from record where actor = ?", (sys.argv[3],)).fetchall()
took_s = time.perf_counter() - began
assert len(found) == int(sys.argv[4]), len(found)
with open(sys.argv[1], "w") as file:
    json.dump([took_s, 0], file)
"""


class Ran(NamedTuple):
    """What a process took."""

    seconds: float  #: from after its start
    cpu_s: float  #: of all its threads and workers
    mebibytes: float  #: the peak of it, or of its largest worker
    status: int
    output: bytes


class TooSlow(Exception):
    """A process did not end in time; the text says within how many seconds."""


class Bench:
    """The trail that is measured, and how a process is run on it."""

    def __init__(self, directory: Path, records: int) -> None:
        self.directory = directory
        self.records = records
        self.patience_s = _PATIENCE_S + _PATIENCE_FOR_MILLION_S * records / 1e6

    def program(self, text: str, *arguments: object, descriptors: int = 0) -> Ran:
        """Run a Python program that writes what it took to the file that is its first argument."""
        report = self.directory / "took.json"
        report.unlink(missing_ok=True)
        ran = self.process([sys.executable, "-c", text, str(report), *map(str, arguments)], descriptors=descriptors)
        if not report.exists():
            raise RuntimeError(f"ended with {ran.status}: {ran.output[-300:].decode(errors='replace')}")
        took_s, status = json.loads(report.read_text())
        return ran._replace(seconds=took_s, status=status)

    def command(self, *arguments: object, descriptors: int = 0) -> Ran:
        """Run `audit-async`. Only doctor may find something: what it says of the place is not measured here."""
        ran = self.program(_COMMAND, *arguments, descriptors=descriptors)
        if ran.status not in ({0, 1} if arguments[0] == "doctor" else {0}):
            raise RuntimeError(f"audit-async {arguments[0]} ended with {ran.status}: {ran.output[-500:].decode()}")
        return ran

    def process(self, command: Sequence[str], *, into: Path | None = None, descriptors: int = 0) -> Ran:
        """Run a process; its output goes to a file, so that no pipe slows it."""
        path = into or self.directory / "output"
        began = perf_counter()
        with path.open("wb") as output:
            child = subprocess.Popen(  # noqa: S603 - ours
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | {"LC_ALL": "C", "BENCH_DESCRIPTORS": str(descriptors)},
            )
        deadline = Timer(self.patience_s, os.killpg, (child.pid, SIGKILL))  # its workers, too
        deadline.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            deadline.cancel()
        seconds = perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode < 0:
            raise TooSlow(f"not done after {self.patience_s:,.0f} s")
        with path.open("rb") as written:
            written.seek(max(0, path.stat().st_size - 65536))
            said = written.read()
        return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, child.returncode, said)


class Questions:
    """The commands that are measured on one trail, each with what it is compared with."""

    def __init__(self, bench: Bench, name: str, records: int) -> None:
        segments = max(2, records // _SEGMENT_RECORDS)
        self.bench = bench
        self.shape = Shape(records, segments)
        self.base_dir = bench.directory / name
        self.trail: Written = write_log(self.base_dir, self.shape)
        self.paths = sorted(map(str, self.trail.directory.glob("*.audit")))

    def forget_index(self) -> None:
        """Remove the index, so that the next question is the first."""
        shutil.rmtree(self.trail.directory / "index", ignore_errors=True)

    def grep(self) -> Ran:
        """Count the records of the rare actor."""
        ran = self.bench.process(["grep", "-c", "-F", f'"{self.shape.rare_actor}"', *self.paths])
        assert sum(int(line.rpartition(b":")[2]) for line in ran.output.splitlines()) == self.shape.rare_hits
        return ran

    def grep_status(self) -> Ran:
        """Write the records of one status, a twentieth of all."""
        into = self.bench.directory / "grepped"
        return self.bench.process(["grep", "-h", "-F", '"status":404,', *self.paths], into=into)

    def first_query(self) -> Ran:
        """Ask for the rare actor's records; there is no index."""
        self.forget_index()
        return self.bench.command("query", self.base_dir, "--actor", self.shape.rare_actor, "--no-index", "--json")

    def verify(self) -> Ran:
        """Verify all of it."""
        return self.bench.command("verify", self.base_dir, "--json")

    def index(self) -> Ran:
        """Index all of it."""
        self.forget_index()
        return self.bench.command("index", self.base_dir, "--json")

    def look_up(self) -> Ran:
        """Ask for the rare actor's records by a reader that has read nothing before; there is an index."""
        return self.bench.program(_LOOK_UP, self.base_dir, self.shape.rare_actor, self.shape.rare_hits)

    def stats(self) -> Ran:
        """Count by type, actor and hour."""
        return self.bench.command("stats", self.base_dir, "--json")

    def export_parquet(self) -> Ran:
        """Write all of it as Parquet."""
        return self._export("all.parquet")

    def export_status(self) -> Ran:
        """Write the records of one status as NDJSON; the index is of no use for as many."""
        return self._export("status.ndjson", "--status", "404")

    def _export(self, name: str, *filters: str) -> Ran:
        to = self.bench.directory / name
        to.unlink(missing_ok=True)
        return self.bench.command("export", self.base_dir, to, *filters, "--json")

    def duckdb_copy(self) -> Ran:
        """Write all of it as Parquet, by DuckDB."""
        to = self.bench.directory / "duckdb.parquet"
        to.unlink(missing_ok=True)
        copy = f"COPY (SELECT * FROM {self._ndjson()}) TO '{to}' (FORMAT parquet)"  # noqa: S608 - our own names
        return self.bench.program(_DUCKDB, copy)

    def duckdb_ndjson(self) -> Ran:
        """Count the rare actor's records by DuckDB, over the segments."""
        return self._duckdb_count(self._ndjson())

    def duckdb_parquet(self) -> Ran:
        """Count the rare actor's records by DuckDB, over what it has made of the segments."""
        return self._duckdb_count(f"read_parquet('{self.bench.directory / 'duckdb.parquet'}')")

    def _duckdb_count(self, table: str) -> Ran:
        actor = self.shape.rare_actor
        where = f"event.actor.user_id = '{actor}' OR event.attempted_user = '{actor}'"
        ran = self.bench.program(_DUCKDB, f"SELECT count(*) FROM {table} WHERE {where}")  # noqa: S608 - our own names
        assert f"({self.shape.rare_hits},)".encode() in ran.output
        return ran

    def _ndjson(self) -> str:
        return f"read_ndjson('{self.trail.directory}/*.audit', sample_size=100000)"

    def sqlite_build(self) -> Ran:
        """Put the records and four of their members into a table with an index by actor; nothing is synced."""
        database = self.bench.directory / "records.sqlite3"
        database.unlink(missing_ok=True)
        return self.bench.program(_SQLITE, f"{self.trail.directory}/*.audit", database)

    def sqlite_look_up(self) -> Ran:
        """Select the rare actor's records."""
        database = self.bench.directory / "records.sqlite3"
        return self.bench.program(_SQLITE_LOOK_UP, database, self.shape.rare_actor, self.shape.rare_hits)

    def jq(self) -> Ran:
        """Select the rare actor's records in one segment."""
        actor = self.shape.rare_actor
        wanted = f'select(.event.actor.user_id == "{actor}" or .event.attempted_user == "{actor}")'
        return self.bench.process(["jq", "-c", wanted, self.paths[0]])


_Take = Callable[[], Ran]


def _rounds(records: int) -> int:
    return effort(3, 1) if records < 5_000_000 else 1


def _alternate(bench: Bench, takes: dict[str, _Take]) -> dict[str, list[Ran] | str]:
    """Measure each once a round, in turn; a text for one that can't be measured, which is not tried again."""
    taken: dict[str, list[Ran] | str] = {name: [] for name in takes}
    for _ in range(_rounds(bench.records)):
        for name, take in takes.items():
            samples = taken[name]
            if isinstance(samples, str):
                continue
            try:
                samples.append(take())
            except (TooSlow, RuntimeError, OSError) as error:
                taken[name] = " ".join(str(error).split())[-300:]
    return taken


def _seconds(ran: Iterable[Ran]) -> list[float]:
    return [each.seconds for each in ran]


def _ratio_row(
    subject: str, taken: dict[str, list[Ran] | str], of: str, to: str, *, ceiling: float | None, compared: str = ""
) -> Row:
    """Return the row of one line that must hold: how many times as long `of` takes as `to`."""
    ours, theirs = taken[of], taken[to]
    for samples in (ours, theirs):
        if isinstance(samples, str):
            return Row(subject, "not measured", samples)
    assert not isinstance(ours, str)
    assert not isinstance(theirs, str)
    spent = f"{median(_seconds(ours)):,.2f} s and {median(_seconds(theirs)):,.2f} s"
    return row_of(
        subject,
        ratios(_seconds(ours), _seconds(theirs)),
        "times",
        "; ".join(filter(None, (compared, spent))),
        digits=2,
        ceiling=ceiling,
    )


def _time_row(subject: str, taken: list[Ran] | str, compared: str = "", *, ceiling_ms: float | None = None) -> Row:
    if isinstance(taken, str):
        return Row(subject, "not measured", taken)
    if ceiling_ms is not None:
        return row_of(subject, [1000 * s for s in _seconds(taken)], "ms", compared, digits=1, ceiling=ceiling_ms)
    cpu = f"{median([each.cpu_s for each in taken]):,.1f} s of CPU"
    peak = f"{max(each.mebibytes for each in taken):,.0f} MiB"
    return row_of(subject, _seconds(taken), "s", "; ".join(filter(None, (compared, cpu, peak))), digits=2)


def _one_trail(bench: Bench, records: int) -> Questions:
    """Measure the one long trail, and the same records elsewhere; return what has its files."""
    asked = Questions(bench, "long", records)
    takes: dict[str, _Take] = {
        "grep": asked.grep,
        "query, no index": asked.first_query,
        "verify": asked.verify,
        "index": asked.index,
        "query, index": asked.look_up,
        "stats": asked.stats,
        "export, Parquet": asked.export_parquet,
        "export, one status": asked.export_status,
        "grep, one status": asked.grep_status,
        "SQLite, load and index": asked.sqlite_build,
        "SQLite, query": asked.sqlite_look_up,
        "DuckDB, to Parquet": asked.duckdb_copy,
        "DuckDB, query of NDJSON": asked.duckdb_ndjson,
        "DuckDB, query of Parquet": asked.duckdb_parquet,
        "jq, one segment": asked.jq,
    }
    skipped: dict[str, list[Ran] | str] = {}
    for missing, is_there, reason in (
        ("DuckDB", find_spec("duckdb"), "duckdb is not installed: pip install 'audit-async[bench]'"),
        ("jq", shutil.which("jq"), "jq is not installed: apt-get install jq"),
    ):
        if not is_there:
            for name in [name for name in takes if name.startswith(missing)]:
                del takes[name]
                skipped[name] = reason
    asked.verify()  # so that what fits is in the page cache
    taken = _alternate(bench, takes) | skipped
    _show_limits(asked, taken)
    show("scale: what each takes", [_time_row(name, samples) for name, samples in taken.items()])
    _show_elsewhere(asked, taken)
    for name in ("records.sqlite3", "duckdb.parquet", "all.parquet", "status.ndjson", "grepped"):
        (bench.directory / name).unlink(missing_ok=True)
    return asked


def _show_limits(asked: Questions, taken: dict[str, list[Ran] | str]) -> None:
    index, trail = taken["index"], asked.trail
    index_bytes = sum(path.stat().st_size for path in (trail.directory / "index").rglob("*") if path.is_file())
    look_up_ms = 100.0 if asked.shape.records <= 10_000_000 else 300.0
    show(
        f"scale: {trail.records:,} records, {trail.bytes / 1e9:.2f} GB, {trail.segments} segments",
        [
            _ratio_row("first query by actor / grep -c", taken, "query, no index", "grep", ceiling=2.5),
            _time_row(
                "query by actor, index",
                taken["query, index"],
                f"{asked.shape.rare_hits} hits, a new reader",
                ceiling_ms=look_up_ms,
            ),
            _ratio_row("making the index / verify", taken, "index", "verify", ceiling=1.5),
            row_of("index / trail", [100 * index_bytes / trail.bytes], "%", digits=1, ceiling=15.0),
            Row("memory of index", "not measured", index)
            if isinstance(index, str)
            else row_of("memory of index", [each.mebibytes * (1 << 20) / 1e6 for each in index], "MB", ceiling=150.0),
            _ratio_row(
                "export to Parquet / DuckDB's COPY", taken, "export, Parquet", "DuckDB, to Parquet", ceiling=2.0
            ),
            _ratio_row(
                "export of one status to NDJSON / grep", taken, "export, one status", "grep, one status", ceiling=2.0
            ),
        ],
    )


def _show_elsewhere(asked: Questions, taken: dict[str, list[Ran] | str]) -> None:
    trail, database = asked.trail, asked.bench.directory / "records.sqlite3"
    first_share = Path(asked.paths[0]).stat().st_size / trail.bytes
    size = f"a database of {database.stat().st_size / trail.bytes:.0%} of the trail" if database.exists() else ""
    show(
        f"scale: {asked.shape.rare_hits} records of one actor among {trail.records:,}, elsewhere",
        [
            _time_row("audit-async, no index", taken["query, no index"], "each hit is checked by its hash"),
            _time_row("audit-async, index", taken["query, index"], "each hit is checked by its hash"),
            _time_row("grep -c", taken["grep"], "finds the text, wherever it is"),
            _time_row("DuckDB over NDJSON", taken["DuckDB, query of NDJSON"]),
            _time_row("DuckDB over Parquet", taken["DuckDB, query of Parquet"], "which DuckDB has made before"),
            _time_row("SQLite, index by actor", taken["SQLite, query"], size),
            _time_row("jq", taken["jq, one segment"], f"one segment only, {first_share:.0%} of the trail"),
        ],
    )


def _memory(small: Questions, large: Questions) -> None:
    """Compare the peak memory of each command on a trail and on one ten times as long."""
    names = ("verify", "index", "first_query", "stats", "export_parquet", "export_status")
    rows = []
    for name in names:
        try:
            few, many = getattr(small, name)().mebibytes, getattr(large, name)().mebibytes
        except (TooSlow, RuntimeError) as error:
            rows.append(Row(name.replace("_", " "), "not measured", " ".join(str(error).split())[-300:]))
            continue
        compared = f"{few:,.0f} MiB with {small.trail.records:,} records, {many:,.0f} MiB with {large.trail.records:,}"
        rows.append(row_of(name.replace("_", " "), [many / few], "times", compared, digits=2, ceiling=1.3))
    show("scale: peak memory with ten times the records", rows)


def _incremental(bench: Bench, asked: Questions) -> None:
    """Verify, let the real writer add a hundredth, and verify from where the first ended."""
    state = bench.directory / "verified"
    full = bench.command("verify", asked.base_dir, "--state", state, "--json")
    added = asked.shape.records // 100

    async def write() -> None:
        config = AuditConfig(mode=Local(asked.base_dir), service_id="bench", handle_signals=False)
        async with AuditLogger(config) as audit:
            for number in range(added):
                await audit.emit_durable(_ADDED) if number % 5_000 == 4_999 else audit.emit(_ADDED)

    anyio.run(write)
    again = bench.command("verify", asked.base_dir, "--state", state, "--json")
    row = row_of(
        f"verify of {added:,} new records / of all",
        [100 * again.seconds / full.seconds],
        "%",
        f"{again.seconds:.2f} s and {full.seconds:.2f} s",
        digits=1,
        ceiling=3.0,
    )
    show("scale: verifying what is new", [row])


_ADDED: Final = AuthFailure(attempted_user="mallory", reason="invalid_token", ip="203.0.113.9", path="/v2/tasks")


def _many_segments(bench: Bench) -> None:
    """Compare the same records in many segments and in fifty."""
    records = min(bench.records, 2_000_000)
    segments = effort(20_000, 200)
    shapes = {"many": Shape(records, segments), "few": Shape(records, min(50, segments // 4))}
    written = {name: write_log(bench.directory / name, shape) for name, shape in shapes.items()}
    takes: dict[str, _Take] = {
        name: lambda name=name: bench.command("verify", bench.directory / name, "--json")  # type: ignore[misc]  # bound
        for name in shapes
    }
    manifest = written["many"].directory / "manifest.json"
    taken = _alternate(bench, takes)
    doctor = bench.command("doctor", bench.directory / "many", "--json")
    show(
        f"scale: {records:,} records in {segments:,} segments",
        [
            _ratio_row(f"verify, {segments:,} segments / {shapes['few'].segments}", taken, "many", "few", ceiling=1.3),
            _time_row("doctor", [doctor]),
            row_of("manifest.json", [manifest.stat().st_size / 1e6], "MB", "replaced whole with each seal", digits=1),
        ],
    )
    for name in shapes:
        shutil.rmtree(bench.directory / name)


def _many_logs(bench: Bench) -> None:
    """Run the commands over many logs with few descriptors."""
    count = effort(10_000, 40)
    base_dir = bench.directory / "logs"
    logs = write_logs(base_dir, count)
    most_mebibytes = (150e6 + count * (16 << 10)) / (1 << 20)
    questions = {
        "hold show": ("hold", "show", base_dir, "--json"),
        "doctor": ("doctor", base_dir, "--json"),
        "retention": ("retention", base_dir, "--json"),
        "tail": ("tail", base_dir, "-n", "10", "--json"),
        "query, in the order of time": ("query", base_dir, "--actor", "user-0000001", "--json"),
        "query, newest first": ("query", base_dir, "--actor", "user-0000001", "--newest-first", "--json"),
        "stats": ("stats", base_dir, "--json"),
        "verify": ("verify", base_dir, "--json"),
        "export, NDJSON": ("export", base_dir, bench.directory / "logs.ndjson", "--json"),
        "export, Parquet": ("export", base_dir, bench.directory / "logs.parquet", "--json"),
    }
    rows = []
    for name, arguments in questions.items():
        try:
            ran = bench.command(*arguments, descriptors=_FEW_DESCRIPTORS)
        except (TooSlow, RuntimeError) as error:
            rows.append(Row(f"{name}: memory", "FAILED", " ".join(str(error).split())[-300:]))
            continue
        compared = f"{ran.seconds:.1f} s; at most 150 MB and 16 KiB a log"
        rows.append(row_of(f"{name}: memory", [ran.mebibytes], "MiB", compared, ceiling=round(most_mebibytes)))
    total = sum(log.records for log in logs)
    show(f"scale: {count:,} logs, {total:,} records, {_FEW_DESCRIPTORS} descriptors", rows)
    shutil.rmtree(base_dir)


def run() -> None:
    """Measure and print; `BENCH_SCALE_RECORDS` is what `--records` says."""
    records = int(os.environ.get("BENCH_SCALE_RECORDS", effort(10_000_000, 20_000)))
    parts = {"trail": _long_trail, "segments": _many_segments, "logs": _many_logs}
    wanted = os.environ.get("BENCH_SCALE_PARTS", ",".join(parts)).split(",")
    if unknown := set(wanted) - parts.keys():
        raise SystemExit(f"BENCH_SCALE_PARTS: no part is called {min(unknown)!r}; there are {', '.join(parts)}")
    with work_directory() as directory:
        require_room(directory, records, trails=3.5)  # with its index, exports, and a database of it
        bench = Bench(directory, records)
        for name in wanted:
            parts[name](bench)


def _long_trail(bench: Bench) -> None:
    """Measure one long trail, the memory against one a tenth as long, and verifying what is new."""
    small = Questions(bench, "short", bench.records // 10)
    large = _one_trail(bench, bench.records)
    _memory(small, large)
    _incremental(bench, large)
    for asked in (small, large):
        shutil.rmtree(asked.base_dir)


def require_room(directory: Path, records: int, *, trails: float) -> None:
    """End with a message if the disk has no room for so many times a trail of `records`."""
    needed = int(trails * records * _RECORD_BYTES) + (2 << 30)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SystemExit(
            f"{records:,} records need {needed / 1e9:,.0f} GB at {directory}, and {free / 1e9:,.0f} GB are free; set "
            "BENCH_DIR to a larger disk, or give fewer --records"
        )
