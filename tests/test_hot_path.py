"""What one `emit` may cost, in measures that don't depend on the machine: memory blocks and function calls."""

from __future__ import annotations

import gc
import sys

import pytest

from audit_async import AuditConfig, AuditLogger, Disabled
from audit_async.context import audit_context
from audit_async.events import ModelAccessed
from tests.logs import ConfigFor

pytestmark = pytest.mark.anyio

EVENTS = 2000


async def test_emit_leaves_at_most_five_blocks_an_event(config_for: ConfigFor) -> None:
    """On the plain path an event keeps its bytes, its receipt and two numbers alive, and little else."""
    event = ModelAccessed(customer_id="c-20931", model_ref="llama-3-70b", access_type="inference")
    async with AuditLogger(config_for()) as audit:
        emit = audit.emit
        for _ in range(100):
            emit(event)
        await audit.flush()
        gc.collect()
        gc.disable()
        try:
            before = sys.getallocatedblocks()
            for _ in range(EVENTS):
                emit(event)
            blocks = sys.getallocatedblocks() - before
        finally:
            gc.enable()
    assert blocks / EVENTS <= 5


def calls_of(emit: object, event: ModelAccessed, *, count: int) -> float:
    """Return how many Python functions one call of `emit` runs, itself included."""
    calls = 0

    def count_calls(_frame: object, what: str, _argument: object) -> None:
        nonlocal calls
        calls += what == "call"

    assert callable(emit)
    sys.setprofile(count_calls)
    try:
        for _ in range(count):
            emit(event)
    finally:
        sys.setprofile(None)
    return calls / count


async def test_emit_is_one_python_function(config_for: ConfigFor) -> None:
    """The plain path calls no Python function but itself: a call would cost a tenth of the whole."""
    event = ModelAccessed(customer_id="c-20931", model_ref="llama-3-70b", access_type="inference")
    async with AuditLogger(config_for()) as audit:
        audit.emit(event)  # opens the chunk
        assert calls_of(audit.emit, event, count=1000) == 1.0


async def test_a_bound_context_costs_one_function_more(config_for: ConfigFor) -> None:
    """What is bound is encoded at the first event under it; the others look it up and copy it."""
    event = ModelAccessed(customer_id="c-20931", model_ref="llama-3-70b", access_type="inference")
    async with AuditLogger(config_for()) as audit:
        with audit_context(request_id="7f3a", tenant="acme"):
            audit.emit(event)  # opens the chunk, and encodes the context
            assert calls_of(audit.emit, event, count=1000) == 2.0
        assert calls_of(audit.emit, event, count=1000) == 1.0


async def test_a_disabled_emit_is_one_function_that_keeps_nothing() -> None:
    """`Disabled()` costs one call."""
    event = ModelAccessed(customer_id="c-20931", model_ref="llama-3-70b", access_type="inference")
    async with AuditLogger(AuditConfig(mode=Disabled())) as audit:
        assert calls_of(audit.emit, event, count=1000) == 1.0
