"""What any release has written, this one reads and finds valid: docs/compatibility.md promises it without an end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit_async import AuditReader
from audit_async.events import AuthFailure, ResourceRead
from tests.conftest import DATA
from tests.trails import check_trail

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
