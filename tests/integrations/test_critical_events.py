"""A critical event is durable at once in hybrid mode, with all that came before it, through whichever door it comes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

import tests.integrations.django_site.databases  # noqa: F401 - sets the project up
from audit_async import audited, use_audit
from audit_async.config import Hybrid
from audit_async.integrations.logging import AuditHandler
from audit_async.integrations.wsgi import AuditMiddleware
from audit_async.sync import SyncAuditLogger
from tests.integrations.wsgi_client import ask, environment
from tests.logs import ConfigFor, Counted, failure
from tests.processes import wait_until

# After the project is set up, which the import above does.
from audit_async.integrations.django.process_log import record_event  # isort: skip


@audited("test_critical.granted", critical=True)
def grant() -> None:
    """Do something that matters."""


def by_emit(audit: SyncAuditLogger) -> None:
    """Call `emit`."""
    audit.emit(failure())


def by_emit_in_a_thread(audit: SyncAuditLogger) -> None:
    """Call `emit` in another thread."""
    thread = threading.Thread(target=audit.emit, args=(failure(),))
    thread.start()
    thread.join()


def by_decorator(audit: SyncAuditLogger) -> None:
    """Call a function that is audited."""
    with use_audit(audit):
        grant()


def by_logging(audit: SyncAuditLogger) -> None:
    """Log an event."""
    logger, handler = logging.getLogger("test_critical"), AuditHandler(audit)
    logger.addHandler(handler)
    try:
        logger.warning("log-in failed", extra={"audit": failure()})
    finally:
        logger.removeHandler(handler)


def by_wsgi(audit: SyncAuditLogger) -> None:
    """Answer a request with 401."""

    def app(_: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("401 Unauthorized", [])
        return []

    assert ask(AuditMiddleware(app, audit), environment("/orders")).status == "401 Unauthorized"


def by_django(audit: SyncAuditLogger) -> None:
    """Record as the signals of Django's log-ins do, and what waits for COMMIT."""
    with use_audit(audit):
        assert record_event(failure())


@pytest.mark.parametrize("door", [by_emit, by_emit_in_a_thread, by_decorator, by_logging, by_wsgi, by_django])
def test_a_critical_event_is_durable_at_once(config_for: ConfigFor, door: Callable[[SyncAuditLogger], None]) -> None:
    """Nobody waits for it, nothing follows, and the batch's interval is an hour."""
    mode = Hybrid(batch_size=1000, batch_interval=3600.0)
    with SyncAuditLogger(config_for(flush_mode=mode)) as audit:
        before = audit.emit(Counted(producer="before", n=1))
        wait_until(lambda: audit.stats().records == 2)
        assert not before.is_durable
        door(audit)
        wait_until(lambda: before.is_durable and audit.stats().durable >= 3)
