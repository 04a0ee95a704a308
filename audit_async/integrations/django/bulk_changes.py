"""What one statement did to many objects: `QuerySet.update`, `delete`, `bulk_create`, `bulk_update`, and cascades.

Django sends no signals for these. So the methods themselves are wrapped, once and for every queryset: those of custom
managers and of relations end there, and the `async` ones as well. What is loaded for a deletion anyway is recorded
object by object; a deletion in one statement stays one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from django.db.models import QuerySet
from django.db.models.deletion import Collector

from audit_async.events import ActorInfo, AuditEvent, BulkChanged, ResourceDeleted, ResourceInfo
from audit_async.events.resources import Operation
from audit_async.integrations.django.admin_log import record_admin_entries
from audit_async.integrations.django.commit_intents import own_transaction
from audit_async.integrations.django.criteria import Criteria, criteria_of
from audit_async.integrations.django.field_values import changes_between, key_text, plain_value, values_of
from audit_async.integrations.django.model_changes import keep_written, known_values, label_of
from audit_async.integrations.django.pending_records import record_after_commit
from audit_async.integrations.django.process_log import lose_event
from audit_async.integrations.django.registration import Registration, registration_of
from audit_async.integrations.django.request_actor import acting_now

__all__ = ["watch_bulk_changes"]

#: How many keys one record names; what has more of them is several records.
_KEYS_PER_RECORD: Final = 500

#: Set while a statement is part of one that is recorded as a whole.
_within: Final[ContextVar[bool]] = ContextVar("audit_django_within", default=False)


def watch_bulk_changes() -> None:
    """Wrap the methods of `QuerySet` and `Collector` that change rows; done once a process."""
    if getattr(QuerySet.update, "is_audited", False):
        return
    for owner, name, wrapper in (
        (QuerySet, "update", _update),
        (QuerySet, "bulk_create", _bulk_create),
        (QuerySet, "bulk_update", _bulk_update),
        (QuerySet, "_raw_delete", _raw_delete),
        (Collector, "delete", _collector_delete),
    ):
        _wrap(owner, name, wrapper)


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, Collector):
            is_recorded = any(registration_of(model) is not None for model in self.data)
            using = self.using
        else:
            is_recorded = registration_of(self.model) is not None
            using = kwargs.get("using", args[0] if args else "") if name == "_raw_delete" else ""
        if not is_recorded:
            return wrapper(original, self, *args, **kwargs)
        if not using:
            self._for_write = True  # so that `db` is the one that is written to
            using = self.db
        with own_transaction(using):
            return wrapper(original, self, *args, **kwargs)

    wrapped.is_audited = True  # type: ignore[attr-defined]  # a mark for the next call
    setattr(owner, name, wrapped)


# Querysets.


def _update(original: Callable[..., Any], queryset: Any, **values: Any) -> Any:
    registration = None if _within.get() else registration_of(queryset.model)
    if registration is None:
        return original(queryset, **values)
    statement = _statement_of(queryset, registration, "update")
    rows = original(queryset, **values)
    if rows:
        statement.record(rows, _values_set(registration, values))
    return rows


def _raw_delete(original: Callable[..., Any], queryset: Any, using: str) -> Any:
    registration = None if _within.get() else registration_of(queryset.model)
    if registration is None:
        return original(queryset, using)
    statement = _statement_of(queryset, registration, "delete", using)
    rows = original(queryset, using)
    if rows:
        statement.record(rows, None)
    return rows


def _bulk_create(original: Callable[..., Any], queryset: Any, objs: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
    registration = registration_of(queryset.model)
    if registration is None and queryset.model._meta.label != "admin.LogEntry":
        return original(queryset, objs, *args, **kwargs)
    objects = list(objs)
    made = original(queryset, objects, *args, **kwargs)
    if registration is None:
        record_admin_entries(objects, queryset.db)
    elif objects:
        try:
            _record_created(queryset, registration, objects, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the application has done its part
            lose_event("resource.bulk_changed", error)
    return made


def _record_created(queryset: Any, registration: Registration, objects: list[Any], *args: Any, **kwargs: Any) -> None:
    names = ("batch_size", "ignore_conflicts", "update_conflicts", "update_fields", "unique_fields")
    options = {**dict(zip(names, args, strict=False)), **kwargs}
    on_conflict = None
    if options.get("ignore_conflicts"):
        on_conflict = "those that are in no conflict with a row that is there"
    elif options.get("update_conflicts"):
        unique, updated = (", ".join(options.get(name) or ()) for name in ("unique_fields", "update_fields"))
        on_conflict = f"those that are in no conflict{f' in {unique}' if unique else ''}; in rows that are: {updated}"
    fields = registration.tracked_fields(queryset.model)
    label, actor = label_of(queryset.model), acting_now()
    for batch in _batches(objects):
        keys = [key_text(each.pk) for each in batch if each.pk is not None]
        outcome = record_after_commit(
            BulkChanged(
                actor=actor,
                resource_type=label,
                operation="create",
                criteria=on_conflict,
                values=_values_by_object(batch, fields),
                rows=len(batch) if on_conflict is None else None,
                resource_ids=keys if len(keys) == len(batch) else None,
            ),
            queryset.db,
        )
        for each in batch if on_conflict is None else ():
            keep_written(each, values_of(each, fields), outcome)


def _bulk_update(
    original: Callable[..., Any],
    queryset: Any,
    objs: Iterable[Any],
    fields: Iterable[str],
    *args: Any,
    **kwargs: Any,
) -> Any:
    registration = registration_of(queryset.model)
    if registration is None:
        return original(queryset, objs, fields, *args, **kwargs)
    objects, names = list(objs), list(fields)
    token = _within.set(True)
    try:
        rows = original(queryset, objects, names, *args, **kwargs)
    finally:
        _within.reset(token)
    if rows:
        try:
            _record_updated(queryset, registration, objects, set(names), rows)
        except Exception as error:  # noqa: BLE001 - as for bulk_create
            lose_event("resource.bulk_changed", error)
    return rows


def _record_updated(
    queryset: Any,
    registration: Registration,
    objects: list[Any],
    names: set[str],
    rows: int,
) -> None:
    fields = tuple(
        field for field in registration.tracked_fields(queryset.model) if field.name in names or field.attname in names
    )
    label, actor = label_of(queryset.model), acting_now()
    all_there = rows == len(objects)
    for batch in _batches(objects):
        outcome = record_after_commit(
            BulkChanged(
                actor=actor,
                resource_type=label,
                operation="update",
                criteria="those of resource_ids"
                if all_there
                else f"those of resource_ids that are there; {rows} in all",
                values=_values_by_object(batch, fields),
                rows=len(batch) if all_there else None,
                resource_ids=[key_text(each.pk) for each in batch],
            ),
            queryset.db,
        )
        for each in batch:
            keep_written(each, {**(known_values(each) or {}), **values_of(each, fields)}, outcome)


class _Statement(NamedTuple):
    """One statement that is about to be executed."""

    model: Any
    operation: Operation
    using: str
    actor: ActorInfo
    criteria: Criteria
    keys: list[str] | None

    def record(self, rows: int, values: dict[str, Any] | None) -> None:
        """Record it once its transaction is committed."""
        label = label_of(self.model)
        batches: list[list[str] | None] = [*_batches(self.keys)] if self.keys else [None]
        for keys in batches:
            event = BulkChanged(
                actor=self.actor,
                resource_type=label,
                operation=self.operation,
                criteria=self.criteria.text,
                parameters=self.criteria.parameters or None,
                values=values,
                rows=rows,
                resource_ids=keys,
            )
            record_after_commit(event, self.using)


def _statement_of(queryset: Any, registration: Registration, operation: Operation, using: str = "") -> _Statement:
    """Return what is known of a statement before it is executed; raises nothing of its own."""
    using = using or queryset.db
    try:
        criteria = criteria_of(queryset.query, using)
    except Exception as error:  # noqa: BLE001 - a kind of condition that is not known here
        criteria = Criteria()
        criteria.text = f"[a condition that could not be read: {type(error).__name__}]"
    return _Statement(queryset.model, operation, using, acting_now(), criteria, _keys_of(queryset, registration, using))


def _keys_of(queryset: Any, registration: Registration, using: str) -> list[str] | None:
    if not registration.keys:
        return None
    found = queryset.using(using).order_by().values_list("pk", flat=True)
    return [key_text(key) for key in found]


def _values_set(registration: Registration, values: dict[str, Any]) -> dict[str, Any]:
    """Return what an update sets, by the field's name; of objects their key."""
    shown = {}
    for name, value in values.items():
        if registration.records(name.removesuffix("_id")) and registration.records(name):
            shown[name] = plain_value(value.pk if hasattr(value, "_meta") else value)
    return shown


def _values_by_object(objects: Sequence[Any], fields: tuple[Any, ...]) -> dict[str, Any]:
    """Return the values of several objects: by the field's name, and by key; in a list if the keys are not known."""
    found = [values_of(each, fields) for each in objects]
    keys = [None if each.pk is None else key_text(each.pk) for each in objects]
    shown: dict[str, Any] = {}
    for field in fields:
        column = [plain_value(values.get(field.attname)) for values in found]
        shown[field.name] = column if None in keys else dict(zip(keys, column, strict=True))
    return shown


def _batches(items: list[Any]) -> Iterable[list[Any]]:
    for begin in range(0, len(items), _KEYS_PER_RECORD):
        yield items[begin : begin + _KEYS_PER_RECORD]


# Deletion with all that depends on it.


class _Doomed(NamedTuple):
    """Objects of one model that are about to be deleted, with the values that are known of them."""

    model: Any
    resources: list[ResourceInfo]
    changes: list[Any]


def _collector_delete(original: Callable[..., Any], collector: Any) -> Any:
    try:
        doomed = _doomed_by(collector)
        unlinked = _unlinked_by(collector)
        actor = acting_now() if doomed or unlinked else None
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not break the deletion
        lose_event("resource.deleted", error)
        return original(collector)
    if actor is None:
        return original(collector)
    using = collector.using
    deleted, by_label = original(collector)
    try:
        for event in _events_of_deletion(doomed, unlinked, by_label, actor):
            record_after_commit(event, using)
    except Exception as error:  # noqa: BLE001 - as above
        lose_event("resource.deleted", error)
    return deleted, by_label


def _doomed_by(collector: Any) -> list[_Doomed]:
    found = []
    for model, instances in collector.data.items():
        registration = registration_of(model)
        if registration is None or model._meta.auto_created:
            continue
        fields, label = registration.tracked_fields(model), label_of(model)
        resources, changes = [], []
        for instance in instances:
            resources.append(ResourceInfo(resource_type=label, resource_id=key_text(instance.pk)))
            known = known_values(instance)
            changes.append(changes_between(fields, values_of(instance, fields) if known is None else known, None))
        found.append(_Doomed(model, resources, changes))
    return found


def _unlinked_by(collector: Any) -> list[tuple[Any, Any, list[str]]]:
    """Return what is set in objects that refer to those which are deleted: `on_delete=SET_NULL` and its like.

    Only of those that Django has loaded; the others are updated by a queryset.
    """
    found = []
    for (field, value), groups in collector.field_updates.items():
        if registration_of(field.model) is None:
            continue
        keys = [
            key_text(instance.pk)
            for group in groups
            if not (isinstance(group, QuerySet) and group._result_cache is None)
            for instance in group
        ]
        if keys:
            found.append((field, value, keys))
    return found


def _events_of_deletion(
    doomed: list[_Doomed], unlinked: list[tuple[Any, Any, list[str]]], by_label: dict[str, int], actor: ActorInfo
) -> Iterable[AuditEvent]:
    for field, value, keys in unlinked:
        registration = registration_of(field.model)
        for batch in _batches(keys):
            yield BulkChanged(
                actor=actor,
                resource_type=label_of(field.model),
                operation="update",
                criteria="those of resource_ids, which referred to what was deleted",
                values=_values_set(registration, {field.name: value}) if registration else None,
                resource_ids=batch,
            )
    for model, resources, changes in doomed:
        count = by_label.get(model._meta.label, 0)
        if count >= len(resources):
            for resource, change in zip(resources, changes, strict=True):
                yield ResourceDeleted(actor=actor, resource=resource, changes=change)
        elif count:  # somebody else has deleted the others meanwhile
            yield BulkChanged(
                actor=actor,
                resource_type=label_of(model),
                operation="delete",
                criteria="those of resource_ids that were still there",
                rows=count,
                resource_ids=[resource.resource_id for resource in resources],
            )
