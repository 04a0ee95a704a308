"""What the GDPR asks to be shown: requests for access, exports and erasures."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from audit_async.events.base import AuditEvent, require_aware
from audit_async.events.personal import Personal


class GdprDataAccessRequest(AuditEvent, tag="compliance.gdpr_data_access_request"):
    """Somebody asked for the data that is held about a customer (article 15)."""

    customer_id: Annotated[str, Personal("customer_id", kind="customer")]
    requester: Annotated[str, Personal("requester")]
    scope: list[str]


class GdprDataExport(AuditEvent, tag="compliance.gdpr_data_export"):
    """A customer's data was exported (article 20); `file_hash` is that of the file handed over."""

    customer_id: Annotated[str, Personal("customer_id", kind="customer")]
    data_types: list[str]
    export_format: str
    file_hash: str


class GdprRightToErasure(AuditEvent, tag="compliance.gdpr_right_to_erasure"):
    """A customer's data was erased on request (article 17); `completed_at` is an aware datetime."""

    customer_id: Annotated[str, Personal("customer_id", kind="customer")]
    completed_at: datetime
    data_types_deleted: list[str]

    def __post_init__(self) -> None:
        AuditEvent.__post_init__(self)
        require_aware(self, "completed_at")
