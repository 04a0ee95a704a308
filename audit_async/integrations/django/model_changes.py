"""What `save` did to an object of a registered model, with the values before and after, and its many-to-many relations.

The values before are those that this process has read: `from_db` keeps them, which costs a copy of a dict for each
object that is loaded. What was not loaded is not known, and is loaded for no record; what the database computes is not
known until it is read again.
"""

from __future__ import annotations

import functools
from typing import Any, Final, cast

from django.db import connections
from django.db.models.signals import m2m_changed

from audit_async.events import AuditEvent, Change, ResourceCreated, ResourceInfo, ResourceUpdated
from audit_async.integrations.django.commit_intents import own_transaction
from audit_async.integrations.django.field_values import changes_between, key_text, plain_value, values_of
from audit_async.integrations.django.pending_records import WriteOutcome, record_after_commit
from audit_async.integrations.django.process_log import lose_event
from audit_async.integrations.django.registration import Registration, registration_of
from audit_async.integrations.django.request_actor import acting_now

__all__ = ["keep_written", "known_values", "label_of", "prepare_model", "resource_of", "watch_relations"]

#: Where an object's state keeps what is known of its row. A copy of the object has a copy of its state.
_KNOWN: Final = "audit_known"


class KnownRow:
    """What a row holds, as far as this process knows: as it was read or written. Never changed."""

    __slots__ = ("before", "outcome", "values")

    def __init__(
        self, values: dict[str, Any], outcome: WriteOutcome | None = None, before: KnownRow | None = None
    ) -> None:
        self.values: Final = values
        self.outcome: Final = outcome  #: of the transaction that wrote it; None if it was read
        self.before: Final = before  #: what holds again if that was rolled back

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the outcome out of what is pickled, for a cache or another process."""
        return (KnownRow, (self.values,))


def known_values(instance: Any) -> dict[str, Any] | None:
    """Return what the row of an object holds as far as is known; None if it was neither read nor written here."""
    known = _standing(instance._state.__dict__.get(_KNOWN))
    return None if known is None else known.values


def _standing(known: KnownRow | None) -> KnownRow | None:
    """Return what is known without the writes that were rolled back."""
    while known is not None and known.outcome is not None and known.outcome.is_rolled_back:
        known = known.before
    return known


def resource_of(instance: Any) -> ResourceInfo:
    """Return an object as the resource of an event: `shop.Order`, and its primary key."""
    return ResourceInfo(resource_type=label_of(type(instance)), resource_id=key_text(instance.pk))


def label_of(model: type[Any]) -> str:
    """Return a model's name; of a proxy that of the model whose table it is."""
    label: str = model._meta.concrete_model._meta.label
    return label


def prepare_model(model: type[Any]) -> None:
    """Wrap what Django calls on a class as it loads, refreshes and writes an object; subclasses inherit it."""
    if "_audit_prepared" in model.__dict__:
        return
    model._audit_prepared = True
    _watch_loading(model)
    _watch_refreshing(model)
    _watch_saving(model)


def _watch_loading(model: type[Any]) -> None:
    original = model.from_db.__func__

    @functools.wraps(original)
    def from_db(cls: Any, db: str | None, field_names: Any, values: Any, **more: Any) -> Any:
        instance = original(cls, db, field_names, values, **more)
        registration = registration_of(cls)
        if registration is not None and registration.before == "loaded":
            state = instance._state.__dict__
            if _KNOWN not in state:
                state[_KNOWN] = KnownRow(values_of(instance, registration.tracked_fields(cls)))
        return instance

    model.from_db = classmethod(cast("Any", from_db))


def _watch_refreshing(model: type[Any]) -> None:
    original = model.refresh_from_db

    @functools.wraps(original)
    def refresh_from_db(self: Any, *args: Any, **kwargs: Any) -> None:
        """Read again, as Django does; the values are known from now on."""
        before = dict(self.__dict__)
        original(self, *args, **kwargs)
        registration = registration_of(type(self))
        if registration is None:
            return
        # Django sets what it read; the others are what they were, which may not be what the row holds.
        fields = args[1] if len(args) > 1 else kwargs.get("fields")
        names = None if fields is None else set(fields)
        tracked = registration.tracked_fields(type(self))
        read = tuple(
            field
            for field in tracked
            if field.attname in self.__dict__
            and (names is None or field.name in names or field.attname in names)
            and (names is not None or field.attname in before)
        )
        state = self._state.__dict__
        known = _standing(state.get(_KNOWN)) or KnownRow({})
        # What this transaction has written is what was read, and is rolled back with it.
        state[_KNOWN] = KnownRow({**known.values, **values_of(self, read)}, known.outcome, known.before)

    model.refresh_from_db = refresh_from_db


def _watch_saving(model: type[Any]) -> None:
    original = model._save_table

    @functools.wraps(original)
    def _save_table(self: Any, raw: bool = False, cls: Any = None, *args: Any, **kwargs: Any) -> bool:
        registration = registration_of(type(self))
        # A child of multi-table inheritance is written table by table, its own one last.
        if registration is None or cls is None or cls is not type(self)._meta.concrete_model:
            return bool(original(self, raw, cls, *args, **kwargs))
        using = str(kwargs.get("using", args[2] if len(args) > 2 else ""))
        update_fields = kwargs.get("update_fields", args[3] if len(args) > 3 else None)
        with own_transaction(using):
            if registration.before == "database":
                _read_row(self, registration, using)
            updated = bool(original(self, raw, cls, *args, **kwargs))
            try:
                tracked = _written_fields(self, registration, update_fields if updated else None, raw=raw)
                _record_saved(self, tracked, using, created=not updated)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not break the application's save
                lose_event("resource.updated" if updated else "resource.created", error)
        return updated

    model._save_table = _save_table


def _read_row(instance: Any, registration: Registration, using: str) -> None:
    """Ask the database what the row holds that is about to be written."""
    model = type(instance)
    if instance.pk is None or (instance._state.adding and model._meta.pk.has_default()):
        return  # a new object, which Django inserts without a look
    tracked = registration.tracked_fields(model)
    connection = connections[using]
    rows = model._base_manager.using(using).filter(pk=instance.pk)
    if connection.in_atomic_block and connection.features.has_select_for_update:
        rows = rows.select_for_update()
    found = rows.values(*(field.attname for field in tracked)).first()
    instance._state.__dict__[_KNOWN] = KnownRow({} if found is None else dict(found))


def _written_fields(
    instance: Any,
    registration: Registration,
    update_fields: Any,
    *,
    raw: bool,
) -> tuple[Any, ...]:
    """Return the recorded fields that a save has written."""
    tracked = registration.tracked_fields(type(instance))
    if raw:  # a fixture names the tables of a parent and its child one by one
        own = set(type(instance)._meta.concrete_model._meta.local_concrete_fields)
        tracked = tuple(field for field in tracked if field in own)
    if update_fields is not None:
        names = set(update_fields)
        tracked = tuple(field for field in tracked if field.name in names or field.attname in names)
    return tracked


def _record_saved(instance: Any, tracked: tuple[Any, ...], using: str, *, created: bool) -> None:
    after = values_of(instance, tracked)
    known = known_values(instance)
    before = None if created else known or {}
    changes = changes_between(tracked, before, after)
    event: AuditEvent | None = None
    if created:
        event = ResourceCreated(actor=acting_now(), resource=resource_of(instance), changes=changes)
    elif changes:
        event = ResourceUpdated(actor=acting_now(), resource=resource_of(instance), changes=changes)
    keep_written(instance, {**(before or {}), **after}, record_after_commit(event, using))


def keep_written(instance: Any, values: dict[str, Any], outcome: WriteOutcome) -> None:
    """Keep what was written of an object as what is known of its row, until that is rolled back."""
    state = instance._state.__dict__
    earlier = None if outcome.is_committed else _standing(state.get(_KNOWN))
    state[_KNOWN] = KnownRow(values, outcome, earlier)


# Relations.


def watch_relations() -> None:
    """Record what is added to many-to-many relations of registered models, and removed from them."""
    m2m_changed.connect(_relation_changed, dispatch_uid="audit_async.relations")


def _relation_changed(sender: Any, *, instance: Any, action: str, reverse: bool, using: str, **more: Any) -> None:
    """Record a change of the relation whose rows in between are those of `sender`, seen from either end."""
    model, pk_set = more["model"], more["pk_set"]
    owner = model if reverse else type(instance)
    registration = registration_of(owner)
    if registration is None:
        return
    field = next((each for each in owner._meta.many_to_many if each.remote_field.through is sender), None)
    if field is None or not registration.records(field.name):
        return
    try:
        if action in {"pre_remove", "pre_clear"}:
            # Of what is asked to be removed only a part may be there, and of what is cleared nothing is named.
            _keep_linked(instance, sender, field, pk_set, using, reverse=reverse)
        elif action in {"post_remove", "post_clear"}:
            linked = instance.__dict__.pop(_linked_name(field), ())
            _record_links(owner, field, instance, linked, using, reverse=reverse, added=False)
        elif action == "post_add":
            _record_links(owner, field, instance, sorted(pk_set or ()), using, reverse=reverse, added=True)
    except Exception as error:  # noqa: BLE001 - as for a save
        lose_event("resource.updated", error)


def _linked_name(field: Any) -> str:
    return f"_audit_linked_{field.name}"


def _keep_linked(
    instance: Any,
    through: Any,
    field: Any,
    pk_set: set[Any] | None,
    using: str,
    *,
    reverse: bool,
) -> None:
    source, target = field.m2m_field_name(), field.m2m_reverse_field_name()
    if reverse:
        source, target = target, source
    rows = through._base_manager.using(using).filter(**{source: instance.pk})
    if pk_set is not None:
        rows = rows.filter(**{f"{target}__in": pk_set})
    instance.__dict__[_linked_name(field)] = sorted(rows.values_list(target, flat=True))


def _record_links(
    owner: Any,
    field: Any,
    instance: Any,
    others: Any,
    using: str,
    *,
    reverse: bool,
    added: bool,
) -> None:
    """Record links of an object with others; seen from the other end, for each object that has the relation."""
    if not others:
        return
    pairs = [(other, [instance.pk]) for other in others] if reverse else [(instance.pk, list(others))]
    actor = acting_now()
    for pk, keys in pairs:
        shown = plain_value(keys)
        changes = (
            {f"{field.name}.added": Change(after=shown)} if added else {f"{field.name}.removed": Change(before=shown)}
        )
        resource = ResourceInfo(resource_type=label_of(owner), resource_id=key_text(pk))
        record_after_commit(ResourceUpdated(actor=actor, resource=resource, changes=changes), using)
