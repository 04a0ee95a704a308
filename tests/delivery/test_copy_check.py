"""Copies that a receiver has, compared with the trail: what was changed is found, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit_async.delivery import CopyCheck, DeliverableRecord, DeliveredLog, FileSettings, check_copies
from audit_async.delivery.copy_check import COPY_FORMATS
from audit_async.delivery.record_formats import format_of
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo, AuditEvent, AuthFailure, ConfigChanged, HttpRequest, ResourceInfo
from audit_async.events.resources import Change
from audit_async.reader import AuditReader
from tests.delivery.delivering import deliver_once, lines_of_log, settings, write_events

pytestmark = pytest.mark.anyio

EVENTS: list[AuditEvent] = [
    AuthFailure(attempted_user="alice", reason="é\n|=", ip="203.0.113.9", path="/login"),
    HttpRequest(method="GET", path="/", duration_ms=1, bytes_in=0, bytes_out=0, status=200, ip="2001:db8::1"),
    ConfigChanged(
        actor=ActorInfo(user_id="root"),
        resource=ResourceInfo(resource_type="flag", resource_id="1"),
        changes={"limit": Change(1.5, 2**63)},
    ),
]


async def delivered(tmp_path: Path, form: str) -> tuple[AuditReader, list[Any]]:
    """Return a reader of a trail, and its records in a format, as another machine has delivered them."""
    directory = await write_events(tmp_path / "audit", *EVENTS)
    log_id = json.loads((directory / "log.json").read_bytes())["log_id"]
    log = DeliveredLog(log_id, "orders", "00", "elsewhere")
    encode = format_of(form).encode
    copies = [json.loads(encode(DeliverableRecord(line, log))) for line in lines_of_log(directory)]
    return AuditReader(tmp_path / "audit"), copies


async def checked(reader: AuditReader, copies: list[Any], form: str) -> CopyCheck:
    """Return what is found of copies."""
    return await check_copies([json.dumps(copy).encode() for copy in copies], reader, form)


@pytest.mark.parametrize("form", COPY_FORMATS)
async def test_copies_of_the_trail_are_genuine(tmp_path: Path, form: str) -> None:
    """Also with what the receiver has added, in the forms that receivers export, and twice."""
    reader, copies = await delivered(tmp_path, form)
    exported = [
        {**copies[0], "indexed_at": "today", "metadata": {**copies[0].get("metadata", {}), "labels": ["mine"]}},
        {"_index": "i", "_source": copies[1]},
        {"preview": False, "result": {"_raw": json.dumps(copies[2]), "host": "h"}},
        *copies[3:],
        copies[1],
    ]
    result = await checked(reader, exported, form)
    assert (result.copies, result.genuine, result.repeated, result.others) == (6, 6, 1, 0), result.findings


@pytest.mark.parametrize("form", COPY_FORMATS)
async def test_each_changed_member_is_named(tmp_path: Path, form: str) -> None:
    """Whatever leaf of a copy is changed or taken out, but for those of the deliverer, it is found."""
    reader, copies = await delivered(tmp_path, form)
    for number, copy in enumerate(copies):
        changed = [made for path in leaves(copy) for made in (without(copy, path), instead(copy, path))]
        result = await checked(reader, changed, form)
        ignored = 2 * len([path for path in leaves(copy) if ".".join(path) in COPY_FORMATS[form].ours])
        assert result.genuine == ignored, (number, result)
        assert result.others == len(changed) - ignored


def leaves(document: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all members that are no objects."""
    found = []
    for name, value in document.items():
        path = (*prefix, name)
        found += leaves(value, path) if isinstance(value, dict) and value else [path]
    return found


def without(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of a document without one member."""
    copied: dict[str, Any] = json.loads(json.dumps(document))
    inner = copied
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return copied


def instead(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of a document in which one member is another."""
    copied: dict[str, Any] = json.loads(json.dumps(document))
    inner = copied
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = "changed"
    return copied


async def test_what_is_of_no_record_and_what_is_no_copy(tmp_path: Path) -> None:
    """An invented copy, one of another trail, and what can't be read are told apart."""
    reader, copies = await delivered(tmp_path, "ocsf")
    invented = json.loads(json.dumps(copies[1]))
    invented["metadata"]["uid"] = "0123456789abcdef-9"
    foreign = json.loads(json.dumps(copies[1]))
    foreign["unmapped"]["audit"]["hash"] = "00" * 32
    altered = json.loads(json.dumps(copies[1]))
    altered["unmapped"]["audit"]["altered"] = True
    del altered["user"]
    strange: list[Any] = [invented, foreign, altered, {}, [], 5, {"metadata": 5}, {"_source": {}}, {"result": {}}]
    result = await checked(reader, strange, "ocsf")
    kinds = [(finding.line, finding.kind) for finding in result.findings]
    assert kinds[0] == (4, "unreadable")
    assert sorted(kinds) == [(1, "unknown"), (2, "hash"), *((line, "unreadable") for line in range(4, 10))]
    assert (result.genuine, result.altered) == (1, 1)
    assert (await check_copies([b"\xff", b"{"], reader, "ocsf")).others == 2


async def test_cef_can_not_be_compared(tmp_path: Path) -> None:
    """A format whose copies can't be compared is refused by name."""
    with pytest.raises(ConfigError, match="record, ocsf, ecs"):
        await check_copies([], AuditReader(tmp_path), "cef")


OWN = """
from typing import ClassVar
from audit_async.delivery.siem_formats import OcsfClass, OcsfMapping, Text
from audit_async.events import AuditEvent

class TicketClosed(AuditEvent, tag="tickets.closed_{name}"):
    ocsf: ClassVar[OcsfMapping] = OcsfMapping(
        ocsf_class=OcsfClass.ENTITY_MANAGEMENT,
        activity=4,
        activity_name="Delete",
        members={{"ticket": Text("entity.uid")}},
    )
    ticket: str
"""


async def test_own_events_are_delivered_as_their_class_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deliverer imports the modules that its configuration names, and so does the comparison."""
    (tmp_path / "own_tickets.py").write_text(OWN.format(name="here"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "out.ndjson"
    given = settings(
        tmp_path,
        FileSettings(name="file", path=str(out), format="ocsf", services=("orders",)),
        event_modules=("own_tickets",),
    )
    (tmp_path / "audit").mkdir()
    await deliver_once(given)  # imports the module, and finds no log
    from own_tickets import TicketClosed  # type: ignore[import-not-found]  # noqa: PLC0415 - made above

    await write_events(tmp_path / "audit", TicketClosed(ticket="7"))
    await deliver_once(given)
    made = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    [ticket] = (event for event in made if event["metadata"]["event_code"] == "tickets.closed_here")
    assert (ticket["class_uid"], ticket["entity"]) == (3004, {"uid": "7"})
    result = await check_copies(out.read_bytes().splitlines(), AuditReader(tmp_path / "audit"), "ocsf")
    assert result.others == 0
    with pytest.raises(ConfigError, match=r"event_modules.*own_missing"):
        await deliver_once(settings(tmp_path, FileSettings(name="file", path=str(out)), event_modules=("own_missing",)))
