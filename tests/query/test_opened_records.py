"""Reading a log whose personal members are sealed: with a key store in the clear, without it as recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit_async.events import AuthSuccess
from audit_async.privacy.opening_sealed import KEY_MISSING
from audit_async.privacy.sealed_text import context_place, event_place
from audit_async.reader import AuditReader, Record
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


async def all_of(reader: AuditReader) -> list[Record]:
    """Return all records but the first."""
    return [record async for record in reader.query()][1:]


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
