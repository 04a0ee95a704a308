"""What actors were allowed, what they were refused, and how that was changed."""

from __future__ import annotations

from typing import Annotated

from audit_async.events.base import ActorInfo, AuditEvent, ResourceInfo
from audit_async.events.personal import Personal


class AuthorizationGranted(AuditEvent, tag="authz.granted"):
    """An actor was allowed an action on a resource."""

    actor: ActorInfo
    resource: ResourceInfo
    action: str


class AuthorizationDenied(AuditEvent, tag="authz.denied"):
    """An actor was refused an action on a resource."""

    actor: ActorInfo
    resource: ResourceInfo
    action: str
    reason: str


class PermissionChanged(AuditEvent, tag="authz.permission_changed"):
    """An actor changed what a subject may do; both lists are complete."""

    actor: ActorInfo
    subject: Annotated[str, Personal("subject")]
    old_permissions: list[str]
    new_permissions: list[str]
