"""Queries: what is wanted is found, all of it and nothing else, however the trail is stored and read."""

from __future__ import annotations

import fnmatch
import io
import ipaddress
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_async import LogCorrupted
from audit_async._query import segment_scan as scan
from audit_async._query.matching import Filter
from audit_async._trail import log_files as trail
from audit_async._trail.segment_parts import Range, parts_of
from audit_async.events import AuthFailure, GenericEvent
from audit_async.reader import AuditQuery, AuditReader, Glob, InvalidQuery, Page, TrailUnreadable
from tests.chain.test_chain import resealed
from tests.store.chained import DAY_NS, NOON_NS, memory_directory
from tests.trail.written import WrittenLog, ask, hash_of, hashes

_FAST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

NAMES = ["alice", "zoë", 'o"neil\\', "7", "a/b", "bob\n", "ann", "anna"]
TYPES = [
    *("auth.failure", "auth.success", "security.policy_violation", "test.known_to_nobody", "audit.log_accessed"),
    *("http.request", "http.websocket_closed"),
]
ADDRESSES = ["203.0.113.9", "203.0.113.90", "::ffff:203.0.113.9", "2001:db8::1", "2001:0DB8::0001", "unknown"]
WEB = {
    "ip": st.sampled_from(ADDRESSES),
    "path": st.sampled_from(["/a/b", "/a/*", "/ab", "/zoë"]),
    "endpoint": st.sampled_from(["/a/b", 7]),
    "status": st.sampled_from([200, 204, 404, 500, 5000, "404", True, 404.0, None]),
    "outcome": st.sampled_from(["completed", "failed", "cancelled", "success", None, 7]),
    "result": st.sampled_from([{"status": "failure", "reason": "x"}, "success", {"status": None}, ["failure"]]),
}
CRITICAL = {"auth.failure", "security.policy_violation"}


FIELDS: list[dict[str, Any]] = [
    {"actor.user_id": "alice"},
    {"event.actor.user_id": "zoë", "actor.auth_method": "internal"},
    {"notes.deep": "ann"},
    {"event.notes.0.deep": "a/b"},
    {"notes.1": "x"},
    {"job_id": "8.0"},
    {"job_id": "true"},
    {"job_id": "null"},
    {"job_id": str(7 << 70)},
    {"context.tenant": "bob\n"},
    {"context.n": "7", "resource.parent_id": ("7",)},
    {"notes": ("x", "xx")},
    {"result.status": "failure"},
    {"actor": "anna"},
]


def spelled_otherwise(text: str) -> str:
    """Return JSON for a text in another spelling than msgspec's."""
    return (
        '"'
        + "".join(rf"\u{ord(c):04x}" if c.isalpha() else json.dumps(c)[1:-1].replace("/", r"\/") for c in text)
        + '"'
    )


@st.composite
def encoded_events(draw: st.DrawFn) -> bytes:
    """Give an event, with a context behind it now and then, in msgspec's spelling or in another."""
    name = st.sampled_from(NAMES)
    event: dict[str, Any] = {"event_type": draw(st.sampled_from(TYPES))}
    members = draw(
        st.sets(st.sampled_from(["actor", "text", "user", "who", "resource", "id", "number", "note", "web"]))
    )
    if "actor" in members:
        event["actor"] = {"user_id": draw(name), "auth_method": "internal"}
        if draw(st.booleans()):
            event["actor"]["ip"] = draw(st.sampled_from(ADDRESSES))
    elif "text" in members:
        event["actor"] = draw(name)
    if "user" in members:
        event["user_id"] = draw(name)
    if "who" in members:
        event[draw(st.sampled_from(["attempted_user", "requester", "set_by", "lifted_by"]))] = draw(name)
    if "resource" in members:
        event["resource"] = {"resource_type": "doc", "resource_id": draw(name), "parent_id": draw(name)}
    if "id" in members:
        event[draw(st.sampled_from(["customer_id", "subject", "model_ref", "invoice_id"]))] = draw(name)
    if "number" in members:
        event["job_id"] = draw(st.sampled_from([7, -0, 8.0, True, None, 7 << 70]))
    if "web" in members:
        event |= draw(st.fixed_dictionaries({}, optional=WEB))
    if "note" in members:
        event["notes"] = [{"deep": draw(name)}, "x" * draw(st.integers(0, 300))]
    encoded = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    if draw(st.booleans()):
        encoded += b',"context":' + json.dumps({"tenant": draw(name), "n": 7}, ensure_ascii=False).encode()
    if draw(st.integers(0, 4)) == 0:
        for text in NAMES:
            encoded = encoded.replace(json.dumps(text, ensure_ascii=False).encode(), spelled_otherwise(text).encode())
    return encoded


@st.composite
def queries(draw: st.DrawFn, times: list[str]) -> AuditQuery:
    """Give a query with some members."""
    asked: dict[str, Any] = {}
    members = draw(
        st.sets(
            st.sampled_from(
                [
                    *("actor", "resource_id", "event_types", "start", "end", "critical", "context", "text"),
                    *("ip", "path", "status", "outcome", "fields"),
                ]
            ),
            max_size=3,
        )
    )
    for member in members & {"actor", "resource_id"}:
        asked[member] = draw(
            st.sampled_from([*NAMES, *map(Glob, ["a*", "*", "?", "*\\n", "ann?", "a/b", "*nn*", "zo?"])])
        )
    if "ip" in members:
        asked["ip"] = draw(
            st.sampled_from(
                [
                    *ADDRESSES,
                    "203.0.113.0/24",
                    "203.0.113.9/32",
                    "203.0.113.80/28",
                    "200.0.0.0/5",
                    "2001:db8::/32",
                    "0.0.0.0/0",
                ]
            )
        )
    if "path" in members:
        asked["path"] = draw(st.sampled_from(["/a/b", "/a/*", "7", *map(Glob, ["/a*", "/a/[*]", "*b", "/zo*", "?"])]))
    if "status" in members:
        asked["status"] = draw(st.sampled_from([404, "404", "2xx", "200-404", "5xx,204", 999]))
    if "outcome" in members:
        asked["outcome"] = draw(st.sampled_from(["success", "failure", "failed", "completed", "cancelled", "none"]))
    if "fields" in members:
        asked["fields"] = draw(st.sampled_from(FIELDS))
    if "text" in members:
        asked["text"] = draw(st.sampled_from([*NAMES, "nn", "ë", 'o"', "\n", "/", "7"]))
    if "context" in members:
        asked["context"] = draw(st.sampled_from([{"tenant": "alice"}, {"n": "7"}, {"tenant": "zoë", "n": "7"}]))
    if "critical" in members:
        asked["critical"] = draw(st.booleans())
    if "event_types" in members:
        patterns = st.sampled_from(
            ["auth.*", "security.*", "test.known_to_nobody", "*", "a*.f*", "auth.failur?", "x.y"]
        )
        asked["event_types"] = tuple(draw(st.lists(patterns, min_size=1, max_size=3)))
    moments = sorted(datetime.fromisoformat(draw(st.sampled_from(times))) for _ in range(2))
    if "start" in members:
        asked["start"] = moments[0]
    if "end" in members:
        asked["end"] = moments[1] + timedelta(microseconds=draw(st.sampled_from([1, 10**6])))
    return AuditQuery(newest_first=draw(st.booleans()), **asked)


def text_of(value: object) -> str | None:
    """Return what a member is compared as."""
    if isinstance(value, bool) or not isinstance(value, str | int) or (isinstance(value, int) and value > 2**64):
        return None
    return str(value)


def texts_in(value: object) -> Iterator[str]:
    """Give all texts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


STATUSES: dict[object, set[str]] = {
    404: {"404"},
    "404": {"404"},
    999: {"999"},
    "2xx": {str(n) for n in range(200, 300)},
    "200-404": {str(n) for n in range(200, 405)},
    "5xx,204": {str(n) for n in range(500, 600)} | {"204"},
}


def is_among(wanted: str | Glob | None, values: list[Any]) -> bool:
    """Say whether a text, or a text of a pattern, is among values."""
    texts = [text for value in values if (text := text_of(value)) is not None]
    if not isinstance(wanted, Glob):
        return wanted is None or wanted in texts
    return any(fnmatch.fnmatchcase(text, wanted.pattern) for text in texts)


def is_address(wanted: str, text: str) -> bool:
    """Say whether a text is an address that is wanted."""
    if text in {wanted, f"::ffff:{wanted}"} or f"::ffff:{text}" == wanted:
        return True
    try:
        address = ipaddress.ip_address(text.removeprefix("::ffff:"))
        return address in ipaddress.ip_network(wanted) if "/" in wanted else str(ipaddress.ip_address(wanted)) == text
    except ValueError:
        return False


def outcomes_of(event: dict[str, Any]) -> set[object]:
    """Return what an event says of how it ended."""
    kind, outcome, result = event["event_type"], event.get("outcome"), event.get("result")
    said = {"auth.failure": {"failure"}, "auth.success": {"success"}}.get(kind, set()) | {outcome}
    if not isinstance(result, list):
        said.add(result["status"] if isinstance(result, dict) else result)
    if kind.startswith("http."):
        outcome = outcome or "completed"
        said.add(outcome)
        status = event.get("status")
        if (type(status) is int and 400 <= status < 600) or outcome == "failed":
            said.add("failure")
        elif type(status) is int and outcome == "completed" and status < 400:
            said.add("success")
    return said


def json_text(value: object) -> str | None:
    """Return how a value at a member's path is asked for."""
    return value if isinstance(value, str) else json.dumps(value)


def found_at(record: dict[str, Any], path: str) -> list[Any]:
    """Return what is at a member's path."""
    names = path.split(".")
    values = [record.get("context", {}) if names[0] == "context" else record["event"]]
    for name in names[1:] if names[0] in {"event", "context"} else names:
        values = [
            inner
            for value in values
            for one in (value if isinstance(value, list) and not name.isdecimal() else [value])
            for inner in (
                [one[name]]
                if isinstance(one, dict) and name in one
                else one[int(name) :][:1]
                if isinstance(one, list) and name.isdecimal()
                else []
            )
        ]
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def is_wanted(line: bytes, query: AuditQuery) -> bool:
    """Say by the letter of the documentation, and slowly, whether a query wants a record."""
    record = json.loads(line)
    event, context = record["event"], record.get("context", {})
    actor = event.get("actor")
    actors = [actor["user_id"] if isinstance(actor, dict) else actor]
    actors += [event.get(member) for member in ("attempted_user", "requester", "set_by", "lifted_by")]
    if "actor" not in event:
        actors += [event.get("user_id"), event.get("actor_id")]
    resources = [event.get(member) for member in ("subject", "model_ref", "segment")]
    resources += [value for member, value in event.items() if member.endswith("_id")]
    resources += [event.get("resource", {}).get(member) for member in ("resource_id", "parent_id")]
    addresses = [event.get("ip"), actor.get("ip") if isinstance(actor, dict) else None]
    paths = [event.get(member) for member in ("path", "route", "endpoint", "attempted_path")]
    moment = datetime.fromisoformat(record["timestamp"])
    return (
        is_among(query.actor, actors)
        and is_among(query.resource_id, resources)
        and is_among(query.path, paths)
        and (query.ip is None or any(is_address(query.ip, address) for address in addresses if address))
        and (query.status is None or text_of(event.get("status")) in STATUSES[query.status])
        and (query.outcome is None or query.outcome in outcomes_of(event))
        and all(
            value in [json_text(found) for found in found_at(record, path)]
            for path, values in query.fields.items()
            for value in ([values] if isinstance(values, str) else values)
        )
        and (
            not query.event_types
            or any(fnmatch.fnmatchcase(event["event_type"], pattern) for pattern in query.event_types)
        )
        and (query.critical is None or (event["event_type"] in CRITICAL) is query.critical)
        and (query.start is None or moment >= query.start)
        and (query.end is None or moment < query.end)
        and all(text_of(context.get(name)) == value for name, value in query.context.items())
        and (query.text is None or any(query.text in text for text in texts_in([event, context])))
    )


def build_index(base_dir: Path) -> None:
    """Index what is not indexed."""

    async def build() -> None:
        assert [segment.problem async for segment in AuditReader(base_dir).build_index() if segment.problem] == []

    anyio.run(build)


@settings(_FAST, max_examples=40)
@given(data=st.data())
def test_every_way_of_reading_gives_the_same_right_answer(data: st.DataObject) -> None:
    """Results are those of a plain reading, for any clock, rotation, archiving, index and torn tail."""
    with memory_directory() as base_dir:
        log = WrittenLog(base_dir, max_bytes=data.draw(st.sampled_from([1024, 2048, 5000])))
        for _ in range(data.draw(st.integers(1, 5))):
            log.now_ns += data.draw(st.sampled_from([0, 10**6, 3600 * 10**9, -7200 * 10**9, DAY_NS, -3 * DAY_NS]))
            log.write(*data.draw(st.lists(encoded_events(), min_size=1, max_size=12)))
            if data.draw(st.integers(0, 4)) == 0:
                build_index(base_dir)
        sealed = log.sealed()
        if sealed:
            log.archive(data.draw(st.sets(st.sampled_from(sealed))))
        times = [json.loads(line)["timestamp"] for line in log.lines]
        if data.draw(st.booleans()) and sealed:
            log.delete(sealed[0])
        log.close()
        with max(log.directory.glob("*.audit")).open("ab") as active:
            active.write(data.draw(st.sampled_from([b"", b"{", log.lines[-1][:-1], log.lines[-1][:90], bytes(4096)])))
        asked = [data.draw(queries(times)) for _ in range(4)]
        for step in ("as it is", "all indexed"):
            for query in asked:
                wanted = [hash_of(line) for line in log.lines if line and is_wanted(line, query)]
                if query.newest_first:
                    wanted.reverse()
                assert hashes(ask(base_dir, query, use_index=False)) == wanted
                assert hashes(ask(base_dir, query)) == wanted, step
            build_index(base_dir)


@_FAST
@given(data=st.data())
def test_logs_are_merged_by_time_and_pages_add_up(data: st.DataObject) -> None:
    """Several logs come as one sequence by time, each in its own order, and so do the pages of it."""
    with memory_directory() as base_dir:
        logs = [WrittenLog(base_dir, name, max_bytes=1500) for name in ("00", "01", "02")]
        for _ in range(data.draw(st.integers(1, 12))):
            log = data.draw(st.sampled_from(logs))
            log.now_ns += data.draw(st.sampled_from([0, 1000, 5_000_000, 10**9]))
            log.write(*data.draw(st.lists(encoded_events(), min_size=1, max_size=4)))
        newest_first = data.draw(st.booleans())
        query = AuditQuery(newest_first=newest_first, limit=data.draw(st.integers(1, 7)), actor="alice")
        lines = [(json.loads(line)["timestamp"], log.name, n, line) for log in logs for n, line in enumerate(log.lines)]
        wanted = [hash_of(line) for *_, line in sorted(lines, reverse=newest_first) if is_wanted(line, query)]
        assert hashes(ask(base_dir, query)) == wanted[: query.limit]

        async def all_pages() -> list[Page]:
            reader = AuditReader(base_dir)
            pages = [await reader.page(query)]
            while pages[-1].cursor is not None:
                pages.append(await reader.page(query, pages[-1].cursor))
            return pages

        pages = anyio.run(all_pages)
        assert [record.hash for page in pages for record in page.records] == wanted
        assert all(len(page.records) == query.limit for page in pages[:-1])
        for log in logs:
            log.close()


def numbered(n: int, **members: Any) -> dict[str, Any]:
    """Return an event that can be told from others."""
    return {"event_type": "test.numbered", "n": n, **members}


def numbers(page: Page) -> list[int]:
    """Return which of the numbered events are on a page."""
    return [record.event.fields["n"] for record in page.records if isinstance(record.event, GenericEvent)]  # type: ignore[misc]  # all of them are ints


@pytest.mark.anyio
@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_cursor_outlives_what_happens_to_the_trail(tmp_path: Path, newest_first: bool) -> None:
    """Between two pages the trail grows, rotates, is archived, and gets another log: none comes twice or is lost."""
    log, other = WrittenLog(tmp_path, "00"), WrittenLog(tmp_path, "01")
    log.write(*map(numbered, range(20)))
    other.now_ns += 10**12
    other.write(*map(numbered, range(100, 104)))
    query, reader = AuditQuery(event_types=("test.*",), newest_first=newest_first, limit=3), AuditReader(tmp_path)
    page = await reader.page(query)
    seen = numbers(page)
    for step in range(100):
        assert page.cursor is not None
        page = await reader.page(query, page.cursor)
        seen += numbers(page)
        if page.cursor is None:
            break
        log.now_ns += 10**13
        log.write(numbered(20 + step)) if step < 5 else None
        log.archive(log.sealed()[:step])
        if step == 2:
            third = WrittenLog(tmp_path, "02")
            third.now_ns += 10**15
            third.write(numbered(200))
            third.close()
    if newest_first:
        assert seen == [103, 102, 101, 100, *range(19, -1, -1)]
    else:
        assert sorted(seen) == [*range(25), *range(100, 104), 200]
        log.now_ns += 10**16
        log.write(numbered(300))
        assert numbers(await reader.page(query, page.resume)) == [300]
    log.close()
    other.close()


@pytest.mark.anyio
async def test_a_log_that_a_newest_page_did_not_reach_shows_nothing_newer_later(tmp_path: Path) -> None:
    """With newest_first, what a log gets after the first page stays out of the later ones."""
    new, old = WrittenLog(tmp_path, "00"), WrittenLog(tmp_path, "01")
    old.write(numbered(1), numbered(2))
    new.now_ns += 10**12
    new.write(numbered(11), numbered(12))
    query, reader = AuditQuery(newest_first=True, limit=1), AuditReader(tmp_path)
    page = await reader.page(query)
    assert numbers(page) == [12]
    old.now_ns += 10**11
    old.write(numbered(3))
    rest = await reader.page(AuditQuery(newest_first=True, limit=9), page.cursor)
    assert numbers(rest) == [11, 2, 1]
    new.close()
    old.close()


@pytest.mark.anyio
async def test_a_cursor_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    """A cursor of another query, a changed one, or any other text is an error that names the cursor."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(5)))
    log.close()
    reader = AuditReader(tmp_path)
    cursor = (await reader.page(AuditQuery(limit=2))).cursor
    assert cursor is not None
    assert numbers(await reader.page(AuditQuery(limit=3), cursor)) == [2, 3, 4]
    for query, text in (
        (AuditQuery(actor="x"), cursor),
        (AuditQuery(newest_first=True), cursor),
        (AuditQuery(), cursor[:-4]),
        (AuditQuery(), "nonsense"),
        (AuditQuery(), "\u00e9"),
        (AuditQuery(), ""),
    ):
        with pytest.raises(InvalidQuery, match=r"^cursor: "):
            await reader.page(query, text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actor", ""),
        ("actor", 7),
        ("resource_id", ""),
        ("text", ""),
        ("event_types", "security.*"),
        ("event_types", ("",)),
        ("event_types", (1,)),
        ("start", datetime(2026, 1, 1)),  # noqa: DTZ001 - that is the point
        ("end", "2026-01-01"),
        ("start", datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))),
        ("critical", 1),
        ("context", {"tenant": 7}),
        ("context", {"": "x"}),
        ("context", "tenant"),
        ("after_seq", -2),
        ("after_seq", True),
        ("limit", 0),
        ("limit", 1.5),
        ("ip", ""),
        ("ip", 7),
        ("ip", "203.0.113.0/33"),
        ("path", ""),
        ("path", 7),
        ("status", "40"),
        ("status", 4040),
        ("status", "499-400"),
        ("status", "4xx-5xx"),
        ("status", True),
        ("status", ""),
        ("outcome", ""),
        ("outcome", True),
        ("fields", "a=b"),
        ("fields", {"": "x"}),
        ("fields", {"a": 7}),
        ("fields", {"a": ()}),
        ("fields", {"a" + ".a" * 17: "x"}),
        ("newest_first", None),
    ],
)
def test_a_question_that_cannot_be_meant_names_its_field(field: str, value: Any) -> None:
    """A wrong value raises InvalidQuery, a ValueError, with the field's name and no value."""
    with pytest.raises(InvalidQuery, match=f"^{field}: ") as caught:
        AuditQuery(**{field: value})
    assert isinstance(caught.value, ValueError)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("actr", "did you mean actor?"),
        ("Actor", "did you mean actor?"),
        ("resource", "did you mean resource_id?"),
        ("event_type", "did you mean event_types?"),
        ("newest", "did you mean newest_first?"),
        ("colour", "there are actor, resource_id, ip, path, status, outcome, event_types"),
    ],
)
def test_a_misspelt_keyword_says_what_was_meant(keyword: str, hint: str) -> None:
    """A keyword that no query has is refused with the name that it looks like, or with all there are."""
    with pytest.raises(InvalidQuery, match=f"^{keyword}: no such part of a query") as caught:
        members: dict[str, Any] = {keyword: "x"}
        AuditQuery(**members)
    assert hint in str(caught.value)


def test_a_pattern_is_a_text_that_is_not_empty() -> None:
    """A pattern of nothing, or of no text, is refused when it is made."""
    for pattern in ("", 7, None):
        with pytest.raises(InvalidQuery, match=r"^pattern: "):
            Glob(pattern)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", {"a*b", "a[b", "ab", "a?b", "4711", "a\\x1bb"}),
        ("a*", {"a*b", "a[b", "ab", "a?b", "a\\x1bb"}),
        ("a[*]b", {"a*b"}),
        ("a[?]b", {"a?b"}),
        ("a[[]?", {"a[b"}),
        ("a[b", {"a[b"}),
        ("a[b*", {"a[b"}),
        ("a[ab]*", set()),
        ("a[!x]*", set()),
        ("a?", {"ab"}),
        ("47?1", {"4711"}),
        ("A*", set()),
        ("a\x1b*", {"a\\x1bb"}),
    ],
)
def test_a_pattern_has_two_wildcards_and_their_literals(pattern: str, found: set[str], tmp_path: Path) -> None:
    """`*` and `?` are wildcards, `[*]`, `[?]` and `[[]` the characters themselves, and any other `[` is itself."""
    names = ["a*b", "a[b", "ab", "a?b", 4711, "a\\x1bb"]
    log = WrittenLog(tmp_path)
    log.write(*(numbered(n, user_id=name) for n, name in enumerate(names)))
    log.close()
    asked = ask(tmp_path, AuditQuery(actor=Glob(pattern)))
    assert {str(names[record.seq]) for record in asked} == found
    assert AuditQuery(actor=Glob(pattern)).asked() == {"actor": {"pattern": pattern}}


def test_a_member_whose_name_has_dots_is_found(tmp_path: Path) -> None:
    """The path of a member finds it also if names on the way have dots, and values of all JSON types by their text."""
    log = WrittenLog(tmp_path)
    log.write(
        numbered(0, changes={"user.email": {"before": None, "after": "x@y.z"}}, tags=["a", "b", 8.5, False]),
        numbered(1, changes={"user": {"email": {"after": "x@y.z"}}}, tags=[["a"], {"0": "b"}]),
    )
    log.close()
    for path, value, seqs in (
        ("changes.user.email.after", "x@y.z", [0, 1]),
        ("event.changes.user.email.before", "null", [0]),
        ("tags", "a", [0, 1]),
        ("tags", ("a", "b"), [0]),
        ("tags", "8.5", [0]),
        ("tags.3", "false", [0]),
        ("tags.0", "a", [0, 1]),
        ("tags.1", "b", [0]),
        ("tags.1.0", "b", [1]),
        ("changes.user", "x@y.z", []),
        ("n", "1", [1]),
    ):
        query = AuditQuery(fields={path: value})
        assert [record.seq for record in ask(tmp_path, query)] == seqs, path


def test_a_class_is_not_a_type() -> None:
    """The name of an event's class, which no record has as its type, is refused with the type; patterns are not."""
    with pytest.raises(InvalidQuery, match=r"AuthFailure is an event's class, and its type is 'auth\.failure'"):
        AuditQuery(event_types=("AuthFailure",))
    assert AuditQuery(event_types=("Auth*", "OfAnotherProgram")).event_types == ("Auth*", "OfAnotherProgram")


def test_an_end_before_the_start_is_refused() -> None:
    """A range in which nothing can lie is an error."""
    now = datetime.now(UTC)
    with pytest.raises(InvalidQuery, match=r"^end: "):
        AuditQuery(start=now, end=now)


def test_what_was_asked_is_plain_data() -> None:
    """`asked` gives what was given, for the trail: no defaults, times as text."""
    query = AuditQuery(actor="a", event_types=["x.*"], start=datetime(2026, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]  # a list does, too
    assert query.asked() == {"actor": "a", "event_types": ("x.*",), "start": "2026-01-01T00:00:00Z"}
    assert AuditQuery().asked() == {}


def test_text_is_found_as_it_was_before_it_was_made_harmless(tmp_path: Path) -> None:
    """A name with an escape character is found by itself and by its visible form, and no other is."""
    log = WrittenLog(tmp_path)
    for user in ("mall\\x1bory", "mall\\x1bory\\ud800", "mallory"):
        log.write({"event_type": "auth.failure", "attempted_user": user, "reason": "r", "ip": "i", "path": "p"})
    log.close()
    for actor, seqs in (
        ("mall\x1bory", [0]),
        ("mall\\x1bory", [0]),
        ("mall\x1bory\ud800", [1]),
        ("mall\\x1bory\\ud800", [1]),
        ("mallory\ud800", []),
    ):
        records = ask(tmp_path, AuditQuery(actor=actor))
        assert [record.seq for record in records] == seqs
        assert all(isinstance(record.event, AuthFailure) for record in records)
        assert [record.seq for record in ask(tmp_path, AuditQuery(text=actor))] == ([0, 1] if seqs == [0] else seqs)


def test_other_spellings_of_the_same_text_are_found(tmp_path: Path) -> None:
    """A record whose JSON spells its texts with escapes that the library never writes is found by every criterion."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    actor, resource, tenant = map(spelled_otherwise, ("zoë", "a/b", "acme"))
    event = f'{{"event_type":"test.spelled","user_id":{actor},"doc_id":{resource}}},"context":{{"tenant":{tenant}}}'
    log.write(numbered(0), event.encode(), numbered(2))
    log.close()
    asked: dict[str, Any] = {"actor": "zoë", "resource_id": "a/b", "context": {"tenant": "acme"}, "text": "a/"}
    for first, value in asked.items():
        for second, other in asked.items():
            [record] = ask(tmp_path, AuditQuery(**{first: value, second: other}))
            assert record.seq == 1


@pytest.mark.parametrize("use_index", [False, True])
def test_a_clock_that_was_wrong_for_a_while_hides_nothing(tmp_path: Path, use_index: bool) -> None:
    """Records whose time lies outside those at the ends of their sealed segment are found by that time."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    for n, hours in enumerate((0, 5, -5, 0)):
        log.now_ns = NOON_NS + hours * 3600 * 10**9
        log.write(numbered(n))
    log.now_ns = NOON_NS + DAY_NS
    log.write(numbered(4))
    assert len(log.sealed()) == 1
    log.close()
    noon = datetime.fromisoformat(json.loads(log.lines[0])["timestamp"])
    for n, hours in ((1, 5), (2, -5)):
        query = AuditQuery(
            start=noon + timedelta(hours=hours, minutes=-1), end=noon + timedelta(hours=hours, minutes=1)
        )
        for _ in range(2):
            assert [record.seq for record in ask(tmp_path, query, use_index=use_index)] == [n]


@pytest.mark.parametrize("use_index", [False, True])
@pytest.mark.parametrize("step", [timedelta(microseconds=1), *(timedelta(seconds=10**n) for n in range(-3, 7))])
def test_a_time_range_has_its_start_and_not_its_end(tmp_path: Path, step: timedelta, use_index: bool) -> None:
    """Of records at equal distances, a range gives those from its start on and before its end, whatever its width."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(20)), step_ns=step // timedelta(microseconds=1) * 1000)
    log.close()
    moments = [datetime.fromisoformat(json.loads(line)["timestamp"]) for line in log.lines]
    for first in (0, 7):
        for last in range(first + 1, 19):
            query = AuditQuery(start=moments[first], end=moments[last])
            assert [record.seq for record in ask(tmp_path, query, use_index=use_index)] == list(range(first, last))


def test_after_seq_needs_one_log(tmp_path: Path) -> None:
    """`after_seq` gives what stands behind it in one log, and is refused for several."""
    log = WrittenLog(tmp_path, "00")
    log.write(*map(numbered, range(30)))
    assert [record.seq for record in ask(tmp_path, AuditQuery(after_seq=12))] == list(range(13, 30))
    assert [r.seq for r in ask(tmp_path, AuditQuery(after_seq=12, newest_first=True))] == list(range(29, 12, -1))
    assert ask(tmp_path, AuditQuery(after_seq=29)) == []
    other = WrittenLog(tmp_path, "01")
    other.write(numbered(0))
    with pytest.raises(InvalidQuery, match=r"^after_seq: .*2 logs"):
        ask(tmp_path, AuditQuery(after_seq=12))
    log.close()
    other.close()


def test_what_is_torn_or_being_written_is_no_record_yet(tmp_path: Path) -> None:
    """Half a line at the end of the active segment is neither given nor damage, from either end."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(5)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    for torn in (log.lines[0][:100], b"\0" * 4096, b"{", log.lines[0][:-1]):
        with segment.open("ab") as file:
            file.write(torn)
        for newest_first in (False, True):
            records = ask(tmp_path, AuditQuery(newest_first=newest_first))
            assert sorted(record.seq for record in records) == list(range(5))
        os.truncate(segment, segment.stat().st_size - len(torn))


@pytest.mark.parametrize("newest_first", [False, True])
def test_void_copies_behind_a_failed_fsync_are_left_out(tmp_path: Path, newest_first: bool) -> None:
    """Lines at or past the next segment's first seq are void, whole, torn or zeroed: each record comes once."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(6)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    new = log.directory / "000000000003-2026-11-22.audit"
    new.write_bytes(b"".join(log.lines[3:]))
    for void in (b"".join(log.lines[3:]), log.lines[3][:50], b"\0" * 200 + log.lines[4], log.lines[3] + b"{\n"):
        segment.write_bytes(b"".join(log.lines[:3]) + void)
        records = ask(tmp_path, AuditQuery(newest_first=newest_first))
        assert [record.seq for record in records] == (list(range(6))[::-1] if newest_first else list(range(6)))


@pytest.mark.parametrize("use_index", [False, True])
@pytest.mark.parametrize("newest_first", [False, True])
def test_damage_is_an_error_that_says_where(tmp_path: Path, newest_first: bool, use_index: bool) -> None:
    """A wanted line whose hash is wrong raises LogCorrupted with segment, line and seq; skip leaves it out."""
    log = WrittenLog(tmp_path, max_bytes=4096)
    log.write(*(numbered(n, user_id="eve") for n in range(40)))
    names = log.sealed()
    log.close()
    query = AuditQuery(actor="eve", newest_first=newest_first)
    assert len(ask(tmp_path, query)) == 40
    segment = log.directory / names[1]
    first_seq = int(names[1][:12])
    segment.chmod(0o600)
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"n":', b'"m":')
    segment.write_bytes(b"".join(lines))
    with pytest.raises(LogCorrupted, match="the hash is not the hash of this record; verify the trail") as caught:
        ask(tmp_path, query, use_index=use_index)
    error = caught.value
    assert (error.segment, error.line, error.seq) == (f"orders/00/{names[1]}", 3, first_seq + 2)
    kept = [record.seq for record in ask(tmp_path, query, use_index=use_index, on_damage="skip")]
    assert sorted(kept) == [seq for seq in range(40) if seq != first_seq + 2]


@pytest.mark.parametrize("query", [AuditQuery(), AuditQuery(actor="eve"), AuditQuery(newest_first=True)])
def test_a_number_that_nobody_can_read_is_damage(tmp_path: Path, query: AuditQuery) -> None:
    """A record that hashes to what it says and still can't be read is named, not an error from within."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*(numbered(n, user_id="eve") for n in range(3)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:2], resealed(lines[2].replace(b'"n":2', b'"n":1e999'))]))
    with pytest.raises(LogCorrupted, match="a number that is too large to be read") as caught:
        ask(tmp_path, query)
    assert (caught.value.line, caught.value.seq) == (3, 2)
    assert len(ask(tmp_path, query, on_damage="skip")) == 2


def test_skipped_damage_is_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With on_damage="skip" the end of the query says how much was passed over, and where the first was."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(9)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    segment.write_bytes(segment.read_bytes().replace(b'"n":3', b'"n":4').replace(b'"n":7', b'"n":8'))
    assert len(ask(tmp_path, on_damage="skip")) == 7
    [warning] = [record.getMessage() for record in caplog.records if record.name == "audit_async"]
    assert "2 times" in warning
    assert "line 4 (seq 3)" in warning


@pytest.mark.parametrize("newest_first", [False, True])
def test_missing_and_short_segments_are_damage(tmp_path: Path, newest_first: bool) -> None:
    """A segment that was removed or cut by somebody is an error; one that retention deleted is not."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(30)))
    names = log.sealed()
    log.delete(names[0])
    query = AuditQuery(newest_first=newest_first)
    left = [hash_of(line) for line in log.lines if line]
    assert hashes(ask(tmp_path, query)) == (left[::-1] if newest_first else left)
    segment = log.directory / names[2]
    content = segment.read_bytes()
    segment.chmod(0o600)
    segment.write_bytes(content[:-10])
    with pytest.raises(LogCorrupted, match="were sealed"):
        ask(tmp_path, query)
    segment.unlink()
    with pytest.raises(LogCorrupted, match="the segment is missing"):
        ask(tmp_path, query)
    log.close()


@pytest.mark.parametrize("newest_first", [False, True])
def test_what_retention_does_meanwhile_is_no_damage(tmp_path: Path, newest_first: bool) -> None:
    """A segment that is archived between its listing and its opening is read; one that is deleted gives none."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(30)))
    names = log.sealed()
    [one] = AuditReader(tmp_path).logs()
    parts = parts_of(one)
    log.archive(names[1:3])
    log.delete(names[0])
    log.delete(names[2])
    everything, damage = Filter(AuditQuery()), scan.Damage(skip=False)
    found = [
        [f.seq for f in scan.scan(part, everything, Range(), damage, newest_first=newest_first) if f]
        for part in parts[:4]
    ]
    assert found[0] == found[2] == []
    assert sorted(found[1] + found[3]) == [n for n, line in enumerate(log.lines) if line and n < parts[3].until_seq]  # type: ignore[operator]  # it has a successor
    log.close()


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_damaged_archive_is_an_error(tmp_path: Path, newest_first: bool) -> None:
    """An archive that can't be decompressed, or ends early, is damage that names the segment."""
    log = WrittenLog(tmp_path)
    log.write(*map(numbered, range(30)))
    names = log.sealed()
    log.archive(names)
    log.close()
    archive = log.directory / "archive" / f"{names[1]}.zst"
    archive.chmod(0o600)
    for content in (archive.read_bytes()[:-9], b"no archive"):
        archive.write_bytes(content)
        with pytest.raises(LogCorrupted, match=f"{names[1]}.*the archive"):
            ask(tmp_path, AuditQuery(newest_first=newest_first))


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_file_without_line_ends_costs_no_memory(
    tmp_path: Path, newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that end nowhere are handed on in pieces, and are damage, not a reason to read a whole file at once."""
    log = WrittenLog(tmp_path, max_bytes=1 << 20)
    log.write(*map(numbered, range(3)))
    log.close()
    [segment] = log.directory.glob("*.audit")
    with segment.open("ab") as file:
        file.write(b"x" * 500_000 + b"\n")
    for module in (scan, trail):
        monkeypatch.setattr(module, "LONGEST_LINE", 50_000)
        monkeypatch.setattr(module, "CHUNK_BYTES", 10_000)
    longest = 0
    check = scan.check

    def watch(line: bytes, *rest: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(line))
        return check(line, *rest)

    monkeypatch.setattr(scan, "check", watch)
    records = ask(tmp_path, AuditQuery(newest_first=newest_first), on_damage="skip")
    assert sorted(record.seq for record in records) == [0, 1, 2]
    assert 10_000 < longest <= 70_000


def test_a_long_record_is_found_from_both_ends(tmp_path: Path) -> None:
    """A record of several chunks comes whole."""
    log = WrittenLog(tmp_path, max_bytes=1 << 26)
    log.write(numbered(0), numbered(1, text="y" * 5_000_000, user_id="eve"), numbered(2))
    log.close()
    for newest_first in (False, True):
        [record] = ask(tmp_path, AuditQuery(actor="eve", newest_first=newest_first))
        assert record.seq == 1
        assert len(ask(tmp_path, AuditQuery(newest_first=newest_first))) == 3


def test_reading_starts_near_what_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a large segment a cursor does not cost a reading of all before it, from either end."""
    log = WrittenLog(tmp_path, max_bytes=1 << 26)
    log.write(*map(numbered, range(8000)))
    log.close()
    looked_at = 0
    check = scan.check

    def count(*arguments: Any) -> Any:
        nonlocal looked_at
        looked_at += 1
        return check(*arguments)

    monkeypatch.setattr(scan, "check", count)
    [record] = ask(tmp_path, AuditQuery(after_seq=7998))
    assert record.seq == 7999
    assert looked_at < 1000

    async def two_pages() -> list[int]:
        reader, query = AuditReader(tmp_path), AuditQuery(newest_first=True, limit=1)
        cursor = None
        seqs = []
        for _ in range(2):
            page = await reader.page(query, cursor)
            seqs += [record.seq for record in page.records]
            cursor = page.cursor
        return seqs

    assert anyio.run(two_pages) == [7999, 7998]


def test_no_log_is_an_error(tmp_path: Path) -> None:
    """A directory without a log, and one that is not there, raise TrailUnreadable with the path."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(TrailUnreadable, match=str(path)):
            ask(path)


@given(st.lists(st.sampled_from([1 << 14, 1 << 15, 1 << 16, 50_000, 400]), min_size=1, max_size=24))
@settings(max_examples=200, deadline=None)
def test_a_search_for_a_place_keeps_the_line_that_it_looks_for(lengths: list[int]) -> None:
    """Whatever the lines' lengths, and where the steps of the bisection fall: on the beginning of a line, too."""
    lines = [(b'{"seq":%d,' % seq).ljust(length - 1, b"x") + b"\n" for seq, length in enumerate(lengths)]
    size = sum(lengths)
    begin = 0
    for seq, line in enumerate(lines):
        low, high = scan.around(io.BytesIO(b"".join(lines)), size, seq)
        assert low <= begin
        assert begin + len(line) <= high <= size
        begin += len(line)


@pytest.mark.parametrize("kept_bytes", [0, 900, 1 << 20])
def test_an_archive_is_read_from_its_end_with_few_lines_kept_and_with_many(
    kept_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newest first, an archive's wanted lines are kept if they are few, else it is unpacked; both are right."""
    log = WrittenLog(tmp_path, max_bytes=4000)
    log.write(*(numbered(n, user_id=("eve", "bob", "joe")[n % 3]) for n in range(60)))
    log.archive(log.sealed())
    log.close()
    unpacked = 0
    plain_unpacked = scan.unpacked

    def count(*arguments: Any) -> Any:
        nonlocal unpacked
        unpacked += 1
        return plain_unpacked(*arguments)

    monkeypatch.setattr(scan, "unpacked", count)
    monkeypatch.setattr(scan, "_MOST_KEPT_BYTES", kept_bytes)
    for query, wanted in (
        (AuditQuery(actor="eve", newest_first=True), list(range(57, -1, -3))),
        (AuditQuery(actor="nobody", newest_first=True), []),
        (AuditQuery(actor="bob", newest_first=True, after_seq=20, limit=4), [58, 55, 52, 49]),
    ):
        assert [record.seq for record in ask(tmp_path, query, use_index=False)] == wanted
    assert (unpacked == 0) == (kept_bytes > 900)
    archive = sorted((log.directory / "archive").iterdir())[1]
    content = archive.read_bytes()
    archive.chmod(0o600)
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(LogCorrupted, match="the archive"):
        ask(tmp_path, AuditQuery(actor="eve", newest_first=True), use_index=False)
