"""A trail to be delivered, and deliverers of it."""

from __future__ import annotations

import pytest


#: aiohttp is for asyncio only.
@pytest.fixture
def anyio_backend() -> str:
    """Delivery runs on asyncio alone."""
    return "asyncio"
