"""Whether one JSON Schema takes every value that another one takes, for the schemas that msgspec makes of structs.

Conservative: what it does not understand, it takes for narrower unless both sides are equal. Structs ignore members
that they do not know, as msgspec does when it decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["accepts_all"]

#: Bounds of which a smaller value takes more, and of which a greater one does.
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
#: What says nothing about values.
_REMARKS: Final = frozenset({"title", "description", "examples", "default", "$defs", "$schema", "discriminator"})
_UNDERSTOOD: Final = frozenset(
    {"type", "anyOf", "enum", "const", "$ref", "items", "prefixItems", "additionalProperties", "properties", "required"}
    | {*_LOWER, *_UPPER}
)
Schema = Mapping[str, Any]


def accepts_all(wide: Schema, narrow: Schema, wide_parts: Schema, narrow_parts: Schema) -> bool:
    """Return whether `wide` takes every value that `narrow` takes; False if that can't be said.

    Args:
        wide: A schema.
        narrow: Another one.
        wide_parts: What references of `wide` lead to, by name.
        narrow_parts: The same for `narrow`.
    """
    return _Comparison(wide_parts, narrow_parts).accepts(wide, narrow)


class _Comparison:
    def __init__(self, wide_parts: Schema, narrow_parts: Schema) -> None:
        self._wide_parts = wide_parts
        self._narrow_parts = narrow_parts
        self._assumed: set[tuple[str, str]] = set()  # pairs of parts that contain themselves

    def accepts(self, wide: Schema, narrow: Schema) -> bool:
        pair = str(wide.get("$ref")), str(narrow.get("$ref"))
        if "$ref" in wide and "$ref" in narrow:
            if pair in self._assumed:
                return True
            self._assumed.add(pair)
        if "$ref" in wide:
            return self.accepts(self._wide_parts[_name(wide)], narrow)
        if "$ref" in narrow:
            return self.accepts(wide, self._narrow_parts[_name(narrow)])
        wide, narrow = _bare(wide), _bare(narrow)
        if not wide or (wide == narrow and not _has_references(wide)):
            return True
        if "anyOf" in narrow:
            return all(self.accepts(wide, choice) for choice in narrow["anyOf"])
        if "anyOf" in wide:
            return any(self.accepts(choice, narrow) for choice in wide["anyOf"])
        if not narrow or not (wide.keys() | narrow.keys()) <= _UNDERSTOOD:
            return False
        return self._accepts_values(wide, narrow)

    def _accepts_values(self, wide: Schema, narrow: Schema) -> bool:
        values = _values(narrow)
        if (allowed := _values(wide)) is not None:
            return values is not None and all(value in allowed for value in values)
        if values is not None:
            return all(_is_of(value, wide.get("type")) for value in values) and wide.keys() <= {"type"}
        if not _is_type(wide.get("type"), narrow.get("type")):
            return False
        return _bounds_hold(wide, narrow) and self._accepts_contents(wide, narrow)

    def _accepts_contents(self, wide: Schema, narrow: Schema) -> bool:
        for key in ("items", "additionalProperties"):
            if key in wide and not self._accepts_part(wide[key], narrow.get(key, {})):
                return False
        if wide.get("prefixItems") != narrow.get("prefixItems"):
            return False
        if set(wide.get("required", ())) - set(narrow.get("required", ())):
            return False
        mine: Schema = wide.get("properties", {})
        theirs: Schema = narrow.get("properties", {})
        return theirs.keys() <= mine.keys() and all(self.accepts(mine[name], theirs[name]) for name in theirs)

    def _accepts_part(self, wide: object, narrow: object) -> bool:
        if isinstance(wide, Mapping) and isinstance(narrow, Mapping):
            return self.accepts(wide, narrow)
        return wide == narrow or wide is True


def _name(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _bare(schema: Schema) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in _REMARKS}


def _has_references(schema: object) -> bool:
    if isinstance(schema, Mapping):
        return "$ref" in schema or any(map(_has_references, schema.values()))
    return isinstance(schema, list) and any(map(_has_references, schema))


def _values(schema: Schema) -> list[Any] | None:
    """Return the only values that a schema takes; None if it names none."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _is_of(value: object, type_: object) -> bool:
    return type_ == {str: "string", int: "integer", bool: "boolean", type(None): "null"}.get(type(value))


def _is_type(wide: object, narrow: object) -> bool:
    return wide == narrow or (wide, narrow) == ("number", "integer")


def _bounds_hold(wide: Schema, narrow: Schema) -> bool:
    return all(key in narrow and narrow[key] >= wide[key] for key in _LOWER if key in wide) and all(
        key in narrow and narrow[key] <= wide[key] for key in _UPPER if key in wide
    )
