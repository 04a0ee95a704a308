"""Which members of an event hold free-form data: not what the emitting code decides, and so perhaps a secret."""

from __future__ import annotations

import msgspec
from msgspec import inspect

from audit_async.events import AuditEvent

__all__ = ["free_form_members"]


def free_form_members(cls: type[AuditEvent]) -> tuple[str, ...]:
    """Return the members of an event's class whose annotations have a mapping, or room for anything, at any depth.

    Where the annotations can't be resolved, they may mean anything.
    """
    own = [name for name in cls.__struct_fields__ if name != "reduced"]
    try:
        fields = {field.name: inspect.type_info(field.type) for field in msgspec.structs.fields(cls)}
    except Exception:  # noqa: BLE001 - whatever resolving a name raises
        return tuple(own)
    return tuple(name for name in own if _is_free_form(fields[name]))


def _is_free_form(info: inspect.Type) -> bool:
    waiting: list[object] = [info]
    seen: set[type] = set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, inspect.AnyType | inspect.DictType | inspect.CustomType | inspect.ExtType):
            return True
        if isinstance(part, tuple):
            waiting.extend(part)
        elif isinstance(part, inspect.Type | inspect.Field):
            cls = getattr(part, "cls", None)
            if isinstance(cls, type):
                if cls in seen:  # a struct that has members of its own class
                    continue
                seen.add(cls)
            # A description is itself a struct, of the descriptions of its parts.
            waiting.extend(getattr(part, name) for name in part.__struct_fields__)
    return False
