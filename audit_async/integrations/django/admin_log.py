"""What people do in the admin, by its own log: for models that are not registered.

The admin's log names the fields and no values, and so does the record. What is done to registered models is recorded
with values as it is done, by the admin as by everybody else.
"""

from __future__ import annotations

import json
from typing import Any

from django.db.models.signals import post_save

from audit_async.events import AuditEvent, Change, ResourceCreated, ResourceDeleted, ResourceInfo, ResourceUpdated
from audit_async.integrations.django.pending_records import record_after_commit
from audit_async.integrations.django.process_log import lose_event
from audit_async.integrations.django.registration import registration_of
from audit_async.integrations.django.request_actor import acting_now

__all__ = ["record_admin_entries", "watch_admin"]

_EVENTS: dict[int, type[ResourceCreated | ResourceUpdated | ResourceDeleted]] = {
    1: ResourceCreated,  # django.contrib.admin.models.ADDITION
    2: ResourceUpdated,  # CHANGE
    3: ResourceDeleted,  # DELETION
}


def watch_admin() -> None:
    """Record the entries of the admin's log from now on; of several at once `bulk_changes` reports."""
    from django.contrib.admin.models import LogEntry  # noqa: PLC0415 - models can be imported once all are loaded

    post_save.connect(_entry_saved, sender=LogEntry, dispatch_uid="audit_async.admin")


def _entry_saved(instance: Any, created: bool, using: str, raw: bool = False, **_: object) -> None:
    if created and not raw:
        record_admin_entries([instance], using)


def record_admin_entries(entries: list[Any], using: str) -> None:
    """Record entries of the admin's log, except those about registered models; raises nothing."""
    try:
        for entry in entries:
            event = _event_of(entry)
            if event is not None:
                record_after_commit(event, using)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not break the admin
        lose_event("resource.updated", error)


def _event_of(entry: Any) -> AuditEvent | None:
    event = _EVENTS.get(entry.action_flag)
    if event is None or entry.content_type_id is None:
        return None
    content_type = entry.content_type
    model = content_type.model_class()
    if model is not None and registration_of(model) is not None:
        return None
    label = f"{content_type.app_label}.{content_type.model}" if model is None else model._meta.label
    resource = ResourceInfo(resource_type=label, resource_id=str(entry.object_id))
    return event(actor=acting_now(), resource=resource, changes=_changed_fields(entry.change_message) or None)


def _changed_fields(message: str) -> dict[str, Change]:
    """Return the fields that an entry names, with nothing that is known of their values."""
    try:
        parts = json.loads(message)
    except ValueError:
        return {}  # a text of the application's own
    changes: dict[str, Change] = {}
    for part in parts if isinstance(parts, list) else ():
        for action, about in part.items() if isinstance(part, dict) else ():
            if not isinstance(about, dict):
                continue
            related = f"{about['name']} {about.get('object', '')} ({action})".strip() if "name" in about else None
            for name in about.get("fields") or ():
                changes[f"{related}.{name}" if related else str(name)] = Change()
            if related and not about.get("fields"):
                changes[related] = Change()
    return changes
