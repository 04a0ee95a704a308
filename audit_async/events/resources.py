"""What was done to the resources of a service, whatever they are, and what left it: exports and downloads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from audit_async.events.base import ActorInfo, AuditEvent, ResourceInfo
from audit_async.events.personal import Personal


class Change(msgspec.Struct, frozen=True):
    """The value of one member before a change and after it; any plain data, None for one that was not there.

    A password or a key is no value to be recorded: leave the member out, or name it so that the redactor knows it.
    """

    before: Any
    after: Any


#: What was changed, by the member's name.
Changes = Mapping[str, Change]


class ResourceCreated(AuditEvent, tag="resource.created"):
    """An actor created a resource; `changes` may say with which values."""

    actor: ActorInfo
    resource: ResourceInfo
    changes: Annotated[Changes | None, Personal("resource.resource_id", when="resource")] = None


class ResourceRead(AuditEvent, tag="resource.read"):
    """An actor read a resource."""

    actor: ActorInfo
    resource: ResourceInfo


class ResourceUpdated(AuditEvent, tag="resource.updated"):
    """An actor changed a resource."""

    actor: ActorInfo
    resource: ResourceInfo
    changes: Annotated[Changes | None, Personal("resource.resource_id", when="resource")] = None


class ResourceDeleted(AuditEvent, tag="resource.deleted"):
    """An actor deleted a resource; `changes` may say what its values were."""

    actor: ActorInfo
    resource: ResourceInfo
    changes: Annotated[Changes | None, Personal("resource.resource_id", when="resource")] = None


class DataExported(AuditEvent, tag="data.exported"):
    """An actor took a copy of data out of the service: so many records, so many bytes."""

    actor: ActorInfo
    resource: ResourceInfo
    records: int | None = None
    bytes: int | None = None


class FileDownloaded(AuditEvent, tag="data.file_downloaded"):
    """An actor downloaded a file."""

    actor: ActorInfo
    resource: ResourceInfo
    records: int | None = None
    bytes: int | None = None
