"""Reading the environment into a table: which variable is which setting."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from audit_async.config.mode import Local
from audit_async.config.setting import Settings, groups_of
from audit_async.config.tables import names_of
from audit_async.config.wording import refuse_unknown
from audit_async.errors import ConfigError


def read_environment(
    cls: type[Settings], prefix: str, environ: Mapping[str, str] | None
) -> tuple[dict[str, object], dict[str, str]]:
    """Return the table that the variables with `prefix` make, and for each setting's dotted name its variable.

    `cls` says which settings there are. Raises `ConfigError` for an empty prefix and for a variable that is none.
    """
    if not prefix:
        raise ConfigError("prefix", "must not be empty: every variable of the environment would be a setting")
    variables = _variables(cls, prefix)
    given = {
        name: text
        for name, text in (os.environ if environ is None else environ).items()
        if name.startswith(prefix) and text
    }
    refuse_unknown(given, variables, "", "variable")
    table = _nested({variables[name]: text for name, text in given.items()})
    _infer_mode(table)
    name_of = {".".join(place): name for name, place in variables.items()}
    name_of["mode"] = f"{name_of['mode.base_dir']} or {name_of['mode.type']}"
    return table, name_of


def _variables(cls: type[Settings], prefix: str) -> dict[str, tuple[str, ...]]:
    """Return the place in the table of every variable that is a setting."""
    shorter = {"mode": "", "flush_mode": "FLUSH_"}
    places: dict[str, tuple[str, ...]] = {}
    for field in msgspec.structs.fields(cls):
        groups = groups_of(field.type)
        own = f"{prefix}{field.name.upper()}"
        if not groups:
            places[own] = (field.name,)
        elif len(groups) > 1:
            places[own] = (field.name, "type")
        for group in groups:
            room = f"{prefix}{shorter.get(field.name, f'{field.name.upper()}_')}"
            places |= {f"{room}{name.upper()}": (field.name, name) for name in names_of(group)}
    return places


def _nested(flat: Mapping[tuple[str, ...], str]) -> dict[str, object]:
    """Return the table with one text at each place."""
    table: dict[str, object] = {}
    groups: dict[str, dict[str, str]] = {}
    for (name, *rest), text in flat.items():
        if rest:
            groups.setdefault(name, {})[rest[0]] = text
        else:
            table[name] = text
    return table | groups


def _infer_mode(table: dict[str, object]) -> None:
    """A base directory alone means `Local`; `disabled` wins, so one variable switches recording off."""
    mode = table.get("mode")
    if isinstance(mode, dict):
        if mode.get("type") == "disabled":
            for name in names_of(Local):
                mode.pop(name, None)
        mode.setdefault("type", "local")
