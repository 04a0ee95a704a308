"""A service's own events, which `alerts check --module tests.delivery.alerts.own_events` makes known."""

from __future__ import annotations

from audit_async.events import AuditEvent


class Refunded(AuditEvent, tag="shop_own.refunded"):
    """Money was given back."""

    ip: str
    cents: int
