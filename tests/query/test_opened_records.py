"""Reading a log whose personal members are sealed: with a key store in the clear, without it as recorded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from audit_async._chain import Framer
from audit_async._query import opened_records, search
from audit_async._query.audit_query import Glob
from audit_async._query.segment_scan import Damage, scan
from audit_async._trail.log_files import Log
from audit_async._trail.segment_parts import Part
from audit_async.events import AuthSuccess, GenericEvent
from audit_async.privacy import Destroyed, Subject
from audit_async.privacy.sealed_text import KEY_MISSING, context_place, event_place
from audit_async.reader import AuditQuery, AuditReader, InvalidQuery, Record
from tests.privacy.known_keys import KnownKeys
from tests.trail.written import WrittenLog, hashes

pytestmark = pytest.mark.anyio


class SealedLog:
    """A log with one session that seals (or not), and the keys of what is sealed in it."""

    def __init__(self, base_dir: Path, *, sealing: bool = True) -> None:
        self.base_dir = base_dir
        self.keys = KnownKeys()
        self.written = WrittenLog(base_dir)
        self.log_id = json.loads((self.written.directory / "log.json").read_bytes())["log_id"]
        self.written.write({"event_type": "audit.log_opened", **({"privacy": 1} if sealing else {})})

    def seal(self, value: object, place: bytes, *, store: bool = True) -> str:
        """Return a value sealed for this log."""
        return self.keys.seal(value, place, log_id=self.log_id, store=store)

    def log_in(self, name: str, *, store: bool = True) -> dict[str, Any]:
        """Return an event whose actor is sealed."""
        place = event_place("auth.success", ("actor", "user_id"))
        actor = {"user_id": self.seal(name, place, store=store), "auth_method": "api_key"}
        return {"event_type": "auth.success", "actor": actor, "method": "api_key", "path": "/"}

    def reader(self) -> AuditReader:
        """Return a reader with the keys."""
        return AuditReader(self.base_dir, key_store=self.keys.store)


class SeveralSessions:
    """A log of twelve sessions, of which every other one seals; each has one text in the form of a sealed one."""

    def __init__(self, base_dir: Path) -> None:
        self.keys = KnownKeys()
        written = WrittenLog(base_dir, max_bytes=4096)
        log_id = json.loads((written.directory / "log.json").read_bytes())["log_id"]
        self.texts = [
            self.keys.seal("x", event_place("t", ("user_id",)), log_id=log_id, store=False) for _ in range(12)
        ]
        written.close()
        for number, text in enumerate(self.texts):
            self.add(base_dir, number=number, text=text)

    def add(self, base_dir: Path, *, number: int, text: str) -> None:
        """Write a session."""
        written = WrittenLog(base_dir, max_bytes=4096)
        written._framer = Framer(written.store.head, audit_prefix=f"{number:016x}", service_id="orders")
        privacy = {"privacy": 1} if number % 2 else {}
        written.write({"event_type": "audit.log_opened", **privacy}, {"event_type": "t", "user_id": text})
        written.close()

    def expected(self) -> list[str]:
        """Return what is read of the texts."""
        return [KEY_MISSING if number % 2 else text for number, text in enumerate(self.texts)]


async def all_of(reader: AuditReader) -> list[Record]:
    """Return all records but the first."""
    return [record async for record in reader.query()][1:]


async def test_whether_a_session_seals_is_looked_up_before_a_log_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single record reads none of the log but its session's first; a query over many sessions searches it once."""
    searched: list[str] = []
    search_all = opened_records._stated_by_sessions

    def stated_by_sessions(log: Log) -> Iterator[tuple[bytes, bool]]:
        searched.append(log.name)
        return search_all(log)

    monkeypatch.setattr(opened_records, "_stated_by_sessions", stated_by_sessions)
    log = SeveralSessions(tmp_path)
    reader = AuditReader(tmp_path, key_store=log.keys.store)
    placed = [await reader.record(2 * number + 1) for number in range(12)]
    assert [one.record.event.fields["user_id"] for one in placed if isinstance(one.record.event, GenericEvent)] == (
        log.expected()
    )
    assert searched == []
    records = [record async for record in reader.query(AuditQuery(event_types=("t",)))]
    assert [record.event.fields["user_id"] for record in records if isinstance(record.event, GenericEvent)] == (
        log.expected()
    )
    assert searched == ["orders/00"]


def test_a_session_that_begins_later_is_known_as_well(tmp_path: Path) -> None:
    """Following goes on for days, and a service is restarted meanwhile."""
    log = SeveralSessions(tmp_path)
    sessions, (found,) = opened_records.SealingSessions(), AuditReader(tmp_path).logs()

    def sealing() -> list[bool]:
        asked = AuditQuery(event_types=("t",))
        return [sessions.has(one) for one in search.Search([found], asked, Damage(skip=False)).run() if one is not None]

    assert sealing() == [bool(number % 2) for number in range(12)]
    log.add(tmp_path, number=13, text=log.texts[0])
    log.add(tmp_path, number=14, text=log.texts[0])
    assert sealing()[12:] == [True, False]


async def test_every_way_of_reading_opens(tmp_path: Path) -> None:
    """Queries, pages, single records and following give typed events in the clear, with the recorded hashes."""
    log = SealedLog(tmp_path)
    log.written.write(log.log_in("alice"), {"event_type": "t", "n": 1})
    log.written.close()
    opened, recorded = await all_of(log.reader()), await all_of(AuditReader(tmp_path))
    assert hashes(opened) == hashes(recorded)
    event = opened[0].event
    assert isinstance(event, AuthSuccess)
    assert (event.actor.user_id, opened[1]) == ("alice", recorded[1])
    kept = recorded[0].event
    assert isinstance(kept, AuthSuccess)
    assert kept.actor.user_id.startswith("sealed:1:")
    reader = log.reader()
    assert (await reader.page()).records[1] == opened[0]
    assert (await reader.record(1)).record == opened[0]
    assert (await reader.record(audit_id=opened[0].audit_id)).record == opened[0]
    async for record in reader.follow(from_now=False):
        if record.seq == 1:
            assert record == opened[0]
            break


async def test_the_context_opens(tmp_path: Path) -> None:
    """A value that was bound for the task is opened as well."""
    log = SealedLog(tmp_path)
    context = {"client_ip": log.seal("203.0.113.9", context_place("client_ip")), "request_id": "r"}
    log.written.write(b'{"event_type":"t"},"context":' + json.dumps(context, separators=(",", ":")).encode())
    log.written.close()
    (record,) = await all_of(log.reader())
    assert record.context == {"client_ip": "203.0.113.9", "request_id": "r"}


async def test_whether_a_session_seals_is_looked_up(tmp_path: Path) -> None:
    """An unknown key is missing in a session that seals; elsewhere the text is one that only looks sealed."""
    for name, sealing in (("with", True), ("without", False)):
        log = SealedLog(tmp_path / name, sealing=sealing)
        event = log.log_in("alice", store=False)
        log.written.write(event, {"event_type": "t", "name": "plain:sealed:x"})
        log.written.close()
        sealed, escaped = await all_of(log.reader())
        assert isinstance(sealed.event, AuthSuccess)
        assert sealed.event.actor.user_id == (KEY_MISSING if sealing else event["actor"]["user_id"])
        assert escaped.to_dict()["event"] == {"event_type": "t", "name": "sealed:x" if sealing else "plain:sealed:x"}


QUERIES = (
    AuditQuery(actor="alice"),
    AuditQuery(actor=Glob("ali*")),
    AuditQuery(actor="bob", event_types=("auth.*",)),
    AuditQuery(ip="203.0.113.9"),
    AuditQuery(ip="203.0.113.0/24"),
    AuditQuery(path="/users/alice"),
    AuditQuery(text="lic"),
    AuditQuery(fields={"actor.user_id": "alice"}),
    AuditQuery(fields={"names.1": "alice"}),
    AuditQuery(context={"client_ip": "203.0.113.9"}),
    AuditQuery(actor="alice", path="/plain", newest_first=True),
    AuditQuery(actor="alice", ip="198.51.100.1"),
    AuditQuery(actor="nobody"),
)


def two_logs(tmp_path: Path) -> tuple[SealedLog, Path]:
    """Write the same events twice: personal members sealed, and plain; with a rotation, an archive and a torn tail."""
    log, plain = SealedLog(tmp_path / "sealed"), SealedLog(tmp_path / "plain", sealing=False)
    for number in range(40):
        name, ip = ("alice", "bob", "carol")[number % 3], f"203.0.113.{number % 10}"
        path = "/plain" if number % 2 else f"/users/{name}"
        for of in (log, plain):

            def personal(value: str, *place: str, of: SealedLog = of) -> str:
                return of.seal(value, event_place("auth.success", place)) if of is log else value

            actor = {"user_id": personal(name, "actor", "user_id"), "ip": personal(ip, "actor", "ip")}
            names = ["x", personal(name, "names", "1")]
            event = {"event_type": "auth.success", "n": number, "actor": actor, "names": names}
            event["path"] = personal(path, "path") if path != "/plain" else path
            bound = of.seal(ip, context_place("client_ip")) if of is log else ip
            line = json.dumps(event, separators=(",", ":")).encode()
            of.written.write(line + b',"context":' + json.dumps({"client_ip": bound}, separators=(",", ":")).encode())
    for of in (log, plain):
        of.written.archive(of.written.sealed()[:2])
        of.written.close()
        newest = max(of.written.directory.glob("*.audit"))
        newest.chmod(0o600)
        with newest.open("ab") as file:
            file.write(b'{"seq":')
    return log, plain.base_dir


async def test_plain_values_are_found_among_sealed_ones(tmp_path: Path) -> None:
    """With the keys each question finds in the sealed log what it finds in the plain one, also with an index there."""
    log, plain = two_logs(tmp_path)
    for indexed in (False, True):
        if indexed:
            for base_dir in (log.base_dir, plain):
                assert [done.problem async for done in AuditReader(base_dir).build_index()]
        for query in QUERIES:
            found = [record async for record in log.reader().query(query)]
            expected = [record async for record in AuditReader(plain).query(query)]
            assert [record.to_dict()["event"] for record in found] == [r.to_dict()["event"] for r in expected], query
    assert expected == []


async def test_without_keys_what_can_not_be_searched_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is left out silently: records in which the asked member is sealed are counted, if the rest fits."""
    log, plain = two_logs(tmp_path)
    reader = AuditReader(log.base_dir)
    expected = [
        (AuditQuery(actor="alice"), 40),
        (AuditQuery(actor="alice", event_types=("audit.*",)), 0),
        (AuditQuery(actor="alice", path="/plain"), 40),
        (AuditQuery(ip="203.0.113.0/24"), 40),
        (AuditQuery(path="/plain"), 20),
        (AuditQuery(status=200), 0),
        (AuditQuery(fields={"n": "7"}), 0),
        (AuditQuery(fields={"actor.user_id": "alice", "n": "7"}), 1),
        (AuditQuery(context={"client_ip": "203.0.113.9"}), 40),
        (AuditQuery(text="auth.success"), 0),
    ]
    assert [done.problem async for done in reader.build_index()]
    for (query, undecided), use_index in itertools.product(expected, (False, True)):
        said: list[int] = []
        found = [record async for record in reader.query(query, use_index=use_index, on_undecided=said.append)]
        assert (sum(said), query) == (undecided, query)
        if query.path is not None and query.actor is None:
            assert len(found) == 20
    assert caplog.text == ""
    assert (await reader.page(AuditQuery(actor="alice"), use_index=False)).records == ()
    assert "40 records could not be searched" in caplog.text
    said = []
    assert [record async for record in AuditReader(plain).query(AuditQuery(actor="x"), on_undecided=said.append)] == []
    assert said == []


async def test_a_missing_key_is_counted_and_a_destroyed_one_is_not(tmp_path: Path) -> None:
    """What is erased can't be meant; what has no key may be."""
    log = SealedLog(tmp_path)
    log.written.write(log.log_in("alice"), log.log_in("alice", store=False))
    log.written.close()
    log.keys.known = dict.fromkeys(log.keys.known, Destroyed(datetime(2026, 11, 28, tzinfo=UTC)))
    said: list[int] = []
    found = [record async for record in log.reader().query(AuditQuery(actor="alice"), on_undecided=said.append)]
    assert (found, said) == ([], [1])


class Store(KnownKeys):
    """Keys of which some are a person's."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[Subject, list[bytes]] = {}

    def find(self, subject: Subject) -> list[bytes]:
        """Return the person's keys."""
        return self.of.get(subject, [])


async def test_an_index_knows_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records about a person are the same with an index, and segments without any of them are not scanned."""
    log = SealedLog(tmp_path)
    keys = log.keys = Store()
    alice = Subject("", "user", "alice")
    for number in range(30):
        log.written.write(log.log_in("alice" if number in {3, 4} else f"other-{number}"))
        if number == 4:
            keys.of[alice] = list(keys.known)[-2:]
    log.written.write({"event_type": "t", "actor": {"user_id": "alice"}})
    assert len(log.written.sealed()) > 5
    log.written.close()
    without = [record async for record in log.reader().about(alice)]
    assert [record.seq for record in without] == [4, 5, 31]
    assert [done.problem async for done in log.reader().build_index()]
    scanned: list[str] = []

    def note(part: Part, *arguments: Any, **more: Any) -> Any:
        scanned.append(part.segment.name)
        return scan(part, *arguments, **more)

    monkeypatch.setattr(search, "scan", note)
    assert [record async for record in log.reader().about(alice)] == without
    assert len(scanned) == 1, "the active segment"


async def test_records_about_a_person_show_nobody_else(tmp_path: Path) -> None:
    """Whatever is sealed under her keys is opened, what is about others stays sealed, and plain records count."""
    log = SealedLog(tmp_path)
    keys = log.keys = Store()
    alice = Subject("", "user", "alice")
    log.written.write(log.log_in("alice"))
    keys.of[alice] = list(keys.known)
    other = log.log_in("bob")
    both = log.log_in("bob")
    # Bob changed something of Alice: one record, two keys.
    with_alice = keys.maker.make(bytes(16), 20_000, 0)
    keys.known[with_alice.key_id] = with_alice.key
    keys.of[alice].append(with_alice.key_id)
    both["event_type"], both["email"] = (
        "t",
        log.keys.seal_with(with_alice, "a@example.org", event_place("t", ("email",)), log.log_id),
    )
    log.written.write(
        other,
        both,
        {"event_type": "t", "actor": {"user_id": "alice"}},
        {"event_type": "t", "customer_id": "alice"},
        {"event_type": "t", "name": "alice"},
    )
    log.written.close()
    records = [record.to_dict()["event"] async for record in log.reader().about(alice)]
    assert [event["actor"]["user_id"] for event in records] == ["alice", "[sealed]", "alice"]  # type: ignore[index]
    assert records[1]["email"] == "a@example.org"  # type: ignore[index]
    customer = [record.seq async for record in log.reader().about(Subject("", "customer", "alice"))]
    assert customer == [5]
    with pytest.raises(InvalidQuery, match="key_store"):
        AuditReader(tmp_path).about(alice)
