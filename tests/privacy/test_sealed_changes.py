"""Changes of a person's data are sealed value by value: the names of the members and what was empty stay legible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit_async import ActorInfo, AuditLogger
from audit_async.events import Change, ResourceInfo, ResourceUpdated, UserUpdated
from audit_async.privacy import Subject
from tests.logs import ConfigFor
from tests.privacy.key_stores import open_store
from tests.privacy.sealed_logs import opened, recorded, sealing

pytestmark = pytest.mark.anyio

CHANGES = {
    "email": Change(before="alice@example.org", after="liddell@example.org"),
    "age": Change(before=None, after=4_100_417_041),
    "address": Change(before={"street": "Rabbit Hole 1", "floors": [1, 2]}, after=None),
}
PLAIN: dict[str, Any] = {
    "email": {"before": "alice@example.org", "after": "liddell@example.org"},
    "age": {"before": None, "after": 4_100_417_041},
    "address": {"before": {"street": "Rabbit Hole 1", "floors": [1, 2]}, "after": None},
}


async def test_the_changes_of_an_account_are_sealed_and_opened(config_for: ConfigFor, tmp_path: Path) -> None:
    """Any kind of value comes back as it was; in the trail none of it is legible."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        audit.emit(UserUpdated(actor=ActorInfo(user_id="bob"), subject="alice", changes=CHANGES))
    [record] = recorded(config)
    changes = record["event"]["changes"]
    assert set(changes) == {"email", "age", "address"}
    assert changes["age"]["before"] is None
    for text in ("alice", "liddell", "Rabbit", "4100417041"):
        assert text not in str(changes)
    [plain] = opened(config, tmp_path)
    assert plain.event["changes"] == PLAIN


async def test_they_are_erased_with_the_person_they_are_about(config_for: ConfigFor, tmp_path: Path) -> None:
    """Not with the one who made them."""
    config = sealing(config_for, tmp_path)
    async with AuditLogger(config) as audit:
        await audit.emit_durable(UserUpdated(actor=ActorInfo(user_id="bob"), subject="alice", changes=CHANGES))
        await audit.erase_subject("alice", reason="asked", requested_by="carol")
    [plain] = opened(config, tmp_path)
    assert plain.event["actor"] == {"user_id": "bob"}
    assert "Rabbit" not in str(plain.event)
    store = open_store(tmp_path / "keys")
    assert store.find(Subject("", "user", "alice")) == []
    assert store.find(Subject("", "user", "bob")) != []
    store.close()


async def test_the_changes_of_a_resource_are_sealed_if_its_kind_is_a_person(
    config_for: ConfigFor, tmp_path: Path
) -> None:
    """`Privacy.resources` says which kinds are; others stay legible."""
    config = sealing(config_for, tmp_path, privacy={"resources": ("patient",)})
    actor = ActorInfo(user_id="bob")
    async with AuditLogger(config) as audit:
        for kind in ("patient", "car"):
            resource = ResourceInfo(resource_type=kind, resource_id="r1")
            audit.emit(ResourceUpdated(actor=actor, resource=resource, changes=CHANGES))
    patient, car = recorded(config)
    assert "Rabbit" not in str(patient["event"])
    assert patient["event"]["resource"]["resource_id"].startswith("sealed:1:")
    assert car["event"]["changes"] == PLAIN
    assert opened(config, tmp_path)[0].event["changes"] == PLAIN
    store = open_store(tmp_path / "keys")
    assert len(store.find(Subject("", "patient", "r1"))) == 1
    store.close()
