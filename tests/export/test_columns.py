"""The columns of tables say what the recorded JSON says, for every event, whatever it holds, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from audit_async import AuditConfig, AuditLogger, Local
from audit_async._export import columns, formats
from audit_async._export.columns import COLUMNS, columns_of
from audit_async._export.record_blocks import RecordBlock, blocks_of
from audit_async._query.audit_query import AuditQuery
from audit_async._query.recorded_members import actors_of, ips_of, outcomes_of, paths_of, resources_of
from audit_async._query.segment_scan import Damage
from audit_async._sanitize.unsafe_text import UNSAFE
from audit_async._trail.log_files import find_logs
from audit_async.events import AuditEvent
from audit_async.events.base import encode
from audit_async.events.recorded import event_members
from audit_async.reader import AuditReader, ExportFailed
from tests.cli.made_trails import HOSTILE, make_trail
from tests.events.test_decoding import JSON, TEXTS
from tests.events.test_events import BUILT_IN, LIFECYCLE, any_event

NAMES: Final = (
    "actor", "user_id", "actor_id", "attempted_user", "requester", "resource", "resource_id", "pool_id", "subject",
    "model_ref", "ip", "method", "path", "route", "endpoint", "status", "outcome", "result", "event_type", "note",
)  # fmt: skip
VALUES = (
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.sampled_from([1, 1.0, True, 404, 404.0, "404", 500.0])
    | st.sampled_from(["success", "failure", "completed", "failed", "http.request", "auth.success", "NaN", HOSTILE])
    | st.dictionaries(st.sampled_from(["user_id", "ip", "tenant", "resource_id", "parent_id", "status"]), JSON)
    | JSON
)  # fmt: skip
EVENTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8)


def blocks_in(base_dir: Path) -> list[RecordBlock]:
    """Return all records of a trail."""
    found = blocks_of(find_logs(base_dir), AuditQuery(), Damage(skip=False), use_index=False)
    return [block for block in found if block is not None]


def exported(base_dir: Path, name: str) -> bytes:
    """Return a trail as a table."""
    file = io.BytesIO()
    table = formats.begin(name, file, raw_cells=True)  # type: ignore[arg-type]  # one of its names
    for block in blocks_in(base_dir):
        table.write(block)
    table.close()
    return file.getvalue()


def expected_row(line: bytes) -> dict[str, Any]:
    """Return what a table has to say of a line, from the line's own JSON and the functions that a query decides by."""
    record = json.loads(line)
    event, context = record["event"], record.get("context", {})
    outcomes = list(outcomes_of(event))
    named = [one for one in outcomes if one in {"success", "failure"}]
    status = event.get("status")
    is_status = isinstance(status, int) and not isinstance(status, bool) and -(2**63) <= status < 2**63
    method = event.get("method")
    is_number = isinstance(method, int) and not isinstance(method, bool) and -(2**63) <= method < 2**64
    actor = event.get("actor")
    return {
        **{name: record[name] for name in ("seq", "audit_id", "timestamp", "service_id", "prev_hash", "hash")},
        "log": "orders/00",
        "instance": "00",
        "event_type": event["event_type"] if isinstance(event.get("event_type"), str) else "",
        "actor": next(actors_of(event), None),
        "resource": next(resources_of(event), None),
        "ip": next(ips_of(event), None),
        "method": method if isinstance(method, str) else str(method) if is_number else None,
        "path": next(paths_of(event), None),
        "status": status if is_status else None,
        "outcome": next(iter(named or outcomes), None),
        "request_id": context.get("request_id"),
        "trace_id": context.get("trace_id"),
        "tenant": context.get("tenant") or (actor.get("tenant") if isinstance(actor, dict) else None),
    }


def assert_says_what_was_recorded(rows: list[dict[str, Any]], lines: list[bytes]) -> None:
    """Compare rows with lines: the columns, and the JSON of event and context byte for byte."""
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        event, context = row.pop("event"), row.pop("context")
        middle = f',"context":{context}' if context else ""
        assert f'"event":{event}{middle},"prev_hash":'.encode() in line
        assert row == expected_row(line)


@pytest.mark.parametrize("cls", BUILT_IN + LIFECYCLE)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_parquet_says_of_every_event_what_was_recorded(cls: type[AuditEvent], data: st.DataObject) -> None:
    """Read by pyarrow, with texts of any kind, each built-in event has the columns that its JSON has."""
    events: list[AuditEvent] = data.draw(st.lists(any_event(cls, TEXTS, JSON), min_size=1, max_size=3))
    with TemporaryDirectory() as directory:
        chain = make_trail(Path(directory), [encode(event) for event in events])
        rows = parquet.read_table(io.BytesIO(exported(Path(directory), "parquet"))).to_pylist()
        for row in rows:
            row["timestamp"] = f"{row['timestamp']:%Y-%m-%dT%H:%M:%S.%fZ}"
        assert_says_what_was_recorded(rows, chain.lines)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=6))
def test_columns_are_what_a_query_decides(events: list[dict[str, Any]]) -> None:
    """Members of any type, in any order: the columns are the first that a query would find the record under."""
    with TemporaryDirectory() as directory:
        chain = make_trail(Path(directory), [msgspec.json.encode(event) for event in events])
        (block,) = blocks_in(Path(directory))
        values = columns_of(block)
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        for row in rows:
            row["event"] = bytes(row["event"]).decode()
        for row, line in zip(rows, chain.lines, strict=True):
            expected = expected_row(line)
            del row["event"], row["context"], row["tenant"], expected["tenant"]
            assert row == expected
            assert [type(value) for value in row.values()] == [type(expected[name]) for name in row]


def test_context_and_tenant(tmp_path: Path) -> None:
    """What was bound is in columns; the context's tenant counts before the actor's."""
    events = [
        b'{"event_type":"a.b","actor":{"user_id":"u","tenant":"t1"}},"context":{"tenant":"t2","request_id":"r"}',
        b'{"event_type":"a.b","actor":{"user_id":"u","tenant":"t1"}},"context":{"trace_id":"x","request_id":7}',
        b'{"event_type":"a.b","actor":"u"},"context":{"tenant":["t"],"request_id":null}',
        b'{"event_type":"a.b"}',
    ]
    make_trail(tmp_path, events)
    table = parquet.read_table(io.BytesIO(exported(tmp_path, "parquet")))
    assert table.column("tenant").to_pylist() == ["t2", "t1", None, None]
    assert table.column("request_id").to_pylist() == ["r", "7", None, None]
    assert table.column("trace_id").to_pylist() == [None, "x", None, None]
    assert table.column("context").to_pylist() == [
        '{"tenant":"t2","request_id":"r"}',
        '{"trace_id":"x","request_id":7}',
        '{"tenant":["t"],"request_id":null}',
        None,
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_csv_says_the_same_as_parquet(events: list[dict[str, Any]]) -> None:
    """But for what would mislead, which is escaped; and JSON says the same after it was decoded."""
    with TemporaryDirectory() as directory:
        make_trail(Path(directory), [msgspec.json.encode(event) for event in events])
        in_parquet = parquet.read_table(io.BytesIO(exported(Path(directory), "parquet"))).to_pylist()
        text = exported(Path(directory), "csv").decode()
    in_csv = list(csv.DictReader(io.StringIO(text, newline="")))
    for row, expected in zip(in_csv, in_parquet, strict=True):
        assert datetime.fromisoformat(row.pop("timestamp")) == expected.pop("timestamp")
        assert json.loads(row.pop("event")) == json.loads(expected.pop("event"))
        for name, value in row.items():
            shown = "" if expected[name] is None else str(expected[name])
            assert value == shown or "\\" in value
            assert UNSAFE.search(value) is None
            assert "\n" not in value


def test_parquet_says_what_it_is(tmp_path: Path) -> None:
    """The metadata names each log, the stretch that was exported, and that nobody has verified it."""
    chain = make_trail(tmp_path, [b'{"event_type":"a.b"}'] * 5)
    file = parquet.ParquetFile(io.BytesIO(exported(tmp_path, "parquet")))
    contents = json.loads(file.metadata.metadata[b"audit_async"])
    (log,) = find_logs(tmp_path)
    assert (contents["format_version"], contents["verified"]) == (1, False)
    assert "verify" in contents["note"]
    assert contents["logs"] == [
        {
            "log": "orders/00",
            "log_id": log.log_id,
            "records": 5,
            "first_seq": 0,
            "last_seq": 4,
            "last_hash": chain.head.hash.decode(),
        }
    ]
    assert tuple(file.schema_arrow.names) == tuple(column.name for column in COLUMNS)


@pytest.mark.anyio
async def test_record_batches(tmp_path: Path, anyio_backend: object) -> None:
    """From Python the records come as Arrow batches with the same columns, and who asked is recorded."""
    chain = make_trail(tmp_path / "t", [b'{"event_type":"a.b"}', b'{"event_type":"c.d"}'] * 2000)
    query = AuditQuery(event_types=("a.b",))
    async with AuditLogger(AuditConfig(mode=Local(tmp_path / "own"), service_id="own")) as audit:
        reader = AuditReader(tmp_path / "t")
        batches = [batch async for batch in reader.record_batches(query, audit=audit, accessed_by="ann")]
    assert [name for batch in batches for name in batch.column("hash").to_pylist()] == [
        head.hash.decode() for head in chain.heads[::2]
    ]
    assert batches[0].schema.names == [column.name for column in COLUMNS]
    (access,) = [
        record async for record in AuditReader(tmp_path / "own").query(AuditQuery(event_types=("audit.log_accessed",)))
    ]
    members = event_members(access.event)
    assert (members["actor"], members["records"]) == ("ann", 2000)
    assert members["query"] == {"event_types": ["a.b"], "export": "arrow"}


@pytest.mark.anyio
async def test_record_batches_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    make_trail(tmp_path / "t", [b'{"event_type":"a.b"}'])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "audit_async._export.arrow_batches", raising=False)
    with pytest.raises(ExportFailed, match="pip install"):
        async for _ in AuditReader(tmp_path / "t").record_batches():
            pass


class _EmptiedMeanwhile(dict[tuple[object, ...], str | None]):
    """A cache that another thread finds full, and empties, whenever somebody has looked into it."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        self.clear()
        return found


def test_a_cache_that_another_thread_empties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two exports in one process share what was found out about outcomes; neither fails because of the other."""
    monkeypatch.setattr(columns, "_outcomes", _EmptiedMeanwhile())
    for _ in range(2):
        assert columns._outcome_of({"event_type": "auth.success", "outcome": "success"}) == "success"
