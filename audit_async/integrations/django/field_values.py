"""What is recorded of a field's value: plain data, or that it is not known."""

from __future__ import annotations

import copy
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
from django.core.exceptions import ValidationError
from django.db.models.fields.files import FieldFile

from audit_async.events import Change

__all__ = ["COMPUTED", "changes_between", "is_expression", "key_text", "plain_value", "values_of"]

#: In the place of a value that the database computes.
COMPUTED: Final = {"computed_by": "database"}

#: Classes whose values can't be changed in place, so that a snapshot may share them.
_UNCHANGING: Final = frozenset(
    {str, int, float, bool, bytes, type(None), Decimal, UUID, datetime, date, time, timedelta}
)
_MOST_ITEMS: Final = 1000


def is_expression(value: object) -> bool:
    """Return whether a value is one that the database computes, such as `F("stock") - 1`."""
    return hasattr(value, "resolve_expression")


def plain_value(value: Any) -> Any:
    """Return a field's value as plain data; of what JSON has no place for, its text."""
    cls = type(value)
    if cls is str or cls is bool or value is None or cls is datetime or cls is date or cls is UUID or cls is Decimal:
        return value
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):  # also a choice of TextChoices, whose own class is nobody else's
        return str.__str__(value)
    if isinstance(value, int):
        number = int(value)
        return number if -(2**63) <= number < 2**64 else str(number)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, dict):
        return {str(name): plain_value(member) for name, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        shown = [plain_value(item) for item in items[:_MOST_ITEMS]]
        return shown if len(items) <= _MOST_ITEMS else [*shown, f"[and {len(items) - _MOST_ITEMS} more]"]
    if isinstance(value, FieldFile):
        return value.name
    if is_expression(value):
        return dict(COMPUTED)
    return str(value)  # a range, a geometry, a lazy translation, an interval


def values_of(instance: Any, fields: tuple[Any, ...]) -> dict[str, Any]:
    """Return the values of those fields that are loaded, by their attribute's name; what can change, as a copy."""
    state = instance.__dict__
    values = {}
    for field in fields:
        name = field.attname
        if name in state:
            value = state[name]
            if type(value) not in _UNCHANGING:
                if isinstance(value, FieldFile):
                    value = value.name
                elif not is_expression(value):
                    value = copy.deepcopy(value)
            values[name] = value
    return values


def key_text(key: object) -> str:
    """Return a primary key as the id of a resource."""
    return str(key)


def changes_between(
    fields: tuple[Any, ...], before: dict[str, Any] | None, after: dict[str, Any] | None
) -> dict[str, Change]:
    """Return what differs, by the field's name.

    Args:
        fields: The fields to compare.
        before: The values before; None if nothing was there. A field that is not in it had a value that is not known.
        after: The values after; None if nothing is there any more. Fields that are not in it are left out.
    """
    changes: dict[str, Change] = {}
    for field in fields:
        name = field.attname
        if after is None:
            if before is not None and name in before:
                changes[field.name] = Change(before=_known(before[name]), after=None)
            continue
        if name not in after:
            continue
        new = after[name]
        if before is None:
            changes[field.name] = Change(before=None, after=_known(new))
        elif name not in before:
            changes[field.name] = Change(after=_known(new))
        elif is_expression(new) or not _same(field, before[name], new):
            changes[field.name] = Change(before=_known(before[name]), after=_known(new))
    return changes


def _known(value: Any) -> Any:
    return msgspec.UNSET if is_expression(value) else plain_value(value)


def _same(field: Any, before: Any, after: Any) -> bool:
    """Return whether two values are stored alike: a form's text `5` is the number 5 that was loaded."""
    if is_expression(before):  # it was written so, and nobody has asked the database what became of it
        return False
    if isinstance(after, FieldFile):
        after = after.name
    if type(before) is type(after):
        return bool(before == after)
    try:
        return bool(field.to_python(before) == field.to_python(after))
    except (ValidationError, TypeError, ValueError):
        return bool(before == after)
