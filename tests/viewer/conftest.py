"""What the tests of the viewer share."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run on one event loop: what depends on the loop is the logger's, and tested there on both."""
    return "asyncio", {"use_uvloop": False}
