"""Pools, nodes and tasks: what was created, changed, run and taken down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit_async.events.base import ActorInfo, AuditEvent, AuditResult


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
