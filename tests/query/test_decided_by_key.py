"""Who acts in a log that seals: records that their keys decide are not opened, and the answer is the same."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from audit_async import AuditEvent
from audit_async._query import sealed_filter
from audit_async._query.audit_query import Glob
from audit_async._query.recorded_members import ACTING, ACTING_WITHOUT_ACTOR
from audit_async._query.sealed_filter import own_actors
from audit_async.events import describe
from audit_async.events.registry import known_types
from audit_async.privacy import Destroyed, NewKey, Subject
from audit_async.privacy.opening_sealed import Opener
from audit_async.privacy.sealed_text import event_place
from audit_async.privacy.subjects import pseudonym_of
from audit_async.reader import AuditQuery, AuditReader
from tests.privacy.known_keys import KnownKeys
from tests.query.test_opened_records import SealedLog

pytestmark = pytest.mark.anyio

NAMES = ("alice", "Alice", "bob", "carol", "sealed:1:x", "dave")
CUSTOMER = "a customer"  # under whose key several names are sealed
KINDS = ("auth.success", "token.created", "auth.failure", "own.kind", "unknown.kind", "plain")
NOBODY = "nobody in particular"
QUERIES = (
    AuditQuery(actor="alice"),
    AuditQuery(actor="bob", newest_first=True),
    AuditQuery(actor="sealed:1:x"),
    AuditQuery(actor="nobody"),
    AuditQuery(actor=Glob("?lice")),
    AuditQuery(actor="alice", path="/plain"),
    AuditQuery(actor="carol", event_types=("auth.*",)),
    AuditQuery(actor="dave", ip="203.0.113.9"),
    AuditQuery(ip="203.0.113.9"),
)


class CaseBlindKeys(KnownKeys):
    """Keys of persons whose ids are the same in capitals."""

    def pseudonym(self, subject: Subject) -> bytes:
        """Return what a person is known by."""
        return pseudonym_of(subject, bytes(32), "NFC-casefold")


class RandomLog(SealedLog):
    """A log of events of many kinds: a key for each person, tenant and day, some of them missing or destroyed."""

    def __init__(self, base_dir: Path, seed: int) -> None:
        super().__init__(base_dir)
        self.random = random.Random(seed)  # noqa: S311 - no secret depends on it
        self.is_case_blind = seed % 2 == 1
        if self.is_case_blind:
            self.keys = CaseBlindKeys()
        self.keys_of: dict[tuple[str, str, int], NewKey] = {}

    def key_of(self, whose: str) -> NewKey:
        """Return one of somebody's keys."""
        person = whose.casefold() if self.is_case_blind else whose
        place = (person, self.random.choice(["acme", "other"]), self.random.randrange(2))
        if place not in self.keys_of:
            made = self.keys_of[place] = self.keys.maker.make(bytes(16), 20_000 + place[2], 0)
            fate = self.random.random()
            if fate > 0.2:
                self.keys.known[made.key_id] = made.key
            elif fate > 0.1:
                self.keys.known[made.key_id] = Destroyed(datetime(2026, 11, 28, tzinfo=UTC))
        return self.keys_of[place]

    def sealed(self, value: str, event_type: str, *path: str, whose: str | None = None) -> str:
        """Return a value sealed for its place, now and then for another one."""
        moved = "display_name" if self.random.random() < 0.05 else path[-1]
        place = event_place(event_type, (*path[:-1], moved))
        return self.keys.seal_with(self.key_of(whose or value), value, place, self.log_id)

    def event(self) -> dict[str, Any]:
        """Return any event."""
        name, path = self.random.choice(NAMES), self.random.choice(["/plain", "/other"])
        kind = self.random.choice(KINDS)
        if kind == "plain":
            return {"event_type": "auth.success", "actor": {"user_id": name, "ip": "203.0.113.9"}, "path": path}
        if kind == "auth.failure":
            whose = self.random.choice([name, NOBODY])
            attempted = self.sealed(name, kind, "attempted_user", whose=whose)
            return {"event_type": kind, "attempted_user": attempted, "known": whose == name, "path": path}
        # In events of the application who acts may be sealed under the key of somebody else.
        whose = CUSTOMER if kind.endswith(".kind") else name
        actor = {
            "user_id": self.sealed(name, kind, "actor", "user_id", whose=whose),
            "ip": self.sealed("203.0.113.9", kind, "actor", "ip", whose=name),
        }
        return {"event_type": kind, "actor": actor, "path": path}


class OwnKind(AuditEvent, tag="own.kind"):
    """An application's event."""

    actor: dict[str, str]


async def answer(reader: AuditReader, query: AuditQuery, *, use_index: bool) -> tuple[list[int], list[int]]:
    """Return which records are found, and how many are undecided."""
    undecided: list[int] = []
    found = reader.query(query, use_index=use_index, on_undecided=undecided.append)
    return [record.seq async for record in found], undecided


@pytest.mark.parametrize("seed", range(2))
async def test_the_answer_is_that_of_opening_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Found and undecided records are the same, in both orders, with an index and without."""
    log = RandomLog(tmp_path, seed)
    for _ in range(150):
        log.written.write(log.event())
    log.written.close()
    opened = 0
    really_open = Opener.open

    def counting(self: Opener, *arguments: Any, **more: Any) -> Any:
        nonlocal opened
        opened += 1
        return really_open(self, *arguments, **more)

    monkeypatch.setattr(Opener, "open", counting)
    for indexed in (False, True):
        if indexed:
            assert [done.problem async for done in log.reader().build_index()]
        for query in QUERIES:
            opened = 0
            decided = await answer(log.reader(), query, use_index=indexed)
            few = opened
            with monkeypatch.context() as patch:
                patch.setattr(sealed_filter, "own_actors", lambda _: ())
                opened = 0
                assert await answer(log.reader(), query, use_index=indexed) == decided, query
            assert few <= opened
            if query == AuditQuery(actor="bob", newest_first=True):
                assert few < opened, "keys decide some"


def test_in_every_built_in_event_who_acts_is_sealed_under_a_key_of_his_own() -> None:
    """Of the one exception, a name that somebody typed, nothing is concluded."""
    acting = {("actor",), ("actor", "user_id"), *((name,) for name in ACTING | ACTING_WITHOUT_ACTOR)}
    checked = 0
    for event_type, cls in known_types().items():
        members = [member for member in describe(cls).personal or () if member.path in acting]
        if not cls.__module__.startswith("audit_async.events.") or not members:
            continue
        checked += 1
        assert bool(own_actors(event_type)) == (event_type != "auth.failure"), event_type
    assert checked > 15
    assert own_actors("own.kind") == own_actors("unknown.kind") == ()
