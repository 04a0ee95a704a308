"""What a host may try that has its own password and nothing else: each is refused by the server.

The host is not held to this library: it has `psql` and the functions of the schema.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from audit_async._chain import BadRecord
from audit_async.forwarding import Batch, Head, HeadMoved, LogIdentity, SinkFull, SinkRefused
from audit_async.forwarding.engine_admin import Limits
from tests.forwarding.logs_to_ship import NO_HASH, a_batch, a_log, batches
from tests.forwarding.postgres_engines import EngineOfTest, run_as

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The server decides, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


def append_as(url: str, log: LogIdentity, batch: Batch, **changes: Any) -> tuple[Any, ...]:
    """Call the server's function with arguments of one's own choice."""
    arguments = {
        "of_service": log.service, "of_host": log.host, "of_instance": log.instance, "of_log_id": log.log_id,
        "after_seq": batch.first_seq - 1, "after_hash": batch.prev,
        "new_first_seq": batch.first_seq, "new_last_seq": batch.last_seq,
        "new_prev_hash": batch.prev, "new_last_hash": batch.last_hash, "new_lines": batch.lines, "resume": None,
    } | changes  # fmt: skip
    named = ", ".join(f"{name} => %s" for name in arguments)
    [row] = run_as(url, f"SELECT * FROM audit_acme.append({named})", *arguments.values())  # noqa: S608 - fixed names
    return row


async def test_a_host_can_not_write_as_another(engine: EngineOfTest) -> None:
    """Neither continue its log, nor begin one in its name."""
    log, (first, second) = a_log(host="web-1"), batches(2)
    async with await engine.sink("web-1") as victim, await engine.sink("web-2") as attacker:
        await victim.append(log, first, after=None)
        for target, batch, after in [(log, second, first.head), (a_log(host="web-1"), first, None)]:
            with pytest.raises(SinkRefused, match="no right to write as host"):
                await attacker.append(target, batch, after=after)
        assert await victim.head(log) == first.head
        assert engine.run("SELECT count(*) FROM SCHEMA.heads") == [(1,)]


async def test_a_host_can_not_take_the_log_id_of_another(engine: EngineOfTest) -> None:
    """Under its own name either: a log_id is one log's, so a cloned machine is refused as well."""
    log, (first, second) = a_log(host="web-1"), batches(2)
    async with await engine.sink("web-1") as victim, await engine.sink("web-2") as clone:
        await victim.append(log, first, after=None)
        copy = a_log(host="web-2", log_id=log.log_id)
        for batch, after in [(first, None), (second, first.head)]:
            with pytest.raises(SinkRefused, match="belongs to another log"):
                await clone.append(copy, batch, after=after)
        assert await victim.head(log) == first.head


async def test_a_host_can_not_read_another(engine: EngineOfTest) -> None:
    """Neither head, records nor confirmation, nor what logs there are; with psql no table either."""
    log, batch = a_log(host="web-1"), a_batch(None)
    url = await engine.url("web-2")
    async with await engine.sink("web-1") as victim, await engine.sink("web-2") as attacker:
        await victim.append(log, batch, after=None)
        with pytest.raises(SinkRefused, match="no right to logs"):
            await attacker.head(log)
        with pytest.raises(SinkRefused, match="no right to logs"):
            [_ async for _ in attacker.read(log, None)]
        with pytest.raises(SinkRefused, match="no right to logs"):
            await attacker.confirmation(log)
    for statement in [
        "SELECT * FROM audit_acme.logs()",
        *(f"TABLE audit_acme.{table}" for table in ("heads", "batches", "writers", "days", "confirmations", "about")),
        "COPY audit_acme.batches TO STDOUT",
        "SELECT lines FROM audit_acme.batches WHERE log_key = 1",
    ]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_as(url, statement)
    assert run_as(url, "SELECT count(*) FROM pg_stats WHERE schemaname = 'audit_acme'") == [(0,)]


async def test_a_host_can_not_rewrite(engine: EngineOfTest) -> None:
    """What it has sent itself: neither by another batch, nor by statements of its own."""
    log = a_log(host="web-1")
    first, second = batches(2)
    async with await engine.sink("web-1") as host:
        url = await engine.url("web-1")
        await host.append(log, first, after=None)
        await host.append(log, second, after=first.head)
        forged = a_batch(None, text="forged")
        for batch, after in [(forged, None), (a_batch(first.head, text="forged"), first.head)]:
            with pytest.raises(HeadMoved):
                await host.append(log, batch, after=after)
        for statement in [
            "UPDATE audit_acme.batches SET lines = ''",
            "DELETE FROM audit_acme.batches",
            "TRUNCATE audit_acme.batches",
            "UPDATE audit_acme.heads SET seq = -1",
            "DELETE FROM audit_acme.heads",
            "INSERT INTO audit_acme.writers VALUES (session_user, 'web-9', 1, 1)",
            "DROP TABLE audit_acme.batches CASCADE",
            "ALTER TABLE audit_acme.batches DISABLE TRIGGER ALL",
            "CREATE TABLE audit_acme.mine (x text)",
            "CREATE OR REPLACE FUNCTION audit_acme.logs() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "SET ROLE audit_acme_owner",
            "SET ROLE audit_acme_collectors",
            "SET SESSION AUTHORIZATION postgres",
            "SELECT audit_acme.make_day('2020-01-01')",
            "SELECT audit_acme.confirm('orders', 'web-1', '00', 'x', '')",
            "GRANT audit_acme_collectors TO CURRENT_USER",
            "BEGIN; LOCK TABLE audit_acme.heads",
        ]:
            with pytest.raises(psycopg.Error) as caught:
                run_as(url, statement)
            assert caught.value.sqlstate == "42501", statement
        assert [batch async for batch in host.read(log, None)] == [first, second]


async def test_a_host_can_not_put_names_in_the_functions_way(engine: EngineOfTest) -> None:
    """A function of the owner looks nothing up in a schema or a path that the caller chose."""
    url = await engine.url("web-1")
    engine.run(  # what an administrator may have left open
        "CREATE SCHEMA trap",
        "GRANT ALL ON SCHEMA trap TO PUBLIC",
    )
    log, batch = a_log(), a_batch(None)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            "CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$",
            "CREATE FUNCTION trap.octet_length(bytea) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$",
            "CREATE FUNCTION trap.differs(bigint, bigint) RETURNS bool LANGUAGE sql AS 'SELECT true'",
            "CREATE OPERATOR trap.<> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = trap.differs)",
            "SET search_path = trap, pg_catalog",
        ):
            connection.execute(statement)
        row = connection.execute(
            "SELECT appended FROM audit_acme.append(%s, %s, %s, %s, -1, %s, %s, %s, %s, %s, %s, NULL)",
            (log.service, log.host, log.instance, log.log_id, NO_HASH, batch.first_seq, batch.last_seq,
             NO_HASH, batch.last_hash, batch.lines),
        ).fetchone()  # fmt: skip
    assert row == (True,)


async def test_a_host_can_not_begin_in_the_middle(engine: EngineOfTest) -> None:
    """Whoever could would hide what was before: only after a head that the collector has confirmed of this log."""
    log, other = a_log(), a_log()
    first, second = batches(2)
    url = await engine.url("web-1")
    async with await engine.sink("web-1") as host, await engine.sink("c", "collector") as collector:
        confirmed = f"{first.last_seq} {first.last_hash}".encode()
        for resume in (confirmed, b"", first.last_hash.encode()):
            with pytest.raises(SinkRefused, match="has not confirmed"):
                await host.append(log, second, after=first.head, resume=resume)
        await collector.confirm(other, confirmed)
        await collector.confirm(log, f"2 {'0' * 64}".encode())
        for resume in (confirmed, f"2 {'0' * 64}".encode()):
            with pytest.raises(SinkRefused, match="has not confirmed"):
                await host.append(log, second, after=first.head, resume=resume)
        # The same with a record 0 of its own that is none, and with lines that are not what is declared.
        tries: list[dict[str, object]] = [
            {"after_seq": -1, "after_hash": NO_HASH},
            {"after_seq": -1},
            {"after_seq": -1, "after_hash": NO_HASH, "new_first_seq": 0, "new_prev_hash": NO_HASH},
        ]
        for changes in tries:
            with pytest.raises(psycopg.errors.Error) as caught:
                append_as(url, log, second, **changes)
            assert caught.value.sqlstate == "AU001"
        assert engine.run("SELECT count(*) FROM SCHEMA.heads") == [(0,)]


@pytest.mark.parametrize(
    "changes",
    [
        {"after_seq": 0},
        {"after_hash": "ab" * 32},
        {"new_prev_hash": "ab" * 32},
        {"after_hash": "ab" * 32, "new_prev_hash": "ab" * 32},
        {"new_first_seq": 1},
        {"new_last_seq": -1},
        {"new_last_hash": "ab" * 32},
        {"new_last_hash": "AB" * 32},
        {"new_last_hash": "x"},
        {"after_seq": -5, "new_first_seq": -4},
        {"new_lines": b""},
        {"new_lines": b"\n"},
        {"new_lines": b'{"seq":0,' + b"x" * 70},
    ],
    ids=str,
)
async def test_a_batch_that_contradicts_itself_is_refused(engine: EngineOfTest, changes: dict[str, Any]) -> None:
    """Declared link, declared hashes, first and last line: the server compares them."""
    url, log, batch = await engine.url("web-1"), a_log(), a_batch(None)
    with pytest.raises(psycopg.errors.Error) as caught:
        append_as(url, log, batch, **changes)
    assert caught.value.sqlstate == "AU001"
    assert append_as(url, log, batch) == (True, batch.last_seq, batch.last_hash)


async def test_what_the_server_can_not_compare_spoils_one_log_only(engine: EngineOfTest) -> None:
    """A batch with a forged line in its middle is stored; its reader finds that out, and it is that host's log."""
    log, sound = a_log(host="web-2"), a_log(host="web-1")
    batch = a_batch(None, 3)
    lines = batch.lines.splitlines(keepends=True)
    lines[1] = lines[1].replace(b"test.made", b"test.fake")
    forged = Batch(first_seq=0, last_seq=2, prev=NO_HASH, last_hash=batch.last_hash, lines=b"".join(lines))
    async with await engine.sink("web-2") as host, await engine.sink("web-1") as other:
        await host.append(log, forged, after=None)
        await other.append(sound, batch, after=None)
        [found] = [one async for one in host.read(log, None)]
        with pytest.raises(Exception, match="not the hash of this record"):
            found.check()
        [found] = [one async for one in other.read(sound, None)]
        found.check()


@pytest.mark.parametrize("name", ["of_service", "of_instance", "of_log_id"])
@pytest.mark.parametrize("value", ["", "../../etc", "a/b", "a\nb", "\x7f", "\x85", "a" * 129], ids=ascii)
async def test_a_host_can_not_choose_a_name_that_leaves_its_place(engine: EngineOfTest, name: str, value: str) -> None:
    """Names become paths at the collector."""
    with pytest.raises(psycopg.errors.Error) as caught:
        append_as(await engine.url("web-1"), a_log(), a_batch(None), **{name: value})
    assert caught.value.sqlstate == "AU001"


async def test_a_name_that_the_server_lets_through_keeps_no_other_log_away(
    engine: EngineOfTest, caplog: pytest.LogCaptureFixture
) -> None:
    """A character that turns text around: the collector leaves that log out and says so."""
    log = a_log(service="orders-ü")
    append_as(await engine.url("web-1"), log, a_batch(None))
    append_as(await engine.url("web-1"), a_log(), a_batch(None), of_service="a\u202eb")
    async with await engine.sink("c", "collector") as collector:
        assert await collector.logs() == [log]
    assert "a log of host 'web-1' is left out" in caplog.text


async def test_a_batch_with_fewer_lines_than_it_declares_fails_its_check(engine: EngineOfTest) -> None:
    """Also if the reader begins in its middle, where there is no line."""
    log, batch = a_log(), a_batch(None, 1)
    append_as(await engine.url("web-1"), log, batch, new_last_seq=7)
    async with await engine.sink("c", "collector") as collector:
        for after in (None, Head(seq=0, hash=batch.last_hash), Head(seq=5, hash=batch.last_hash)):
            [found] = [one async for one in collector.read(log, after)]
            with pytest.raises(BadRecord):
                found.check()


async def test_a_host_can_not_fill_the_engine_for_all(engine: EngineOfTest) -> None:
    """Its bytes of a day and its logs have an end, over all of its logs and connections; others go on."""
    [size] = {len(batch.lines) for batch in batches(1)}
    limits = Limits(max_bytes_per_day=2 * size + size // 2, max_logs=2)
    logs = [a_log(host="web-1", instance=f"{number:02d}") for number in range(3)]
    batch = a_batch(None)
    async with await engine.sink("web-1", limits=limits) as host, await engine.sink("web-2") as other:
        await host.append(logs[0], batch, after=None)
        await host.append(logs[1], batch, after=None)
        with pytest.raises(SinkFull, match="2 logs, as many as it may have"):
            await host.append(logs[2], batch, after=None)
        with pytest.raises(SinkFull, match="bytes today, and may send"):
            await host.append(logs[0], a_batch(batch.head), after=batch.head)
        assert await host.head(logs[0]) == batch.head
        await other.append(a_log(host="web-2"), batch, after=None)
        # The next day it goes on; and with more allowed it goes on at once.
        engine.run("UPDATE SCHEMA.heads SET day = day - 1")
        following = a_batch(batch.head)
        await host.append(logs[0], following, after=batch.head)
    async with await engine.sink("web-1", limits=Limits(max_logs=3)) as host:
        await host.append(logs[2], batch, after=None)
        await host.append(logs[1], following, after=batch.head)


async def test_a_host_can_not_fill_the_disk_past_its_allowance(engine: EngineOfTest) -> None:
    """With tables, temporary tables, or large objects of its own."""
    url = await engine.url("web-1")
    for statement in [
        "CREATE TABLE public.mine AS SELECT 1",
        "CREATE TEMPORARY TABLE mine AS SELECT 1",
        "CREATE SCHEMA mine",
        "SELECT lo_create(0)",
        "SELECT lo_creat(-1)",
        r"SELECT lo_from_bytea(0, '\x00')",
    ]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_as(url, statement)


async def test_a_collector_can_not_write(engine: EngineOfTest) -> None:
    """It reads all and confirms; a record in a host's name it can't add."""
    url = await engine.url("c", "collector")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        append_as(url, a_log(), a_batch(None))
    async with await engine.sink("c", "collector") as collector:
        assert await collector.head(a_log(host="any")) is None


async def test_a_tenant_sees_nothing_of_another(database: str, engine: EngineOfTest) -> None:
    """Not its collector either: each has a schema of its own."""
    other = EngineOfTest(database, engine._directory, tenant="other")
    await other.engine.init()
    async with await engine.sink("web-1") as host:
        await host.append(a_log(), a_batch(None), after=None)
    url = await other.url("c", "collector")
    for statement in ("SELECT * FROM audit_acme.logs()", "TABLE audit_acme.heads"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_as(url, statement)
    async with await other.sink("c", "collector") as collector:
        assert await collector.logs() == []


async def test_a_revoked_host_is_out_at_once(engine: EngineOfTest) -> None:
    """Its sessions are ended, its password is void, and what it has stored stays."""
    log, (first, second) = a_log(), batches(2)
    granted = await engine.granted("web-1")
    async with await engine.sink("c", "collector") as collector:
        with psycopg.connect(engine.loopback(granted), autocommit=True) as open_session:
            append_as(engine.loopback(granted), log, first)
            assert "1 of its sessions" in (await engine.engine.revoke("web-1", kind="host"))[1]
            with pytest.raises(psycopg.OperationalError):
                open_session.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            append_as(engine.loopback(granted), log, second)
        assert await collector.head(log) == Head(seq=first.last_seq, hash=first.last_hash)


async def test_the_description_of_another_hosts_log_is_neither_read_nor_written(engine: EngineOfTest) -> None:
    """Nor under the victim's log_id, nor by a clone under its own name, nor more often than there may be logs."""
    log = a_log()
    async with await engine.sink("web-1") as victim, await engine.sink("web-2") as attacker:
        await victim.describe(log, b"{}")
        for call in (attacker.description(log), attacker.describe(log, b"{}")):
            with pytest.raises(SinkRefused, match="no right"):
                await call
        with pytest.raises(SinkRefused, match=r"another log\.json"):
            await attacker.describe(a_log(host="web-2", log_id=log.log_id), b"{}")
        assert await victim.description(log) == b"{}"
    async with await engine.sink("web-3", limits=Limits(max_logs=2)) as sink:
        for _ in range(2):
            await sink.describe(a_log(host="web-3"), b"{}")
        with pytest.raises(SinkFull, match="2 logs"):
            await sink.describe(a_log(host="web-3"), b"{}")
