"""A trail to be delivered, and deliverers of it."""

from __future__ import annotations

import pytest

from audit_async.delivery import reconciliation, sink_gate


#: aiohttp is for asyncio only.
@pytest.fixture
def anyio_backend() -> str:
    """Delivery runs on asyncio alone."""
    return "asyncio"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the waits short that a person, a busy receiver or a broken connection is waited for."""
    monkeypatch.setattr(sink_gate, "_SLOW_RETRY_S", 0.05)
    monkeypatch.setattr(sink_gate, "_FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(sink_gate, "_LAST_RETRY_S", 0.1)
    monkeypatch.setattr(reconciliation, "_ASK_AGAIN_AFTER_S", 0.01)
