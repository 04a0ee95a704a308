"""A pytest plugin: the fixture `audit_trail`, a real log in a temporary directory, for tests of what code records.

    def test_a_refused_log_in_is_recorded(audit_trail):
        log_in("mallory", "wrong", audit=audit_trail.audit)
        audit_trail.assert_recorded(AuthFailure, attempted_user="mallory")

pytest finds the plugin by itself if audit-async is installed. It works in any style of test, `def` or `async def`,
with whichever plugin that runs those: see `audit_async.testing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

__all__ = ["audit_trail"]

if TYPE_CHECKING:
    from audit_async.testing import AuditTrail


@pytest.fixture
def audit_trail(tmp_path: Path) -> Iterator[AuditTrail]:
    """A fresh audit log below `tmp_path`: `.audit` to emit to, `.assert_recorded(...)` to see what was.

    During the test `get_audit()` returns its log, and the web middlewares record to it, also those of an application
    whose log is configured, or open, since its import.
    """
    # Here and not above: this module is loaded in each run of pytest, most of which have no use for the rest.
    from audit_async.ambient.ambient_log import set_stand_in  # noqa: PLC0415
    from audit_async.testing import AuditTrail  # noqa: PLC0415

    with AuditTrail(tmp_path / "audit") as trail:
        before = set_stand_in(trail.audit)
        try:
            yield trail
        finally:
            set_stand_in(before)
