"""hold.json against the chain: a legal hold is lifted by a record and by nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async._store.legal_hold import place_hold
from audit_async._verify.verify_scope import LastRecords, SeqRange
from tests.logs import failure
from tests.trail.lived import note_kinds, only, verify


def config(base_dir: Path) -> AuditConfig:
    """Return the configuration of the service."""
    return AuditConfig(mode=Local(base_dir), service_id="orders", instance="00", handle_signals=False)


def live(base_dir: Path, *, hold: bool = False, lift: bool = False) -> Path:
    """Open the log, set or lift a hold, write, and close it; return its directory."""

    async def run() -> None:
        async with AuditLogger(config(base_dir)) as audit:
            if hold:
                await audit.set_hold(reason="case 7", set_by="legal")
            if lift:
                await audit.lift_hold(reason="case 7 is closed", lifted_by="legal")
            await audit.emit_durable(failure())

    anyio.run(run)
    return base_dir / "orders" / "00"


def edited(**members: str) -> Callable[[bytes], bytes]:
    """Return what replaces members of hold.json."""
    return lambda content: json.dumps(json.loads(content) | members).encode()


@pytest.mark.parametrize("later", [False, True], ids=["set", "repeated at an opening"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "it is missing, though the chain records a legal hold"),
        (edited(reason="nothing of importance"), "not what the chain records"),
        (edited(set_by="mallory"), "not what the chain records"),
        (edited(since="2020-01-01T00:00:00.000000Z"), "not what the chain records"),
        (edited(id="0123456789abcdef"), "another legal hold"),
        (lambda _: b"{}", "not what the library writes"),
        (lambda _: b"", "not what the library writes"),
    ],
)
def test_a_hold_that_somebody_removed_or_changed_is_found(
    tmp_path: Path, change: Callable[[bytes], bytes] | None, words: str, *, later: bool
) -> None:
    """Whether the record of it is in this session or in an older one."""
    log = live(tmp_path, hold=True)
    if later:
        live(tmp_path)
    assert verify(tmp_path).valid
    path = log / "hold.json"
    content = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(content))
    for scope in (None, LastRecords(4)):
        finding = only(verify(tmp_path, scope))
        assert (finding.kind, finding.segment) == ("hold", "hold.json")
        assert words in finding.reason
    assert verify(tmp_path, SeqRange(0, 0)).logs[0].segments == 1


def test_a_hold_that_is_not_recorded_yet_is_a_note(tmp_path: Path) -> None:
    """The command line sets one while no writer is there; the next opening records it."""
    log = live(tmp_path)
    place_hold(log, reason="case 9", set_by="legal", now=datetime.now(UTC))
    assert note_kinds(verify(tmp_path)) == ["hold_unrecorded"]
    live(tmp_path)
    assert note_kinds(verify(tmp_path)) == []
    assert verify(tmp_path).valid


def test_a_hold_that_was_lifted_is_no_finding(tmp_path: Path) -> None:
    """The file goes after the record; if it comes back, it is a note."""
    log = live(tmp_path, hold=True)
    content = (log / "hold.json").read_bytes()
    live(tmp_path, lift=True)
    assert not (log / "hold.json").exists()
    assert verify(tmp_path).valid
    (log / "hold.json").write_bytes(content)
    report = verify(tmp_path)
    assert report.valid
    assert note_kinds(report) == ["hold_lifted"]


def test_a_fifo_in_the_file_s_place_is_found_and_not_waited_for(tmp_path: Path) -> None:
    """Nor is it permission to delete."""
    log = live(tmp_path, hold=True)
    (log / "hold.json").unlink()
    os.mkfifo(log / "hold.json")
    assert only(verify(tmp_path)).kind == "hold"
