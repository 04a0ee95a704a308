"""What a flush does to an object: its values before and after, as far as they are in memory; nothing is loaded for it.

SQLAlchemy keeps the old value of a changed attribute until the flush has ended, except if the database, or the mapper
itself, gives it a new one (a SQL expression, `onupdate`, a version number). So old values are taken before the object's
statement, and new ones once the whole flush has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import Column
from sqlalchemy.orm import InstanceState, Mapper, RelationshipProperty
from sqlalchemy.orm.base import LoaderCallableStatus, PassiveFlag

from audit_async.events import Change, ResourceInfo
from audit_async.events.resources import Operation

__all__ = ["FlushedObject", "MapperPlan", "ObjectChange", "plain_value"]

#: Types whose values are recorded as they are.
_PLAIN: Final = frozenset({str, bool, type(None), Decimal, datetime, date, time, UUID})
_UNSET: Final = msgspec.UNSET
#: Integers that JSON has room for in every language.
_INTEGER_BITS: Final = 64


class ObjectChange(NamedTuple):
    """What one flush did to one object."""

    operation: Operation
    resource: ResourceInfo
    changes: dict[str, Change]


class MapperPlan:
    """What is recorded of the objects of one mapped class.

    Args:
        mapper: The class's mapper.
        exclude: Names of attributes that are never recorded.
    """

    def __init__(self, mapper: Mapper[Any], exclude: frozenset[str]) -> None:
        self.resource_type: Final = mapper.class_.__name__
        columns = {
            attribute.key: attribute.columns
            for attribute in mapper.column_attrs
            if isinstance(attribute.columns[0], Column)
        }
        #: In the mapper's order; a dictionary, so that it can be asked whether one is in it.
        self.columns: Final = {key: None for key in columns if key not in exclude}
        self.primary_key: Final = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
        version = mapper.version_id_col
        #: What an UPDATE changes though nobody has set it, and of which SQLAlchemy does not keep the old value.
        self.computed: Final = tuple(
            key
            for key in columns
            if key in self.columns
            and any(
                column is version or getattr(column, "onupdate", None) or getattr(column, "server_onupdate", None)
                for column in columns[key]
            )
        )
        #: Relationships whose links are rows of a table that no class is mapped to.
        self.links: Final = tuple(
            (relationship.key, _primary_key_of(relationship))
            for relationship in mapper.relationships
            if relationship.secondary is not None and not relationship.viewonly and relationship.key not in exclude
        )

    def identity(self, state: InstanceState[Any]) -> str:
        """Return the primary key as text; several columns are joined by commas."""
        if state.key is not None:
            return _joined(state.key[1])
        return _joined(state.dict.get(key) for key in self.primary_key)


class FlushedObject:
    """One object on its way through a flush, with the values that it had before."""

    __slots__ = ("_before", "_known", "_operation", "_plan", "_state")

    def __init__(self, operation: Operation, state: InstanceState[Any], plan: MapperPlan) -> None:
        self._operation: Operation = operation
        self._state = state
        self._plan = plan
        loaded = state.dict
        self._before: dict[str, Any] = {}
        self._known: dict[str, Any] = {}
        if operation == "update":
            self._before = dict(state.committed_state)
            self._known = {key: loaded[key] for key in plan.computed if key in loaded}
        elif operation == "delete":
            self._before = dict(state.committed_state)
            self._known = {key: loaded[key] for key in plan.columns if key in loaded}

    def change(self) -> ObjectChange | None:
        """Return what was done to the object, after the flush; None if that was nothing."""
        plan = self._plan
        if self._operation == "create":
            changes = dict(self._created())
        elif self._operation == "delete":
            changes = dict(self._deleted())
        else:
            changes = dict(self._updated())
        changes.update(self._links())
        if self._operation == "update" and not changes:
            return None
        resource = ResourceInfo(resource_type=plan.resource_type, resource_id=plan.identity(self._state))
        return ObjectChange(self._operation, resource, changes)

    def _created(self) -> Iterator[tuple[str, Change]]:
        loaded = self._state.dict
        for key in self._plan.columns:
            value = loaded.get(key)
            if value is not None:
                yield key, Change(before=None, after=plain_value(value))

    def _deleted(self) -> Iterator[tuple[str, Change]]:
        for key, loaded in self._known.items():
            value = self._before.get(key, loaded)
            if value is not None and not isinstance(value, LoaderCallableStatus):
                yield key, Change(before=plain_value(value), after=None)

    def _updated(self) -> Iterator[tuple[str, Change]]:
        state = self._state
        loaded = state.dict
        # What the flush itself has set, such as a foreign key, is not in `_before`.
        for key, before in {**self._known, **state.committed_state, **self._before}.items():
            if key not in self._plan.columns:
                continue
            after = loaded.get(key, _UNSET)
            is_known = not isinstance(before, LoaderCallableStatus)
            if is_known and after is not _UNSET and state.manager[key].impl.is_equal(after, before):
                continue
            yield (
                key,
                Change(
                    before=plain_value(before) if is_known else _UNSET,
                    after=_UNSET if after is _UNSET else plain_value(after),
                ),
            )

    def _links(self) -> Iterator[tuple[str, Change]]:
        for key, primary_key in self._plan.links:
            state = self._state
            # What is not loaded may have something appended to it all the same.
            is_changed = key in state.committed_state or key in state.__dict__.get("_pending_mutations", ())
            if self._operation != "delete" and not is_changed:
                continue
            history = state.get_history(key, PassiveFlag.PASSIVE_NO_INITIALIZE | PassiveFlag.INCLUDE_PENDING_MUTATIONS)
            removed = history.deleted if self._operation != "delete" else [*history.unchanged, *history.deleted]
            if history.added and self._operation != "delete":
                yield f"{key}.added", Change(after=_identities(history.added, primary_key))
            if removed:
                yield f"{key}.removed", Change(before=_identities(removed, primary_key))


def plain_value(value: object) -> object:
    """Return a column's value as plain data of its own, so that nothing changes it before it is recorded.

    Of what JSON has no place for, and of binary data, only the type and size are recorded.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(key): plain_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_value(one) for one in value]
    if isinstance(value, str):  # a subclass, whose own methods have no say
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if number.bit_length() < _INTEGER_BITS else str(number)
    if isinstance(value, Decimal | date | time | UUID):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return f"<{kind.__module__}.{kind.__qualname__}>"


def _primary_key_of(relationship: RelationshipProperty[Any]) -> tuple[str, ...]:
    mapper = relationship.mapper
    return tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)


def _identities(objects: Iterable[object], primary_key: tuple[str, ...]) -> list[str]:
    found = []
    for one in objects:
        if one is not None:
            loaded = one.__dict__
            found.append(_joined(loaded.get(key) for key in primary_key))
    return found


def _joined(values: Iterable[object]) -> str:
    return ",".join(map(str, values))
