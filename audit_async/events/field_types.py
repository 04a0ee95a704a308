"""Whether an event holds what its class declares, checked when it is made, and so before `emit`, which pays nothing.

An event with `reason=5` would be recorded, and read back as a `GenericEvent`, since its class can't hold it. The check
has two steps. For each class one expression is made, of comparisons of classes, which nearly every event passes: 0.3 to
0.5 us for a small event, 1.2 for an `http.request`. What doesn't pass is checked precisely, field by field: a value is
right if its JSON reads back as the declared type, so that a subclass of str, an address object or a tuple for a list is
taken.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from types import CodeType
from typing import Any, Final

import msgspec
from msgspec import inspect

from audit_async.errors import InvalidEvent

__all__ = ["check_fields_precisely", "learn_quick_check", "quick_checks"]

#: By class: whether an event surely holds what its class declares.
quick_checks: Final[dict[type, Callable[[Any], bool]]] = {}

_PLAIN: Final[dict[type[inspect.Type], type]] = {
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.BoolType: bool,
}
# Recorded by the library itself, and checked by it when it is recorded again.
_UNCHECKED: Final = "reduced"
_MAX_DEPTH: Final = 3


def learn_quick_check(cls: type[Any]) -> Callable[[Any], bool]:
    """Return the quick check of a class, made from its annotations; of what can't be resolved nothing is checked."""
    try:
        fields = {field.name: inspect.type_info(field.type) for field in msgspec.structs.fields(cls)}
    except Exception:  # noqa: BLE001 - whatever resolving a name raises
        fields = {}
    constants: dict[str, object] = {"datetime": datetime}
    tests = [
        test for name, info in fields.items() if name != _UNCHECKED if (test := _test(f"e.{name}", info, constants, 0))
    ]
    # Code that is made here from the fields' names, which are identifiers, the reprs of texts and numbers of a Literal,
    # and from nothing else.
    check: Callable[[Any], bool] = eval(_code(f"lambda e: {' and '.join(tests) or True}"), constants)  # noqa: S307
    quick_checks[cls] = check
    return check


def _code(expression: str) -> CodeType:
    """Return an expression as code, since evaluating a text has a side effect.

    A program that Ctrl-C ends, and that makes its first event of a class in an exit handler, would end with the status
    1 (`unhandled_keyboard_interrupt` in https://github.com/python/cpython/blob/3.11/Python/pythonrun.c).
    """
    return compile(expression, "<fields>", "eval")


def check_fields_precisely(event: Any, encode: Callable[[object], bytes]) -> None:  # noqa: ANN401 - above `base`
    """Raise `InvalidEvent`, which names the member, if a value is not of the type that its field declares."""
    for field in msgspec.structs.fields(type(event)):
        if field.name == _UNCHECKED:
            continue
        value = getattr(event, field.name)
        constants: dict[str, object] = {"datetime": datetime}
        info = inspect.type_info(field.type)
        if eval(_code(_test("e", info, constants, 0) or "True"), constants, {"e": value}):  # noqa: S307 - as above
            continue
        tag = event.event_type
        if isinstance(value, datetime) and value.utcoffset() is None and getattr(info, "tz", None) is not False:
            reason = "is a datetime without a time zone; give it one, as datetime.now(UTC) does"
            raise InvalidEvent(tag, field.name, reason)
        wrong = _wrong(value, field.type, encode)
        if wrong is not None:
            place, expected = wrong
            raise InvalidEvent(tag, f"{field.name}{place}", f"is not what the class declares: {expected}; give that")


def _wrong(value: object, type_: object, encode: Callable[[object], bytes]) -> tuple[str, str] | None:
    """Return at which path a value is not of a type, and what is expected there; None if it is of the type.

    msgspec's message is used if it names types alone: others hold the value.
    """
    try:
        encoded = encode(value)
    except Exception:  # noqa: BLE001 - a value that can't be encoded is refused, or made harmless, by `emit`
        return None
    try:
        msgspec.json.decode(encoded, type=type_)
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at `$")
        is_type = expected.startswith("Expected ")
        return place.rstrip("`"), expected if is_type else "its type does not allow this value"
    return None


def _test(value: str, info: inspect.Type, constants: dict[str, object], depth: int) -> str:
    """Return an expression that is true if `value` surely is of a type; empty if anything is."""
    kind = type(info)
    if _is_anything(info):
        return ""
    if kind in _PLAIN:
        return f"{value}.__class__ is {_PLAIN[kind].__name__}"
    if isinstance(info, inspect.NoneType):
        return f"{value} is None"
    if isinstance(info, inspect.FloatType):
        return f"({value}.__class__ is float or {value}.__class__ is int)"
    if isinstance(info, inspect.DateTimeType):
        return f"({value}.__class__ is datetime and {value}.tzinfo is not None)"
    if isinstance(info, inspect.EnumType):
        return f"{value}.__class__ is {_constant(info.cls, constants)}"
    if isinstance(info, inspect.LiteralType):
        classes = _constant(frozenset(map(type, info.values)), constants)
        return f"({value}.__class__ in {classes} and {value} in {info.values!r})"
    if isinstance(info, inspect.UnionType):
        # None first: most members that may be left out are.
        choices = sorted(info.types, key=lambda choice: not isinstance(choice, inspect.NoneType))
        tests = [_test(value, choice, constants, depth) for choice in choices]
        return f"({' or '.join(tests)})" if all(tests) else ""
    if isinstance(info, inspect.StructType) and depth < _MAX_DEPTH:
        tests = [f"{value}.__class__ is {_constant(info.cls, constants)}"]
        tests += [_test(f"{value}.{field.name}", field.type, constants, depth + 1) for field in info.fields]
        return f"({' and '.join(filter(None, tests))})"
    return _test_of_container(value, info, constants)


def _test_of_container(value: str, info: inspect.Type, constants: dict[str, object]) -> str:
    """Return the expression for a list or mapping of plain values, or of structs that may hold anything.

    It is false of all else, which is checked precisely.
    """
    if isinstance(info, inspect.ListType):
        member = info.item_type
        if _is_anything(member):
            return f"{value}.__class__ is list"
        if type(member) in _PLAIN:
            classes = _constant(frozenset({_PLAIN[type(member)]}), constants)
            return f"({value}.__class__ is list and (not {value} or {classes}.issuperset(map(type, {value}))))"
    if isinstance(info, inspect.DictType) and isinstance(info.key_type, inspect.StrType):
        known = _surely_right(info.value_type)
        if known is not None or _is_anything(info.value_type):
            keys = _constant(frozenset({str}), constants)
            test = f"{value}.__class__ is dict and {keys}.issuperset(map(type, {value}))"
            if known is not None:
                members = _constant(frozenset({known}), constants)
                test += f" and {members}.issuperset(map(type, {value}.values()))"
            return f"({test})"
    if isinstance(info, inspect.CustomType):
        return ""  # its own classes are for `emit` to encode
    return f"({value}.__class__ is None)"


def _is_anything(info: inspect.Type) -> bool:
    """Return whether each value is of a type: `Any`, or `object`, as of what is read of a type that is not known."""
    return isinstance(info, inspect.AnyType) or (isinstance(info, inspect.CustomType) and info.cls is object)


def _surely_right(info: inspect.Type) -> type | None:
    """Return the class whose instances are all of a type, such as a struct of members that may be anything."""
    if isinstance(info, inspect.StructType) and all(isinstance(field.type, inspect.AnyType) for field in info.fields):
        return info.cls
    return _PLAIN.get(type(info))


def _constant(constant: type | frozenset[type] | type[Enum], constants: dict[str, object]) -> str:
    """Return the name of a constant of the expression."""
    for name, known in constants.items():
        if known is constant:
            return name
    name = f"c{len(constants)}"
    constants[name] = constant
    return name
