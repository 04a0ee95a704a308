"""What the tests of reports share."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Only asyncio: the log lives on its loop."""
    return "asyncio"
