"""What any release has written, this one reads and finds valid: docs/compatibility.md promises it without an end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, AuditReader, Local
from audit_async.errors import LogCorrupted
from audit_async.events import AuthFailure, ResourceRead
from audit_async.reader import TrailUnreadable
from tests.conftest import DATA
from tests.trails import VERIFY_TRAIL, check_trail

TRAILS = sorted(path for path in (DATA / "trails").iterdir() if path.is_dir())


@pytest.mark.anyio
@pytest.mark.parametrize("kept", TRAILS, ids=lambda path: path.name)
async def test_a_trail_of_a_release_is_valid_and_readable(kept: Path, tmp_path: Path) -> None:
    """The package and the independent check find nothing, and each of the 400 events is read."""
    trail = tmp_path / kept.name
    shutil.copytree(kept, trail)
    check_trail(trail)
    reader = AuditReader(trail)
    assert (await reader.verify()).valid
    types = [type(record.event) async for record in reader.query()]
    assert (types.count(AuthFailure), types.count(ResourceRead)) == (200, 200)


@pytest.mark.anyio
async def test_a_changed_trail_of_a_release_is_found(tmp_path: Path) -> None:
    """A single byte in the segment that was active is enough for the verdict to change."""
    trail = tmp_path / "trail"
    shutil.copytree(TRAILS[0], trail)
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
    shutil.copytree(TRAILS[0], trail)
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
    alone = subprocess.run([sys.executable, VERIFY_TRAIL, trail], capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    assert "format version 2, and this verifier reads 1" in alone.stdout
    assert evidence_in(trail) == before
