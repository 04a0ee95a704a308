"""The names and the SQL of the PostgreSQL engine: one schema for each tenant, one owner, two groups of roles.

The SQL itself is in `postgres_schema.sql`; this module puts the names in.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final, NamedTuple

from audit_async.errors import ConfigError
from audit_async.forwarding.sink import MAX_DESCRIPTION_BYTES

__all__ = [
    "LARGE_OBJECTS",
    "MAX_VALUE_BYTES",
    "OLDEST_SERVER",
    "SCHEMA_VERSION",
    "TABLES",
    "Names",
    "function_bodies",
    "names_of",
    "quoted",
    "quoted_text",
    "schema_sql",
]

#: Raised with every change of the schema that `engine init` has to bring to an engine that exists.
SCHEMA_VERSION: Final = 3

#: A batch has 512 KiB unless a single record is larger; what PostgreSQL itself takes in one value is 1 GiB.
MAX_VALUE_BYTES: Final = 64 * 1024 * 1024

#: The oldest release that is supported: what a partition's compression is copied from came with it.
OLDEST_SERVER: Final = 14

#: Functions of PostgreSQL that everybody may call by default, and that store what no allowance counts.
LARGE_OBJECTS: Final = ("lo_creat(integer)", "lo_create(oid)", "lo_from_bytea(oid, bytea)")

TABLES: Final = ("about", "batches", "confirmations", "days", "descriptions", "heads", "writers")

#: PostgreSQL cuts a longer identifier without an error, and two tenants would be one.
_LONGEST_IDENTIFIER: Final = 63
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]")
_FUNCTION: Final = re.compile(
    r"^CREATE OR REPLACE FUNCTION @schema@\.(?P<name>\w+)\(.*?AS \$function\$(?P<body>.*?)\$function\$;",
    re.DOTALL | re.MULTILINE,
)


class Names(NamedTuple):
    """What the engine of a tenant is called in the database, not quoted."""

    tenant: str
    schema: str
    owner: str  #: owns everything and can't log in
    hosts: str  #: the group of the roles that append
    collectors: str  #: the group of the roles that read and confirm

    def role_of(self, name: str, kind: str) -> str:
        """Return the login role of a host or a collector. Raises `ConfigError` if the name is too long."""
        return _identifier(f"{self.schema}_{kind}_{_escaped(name)}", "name", name)


def names_of(tenant: str) -> Names:
    """Return the names for a tenant. Raises `ConfigError` if there is no tenant or its name is too long."""
    if not tenant:
        raise ConfigError("tenant", "the PostgreSQL engine has a schema for each tenant: name the tenant")
    schema = f"audit_{_escaped(tenant)}"
    collectors = _identifier(f"{schema}_collectors", "tenant", tenant)
    return Names(tenant, schema, f"{schema}_owner", f"{schema}_hosts", collectors)


def _escaped(text: str) -> str:
    """Return a name with every byte that is no letter, digit, `_` or `-` as `$` and two hex digits; unambiguous."""
    return "".join(
        character if _PLAIN.fullmatch(character) else "".join(f"${byte:02X}" for byte in character.encode())
        for character in text
    )


def _identifier(identifier: str, field: str, given: str) -> str:
    if len(identifier) > _LONGEST_IDENTIFIER:
        raise ConfigError(
            field,
            f"{given!a} makes the role {identifier!r}, {len(identifier)} characters long; PostgreSQL takes "
            f"{_LONGEST_IDENTIFIER}: choose a shorter name",
        )
    return identifier


def quoted(identifier: str) -> str:
    """Return an identifier as it is written in SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """Return a text as a literal, whatever `standard_conforming_strings` says."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


def schema_sql(names: Names) -> str:
    """Return the statements that make or update a tenant's schema; to be run by its owner."""
    return _filled(_template(), names)


def function_bodies(names: Names) -> dict[str, str]:
    """Return the body of each function by its name, as PostgreSQL keeps it in `pg_proc.prosrc`."""
    return {found["name"]: _filled(found["body"], names) for found in _FUNCTION.finditer(_template())}


def _template() -> str:
    return files("audit_async.forwarding").joinpath("postgres_schema.sql").read_text(encoding="utf-8")


def _filled(template: str, names: Names) -> str:
    words = {
        "schema": quoted(names.schema),
        "schema_text": quoted_text(names.schema),
        "hosts": quoted(names.hosts),
        "collectors": quoted(names.collectors),
        "collectors_text": quoted_text(names.collectors),
        "tenant_text": quoted_text(names.tenant),
        "version": str(SCHEMA_VERSION),
        "max_batch_bytes": str(MAX_VALUE_BYTES),
        "max_description_bytes": str(MAX_DESCRIPTION_BYTES),
    }
    # In one pass: a tenant's name may itself hold such a word.
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], template)
