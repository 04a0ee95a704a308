"""Making settings of a table, as a file or the environment has it: what its names and texts mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from audit_async.config.setting import GIB, KIB, MIB, TIB, Group, Settings, allowed, groups_of
from audit_async.config.transparency import Transparency
from audit_async.config.wording import did_you_mean, either, refuse_unknown, shown
from audit_async.errors import ConfigError

_G = TypeVar("_G", bound=Settings | Transparency)


def build(cls: type[_G], table: Mapping[str, object]) -> _G:
    """Make `cls` of a table as a file has it.

    What is there as a finished object stays as it is, and so does what can't be read: the constructor refuses
    it.
    """
    _refuse_misplaced(cls, table)
    refuse_unknown(table, names_of(cls), cls._path)
    values: dict[str, Any] = {}  # checked by the group itself
    for field in msgspec.structs.fields(cls):
        if field.name not in table:
            if field.required:
                raise ConfigError(f"{cls._path}{field.name}", f"missing; allowed: {allowed(field.type)}")
            continue
        given = table[field.name]
        if groups := groups_of(field.type):
            values[field.name] = _build_group(field.name, groups, given)
        else:
            values[field.name] = _read(given, field.type)
    return cls(**values)


def _refuse_misplaced(cls: type[_G], table: Mapping[str, object]) -> None:
    """Raise `ConfigError` for a setting that is one of a group's, and was written next to the groups."""
    known = names_of(cls)
    for name in (name for name in table if name not in known):
        for field in msgspec.structs.fields(cls):
            for group in groups_of(field.type):
                if name in names_of(group):
                    tag = group.__struct_config__.tag
                    chosen = f' with type = "{tag}"' if tag is not None else ""
                    raise ConfigError(f"{cls._path}{name}", f"it belongs in the table [{field.name}]{chosen}")


def _build_group(name: str, groups: list[type[Group]], given: object) -> object:
    """Make the group that `given` is the table of; if there are several, its `type` says which."""
    by_tag = {cls.__struct_config__.tag: cls for cls in groups}
    if given is None or isinstance(given, Settings | Transparency):
        return given
    if not isinstance(given, dict):
        raise ConfigError(name, f"{shown(given)} is not allowed; allowed: {_table_allowed(name, groups)}")
    if len(groups) == 1:
        return build(groups[0], given)
    members = dict(given)
    tag = members.pop("type", None)
    if tag is None:
        raise ConfigError(f"{name}.type", f"missing; allowed: {either(by_tag)}")
    if not isinstance(tag, str) or tag not in by_tag:
        hint = did_you_mean(tag, [str(known) for known in by_tag]) if isinstance(tag, str) else ""
        raise ConfigError(f"{name}.type", f"{shown(tag)} is not allowed; allowed: {either(by_tag)}{hint}")
    return build(by_tag[tag], members)


def _read(given: object, type_: object) -> object:
    """Return the size that a text means in a file; anything else as it is."""
    if isinstance(given, str) and any(meta.extra for meta in _bare(type_)[1]):
        return _bytes_of(given)
    return given


def read_text(text: str, type_: object) -> object:
    """Return the value that a variable's text means; a text that means none as it is, for the setting to refuse it."""
    base, _ = _bare(type_)
    if base in {float, bool} or (base is int and _read(text, type_) is text):
        try:
            return msgspec.convert(text, base, strict=False)
        except (msgspec.ValidationError, UnicodeEncodeError):  # os.environ holds stray bytes as surrogates
            return text
    one_or_several = any(get_origin(choice) is tuple for choice in get_args(base))
    if get_origin(base) is tuple or (one_or_several and "," in text):
        return [part.strip() for part in text.split(",")]
    return _read(text, type_)


def _bare(type_: object) -> tuple[object, list[Meta]]:
    """Return a setting's type without what constrains it, and without None if it may be left out."""
    metas: list[Meta] = []
    while True:
        choices = [choice for choice in get_args(type_) if choice is not NoneType]
        if get_origin(type_) is Annotated:
            type_, *found = get_args(type_)
            metas += [meta for meta in found if isinstance(meta, Meta)]
        elif get_origin(type_) in {Union, UnionType} and len(choices) == 1:
            (type_,) = choices
        else:
            return type_, metas


def _bytes_of(text: str) -> int | str:
    """Return the bytes that `64MiB`, `64 MB` or `67108864` mean; `text` itself if it is no size."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return text
    return int(match[1]) * _UNITS[match[2].lower()]


# No more digits than a size can have, so a long number is refused as text and never converted.
_SIZE: Final = re.compile(r"\s*([0-9]{1,18})\s*([KMGT]i?B|B|)\s*", re.ASCII | re.IGNORECASE)
_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB,
}  # fmt: skip


def names_of(cls: type[Struct]) -> list[str]:
    """Return the names of a group's settings, in their order."""
    return [field.name for field in msgspec.structs.fields(cls)]


def _table_allowed(name: str, groups: list[type[Group]]) -> str:
    """Return what a file may have for a group of settings."""
    chosen = f" with type = {either(cls.__struct_config__.tag for cls in groups)}" if len(groups) > 1 else ""
    return f"a table [{name}]{chosen}"
