"""What a PostgreSQL engine depends on, looked at one by one: settings, roles, rights, tables, functions, days.

Each look is one query of the catalogs. What is wrong is named as an operator would search for it, with the statement
that corrects it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from audit_async.forwarding.engine_admin import CheckedSetting
from audit_async.forwarding.postgres_connection import Connection
from audit_async.forwarding.postgres_schema import (
    LARGE_OBJECTS,
    OLDEST_SERVER,
    SCHEMA_VERSION,
    TABLES,
    Names,
    function_bodies,
    quoted,
    quoted_text,
)

__all__ = ["check_engine"]

_INIT: Final = "audit-async engine init"

#: Settings of the server by what they have to be, and why.
_SETTINGS: Final = {
    "fsync": ("on", "a power cut destroys the database"),
    "full_page_writes": ("on", "a power cut tears pages"),
    "zero_damaged_pages": ("off", "damaged pages are emptied without an error"),
    "ignore_checksum_failure": ("off", "damaged pages are read without an error"),
    "default_transaction_read_only": ("off", "no host can append"),
}
_WAITS_FOR_DISK: Final = ("on", "remote_apply")

#: The members of the groups, also by way of other roles: the logins of hosts and collectors.
_LOGINS: Final = """
    WITH RECURSIVE member_of(role, grp) AS (
        SELECT m.member, m.roleid FROM pg_catalog.pg_auth_members m
            WHERE m.roleid IN ({hosts}, {collectors}) {acting}
        UNION SELECT m.member, o.grp FROM pg_catalog.pg_auth_members m JOIN member_of o ON m.roleid = o.role
            WHERE true {acting}
    )
    SELECT DISTINCT r.oid, r.rolname, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolreplication, r.rolbypassrls
    FROM member_of o JOIN pg_catalog.pg_roles r ON r.oid = o.role
"""
#: Everything that somebody has been given on the schema and what is in it, but for the owner.
_RIGHTS: Final = """
    WITH objects(kind, name, acl, owner) AS (
        SELECT 'schema', n.nspname::text, coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)), n.nspowner
            FROM pg_catalog.pg_namespace n WHERE n.nspname = {schema}
        UNION ALL
        SELECT 'table', c.relname, coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner)), c.relowner
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = {schema} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        UNION ALL
        SELECT 'function', p.proname, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = {schema}
        UNION ALL
        SELECT 'column', c.relname || '.' || a.attname, a.attacl, c.relowner
            FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = {schema} AND a.attacl IS NOT NULL
    )
    SELECT o.kind, o.name, coalesce(r.rolname, 'PUBLIC'), x.privilege_type
    FROM objects o CROSS JOIN LATERAL pg_catalog.aclexplode(o.acl) x
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
    WHERE x.grantee <> o.owner ORDER BY 1, 2, 3, 4
"""
_FOR_BOTH: Final = ("schema_version", "head", "read_after", "confirmation", "description")
_FOR_HOSTS: Final = ("append", "describe", "repeat_head")
_FOR_COLLECTORS: Final = ("logs", "confirm", "heard_at")


async def check_engine(
    connection: Connection, names: Names, as_owner: Callable[[], AbstractAsyncContextManager[None]]
) -> list[CheckedSetting]:
    """Return each setting that was looked at, the wrong ones with what corrects them.

    Args:
        connection: of somebody who may read the catalogs.
        names: the engine's.
        as_owner: runs a block in a transaction as the schema's owner, for what only its tables say.
    """
    found = [*await _server_settings(connection)]
    if not await connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (names.schema,)):
        return [*found, _wrong("schema", f"there is no schema {names.schema}", names.schema, _INIT)]
    found += await _owner(connection, names)
    found += await _objects(connection, names)
    found += await _functions(connection, names)
    found += await _rights(connection, names)
    found += await _logins(connection, names)
    found += await _database(connection)
    # Only if the owner is as it should be can it be asked what is in the tables.
    if not {"owner", "tables", "table owner"} & {one.name for one in found if one.verdict == "wrong"}:
        async with as_owner():
            found += await _version(connection, names)
            found += await _days(connection, names)
    return found


async def _server_settings(connection: Connection) -> list[CheckedSetting]:
    rows = await connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)",
        ([*_SETTINGS, "data_checksums", "log_statement", "log_parameter_max_length", "synchronous_standby_names"],),
    )
    values: dict[str, str] = dict(rows)
    found = [
        _judged(name, values.get(name, "missing"), wanted, f"ALTER SYSTEM SET {name} = {wanted} ({why} otherwise)")
        for name, (wanted, why) in _SETTINGS.items()
    ]
    [(number, encoding)] = await connection.execute(
        "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')"
    )
    major = min(number // 10_000, OLDEST_SERVER)  # a later one is as good
    found.append(_judged("server_version", str(major), str(OLDEST_SERVER), "update the server"))
    found.append(_judged("server_encoding", encoding, "UTF8", "CREATE DATABASE ... ENCODING 'UTF8'"))
    if values.get("data_checksums") != "on":
        found.append(_note("data_checksums", "off", "on", "pg_checksums --enable, while the server is stopped"))
    if not values.get("synchronous_standby_names"):
        fix = "see synchronous replication in PostgreSQL's manual, if this server may be lost with all it has"
        found.append(_note("synchronous_standby_names", "none", "a standby", fix))
    if values.get("log_statement") in {"mod", "all"} and values.get("log_parameter_max_length") != "0":
        fix = "ALTER SYSTEM SET log_parameter_max_length = 0"
        found.append(_wrong("log_statement", f"{values['log_statement']}: records are in the log", "0", fix))
    return found


async def _owner(connection: Connection, names: Names) -> list[CheckedSetting]:
    [(owner, login, powers)] = await connection.execute(
        "SELECT r.rolname, r.rolcanlogin, r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication "
        "OR r.rolbypassrls FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = %s",
        (names.schema,),
    )
    found = [
        _judged("owner", owner, names.owner, f"ALTER SCHEMA {quoted(names.schema)} OWNER TO {quoted(names.owner)}"),
        _judged(
            "owner login", "can log in" if login else "can't log in", "can't log in",
            f"ALTER ROLE {quoted(owner)} NOLOGIN",
        ),
        _judged(
            "owner attributes", "more than a role" if powers else "none", "none",
            f"ALTER ROLE {quoted(owner)} NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS",
        ),
    ]  # fmt: skip
    acting = await _acting(connection)
    members = await connection.execute(
        f"SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member "
        f"JOIN pg_roles o ON o.oid = m.roleid WHERE o.rolname = %s {acting}",
        (owner,),
    )
    found.extend(
        _wrong(
            "owner members", f"{member} may act as the owner", "none", f"REVOKE {quoted(owner)} FROM {quoted(member)}"
        )
        for (member,) in members
    )
    return found


async def _acting(connection: Connection) -> str:
    """Return the condition under which a membership `m` lets one act as the role.

    From release 16 on, who made a role is always a member of it, but may only give it to others.
    """
    [(number,)] = await connection.execute("SELECT current_setting('server_version_num')::integer")
    return "AND (m.inherit_option OR m.set_option)" if number >= 160_000 else ""


async def _objects(connection: Connection, names: Names) -> list[CheckedSetting]:
    """Look at tables: none is missing, unlogged, another's, or does something by itself."""
    rows = await connection.execute(
        "SELECT c.relname, c.relkind::text, c.relpersistence::text, r.rolname, c.relrowsecurity, "
        "EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal), "
        "EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner "
        "WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1",
        (names.schema,),
    )
    missing = sorted(set(TABLES) - {row[0] for row in rows})
    found = [
        _wrong("tables", f"{', '.join(missing)} missing", ", ".join(TABLES), _INIT)
        if missing
        else CheckedSetting(name="tables", verdict="ok", found="all", wanted="all")
    ]
    for name, kind, persistence, owner, row_security, triggers, rules in rows:
        table = f"{quoted(names.schema)}.{quoted(name)}"
        if kind not in {"r", "p"}:
            found.append(_wrong("foreign object", f"{name} is not of the engine", "none", f"drop {table}"))
        if persistence != "p":
            fix = f"ALTER TABLE {table} SET LOGGED"
            found.append(_wrong("unlogged table", f"{name} is empty after a crash", "logged", fix))
        if owner != names.owner:
            fix = f"ALTER TABLE {table} OWNER TO {quoted(names.owner)}"
            found.append(_wrong("table owner", f"{name} is {owner}'s", names.owner, fix))
        for what, is_there in (("trigger", triggers), ("rule", rules), ("row security", row_security)):
            if is_there:
                found.append(_wrong(what, f"{name} has one", "none", f"remove it from {table}"))
    return found


async def _functions(connection: Connection, names: Names) -> list[CheckedSetting]:
    """Look at functions: each is this release's, runs as the owner and looks nothing up where others may put it."""
    rows = await connection.execute(
        "SELECT p.proname, p.prosrc, p.prosecdef, coalesce(p.proconfig, '{}'), r.rolname FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles r ON r.oid = p.proowner WHERE n.nspname = %s",
        (names.schema,),
    )
    wanted = function_bodies(names)
    found = [
        _wrong("function", f"{missing} is missing", missing, _INIT)
        for missing in sorted(set(wanted) - {row[0] for row in rows})
    ]
    seen: set[str] = set()
    for name, body, definer, config, owner in rows:
        if name not in wanted or name in seen:
            found.append(_wrong("function", f"{name} is not of the engine", "none", f"drop it from {names.schema}"))
        elif body != wanted[name]:
            found.append(_wrong("function", f"{name} is not this release's", "this release's", _INIT))
        elif not definer or "search_path=pg_catalog, pg_temp" not in config:
            found.append(_wrong("function", f"{name} has no fixed search_path or owner's rights", "both", _INIT))
        elif owner != names.owner:
            found.append(_wrong("function owner", f"{name} is {owner}'s", names.owner, _INIT))
        seen.add(name)
    return found or [CheckedSetting(name="function", verdict="ok", found="this release's", wanted="this release's")]


async def _rights(connection: Connection, names: Names) -> list[CheckedSetting]:
    """Look at every right on the schema and what is in it: those of the two groups, and no others."""
    allowed = {("schema", names.schema, group, "USAGE") for group in (names.hosts, names.collectors)}
    for functions, groups in (
        (_FOR_BOTH, (names.hosts, names.collectors)),
        (_FOR_HOSTS, (names.hosts,)),
        (_FOR_COLLECTORS, (names.collectors,)),
    ):
        allowed |= {("function", function, group, "EXECUTE") for function in functions for group in groups}
    found = []
    given = set(await connection.execute(_RIGHTS.format(schema=quoted_text(names.schema))))
    for kind, name, role, right in sorted(given - allowed):
        on = {"schema": "SCHEMA", "function": "ROUTINE"}.get(kind, "TABLE")
        where = quoted(names.schema) if kind == "schema" else f"{quoted(names.schema)}.{quoted(name.partition('.')[0])}"
        grantee = "PUBLIC" if role == "PUBLIC" else quoted(role)
        found.append(
            _wrong(
                f"{right} for {role}", f"on {kind} {name}", "not granted", f"REVOKE ALL ON {on} {where} FROM {grantee}"
            )
        )
    for kind, name, role, right in sorted(allowed - given):
        found.append(_wrong(f"{right} for {role}", f"missing on {kind} {name}", "granted", _INIT))
    return found or [CheckedSetting(name="rights", verdict="ok", found="the two groups'", wanted="the two groups'")]


async def _logins(connection: Connection, names: Names) -> list[CheckedSetting]:
    """Look at the roles of hosts and collectors: no power of their own, no other membership, commits that wait."""
    groups = {
        "hosts": f"to_regrole({quoted_text(quoted(names.hosts))})",
        "collectors": f"to_regrole({quoted_text(quoted(names.collectors))})",
    }
    acting = await _acting(connection)
    rows = await connection.execute(_LOGINS.format(**groups, acting=acting))
    found = []
    for _, role, *powers in rows:
        words = ("SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS")
        found += [
            _wrong(f"{word} of {role}", "yes", "no", f"ALTER ROLE {quoted(role)} NO{word}")
            for word, has in zip(words, powers, strict=True)
            if has
        ]
    oids = [row[0] for row in rows]
    others = await connection.execute(
        "SELECT r.rolname, g.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member "
        f"JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = ANY (%s) {acting} ORDER BY 1, 2",
        (oids,),
    )
    own = {names.hosts, names.collectors}
    groups_of: dict[str, set[str]] = {}
    for role, group in others:
        groups_of.setdefault(role, set()).add(group)
    for role, members_of in groups_of.items():
        for group in sorted(members_of - own):
            fix = f"REVOKE {quoted(group)} FROM {quoted(role)}"
            found.append(_wrong(f"membership of {role}", f"in {group}", "its engine's group only", fix))
        if members_of >= own:
            fix = f"REVOKE {quoted(names.collectors)} FROM {quoted(role)}"
            found.append(_wrong(f"membership of {role}", "a host that is a collector reads all", "one group", fix))
    return found + await _commits(connection, oids)


async def _commits(connection: Connection, roles: list[int]) -> list[CheckedSetting]:
    """Look at what a commit waits for by default. A forwarder sets it itself, other programs of a host may not."""
    found = []
    [(default,)] = await connection.execute("SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'")
    overrides = await connection.execute(
        "SELECT coalesce(r.rolname, ''), coalesce(d.datname, ''), split_part(c, '=', 2) FROM pg_db_role_setting s "
        "LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase, "
        "unnest(s.setconfig) c "
        "WHERE split_part(c, '=', 1) = 'synchronous_commit' AND (s.setrole = ANY (%s) OR s.setrole = 0) "
        "AND (d.datname = current_database() OR s.setdatabase = 0)",
        ([*roles, 0],),
    )
    for role, database, value in overrides:
        if value not in _WAITS_FOR_DISK:
            of = f"role {role}" if role else f"database {database}"
            target = f"ROLE {quoted(role)}" if role else f"DATABASE {quoted(database)}"
            if role and database:
                target += f" IN DATABASE {quoted(database)}"
            found.append(_wrong(f"synchronous_commit of {of}", value, "on", f"ALTER {target} RESET synchronous_commit"))
    if default not in _WAITS_FOR_DISK and not any(one.found == default for one in found):
        found.append(_wrong("synchronous_commit", default, "on", "ALTER SYSTEM SET synchronous_commit = on"))
    return found or [CheckedSetting(name="synchronous_commit", verdict="ok", found=default, wanted="on")]


async def _database(connection: Connection) -> list[CheckedSetting]:
    """Look at what everybody may do in the database: what lets a host fill the disk past its allowance."""
    [(database, temporary, public)] = await connection.execute(
        "SELECT current_database(), "
        "EXISTS (SELECT FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x "
        "WHERE d.datname = current_database() AND x.grantee = 0 AND x.privilege_type IN ('TEMPORARY', 'CREATE')), "
        "EXISTS (SELECT FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x "
        "WHERE n.nspname = 'public' AND x.grantee = 0 AND x.privilege_type = 'CREATE')"
    )
    fix = f"REVOKE TEMPORARY, CREATE ON DATABASE {quoted(database)} FROM PUBLIC"
    found = [
        _judged("temporary tables for PUBLIC", "allowed" if temporary else "refused", "refused", fix),
        _judged(
            "schema public", "everybody may create tables" if public else "closed", "closed",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        ),
    ]  # fmt: skip
    for function in LARGE_OBJECTS:
        [(allowed,)] = await connection.execute(
            "SELECT EXISTS (SELECT FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x "
            f"WHERE p.oid = to_regprocedure('pg_catalog.{function}') AND x.grantee = 0)"
        )
        if allowed:
            fix = f"REVOKE EXECUTE ON FUNCTION pg_catalog.{function} FROM PUBLIC"
            found.append(_note("large objects for PUBLIC", function, "refused", fix))
    return found


async def _version(connection: Connection, names: Names) -> list[CheckedSetting]:
    rows = await connection.execute(f"SELECT schema_version, tenant FROM {quoted(names.schema)}.about")
    version, tenant = rows[0] if rows else (0, names.tenant)
    fix = _INIT if version < SCHEMA_VERSION else "update audit-async"
    return [
        _judged("schema version", str(version), str(SCHEMA_VERSION), fix),
        _judged("tenant", tenant, names.tenant, "name the tenant whose engine this is"),
    ]


async def _days(connection: Connection, names: Names) -> list[CheckedSetting]:
    """Look for days whose partition went without being trimmed, and for partitions that are no day's."""
    schema = quoted(names.schema)
    rows = await connection.execute(
        f"""
        WITH partitions AS (
            SELECT c.relname::text AS name FROM pg_catalog.pg_inherits i
            JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = '{schema}.batches'::regclass
        )
        SELECT d.day::text,
            d.trimmed_at IS NULL AND 'batches_' || to_char(d.day, 'YYYYMMDD') NOT IN (SELECT name FROM partitions),
            d.lost_at::text
        FROM {schema}.days d ORDER BY d.day
        """
    )
    found = []
    for day, missing, lost_at in rows:
        if missing:
            fix = (
                f"restore batches_{day.replace('-', '')} from a backup; what the collector lacks is still on the hosts"
            )
            found.append(_wrong("missing partition", f"of {day}", "there, or trimmed", fix))
        elif lost_at:
            fix = f"compare with the collector, then: UPDATE {schema}.days SET lost_at = NULL WHERE day = '{day}'"
            found.append(_wrong("missing partition", f"of {day}, until {lost_at}", "there, or trimmed", fix))
    return found or [CheckedSetting(name="partitions", verdict="ok", found=f"{len(rows)} days", wanted="each day's")]


def _judged(name: str, found: str, wanted: str, fix: str) -> CheckedSetting:
    if found == wanted:
        return CheckedSetting(name=name, verdict="ok", found=found, wanted=wanted)
    return _wrong(name, found, wanted, fix)


def _wrong(name: str, found: str, wanted: str, fix: str) -> CheckedSetting:
    return CheckedSetting(name=name, verdict="wrong", found=found, wanted=wanted, fix=fix)


def _note(name: str, found: str, wanted: str, fix: str) -> CheckedSetting:
    return CheckedSetting(name=name, verdict="note", found=found, wanted=wanted, fix=fix)
