"""What was done to the resources of a service, whatever they are, and what left it: exports and downloads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from audit_async.events.base import ActorInfo, AuditEvent, ResourceInfo
from audit_async.events.personal import Personal


class Change(msgspec.Struct, frozen=True):
    """The value of one member before a change and after it; any plain data, None for one that was not there.

    A value that is not known is left out, never guessed: `Change(after=3)` if the old one was not at hand, and
    `Change(before=3)` if the database computed the new one. A password or a key is no value to be recorded: leave the
    member out, or name it so that the redactor knows it.
    """

    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET


#: What was changed, by the member's name.
Changes = Mapping[str, Change]

#: What is done to resources.
Operation = Literal["create", "update", "delete"]


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


class BulkChanged(AuditEvent, tag="resource.bulk_changed"):
    """One statement created, changed or deleted any number of resources, which were not loaded for it.

    Args:
        actor: Who did it.
        resource_type: The type of the resources.
        operation: What was done to them.
        criteria: Which ones, as text, with names in place of values; None if it was all of them, or new ones.
        parameters: The values in `criteria`, by those names.
        values: What was set, by the member's name; what the database computed is left out.
        rows: How many there were, if the database said so.
        resource_ids: Which ones, if that is known.
    """

    actor: ActorInfo
    resource_type: str
    operation: Operation
    criteria: str | None = None
    parameters: Annotated[Mapping[str, Any] | None, Personal()] = None
    values: Annotated[Mapping[str, Any] | None, Personal()] = None
    rows: int | None = None
    resource_ids: Annotated[list[str] | None, Personal()] = None


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
