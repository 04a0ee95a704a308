"""The memory of GPUs: what was allocated, sealed and verified. Never an address; sizes are in bytes."""

from __future__ import annotations

from typing import ClassVar

from audit_async.events.base import AuditEvent


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
