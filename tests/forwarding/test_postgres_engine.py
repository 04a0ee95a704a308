"""Preparing, checking and trimming a PostgreSQL engine: what is wrong is refused by its name."""

from __future__ import annotations

import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from audit_async.errors import ConfigError
from audit_async.forwarding import HeadMoved, LogIdentity, PostgresSink, SinkRefused, SinkUnavailable
from audit_async.forwarding.engine_admin import Limits, Trimmed, open_engine
from audit_async.forwarding.postgres_engine import PostgresEngine
from audit_async.forwarding.postgres_schema import function_bodies, names_of
from tests.forwarding.logs_to_ship import a_batch, a_log, batches
from tests.forwarding.postgres_engines import EngineOfTest, run_as
from tests.forwarding.postgres_server import PostgresServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The server decides, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


async def test_what_init_makes_is_right(engine: EngineOfTest) -> None:
    """Nothing is wrong, also with hosts and collectors, and a second time changes nothing."""
    await engine.granted("web-1")
    await engine.granted("c", "collector")
    assert await engine.wrong() == set()
    log, batch = a_log(), a_batch(None)
    async with await engine.sink("web-2") as host:
        await host.append(a_log(host="web-2"), batch, after=None)
        assert not any("made" in line for line in await engine.engine.init())
        assert await engine.wrong() == set()
        assert await host.head(a_log(host="web-2", log_id=log.log_id)) is None
        await host.append(a_log(host="web-2"), batch, after=None)


async def test_an_engine_that_is_not_there_is_wrong(database: str, tmp_path: Path) -> None:
    """With the command that makes it."""
    assert await EngineOfTest(database, tmp_path).wrong() == {"schema"}


_TODAY = "to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')"
_DROP_TODAY = f"DO $$ BEGIN EXECUTE format('DROP TABLE audit_acme.batches_%s', {_TODAY}); END $$"
_SHOW_TODAY = f"DO $$ BEGIN EXECUTE format('GRANT SELECT ON audit_acme.batches_%s TO PUBLIC', {_TODAY}); END $$"
_OTHER_LOGS = (
    "CREATE OR REPLACE FUNCTION SCHEMA.logs() RETURNS TABLE (service text, host text, instance text, log_id text) "
    "LANGUAGE sql AS 'SELECT NULL, NULL, NULL, NULL WHERE false'"
)
WRONG = {
    "missing table": ("DROP TABLE SCHEMA.confirmations", "tables"),
    "owner that can log in": ("ALTER ROLE audit_acme_owner LOGIN", "owner login"),
    "owner with power": ("ALTER ROLE audit_acme_owner CREATEROLE", "owner attributes"),
    "owner with a member": ("GRANT audit_acme_owner TO pg_monitor", "owner members"),
    "another owner": ("ALTER SCHEMA audit_acme OWNER TO pg_monitor", "owner"),
    "another owner of a table": ("ALTER TABLE SCHEMA.heads OWNER TO pg_monitor", "table owner"),
    "another owner of a function": (
        "ALTER FUNCTION SCHEMA.logs() OWNER TO pg_monitor", "function owner",
    ),
    "EXECUTE for everybody": ("GRANT EXECUTE ON FUNCTION SCHEMA.logs() TO PUBLIC", "EXECUTE for PUBLIC"),
    "USAGE for everybody": ("GRANT USAGE ON SCHEMA audit_acme TO PUBLIC", "USAGE for PUBLIC"),
    "UPDATE": ("GRANT UPDATE ON SCHEMA.batches TO audit_acme_hosts", "UPDATE for audit_acme_hosts"),
    "DELETE": ("GRANT DELETE ON SCHEMA.heads TO pg_monitor", "DELETE for pg_monitor"),
    "UPDATE of a column": ("GRANT UPDATE (seq) ON SCHEMA.heads TO PUBLIC", "UPDATE for PUBLIC"),
    "SELECT on a partition": (_SHOW_TODAY, "SELECT for PUBLIC"),
    "hosts that confirm": (
        "GRANT EXECUTE ON FUNCTION SCHEMA.confirm(text, text, text, text, bytea) TO audit_acme_hosts",
        "EXECUTE for audit_acme_hosts",
    ),
    "a right that is missing": (
        "REVOKE EXECUTE ON FUNCTION SCHEMA.head(text, text, text, text) FROM audit_acme_hosts",
        "EXECUTE for audit_acme_hosts",
    ),
    "older schema version": ("UPDATE SCHEMA.about SET schema_version = 0", "schema version"),
    "another tenant": ("UPDATE SCHEMA.about SET tenant = 'other'", "tenant"),
    "unlogged table": ("ALTER TABLE SCHEMA.days SET UNLOGGED", "unlogged table"),
    "trigger": (
        "CREATE TRIGGER t BEFORE UPDATE ON SCHEMA.heads EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "trigger",
    ),
    "rule": ("CREATE RULE r AS ON DELETE TO SCHEMA.days DO INSTEAD NOTHING", "rule"),
    "row security": ("ALTER TABLE SCHEMA.heads ENABLE ROW LEVEL SECURITY", "row security"),
    "view": ("CREATE VIEW SCHEMA.everything AS SELECT 1 AS one", "foreign object"),
    "changed function": (_OTHER_LOGS, "function"),
    "missing function": ("DROP FUNCTION SCHEMA.logs()", "function"),
    "added function": ("CREATE FUNCTION SCHEMA.logs(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function"),
    "function with its caller's rights": ("ALTER FUNCTION SCHEMA.logs() SECURITY INVOKER", "function"),
    "function without its search_path": ("ALTER FUNCTION SCHEMA.logs() RESET search_path", "function"),
    "missing partition": (_DROP_TODAY, "missing partition"),
    "temporary tables": (
        "DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database()); END $$",
        "temporary tables for PUBLIC",
    ),
    "tables in public": ("GRANT CREATE ON SCHEMA public TO PUBLIC", "schema public"),
    "synchronous_commit of a role": (
        'ALTER ROLE "audit_acme_host_web-1" SET synchronous_commit = off',
        "synchronous_commit of role audit_acme_host_web-1",
    ),
    "superuser": ('ALTER ROLE "audit_acme_host_web-1" SUPERUSER', "SUPERUSER of audit_acme_host_web-1"),
    "membership": (
        'GRANT pg_read_all_data TO "audit_acme_host_web-1"', "membership of audit_acme_host_web-1",
    ),
    "host that is a collector": (
        'GRANT audit_acme_collectors TO "audit_acme_host_web-1"', "membership of audit_acme_host_web-1",
    ),
}  # fmt: skip
#: What `init` does not undo: it would have to guess what an administrator wants.
STAYS = {
    "owner with a member", "another owner", "another owner of a table", "another owner of a function", "UPDATE",
    "DELETE", "another tenant", "unlogged table", "trigger", "rule", "row security", "view", "added function",
    "missing partition", "synchronous_commit of a role", "superuser", "membership", "host that is a collector",
    "hosts that confirm", "UPDATE of a column", "function with its caller's rights",
    "function without its search_path", "missing table",
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_setting_is_refused_by_name(engine: EngineOfTest, case: str) -> None:
    """It alone is named, by what an operator looks for; and `init` corrects what it can't be meant to be."""
    statement, name = WRONG[case]
    await engine.granted("web-1")
    engine.run(statement)
    assert name in await engine.wrong()
    if case not in STAYS:
        await engine.engine.init()
        assert await engine.wrong() == set()


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("fsync", "off", "wrong"),
        ("full_page_writes", "off", "wrong"),
        ("zero_damaged_pages", "on", "wrong"),
        ("ignore_checksum_failure", "on", "wrong"),
        ("default_transaction_read_only", "on", "wrong"),
        ("synchronous_commit", "off", "wrong"),
        ("synchronous_commit", "local", "wrong"),
        ("log_statement", "all", "wrong"),
        ("synchronous_standby_names", "one", "ok"),
    ],
)
async def test_a_wrong_server_is_refused_by_name(
    engine: EngineOfTest, postgres: PostgresServer, name: str, value: str, verdict: str
) -> None:
    """By the check, and what loses data by the sink as well, which then stores nothing."""
    async with await engine.sink("web-1") as before:
        await before.append(a_log(), a_batch(None), after=None)
    postgres.configure(**{name: value})
    postgres.reload()
    try:
        found = {one.name: one for one in await engine.engine.check()}
        if verdict == "wrong":
            assert found[name].verdict == "wrong"
            assert found[name].fix
        else:
            assert name not in found
        if name in {"fsync", "full_page_writes"}:
            async with await engine.sink("web-1") as sink:
                with pytest.raises(SinkRefused, match=name):
                    await sink.append(a_log(), a_batch(None), after=None)
    finally:
        with (postgres.data / "postgresql.auto.conf").open("a") as file:
            file.write(f"{name} = {dict(DEFAULTS).get(name, 'off')}\n")
        postgres.reload()


DEFAULTS = {
    "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "log_statement": "none",
    "synchronous_standby_names": "''",
}  # fmt: skip


async def test_a_running_session_notices_that_fsync_was_turned_off(
    engine: EngineOfTest, postgres: PostgresServer
) -> None:
    """The function asks at each append, not only the sink when it connects."""
    log, (first, second) = a_log(), batches(2)
    async with await engine.sink("web-1") as sink:
        await sink.append(log, first, after=None)
        postgres.configure(fsync="off")
        postgres.reload()
        try:
            with pytest.raises(SinkRefused, match="fsync"):
                await sink.append(log, second, after=first.head)
        finally:
            postgres.configure(fsync="on")
            postgres.reload()
        await sink.append(log, second, after=first.head)


async def test_a_database_that_is_not_utf_8_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    """By init, before anything is made, and by the check."""
    name = f"latin_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.admin_url("template1"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'").format(sql.Identifier(name))
        )
        try:
            engine = EngineOfTest(postgres.admin_url(name), tmp_path)
            with pytest.raises(SinkRefused, match="LATIN1"):
                await engine.engine.init()
            assert await engine.wrong() == {"server_encoding", "schema"}
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def test_an_older_engine_is_named_and_brought_up_to_date(engine: EngineOfTest) -> None:
    """What it has is kept: version 1 had no descriptions of logs."""
    log, batch = a_log(), a_batch(None)
    async with await engine.sink() as sink:
        await sink.append(log, batch, after=None)
    for function in ("describe(text, text, text, text, bytea)", "description(text, text, text, text)"):
        engine.run(f"DROP FUNCTION SCHEMA.{function}")
    engine.run("UPDATE SCHEMA.about SET schema_version = 1")
    assert {"function", "schema version"} <= await engine.wrong()
    engine.run("DROP TABLE SCHEMA.descriptions")
    assert {"function", "tables"} <= await engine.wrong()
    async with await engine.sink() as sink:
        with pytest.raises(SinkRefused, match="engine init"):
            await sink.head(log)
    await engine.engine.init()
    assert await engine.wrong() == set()
    async with await engine.sink() as sink:
        assert await sink.head(log) == batch.head
        await sink.describe(log, b"{}")


async def test_a_newer_engine_is_left_alone(engine: EngineOfTest) -> None:
    """Older software must not turn it back."""
    engine.run("UPDATE SCHEMA.about SET schema_version = 99")
    with pytest.raises(SinkRefused, match="update audit-async"):
        await engine.engine.init()
    assert engine.run("SELECT schema_version FROM SCHEMA.about") == [(99,)]
    assert "schema version" in await engine.wrong()


@pytest.fixture
def plain_admin(database: str, postgres: PostgresServer) -> Iterator[str]:
    """An administrator who is no superuser, as a cloud's PostgreSQL gives one: it makes roles and owns the database."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE ROLE plain_admin LOGIN CREATEROLE")
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO plain_admin").format(sql.Identifier(connection.info.dbname))
        )
    yield database.replace("user=postgres", "user=plain_admin")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("REASSIGN OWNED BY plain_admin TO postgres")
        connection.execute("DROP OWNED BY plain_admin")
        connection.execute("DROP ROLE plain_admin")


async def test_an_administrator_need_not_be_a_superuser(
    plain_admin: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    """Init, check, grant, trim and revoke; afterwards it can't act as the owner."""
    engine = EngineOfTest(plain_admin, tmp_path)
    await engine.engine.init()
    await engine.engine.init()
    assert await engine.wrong() == set()
    log, batch = a_log(), a_batch(None)
    async with await engine.sink("web-1") as host, await engine.sink("c", "collector") as collector:
        await host.append(log, batch, after=None)
        assert await collector.head(log) == batch.head
        assert await engine.engine.trim(keep_days=1, confirmed=_stated) == []
        assert await engine.wrong() == set()
        await engine.engine.revoke("web-1", kind="host")
        with pytest.raises(SinkUnavailable):
            await host.append(log, a_batch(batch.head), after=batch.head)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run_as(plain_admin, "TABLE audit_acme.heads")


# Granting.


async def test_a_grant_is_a_url_and_a_file_that_only_its_owner_reads(engine: EngineOfTest, tmp_path: Path) -> None:
    """The URL works as it is and holds no secret; the password is nowhere else."""
    file = tmp_path / "engine.pgpass"
    granted = await engine.engine.grant("web-1", kind="host", secret_file=file, limits=Limits())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    password = file.read_text().rstrip("\n").rpartition(":")[2]
    assert len(password) >= 40
    assert password not in repr(granted)
    async with PostgresSink(granted.url, tenant="acme") as sink:
        assert await sink.head(a_log(host="web-1")) is None
    [(stored,)] = engine.run("SELECT rolpassword FROM pg_authid WHERE rolname = 'audit_acme_host_web-1'")
    assert stored.startswith("SCRAM-SHA-256$")


async def test_the_server_never_sees_the_password(engine: EngineOfTest, postgres: PostgresServer) -> None:
    """Not in its log either, if it writes every statement there."""
    postgres.configure(log_statement="all")
    postgres.reload()
    try:
        granted = await engine.granted("web-1")
    finally:
        postgres.configure(log_statement="none")
        postgres.reload()
    log = postgres.log.read_text()
    assert f'"{granted.account}"' in log
    assert Path(granted.files[0]).read_text().rstrip("\n").rpartition(":")[2] not in log


async def test_a_second_grant_makes_the_first_password_void(engine: EngineOfTest) -> None:
    """So a stolen one is replaced by granting again; the host keeps its logs."""
    log, (first, second) = a_log(), batches(2)
    old = engine.loopback(await engine.granted("web-1"))
    async with PostgresSink(old, tenant="acme") as host:
        await host.append(log, first, after=None)
    new = engine.loopback(await engine.granted("web-1"))
    async with PostgresSink(old, tenant="acme") as host:
        with pytest.raises(SinkUnavailable, match="password authentication failed"):
            await host.head(log)
    async with PostgresSink(new, tenant="acme") as host:
        await host.append(log, second, after=first.head)


async def test_a_secret_is_never_written_over(engine: EngineOfTest, tmp_path: Path) -> None:
    """A file that is there stays, and the password that it holds stays valid; a failed grant leaves no file."""
    granted = await engine.granted("web-1")
    with pytest.raises(ConfigError, match="is there already"):
        await engine.engine.grant("web-1", kind="host", secret_file=Path(granted.files[0]), limits=Limits())
    async with PostgresSink(engine.loopback(granted), tenant="acme") as host:
        await host.head(a_log())
    file = tmp_path / "failed.pgpass"
    with pytest.raises(SinkRefused, match="audit-async engine init"):
        await PostgresEngine(engine.admin_url, tenant="nobody").grant(
            "web-1", kind="host", secret_file=file, limits=Limits()
        )
    assert not file.exists()
    with pytest.raises(ConfigError, match="can't be made"):
        await engine.engine.grant("w", kind="host", secret_file=tmp_path / "no" / "f", limits=Limits())


async def test_who_has_no_rights_can_not_lose_them(engine: EngineOfTest) -> None:
    """A typing mistake is not taken for done."""
    with pytest.raises(ConfigError, match="has no rights"):
        await engine.engine.revoke("web-7", kind="host")


# Trimming.


async def _stated(log: LogIdentity, confirmation: bytes) -> int | None:
    """Judge the confirmations of these tests: `seq hash`."""
    seq, _, hash_ = confirmation.decode().partition(" ")
    return int(seq) if hash_ else None


async def test_days_are_dropped_up_to_what_is_confirmed(engine: EngineOfTest) -> None:
    """Not before every record of a day is; the head stays, so the log goes on and can't be begun again."""
    log, (first, second, third) = a_log(), batches(3)
    async with await engine.sink() as host, await engine.sink("c", "collector") as collector:
        await host.append(log, first, after=None)
        await host.append(log, second, after=first.head)
        engine.run(  # as if it had been received 40 days ago
            "SELECT SCHEMA.make_day((now() AT TIME ZONE 'UTC')::date - 40)",
            "UPDATE SCHEMA.batches SET received_day = received_day - 40",
        )
        trim = engine.engine.trim
        [day] = await trim(keep_days=30, confirmed=_stated)
        assert (day.batches, day.dropped) == (2, False)
        assert "confirmed nothing, record 5 is due" in day.reason
        await collector.confirm(log, f"{first.last_seq} {first.last_hash}".encode())
        [day] = await trim(keep_days=30, confirmed=_stated)
        assert "confirmed up to record 2, record 5 is due" in day.reason
        await collector.confirm(log, b"forged")
        [day] = await trim(keep_days=30, confirmed=_stated)
        assert "confirmed nothing" in day.reason
        await collector.confirm(log, f"{second.last_seq} {second.last_hash}".encode())
        assert await trim(keep_days=40, confirmed=_stated) == []
        [day] = await trim(keep_days=30, confirmed=_stated, dry_run=True)
        assert (day.reason, day.dropped) == ("", False)
        assert [batch async for batch in collector.read(log, None)] == [first, second]
        [day] = await trim(keep_days=30, confirmed=_stated)
        assert day.dropped
        assert [batch async for batch in collector.read(log, None)] == []
        assert await engine.wrong() == set()
        with pytest.raises(HeadMoved):
            await host.append(log, first, after=None)
        await host.append(log, third, after=second.head)
        assert [batch async for batch in collector.read(log, second.head)] == [third]


async def test_a_day_that_is_missing_is_not_taken_for_trimmed(engine: EngineOfTest) -> None:
    """Trimming passes it over with the reason, and goes on with the others."""
    engine.run(
        "SELECT SCHEMA.make_day('2026-01-01')", "SELECT SCHEMA.make_day('2026-01-02')",
        "DROP TABLE SCHEMA.batches_20260101",
    )  # fmt: skip
    missing, empty = await engine.engine.trim(keep_days=30, confirmed=_stated)
    assert "missing" in missing.reason
    assert empty.dropped
    assert await engine.wrong() == {"missing partition"}


async def test_two_that_trim_at_once(engine: EngineOfTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As cron starts them: what the other has dropped is said to be, and not called missing."""
    engine.run("SELECT SCHEMA.make_day('2026-01-01')", "SELECT SCHEMA.make_day('2026-01-02')")
    trim_day = PostgresEngine._trim_day
    first: list[Trimmed] = []

    async def overtaken(*of: Any, **how: Any) -> Trimmed:
        monkeypatch.undo()
        first.extend(await engine.engine.trim(keep_days=30, confirmed=_stated))
        return await trim_day(*of, **how)

    monkeypatch.setattr(PostgresEngine, "_trim_day", overtaken)
    second = await engine.engine.trim(keep_days=30, confirmed=_stated)
    assert [(one.dropped, one.reason) for one in first] == [(True, "")] * 2
    assert [(one.dropped, one.reason) for one in second] == [(False, "another run has dropped it meanwhile")] * 2
    assert await engine.wrong() == set()


async def test_a_day_is_made_when_it_comes(engine: EngineOfTest) -> None:
    """Also if nobody has run anything for months, by the append itself, and by several at once."""
    engine.run("DELETE FROM SCHEMA.days", *[
        f'DROP TABLE audit_acme."{name}"' for (name,) in engine.run(
            "SELECT relname FROM pg_class WHERE relname ~ '^batches_[0-9]+$'"
        )
    ])  # fmt: skip
    async with await engine.sink() as sink:
        await sink.append(a_log(), a_batch(None), after=None)
    assert await engine.wrong() == set()
    assert engine.run("SELECT count(*) FROM SCHEMA.batches") == [(1,)]


async def test_a_day_that_was_dropped_by_hand_is_not_forgotten(engine: EngineOfTest) -> None:
    """Hosts go on, and the check says that something is missing until somebody has looked."""
    log, (first, second) = a_log(), batches(2)
    async with await engine.sink() as sink:
        await sink.append(log, first, after=None)
        engine.run(_DROP_TODAY)
        assert await engine.wrong() == {"missing partition"}
        await sink.append(log, second, after=first.head)
    assert await engine.wrong() == {"missing partition"}


@pytest.mark.parametrize("days", [0, -1])
async def test_trimming_leaves_some_days(engine: EngineOfTest, days: int) -> None:
    """Today's records can't have been archived."""
    with pytest.raises(ConfigError, match="keep_days"):
        await engine.engine.trim(keep_days=days, confirmed=_stated)


# Names.


@pytest.mark.parametrize("tenant", ["acme", "Acme", "a.b", "a$b", "a%b", 'a"b', "a'b\\", "a b", "ä", "a@schema@"])
async def test_a_tenant_may_be_called_anything(database: str, tmp_path: Path, tenant: str) -> None:
    """Nothing of a name gets into the SQL unquoted, and two names never make one schema."""
    engine = PostgresEngine(database, tenant=tenant)
    await engine.init()
    assert [one for one in await engine.check() if one.verdict == "wrong"] == []
    granted = await engine.grant("w\"e'b", kind="host", secret_file=tmp_path / "pass", limits=Limits())
    async with PostgresSink(granted.url, tenant=tenant) as sink:
        log = a_log(tenant=tenant, host="w\"e'b", service="s'\"\\%s")
        await sink.append(log, a_batch(None), after=None)
        assert await sink.head(log) == a_batch(None).head


def test_names_stay_different() -> None:
    """Also those that PostgreSQL would cut at 63 bytes, or fold to lower case."""
    tenants = ["acme", "Acme", "a.b", "a$b", "a$2Eb", "a_b"]
    assert len({names_of(tenant).schema for tenant in tenants}) == len(tenants)
    with pytest.raises(ConfigError, match="tenant"):
        names_of("t" * 47)
    with pytest.raises(ConfigError, match="name"):
        names_of("t" * 46).role_of("web-17", "host")
    assert set(function_bodies(names_of("acme"))) >= {"append", "head", "read_after", "logs", "confirm"}


def test_the_url_chooses_the_engine() -> None:
    """An unknown one is refused with an example, without the URL."""
    assert isinstance(open_engine("postgresql:///audit", tenant="acme"), PostgresEngine)
    with pytest.raises(ConfigError, match="postgres://") as caught:
        open_engine("mysql://root:secret@db/audit", tenant="acme")
    assert "secret" not in str(caught.value)
