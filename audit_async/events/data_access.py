"""What was done with customers' data and on their behalf."""

from __future__ import annotations

from typing import Annotated

from audit_async.events.base import AuditEvent
from audit_async.events.personal import Personal


class DataDeleted(AuditEvent, tag="data.deleted"):
    """Data of a customer was deleted."""

    customer_id: Annotated[str, Personal("customer_id", kind="customer")]
    data_types: list[str]
    reason: str
