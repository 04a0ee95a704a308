"""What a setting is: its type says in a description what is allowed, and every group of settings checks itself.

Every error repeats the description. Types that one group alone needs are defined next to it.
"""

from __future__ import annotations

import os
from types import NoneType
from typing import Annotated, ClassVar, Final, TypeAlias, dataclass_transform, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from audit_async.config.settings_class import SettingsClass
from audit_async.config.transparency import Transparency
from audit_async.config.wording import shown
from audit_async.errors import ConfigError


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Settings(Struct, metaclass=SettingsClass, frozen=True, kw_only=True):
    """The base of every group of settings: it refuses wrong values however the object is made."""

    _path: ClassVar[str] = ""  #: put before a field's name in an error, its dot included

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            given = getattr(self, field.name)
            value = checked(f"{self._path}{field.name}", given, field.type)
            if value is not given:  # an int for seconds
                msgspec.structs.force_setattr(self, field.name, value)


#: A group that checks itself, and knows nothing of this room.
Group: TypeAlias = Settings | Transparency


def checked(field: str, given: object, type_: object) -> object:
    """Return `given` as a value of `type_`, or raise `ConfigError` that says what is allowed."""
    if groups := groups_of(type_):  # each has checked itself
        if isinstance(given, tuple(groups)) or (given is None and _may_be_none(type_)):
            return given
    else:
        try:
            value: object = msgspec.convert(given, type_)
        except (msgspec.ValidationError, UnicodeEncodeError):  # the latter for surrogates in place of a number
            pass
        else:
            return value
    raise ConfigError(field, f"{shown(given)} is not allowed; allowed: {allowed(type_)}{_instead(given, groups)}")


def _instead(given: object, groups: list[type[Group]]) -> str:
    """Return what to write instead of a text that means one of the groups: its name, or a path; empty if none."""
    if not isinstance(given, str | os.PathLike) or not groups:
        return ""
    for group in groups:
        if isinstance(given, str) and given.lower().rstrip("()") == group.__struct_config__.tag:
            return f"; did you mean {group.__name__}()?"
    local = [group for group in groups if "base_dir" in group.__struct_fields__]
    return f"; did you mean {local[0].__name__}({os.fspath(given)[:60]!r})?" if local else ""


def groups_of(type_: object) -> list[type[Group]]:
    """Return the groups of settings that a setting may be; none for a plain value."""
    if isinstance(type_, type):
        return [type_] if issubclass(type_, Settings | Transparency) else []
    choices = get_args(type_)[:1] if get_origin(type_) is Annotated else get_args(type_)
    return [group for choice in choices for group in groups_of(choice)]


def _may_be_none(type_: object) -> bool:
    return type_ is NoneType or any(_may_be_none(choice) for choice in get_args(type_))


def allowed(type_: object) -> str:
    """Return the description of a setting's type."""
    return "".join(meta.description or "" for meta in get_args(type_)[1:] if isinstance(meta, Meta))


def unit_of(type_: object) -> str:
    """Return the unit of a setting that may be written with one ("bytes"); empty if it may not."""
    return "".join((meta.extra or {}).get("unit", "") for meta in get_args(type_)[1:] if isinstance(meta, Meta))


KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB


def whole_number(low: int, high: int, unit: str) -> Meta:
    """Return what a whole number must keep to; `unit` is a plural."""
    return Meta(ge=low, le=high, description=f"a whole number of {unit} from {low} to {high}")


def byte_size(low: int, high: int) -> Meta:
    """Return what a number of bytes must keep to, which may be written as text such as `64MiB`."""
    return Meta(
        ge=low,
        le=high,
        description=f'whole bytes from {low} to {high}; in a file or a variable also text such as "64MiB"',
        extra={"unit": "bytes"},
    )


Flag = Annotated[bool, Meta(description="true or false")]
# The bounds are finite on both sides, so neither NaN nor infinity passes them.
Seconds = Annotated[float, Meta(ge=0.001, le=86_400, description="seconds from 0.001 to 86400")]
