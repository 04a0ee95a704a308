"""A service that runs language models on GPUs: pools, nodes and tasks, the memory of GPUs, models and their use.

Sizes are bytes unless the name has a unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from audit_async.events.base import ActorInfo, AuditEvent, AuditResult
from audit_async.events.personal import Personal

__all__ = [
    "InferenceExecuted",
    "MalformedModelRejected",
    "ModelAccessed",
    "NodeDeregistered",
    "NodeRegistered",
    "PoolCreated",
    "PoolDeleted",
    "PoolModified",
    "SealVerificationFailed",
    "SealVerified",
    "TaskCanceled",
    "TaskCompleted",
    "TaskSubmitted",
    "VramAllocated",
    "VramAllocationFailed",
    "VramDeallocated",
    "VramSealed",
]


class PoolCreated(AuditEvent, tag="pool.created"):
    """A pool of replicas of one model was created on a node."""

    actor: ActorInfo
    pool_id: str
    model_ref: str
    node_id: str
    replicas: int
    gpu_devices: list[int]


class PoolDeleted(AuditEvent, tag="pool.deleted"):
    """A pool was taken down, with all its replicas."""

    actor: ActorInfo
    pool_id: str
    model_ref: str
    node_id: str
    reason: str
    replicas_terminated: int


class PoolModified(AuditEvent, tag="pool.modified"):
    """A pool was changed; `changes` is any JSON object."""

    actor: ActorInfo
    pool_id: str
    changes: Mapping[str, Any]


class NodeRegistered(AuditEvent, tag="node.registered"):
    """A node joined; `total_vram_gb` is in gigabytes."""

    actor: ActorInfo
    node_id: str
    gpu_count: int
    total_vram_gb: int
    capabilities: list[str]


class NodeDeregistered(AuditEvent, tag="node.deregistered"):
    """A node left; `pools_affected` names the pools that lost replicas."""

    actor: ActorInfo
    node_id: str
    reason: str
    pools_affected: list[str]


class TaskSubmitted(AuditEvent, tag="task.submitted"):
    """A task was handed in. The prompt itself is never recorded: its length in characters and its hash are."""

    actor: ActorInfo
    task_id: str
    model_ref: str
    prompt_length: int
    prompt_hash: str
    max_tokens: int


class TaskCompleted(AuditEvent, tag="task.completed"):
    """A task ended, well or not; `duration_ms` is in milliseconds."""

    task_id: str
    worker_id: str
    tokens_generated: int
    duration_ms: int
    result: AuditResult


class TaskCanceled(AuditEvent, tag="task.canceled"):
    """A task was called off."""

    actor: ActorInfo
    task_id: str
    reason: str


class VramSealed(AuditEvent, tag="vram.sealed"):
    """A shard was loaded and sealed with its digest."""

    shard_id: str
    gpu_device: int
    vram_bytes: int
    digest: str
    worker_id: str


class SealVerified(AuditEvent, tag="seal.verified"):
    """A shard's seal was checked and held."""

    shard_id: str
    worker_id: str


class SealVerificationFailed(AuditEvent, tag="seal.verification_failed"):
    """A shard is not what was sealed. Critical."""

    critical: ClassVar[bool] = True

    shard_id: str
    reason: str
    expected_digest: str
    actual_digest: str
    worker_id: str
    severity: str


class VramAllocated(AuditEvent, tag="vram.allocated"):
    """Memory was allocated; `available_bytes` and `used_bytes` are those of the device afterwards."""

    requested_bytes: int
    allocated_bytes: int
    available_bytes: int
    used_bytes: int
    gpu_device: int
    worker_id: str


class VramAllocationFailed(AuditEvent, tag="vram.allocation_failed"):
    """Memory could not be allocated."""

    requested_bytes: int
    available_bytes: int
    reason: str
    gpu_device: int
    worker_id: str


class VramDeallocated(AuditEvent, tag="vram.deallocated"):
    """A shard's memory was given back; `remaining_used` is in bytes."""

    shard_id: str
    freed_bytes: int
    remaining_used: int
    gpu_device: int
    worker_id: str


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


class MalformedModelRejected(AuditEvent, tag="security.malformed_model_rejected"):
    """A model file was refused because of its form. Critical."""

    critical: ClassVar[bool] = True

    model_ref: str
    validation_error: str
    severity: str
    action_taken: str
    worker_id: str | None = None
