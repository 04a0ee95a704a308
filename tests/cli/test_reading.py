"""`query`, `tail`, `show`, `stats` and `export`: what is shown is what was asked for, and who asked is recorded."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async._query.record_counts import Frequencies
from audit_async._query.record_summary import details_of
from audit_async.events.registry import known_types
from tests.chain.test_chain import resealed
from tests.cli.commands import COMMAND, OWN_SEQUENCES, Audit, environment, run_on_terminal
from tests.cli.made_trails import erasure, failure, make_trail
from tests.cli.running_service import running_service
from tests.processes import started
from tests.query.test_unfinished import leave as leave_transactions
from tests.store.chained import Chain
from tests.trail.written import WrittenLog


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """The chain of a log of the service `orders` in `t`: 30 log-in failures and 10 erasures, one a minute."""
    events = [erasure(f"c-{n}") if n % 4 == 3 else failure(("bob", "eve")[n % 2], n) for n in range(40)]
    return make_trail(tmp_path / "t", events, max_bytes=4000, step_ns=60 * 10**9)


def seqs(rows: list[dict[str, object]]) -> list[object]:
    """Return the sequence numbers of rows."""
    return [row["seq"] for row in rows]


def test_an_address_is_shown_once() -> None:
    """A request from where its actor is has one address; another address of the actor is shown as well."""
    event: dict[str, object] = {
        "event_type": "http.request",
        "ip": "203.0.113.9",
        "actor": {"user_id": "ann", "ip": "203.0.113.9"},
    }
    assert details_of(event) == ("ip=203.0.113.9",)
    event["actor"] = {"user_id": "ann", "ip": "203.0.113.10"}
    assert details_of(event) == ("ip=203.0.113.9", "ip=203.0.113.10")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--actor", "eve"], [n for n in range(40) if n % 2 and n % 4 != 3]),
        (["--resource", "c-7"], [7]),
        (["--type", "data.*", "--limit", "2"], [3, 7]),
        (["--type", "data.*", "--type", "auth.*", "--limit", "3"], [0, 1, 2]),
        (["--critical", "--limit", "3", "--newest-first"], [38, 37, 36]),
        (["--not-critical", "--after-seq", "30"], [31, 35, 39]),
        (["--text", "/3"], [30, 32, 33, 34, 36, 37, 38]),
        (["--since", "2026-11-22T12:10:00Z", "--until", "2026-11-22T12:12:00Z"], [10, 11]),
        (["--since", "2026-11-22", "--until", "2026-11-22", "--limit", "1"], [0]),
        (["--context", "tenant=acme"], []),
        (["--actor", "eve", "--no-index", "--limit", "1"], [1]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_query(options: list[str], expected: list[int], chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """Each option of a query leaves out what it says."""
    ended = audit("query", tmp_path / "t", *options, "--json")
    assert ended.status == 0
    assert seqs(ended.rows) == expected


#: Events with what the options of a query ask for, as JSON.
WEB: list[dict[str, Any]] = [
    {"event_type": "http.request", "path": "/a/1", "route": "/a/{n}", "status": 200, "actor": {"user_id": "ann"}},
    {"event_type": "http.request", "path": "/a/2", "status": 404, "ip": "203.0.113.9"},
    {"event_type": "http.request", "path": "/b*", "status": 503, "ip": "203.0.113.77", "outcome": "failed"},
    {"event_type": "auth.failure", "attempted_user": "ann*", "reason": "bad", "ip": "2001:db8::1", "path": "/login"},
    {"event_type": "user.updated", "actor": {"user_id": "bob"}, "changes": {"e.mail": {"before": 1, "after": "x=y"}}},
    {"event_type": "task.completed", "task_id": "svc-7", "worker_id": "w", "result": {"status": "success"}},
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ip", "203.0.113.9"], [1]),
        (["--ip", "203.0.113.0/24"], [1, 2]),
        (["--ip", "2001:0db8::1"], [3]),
        (["--path", "/a/1"], [0]),
        (["--path", "/a/{n}"], [0]),
        (["--path", "/a/*"], [0, 1]),
        (["--path", "/b[*]"], [2]),
        (["--status", "200"], [0]),
        (["--status", "4xx,503"], [1, 2]),
        (["--status", "400-499"], [1]),
        (["--outcome", "success"], [0, 5]),
        (["--outcome", "failure"], [1, 2, 3]),
        (["--outcome", "completed"], [0, 1]),
        (["--actor", "a*"], [0, 3]),
        (["--actor", "ann"], [0]),
        (["--actor", "ann[*]"], [3]),
        (["--resource", "svc-?"], [5]),
        (["--field", "changes.e.mail.after=x=y"], [4]),
        (["--field", "event.changes.e.mail.before=1", "--field", "actor.user_id=bob"], [4]),
        (["--field", "actor.user_id=bob", "--field", "actor.user_id=ann"], []),
        (["--outcome", "failure", "--ip", "203.0.113.0/24", "--status", "5xx"], [2]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_query_by_what_a_request_says(options: list[str], expected: list[int], tmp_path: Path, audit: Audit) -> None:
    """Address, path, status, outcome and any member are asked for by an option each; all of them must hold."""
    make_trail(tmp_path / "t", [json.dumps(event).encode() for event in WEB])
    ended = audit("query", tmp_path / "t", *options, "--json")
    assert ended.status == 0
    assert seqs(ended.rows) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--status", "teapot"], "--status is none such as 404, 5xx or 400-499"),
        (["--ip", "203.0.113.0/99"], "--ip is neither an address nor a network"),
        (["--field", "actor"], "--field: 'actor' is not NAME=VALUE"),
        (["--context", "tenant=a", "--context", "tenant=b"], "--context: 'tenant' is given twice"),
    ],
)
def test_a_question_that_cannot_be_meant(
    options: list[str], words: str, chain: Chain, tmp_path: Path, audit: Audit
) -> None:
    """A value that no record can have is wrong usage, and the message names the option."""
    ended = audit("query", tmp_path / "t", *options)
    assert ended.status == 2
    assert words in " ".join(ended.err.replace("│", " ").split())


def test_query_for_a_program(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A line of NDJSON has all that was recorded, in its order, and the log's name."""
    (row,) = audit("query", tmp_path / "t", "--limit", "1", "--json").rows
    recorded = json.loads(chain.lines[0])
    assert row == {"log": "orders/00", **recorded}
    assert list(row)[1:] == list(recorded)


def test_query_for_a_person(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """Below a head, a line has time, place, type, who, on what, the result and the rest; in a pipe it is whole."""
    ended = audit("query", tmp_path / "t", "--limit", "2")
    assert ended.err == "2 records\n"
    head, first, second = ended.out.splitlines()
    assert head.split() == ["time", "seq", "type", "actor", "target", "result", "details"]
    assert first.split() == [
        "2026-11-22", "12:00:00", "0", "auth.failure", "bob", "/0", "failure", "ip=203.0.113.9", "reason=bad"
    ]  # fmt: skip
    assert second.index("auth.failure") == first.index("auth.failure") == head.index("type")
    assert audit("query", tmp_path / "t", "--actor", "nobody").out == ""


def test_what_a_line_shows(tmp_path: Path, audit: Audit) -> None:
    """Method and path, the resource with its type, status and outcome, and a change as before and after are shown."""
    shown = [*WEB, {"event_type": "x.y", "resource": {"resource_type": "doc", "resource_id": "d1"}, "method": "sso"}]
    shown[0] = shown[0] | {"method": "GET", "user_agent": "a b" * 40}
    shown.append({"event_type": "x.z", "actor": {"user_id": [1]}, "status": {"a": 1}, "result": [2], "outcome": 2.5})
    make_trail(tmp_path / "t", [json.dumps(event).encode() for event in shown])
    _, *lines = audit("query", tmp_path / "t").out.splitlines()
    for line, words in zip(
        lines,
        [
            ["ann", "GET /a/1", " 200 ", "a b" * 40],
            [" - ", "/a/2", " 404 ", "ip=203.0.113.9"],
            ["/b*", "503, failed"],
            ["ann*", "/login", "failure", "reason=bad"],
            ["bob", "e.mail: 1 -> x=y"],
            ["svc-7", "success", "worker_id=w"],
            ["doc/d1", "method=sso"],
            ["user_id=[1]", 'status={"a":1}', "result=[2]", "outcome=2.5"],
        ],
        strict=True,
    ):
        assert [word for word in words if word not in line] == [], line


def test_columns(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """`--columns` shows these parts and members only: with tabs in a pipe, aligned on a terminal, or as JSON."""
    chosen: list[str | Path] = [
        "query",
        tmp_path / "t",
        "--limit",
        "4",
        "--columns",
        "seq,actor,event.path, resource,data_types,timestamp",
    ]
    assert audit(*chosen).out.splitlines()[::4] == [
        "seq\tactor\tevent.path\tresource\tdata_types\ttimestamp",
        "3\t\t\tc-3\torders\t2026-11-22T12:03:00.000000Z",
    ]
    assert audit(*chosen, "--json").rows[::3] == [
        {"seq": 0, "actor": "bob", "event.path": "/0", "resource": None, "data_types": None,
         "timestamp": "2026-11-22T12:00:00.000000Z"},
        {"seq": 3, "actor": None, "event.path": None, "resource": "c-3", "data_types": "orders",
         "timestamp": "2026-11-22T12:03:00.000000Z"},
    ]  # fmt: skip
    assert audit("tail", tmp_path / "t", "-n", "1", "--columns", "seq").out == "seq\n39\n"
    _, written = run_on_terminal(*chosen, columns=80, NO_COLOR="1")
    head, *rows = OWN_SEQUENCES.sub(b"", written).decode().splitlines()[:5]
    assert {row.index("2026-11-22T12:0") for row in rows} == {head.index("timestamp")}
    ended = audit("query", tmp_path / "t", "--columns", "seq,,actor")
    assert ended.status == 2
    assert "empty name" in ended.err


def test_wide_cuts_nothing(tmp_path: Path) -> None:
    """On a terminal a long value is cut with an ellipsis, and with `--wide` shown whole."""
    make_trail(tmp_path / "t", [failure("bob" * 40)])
    for columns in (80, 140):
        cut, whole = (
            OWN_SEQUENCES.sub(b"", run_on_terminal("query", tmp_path / "t", *wide, columns=columns, NO_COLOR="1")[1])
            for wide in ([], ["--wide"])
        )
        assert "…" in cut.decode()
        assert b"bob" * 40 in whole
        assert "…" not in whole.decode()


def test_a_value_is_cut_at_its_column_s_width(tmp_path: Path) -> None:
    """On a terminal that is wide enough, a column that was asked for is whole, however long its values are."""
    chain = make_trail(tmp_path / "t", [failure("bob" * 30)])
    _, written = run_on_terminal("query", tmp_path / "t", "--columns", "hash,event.attempted_user", columns=200)
    assert chain.head.hash in written
    assert b"bob" * 30 in written


def test_count(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """`--count` says how many records there are of each log and in all, and the access is recorded as such."""
    trail = tmp_path / "t"
    assert audit("query", trail, "--count").out == "40 records\n"
    make_trail(trail, [failure("bob"), failure("eve")], instance="01")
    make_trail(trail, [erasure("c-1")], instance="02")
    ended = audit("query", trail, "--service", "orders", "--count", "--actor", "bob", "--as", "joe")
    assert ended.out == "orders/00: 20 records\norders/01: 1 record\n21 records\n"
    assert ended.err == "1 log without any\n"
    document = audit("query", trail, "--service", "orders", "--count", "--actor", "bob", "--json").document
    assert document == {
        "records": 21,
        "logs": [
            {"name": "orders/00", "records": 20},
            {"name": "orders/01", "records": 1},
            {"name": "orders/02", "records": 0},
        ],
    }
    assert accesses(trail, audit) == [{"actor": "joe", "query": {"actor": "bob", "count": True}, "records": 21}]
    assert audit("query", trail, "--service", "orders", "--count", "--limit", "41", "--json").document["records"] == 41
    assert audit("query", trail, "--count", "--wide").status == 2


def test_the_longest_type_keeps_the_columns(tmp_path: Path, audit: Audit) -> None:
    """Where nothing cuts the lines, there is room for every type that the library has."""
    longest = max(known_types(), key=len)
    event = {"event_type": f"foreign.{'x' * (len(longest) - 8)}", "actor": "bob"}
    make_trail(tmp_path / "t", [failure("bob"), json.dumps(event).encode()])
    _, first, second = audit("query", tmp_path / "t").out.splitlines()
    assert first.index("bob") == second.index("bob")


def test_several_logs_name_the_log(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """Where there are several logs, each line says of which it is."""
    make_trail(tmp_path / "t", [failure("mallory")], instance="01")
    out = audit("query", tmp_path / "t", "--actor", "mallory").out
    assert "orders/01:0" in out
    assert "orders/01:0" not in audit("query", tmp_path / "t", "--instance", "01").out


def accesses(trail: Path, audit: Audit) -> list[dict[str, object]]:
    """Return what was recorded in the log of `audit-cli` of who read what, without `event_type`."""
    rows = audit("query", trail, "--service", "audit-cli", "--type", "audit.log_accessed", "--json").rows
    return [{name: value for name, value in row["event"].items() if name != "event_type"} for row in rows]


def test_who_reads_is_recorded(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """With `--as` the access stands in the log of audit-cli beside the trail: who, what was asked, how many came."""
    trail = tmp_path / "t"
    audit("query", trail, "--service", "orders", "--actor", "bob", "--as", "joe")
    audit("show", "7", trail, "--log", "orders/00", "--as", "joe")
    audit("export", trail, tmp_path / "out.csv", "--service", "orders", "--limit", "4", "--as", "jane")
    audit("tail", trail, "--service", "orders", "-n", "2", "--as", "jane")
    assert accesses(trail, audit) == [
        {"actor": "joe", "query": {"actor": "bob"}, "records": 20},
        {"actor": "joe", "query": {"seq": 7, "log": "orders/00"}, "records": 1},
        {"actor": "jane", "query": {"limit": 4, "export": "csv"}, "records": 4},
        {"actor": "jane", "query": {"limit": 2, "newest_first": True}, "records": 2},
    ]
    assert audit("verify", trail).status == 0


def test_without_a_name_nothing_is_recorded(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """Without `--as` a command writes no log, as its help says."""
    for command in ("query", "stats", "tail", "verify"):
        audit(command, tmp_path / "t")
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["orders"]
    assert "Without it nothing is recorded" in " ".join(audit("query", "--help").out.replace("│", " ").split())


def test_the_access_is_recorded_elsewhere(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """`--access-log` names another base directory for the record of the access."""
    audit("query", tmp_path / "t", "--as", "joe", "--access-log", tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["orders"]
    assert len(accesses(tmp_path / "elsewhere", audit)) == 1


@pytest.mark.parametrize("command", [["query"], ["tail"], ["show", "7"], ["export"]], ids=lambda value: value[0])
def test_an_access_that_would_not_be_recorded_is_refused(
    command: list[str], chain: Chain, tmp_path: Path, audit: Audit
) -> None:
    """Whoever names a log for the access but nobody who has it, or a name that is none, reads nothing."""
    target = [tmp_path / "out.csv"] if command == ["export"] else []
    for options in (["--access-log", tmp_path / "elsewhere"], ["--as", ""], ["--as", " "]):
        ended = audit(*command, tmp_path / "t", *target, *options)
        assert (ended.status, ended.out) == (2, "")
        assert "--as" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["orders"]


def test_who_cannot_be_recorded_reads_nothing(
    chain: Chain, tmp_path: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the access can't be recorded, nothing is shown."""
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    for arguments in (["query"], ["tail"]):
        ended = audit(*arguments, tmp_path / "t", "--as", "joe")
        assert (ended.status, ended.out) == (3, "")
        assert "Run the command as the owner" in ended.err


def test_show(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A record is shown with every member, its place, and the hashes of its neighbours."""
    document = audit("show", "7", tmp_path / "t", "--json").document
    assert document["record"] == {"log": "orders/00", **json.loads(chain.lines[7])}
    assert document["previous"] == {"seq": 6, "hash": chain.heads[6].hash.decode()}
    assert document["next"] == {"seq": 8, "hash": chain.heads[8].hash.decode()}
    assert document["is_linked"] is True
    out = audit("show", "7", tmp_path / "t").out
    for text in ("event.customer_id", "c-7", chain.heads[7].hash.decode(), chain.heads[8].hash.decode(), "linked"):
        assert text in out
    assert audit("show", json.loads(chain.lines[7])["audit_id"], tmp_path / "t", "--json").document == document


def test_show_what_is_not_there(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A record that is not there is status 3; one of several logs needs the log's name, status 2."""
    assert audit("show", "4000", tmp_path / "t").status == 3
    make_trail(tmp_path / "t", [failure("mallory")], instance="01")
    ended = audit("show", "0", tmp_path / "t")
    assert ended.status == 2
    assert "orders/01" in ended.err


def test_show_what_is_not_linked(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A genuine record whose neighbour is another one is a finding."""
    last = max((tmp_path / "t" / "orders" / "00").glob("*.audit"))
    lines = last.read_bytes().splitlines(keepends=True)
    changed = lines[0].replace(b'"reason":"bad"', b'"reason":"bax"').replace(b"gdpr_art_17", b"gdpr_art_18")
    lines[0] = resealed(changed)
    last.write_bytes(b"".join(lines))
    second = json.loads(lines[1])["seq"]
    ended = audit("show", str(second), tmp_path / "t")
    assert ended.status == 1
    assert "not linked" in ended.out
    assert audit("show", str(second), tmp_path / "t", "--json").document["is_linked"] is False
    assert audit("show", str(second + 1), tmp_path / "t").status == 0


def test_tail(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """`tail` shows the last records, the newest at the end."""
    assert seqs(audit("tail", tmp_path / "t", "-n", "3", "--json").rows) == [37, 38, 39]
    assert len(audit("tail", tmp_path / "t").out.splitlines()) == 11, "ten records below a head"
    assert audit("tail", tmp_path / "t", "-n", "0").out == ""
    assert seqs(audit("tail", tmp_path / "t", "-n", "1", "--actor", "bob", "--json").rows) == [38]


def test_tail_follows_a_running_service(tmp_path: Path) -> None:
    """`tail -f` shows each record soon after it was written, also through a pipe."""
    tail = [*COMMAND, "tail", "-f", str(tmp_path / "t"), "-n", "1", "--json"]
    with (
        running_service(tmp_path / "t") as service,
        started(tail, stdout=subprocess.PIPE, text=True, env=environment()) as process,
    ):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["seq"] == 1
        for n in range(5):
            seq = service.emit(f"more {n}")
            row = json.loads(process.stdout.readline())
            assert (row["seq"], row["event"]["producer"]) == (seq, f"more {n}")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


def test_stats(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """Events are counted by type, actor and hour of the day."""
    make_trail(tmp_path / "t", [failure("eve")] * 5, instance="01", step_ns=3600 * 10**9)
    assert audit("stats", tmp_path / "t", "--json", "--top", "1").document == {
        "records": 45,
        "critical": 35,
        "first": "2026-11-22T12:00:00.000000Z",
        "last": "2026-11-22T16:00:00.000000Z",
        "logs": [{"name": "orders/00", "records": 40}, {"name": "orders/01", "records": 5}],
        "types": {"top": [{"name": "auth.failure", "records": 35}], "others": 10, "uncertain": 0},
        "actors": {"top": [{"name": "bob", "records": 20}], "others": 25, "uncertain": 0},
        "hours": [0] * 12 + [41, 1, 1, 1, 1] + [0] * 7,
    }
    filtered = audit("stats", tmp_path / "t", "--json", "--actor", "eve", "--since", "2026-11-22T13:00:00Z").document
    assert filtered["records"] == 4


def test_stats_are_the_same_however_they_are_counted(tmp_path: Path, audit: Audit) -> None:
    """By the segment or by the record, in one process or several, from archives and from the active segment."""
    for instance in ("00", "01"):
        log = WrittenLog(tmp_path, instance)
        for n in range(60):
            event: dict[str, object] = {"event_type": f"test.t{n % 3}", "n": n}
            event |= ({"actor": {"user_id": f"u{n % 7}"}}, {"user_id": 7}, {"actor": None}, {"set_by": "ann"})[n % 4]
            log.write(event, step_ns=600 * 10**9)
        log.archive(log.sealed()[::2])
        log.close()
    counted = audit("stats", tmp_path, "--json", "--top", "100").document
    assert counted["records"] == 120
    assert {named["name"] for named in counted["actors"]["top"]} >= {"u0", "7", "ann", "(nobody)"}
    for options in (["--jobs", "2"], ["--since", "2000-01-01"], ["--type", "test.*"]):
        assert audit("stats", tmp_path, "--json", "--top", "100", *options).document == counted


def test_stats_name_a_segment_that_is_damaged(tmp_path: Path, audit: Audit) -> None:
    """Counting by the segment hides nothing that counting by the record would report."""
    log = WrittenLog(tmp_path)
    log.write(*({"event_type": "test.a", "user_id": f"u{n}"} for n in range(40)))
    damaged = log.directory / log.sealed()[1]
    log.close()
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes().replace(b'"user_id":"u1', b'"user_id":"v1'))
    result = audit("stats", tmp_path)
    assert result.status != 0
    assert damaged.name in result.err


def test_stats_of_more_logs_than_files_may_be_open(tmp_path: Path) -> None:
    """Logs are counted one after the other, also by record."""
    for n in range(80):
        log = WrittenLog(tmp_path, f"{n:02}")
        log.write({"event_type": "test.a", "user_id": "eve"})
        log.close()
    for options in ("", "--actor eve"):
        command = f"ulimit -n 48; exec {sys.executable} -m audit_async.cli stats {tmp_path} --json {options}"
        done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=120)
        assert json.loads(done.stdout)["records"] == 80


def test_stats_are_a_chart(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """For a person the counts are bars, the longest for the most frequent, as wide as the terminal lets them be."""
    _, written = run_on_terminal("stats", tmp_path / "t", columns=80, NO_COLOR="1")
    lines = {line.split()[0]: line for line in written.decode().splitlines() if "█" in line}
    bars = {name: line.count("█") for name, line in lines.items()}
    assert bars["auth.failure"] == pytest.approx(3 * bars["data.deleted"], abs=2)
    assert bars["bob"] == pytest.approx(2 * bars["eve"], abs=2)
    assert len(lines["auth.failure"].rstrip()) in range(76, 81)
    assert audit("stats", tmp_path / "t", "--type", "auth.success").out == "No records.\n"


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30)), st.integers(1, 5))
def test_counting_in_bounded_memory(names: list[int], kept: int) -> None:
    """However many names come, the sum is exact and no count is wrong by more than what is said."""
    counted, exact = Frequencies(kept=kept), Counter(map(str, names))
    for number in names:
        counted.add(str(number))
        assert len(counted._counts) <= 2 * kept
    top, others = counted.top(len(names) + 1)
    assert sum(count for _, count in top) + others == len(names)
    for name, count in top:
        assert exact[name] - counted.uncertain <= count <= exact[name]
    if counted.uncertain == 0:
        assert dict(top) == exact


@pytest.mark.parametrize(
    ("name", "first_bytes"), [("out.ndjson", b'{"seq":0,'), ("out.jsonl", b'{"seq":0,'), ("out.csv", b"seq,log,"),
                              ("out.parquet", b"PAR1"), ("out.zip", b"PK")],
)  # fmt: skip
def test_export_by_the_file_s_name(name: str, first_bytes: bytes, chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """The file's ending says what is written; the report says how much, and the file's SHA-256."""
    document = audit("export", tmp_path / "t", tmp_path / name, "--json").document
    content = (tmp_path / name).read_bytes()
    assert content.startswith(first_bytes)
    assert (document["records"], document["bytes"]) == (40, len(content))
    shown = audit("export", tmp_path / "t", tmp_path / name, "--force")
    assert shown.status == 0
    assert "40 records" in shown.out
    assert "SHA-256" in shown.out


def test_export_options(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """The format may be named, nothing is overwritten unasked, and cells are raw only on demand."""
    make_trail(tmp_path / "t", [failure("=1+1")], instance="01")
    target = tmp_path / "out.dat"
    arguments: list[str | Path] = ["export", tmp_path / "t", target, "--format", "csv", "--instance", "01"]
    assert audit(*arguments).status == 0
    assert "'=1+1" in target.read_text()
    ended = audit(*arguments)
    assert ended.status == 3
    assert "--force" in ended.err
    nowhere = audit("export", tmp_path / "t", tmp_path / "new" / "out.csv")
    assert nowhere.status == 3
    assert (
        nowhere.err
        == f"audit-async: {tmp_path / 'new'} is no directory that is there; make it, or choose another place\n"
    )
    assert audit(*arguments, "--force", "--raw").status == 0
    (row,) = csv.DictReader(io.StringIO(target.read_text(), newline=""))
    assert row["actor"] == "=1+1"


def test_export_of_evidence(chain: Chain, tmp_path: Path, audit: Audit) -> None:
    """A bundle made by the command has the records that were asked for."""
    assert audit("export", tmp_path / "t", tmp_path / "e.zip", "--actor", "eve").status == 0
    with zipfile.ZipFile(tmp_path / "e.zip") as bundle:
        assert bundle.read("orders/00/records.ndjson").count(b"\n") == 10


def test_unfinished_transactions_are_listed(tmp_path: Path, audit: Audit) -> None:
    """`query --unfinished`, for a person and for a program; what means nothing with it is refused."""
    asyncio.run(leave_transactions(tmp_path))
    rows = audit("query", tmp_path, "--unfinished", "--json").rows
    assert [int(row["event"]["transaction_id"], 16) for row in rows] == [3, 4]
    assert [row["event"]["actor"]["user_id"] for row in audit("query", tmp_path, "--unfinished", "--json").rows] == [
        "alice", "bob"
    ]  # fmt: skip
    assert "2 records" in audit("query", tmp_path, "--unfinished").err
    for options in (["--type", "auth.failure"], ["--count"]):
        refused = audit("query", tmp_path, "--unfinished", *options)
        assert refused.status == 2
        assert "--unfinished" in refused.err
