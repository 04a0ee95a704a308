"""Who has which role: a TOML file, checked as a whole when the viewer starts.

[people."alice@example.com"]
role = "auditor"

[people.bob]
role = "reader"
services = ["orders", "billing"]

[groups.support-acme]
role = "reader"
tenant = "acme"
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from audit_async.config.toml_file import read_toml
from audit_async.config.wording import unknown
from audit_async.errors import ConfigError
from audit_async.viewer.people import Person, SignedIn

__all__ = ["Roles"]

_KEYS: Final = ("role", "services", "tenant")
_TABLES: Final = ("people", "groups")


class Roles:
    """Who has which role. A person's own entry counts; else that of the first group in the file that has the person."""

    def __init__(self, people: Mapping[str, Person], groups: Mapping[str, Person]) -> None:
        """Take persons by name, and by group what each of its members may."""
        self._people: Final = dict(people)
        self._groups: Final = dict(groups)

    def __repr__(self) -> str:
        return f"<Roles of {len(self._people)} people and {len(self._groups)} groups>"

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Roles:
        """Return the roles in a file.

        Args:
            path: A TOML file.

        Raises:
            ConfigError: It can't be read, everybody can write it, it is no TOML, or it says something that can't be
                meant; the message names the line and the key.
        """
        table = read_toml(path)
        if os.stat(path).st_mode & stat.S_IWOTH and sys.platform != "win32":
            raise ConfigError(
                os.fspath(path), "can be written by everybody, who could make themselves auditors: chmod o-w"
            )
        lines = _Lines(Path(path))
        for name in table:
            if name not in _TABLES:
                raise ConfigError(lines.place(name), unknown("table of roles", name, _TABLES))
        people, groups = (_persons(table.get(name, {}), name, lines) for name in _TABLES)
        if not people and not groups:
            raise ConfigError(os.fspath(path), "gives nobody a role; add a table such as [people.alice]")
        return cls(people, groups)

    def person(self, who: SignedIn) -> Person | None:
        """Return the person that somebody is who has signed in; None if nothing gives a role."""
        found = self._people.get(who.name)
        if found is None:
            found = next((person for group, person in self._groups.items() if group in who.groups), None)
        if found is None:
            return None
        return Person(name=who.name, role=found.role, services=found.services, tenant=found.tenant)


class _Lines:
    """Where in the file a key is, as far as its table's header can be found."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = path.read_text(encoding="utf-8", errors="replace").splitlines()

    def place(self, *keys: str) -> str:
        """Return the file, the line and the dotted key."""
        dotted = ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in keys)
        number, is_in_table = 0, False
        spelled = re.compile(rf"\s*\[\s*{_keys(keys[:2])}\s*\]")
        for at, line in enumerate(self._lines, start=1):
            if spelled.match(line):
                number, is_in_table = at, True
            elif is_in_table and line.lstrip().startswith("["):
                is_in_table = False
            elif is_in_table and len(keys) > 2 and re.match(rf"\s*{_keys(keys[2:])}\s*=", line):
                number = at
        where = f"{self._path}, line {number}" if number else str(self._path)
        return f"{where}: {dotted}"


def _keys(keys: tuple[str, ...]) -> str:
    """Return a pattern for a dotted key, each part bare or quoted."""
    return r"\s*\.\s*".join(f"[\"']?{re.escape(key)}[\"']?" for key in keys)


def _persons(entries: object, table: str, lines: _Lines) -> dict[str, Person]:
    if not isinstance(entries, dict):
        raise ConfigError(lines.place(table), f"must be a table, such as [{table}.alice]")
    return {name: _person(name, entry, table, lines) for name, entry in entries.items()}


def _person(name: str, entry: object, table: str, lines: _Lines) -> Person:
    if not isinstance(entry, dict):
        raise ConfigError(lines.place(table, name), f'must be a table: [{table}.{name}] with role = "…"')
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(lines.place(table, name, key), unknown("key of a role", key, _KEYS))
    role, services, tenant = (entry.get(key) for key in _KEYS)
    if services is not None and (not isinstance(services, list) or not all(isinstance(one, str) for one in services)):
        raise ConfigError(lines.place(table, name, "services"), 'must be a list of names, such as ["orders"]')
    if tenant is not None and not isinstance(tenant, str):
        raise ConfigError(lines.place(table, name, "tenant"), "must be the name of one tenant")
    try:
        return Person(
            name=name,
            role=role,  # type: ignore[arg-type]  # what it is is checked there
            services=frozenset(services) if services is not None else None,
            tenant=tenant,
        )
    except ConfigError as error:
        where = (table, name) if error.field == "name" else (table, name, error.field)
        raise ConfigError(lines.place(*where), error.reason) from None
