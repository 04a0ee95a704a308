"""What was done with customers' data and on their behalf."""

from __future__ import annotations

from typing import Annotated

from audit_async.events.base import AuditEvent, AuditResult
from audit_async.events.personal import Personal


class InferenceExecuted(AuditEvent, tag="data.inference_executed"):
    """A model ran on a customer's behalf."""

    customer_id: Annotated[str, Personal("customer_id", kind="customer")]
    job_id: str
    model_ref: str
    tokens_processed: int
    provider_id: str | None = None
    result: AuditResult


class ModelAccessed(AuditEvent, tag="data.model_accessed"):
    """A model was read, listed or downloaded on a customer's behalf; `access_type` says which."""

    customer_id: Annotated[str, Personal("customer_id", kind="customer")]
    model_ref: str
    access_type: str
    provider_id: str | None = None


class DataDeleted(AuditEvent, tag="data.deleted"):
    """Data of a customer was deleted."""

    customer_id: Annotated[str, Personal("customer_id", kind="customer")]
    data_types: list[str]
    reason: str
