"""What any release has written, this one reads and finds valid: docs/compatibility.md promises it without an end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, AuditReader, Local
from audit_async.cli import main
from audit_async.errors import LogCorrupted
from audit_async.events import AuthFailure, ResourceRead
from audit_async.reader import Identities, TrailUnreadable
from audit_async.tlog import Policy, VerifierKey
from tests.conftest import DATA
from tests.deploy.write_released_trail import write_released_trail
from tests.trails import VERIFY_TRAIL, check_trail, logs_below

KEPT = sorted(path for path in (DATA / "trails").iterdir() if path.is_dir())
OLDEST = DATA / "trails" / "0.1.0"  # the trail alone, without keys


@pytest.fixture(params=[*KEPT, None], ids=lambda path: "this-version" if path is None else path.name)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of what a release has left; of this version what it would leave."""
    released = tmp_path / "released"
    if request.param is None:
        write_released_trail(released)
    elif request.param == OLDEST:
        shutil.copytree(OLDEST, released / "trail")
        (released / "expected.json").write_text('{"orders/00": 400}')
    else:
        shutil.copytree(request.param, released)
        for path in released.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)  # a checkout knows no modes, and keys have to be closed
    return released


def test_a_trail_of_a_release_is_valid_and_readable(released: Path) -> None:
    """Each log, with its keys; the independent check finds nothing in what it can read; each event is read."""
    trail, keys = released / "trail", released / "keys"
    identities = Identities.from_files(keys / "identity.txt") if keys.exists() else None

    async def verify() -> None:
        signed = trail / "orders" / "signed" / "tlog" / "vkey"
        policy = Policy.of([VerifierKey.parse(signed.read_text().strip())]) if signed.exists() else None
        report = await AuditReader(trail, identities=identities).verify(policy=policy)
        assert report.valid, report.findings
        assert ("signed" in {note.kind for note in report.notes}) == (policy is not None)

    async def events_of(log: Path) -> int:
        read = [record.event async for record in AuditReader(log, identities=identities).query()]
        return sum(isinstance(event, AuthFailure | ResourceRead) for event in read)

    anyio.run(verify)
    counted = {f"orders/{log.name}": anyio.run(events_of, log) for log in logs_below(trail / "orders")}
    assert counted == json.loads((released / "expected.json").read_text())
    for log in logs_below(trail):
        if log.name != "encrypted":
            check_trail(log)


def test_what_is_next_to_a_released_trail_is_read(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key store opens every sealed member, and the hold is in force."""
    trail, keys = released / "trail", released / "keys"
    if not keys.exists():
        pytest.skip("that version has left the trail alone")
    store = ("--key-store", str(keys / "store"), "--master-key", f"file:{keys / 'master.key'}")
    capsys.readouterr()
    assert main(["keystore", "check", str(trail / "orders" / "sealed"), *store, "--json"]) == 0
    (checked,) = json.loads(capsys.readouterr().out)["logs"]
    assert checked["open"] >= 120
    assert checked["missing"] == checked["forged"] == 0
    assert main(["hold", "show", str(trail), "--json"]) == 0
    held = {log["log"]: log["hold"]["reason"] for log in json.loads(capsys.readouterr().out)["logs"] if log["hold"]}
    assert held == {"orders/held": "case 4711"}


@pytest.mark.anyio
async def test_a_changed_trail_of_a_release_is_found(tmp_path: Path) -> None:
    """A single byte in the segment that was active is enough for the verdict to change."""
    trail = tmp_path / "trail"
    shutil.copytree(OLDEST, trail)
    segment = max(trail.rglob("*.audit"))
    segment.chmod(0o600)
    segment.write_bytes(segment.read_bytes().replace(b"dana", b"dora", 1))
    assert not (await AuditReader(trail).verify()).valid


def evidence_in(trail: Path) -> dict[Path, bytes]:
    """Return each file's content, without the lock, in which whoever has it writes its process id."""
    return {path: path.read_bytes() for path in trail.rglob("*") if path.is_file() and path.name != "lock"}


def test_a_trail_of_a_later_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    """After a downgrade that went too far: service, commands and the independent check say so, and change nothing."""
    trail = tmp_path / "trail"
    shutil.copytree(OLDEST, trail)
    (log,) = trail.glob("*/*/log.json")
    log.chmod(0o600)
    log.write_bytes(log.read_bytes().replace(b'"format_version":1', b'"format_version":2'))
    for directory in (trail, log.parent.parent, log.parent):
        directory.chmod(0o700)  # as a service needs it, whatever a checkout has made of it
    before = evidence_in(trail)

    async def open_and_read() -> None:
        with pytest.raises(LogCorrupted, match="format version 2"):
            async with AuditLogger(AuditConfig(mode=Local(trail), service_id="orders", instance="00")):
                pass
        with pytest.raises(TrailUnreadable, match="version 2"):
            _ = [record async for record in AuditReader(trail).query()]
        assert not (await AuditReader(trail).verify()).valid

    anyio.run(open_and_read)
    alone = subprocess.run(
        [sys.executable, VERIFY_TRAIL, trail], capture_output=True, text=True, check=False, timeout=60
    )
    assert alone.returncode == 1
    assert "format version 2, and this verifier reads 1" in alone.stdout
    assert evidence_in(trail) == before
