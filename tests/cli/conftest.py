"""What the tests of the command line share."""

from __future__ import annotations

import pytest

from tests.cli.commands import Audit


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Audit:
    """Run `audit-async` within this process, with pipes as wide as they are by default."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "AUDIT_BASE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return Audit(capsys)
