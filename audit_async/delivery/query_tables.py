"""Queries as tables of TOML: the conditions on one record, in the terms of `AuditQuery`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from audit_async._query.audit_query import AuditQuery, Glob, InvalidQuery
from audit_async.errors import ConfigError

__all__ = ["query_of"]

_WILDCARDS: Final = frozenset("*?")


def query_of(field: str, table: Mapping[str, object]) -> AuditQuery:
    """Return the query that a table means: as `AuditQuery`, with a wildcard in a text as a pattern."""
    members: dict[str, Any] = dict(table)
    if isinstance(members.get("event_types"), str):
        members["event_types"] = [members["event_types"]]
    for name in ("after_seq", "limit", "newest_first", "start", "end"):
        if name in members:
            raise ConfigError(f"{field}.{name}", "not a condition on one record; leave it out")
    for name in ("actor", "resource_id", "path"):
        value = members.get(name)
        if isinstance(value, str) and not _WILDCARDS.isdisjoint(value):
            members[name] = Glob(value)
    try:
        return AuditQuery(**members)
    except InvalidQuery as error:
        raise ConfigError(f"{field}.{error.field}", error.reason) from None
