"""PostgreSQL as a sink: durable and conditional appends, and every failure by its right name."""

from __future__ import annotations

import contextlib

import anyio
import psycopg
import pytest

from audit_async.errors import ConfigError
from audit_async.forwarding import (
    HeadMoved,
    LogIdentity,
    PostgresSink,
    RecordTooLarge,
    SinkFull,
    SinkRefused,
    SinkUnavailable,
)
from audit_async.forwarding.engine_admin import has_password
from audit_async.forwarding.postgres_connection import Server
from audit_async.forwarding.postgres_schema import SCHEMA_VERSION
from tests.forwarding.cutting_proxy import CuttingProxy
from tests.forwarding.logs_to_ship import a_batch, a_log, batches
from tests.forwarding.postgres_engines import EngineOfTest
from tests.forwarding.postgres_server import PostgresServer
from tests.forwarding.sink_contract import SinkContract, read

pytestmark = pytest.mark.anyio


class TestContract(SinkContract):
    """What every engine promises."""

    @pytest.fixture(autouse=True)
    def _engine(self, engine: EngineOfTest) -> None:
        self.engine = engine

    async def host(self) -> PostgresSink:
        """Open the engine as a host."""
        return await self.engine.sink()

    async def collector(self) -> PostgresSink:
        """Open the engine as a collector."""
        return await self.engine.sink("c", "collector")


async def test_a_lost_acknowledgement_is_recognised_by_the_own_head(
    engine: EngineOfTest, postgres: PostgresServer
) -> None:
    """The server stores the batch and its answer is lost: the next try is answered with the batch's own head."""
    log, (first, second) = a_log(), batches(2)
    granted = await engine.granted("web-1")
    proxy = CuttingProxy(postgres.port)
    async with proxy.listening() as port:
        url = engine.loopback(granted).replace(f":{postgres.port}/", f":{port}/")
        async with PostgresSink(url, tenant=engine.tenant) as sink:
            await sink.append(log, first, after=None)
            proxy.loses_answers = True
            with pytest.raises(SinkUnavailable):
                await sink.append(log, second, after=first.head)
            proxy.loses_answers = False
            assert proxy.answers_lost == 1
            with pytest.raises(HeadMoved) as caught:
                await sink.append(log, second, after=first.head)
            assert caught.value.actual == second.head
            assert await read(sink, log) == [first, second]


async def test_no_answer_in_time_is_unavailable(engine: EngineOfTest) -> None:
    """The statement is given up at the server as well, so nothing is stored after the forwarder has given up."""
    log, batch = a_log(), a_batch(None)
    async with await engine.sink(timeout_s=0.5) as sink, await engine.sink() as patient:
        await until_connected(sink, log)
        with psycopg.connect(engine.admin_url) as blocking:
            blocking.execute(f'LOCK TABLE "{engine.schema}".heads')
            with pytest.raises(SinkUnavailable, match=r"no answer within 0\.5 s"):
                await sink.append(log, batch, after=None)
            await engine.until_nobody_is_connected()
        await patient.append(log, batch, after=None)
        assert await read(patient, log) == [batch]


async def until_connected(sink: PostgresSink, log: LogIdentity) -> None:
    """Have a sink of little patience connect, which may take longer on a busy machine."""
    with anyio.fail_after(60):
        while True:
            with contextlib.suppress(SinkUnavailable):
                await sink.head(log)
                return


async def test_many_logs_are_appended_at_a_time(engine: EngineOfTest) -> None:
    """More than there are connections."""
    logs = [a_log(instance=f"{number:02d}") for number in range(12)]

    async def forward(log: LogIdentity) -> None:
        head = None
        for batch in batches(4, text=log.instance):
            await sink.append(log, batch, after=head)
            head = batch.head

    async with await engine.sink(max_connections=3) as sink:
        async with anyio.create_task_group() as group:
            for log in logs:
                group.start_soon(forward, log)
        for log in logs:
            assert await read(sink, log) == list(batches(4, text=log.instance))


async def test_a_record_that_is_too_large_is_refused(engine: EngineOfTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is sent, with its number; the server's own limit holds for other clients."""
    batch = a_batch(None, 1, text="x" * (65 * 1024 * 1024))
    log = a_log()
    async with await engine.sink() as sink:
        with pytest.raises(RecordTooLarge, match="record 0 has 68,"):
            await sink.append(log, batch, after=None)
        monkeypatch.setattr("audit_async.forwarding.postgres_sink.MAX_VALUE_BYTES", 1 << 30)
        with pytest.raises(RecordTooLarge, match="at most 67108864 are taken"):
            await sink.append(log, batch, after=None)
        assert await sink.head(log) is None


async def test_commits_wait_for_the_disk_whatever_the_role_says(engine: EngineOfTest) -> None:
    """The session sets it; and if something resets it on the way, such as a pooler, the append is refused."""
    granted = await engine.granted("web-1")
    engine.run(f'ALTER ROLE "{granted.account}" SET synchronous_commit = off')
    log, (first, second) = a_log(), batches(2)
    async with PostgresSink(engine.loopback(granted), tenant=engine.tenant, max_connections=1) as sink:
        await sink.append(log, first, after=None)
        await sink._idle[0].execute("SET synchronous_commit = local")
        with pytest.raises(SinkRefused, match="synchronous_commit is local"):
            await sink.append(log, second, after=first.head)


async def test_a_sink_comes_back_after_its_connections_were_cut(engine: EngineOfTest) -> None:
    """The call that finds it out is unavailable, the next one connects again."""
    log = a_log()
    async with await engine.sink() as sink:
        assert await sink.head(log) is None
        engine.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'audit_%'")
        with pytest.raises(SinkUnavailable):
            await sink.head(log)
        assert await sink.head(log) is None


async def test_a_cancelled_call_leaves_no_connection_that_answers_late(engine: EngineOfTest) -> None:
    """Its connection is closed, not lent again, and the server's process ends what it was waiting for."""
    log, batch = a_log(), a_batch(None)
    async with await engine.sink(max_connections=1) as sink:
        await until_connected(sink, log)
        with psycopg.connect(engine.admin_url) as blocking:
            blocking.execute(f'LOCK TABLE "{engine.schema}".heads')
            with anyio.move_on_after(0.5) as scope:
                await sink.append(log, batch, after=None)
            assert scope.cancelled_caught
            await engine.until_nobody_is_connected()
        assert await sink.head(log) is None
        await sink.append(log, batch, after=None)


async def test_an_engine_that_was_not_made_is_refused_with_the_command(database: str) -> None:
    """What to do is in the message."""
    async with PostgresSink(database, tenant="acme") as sink:
        with pytest.raises(SinkRefused, match="audit-async engine init"):
            await sink.head(a_log())


async def test_an_engine_of_another_version_or_tenant_is_refused(engine: EngineOfTest) -> None:
    """Older: update the engine. Newer: update the package."""
    granted = await engine.granted("web-1")

    async def refused() -> str:
        async with PostgresSink(engine.loopback(granted), tenant=engine.tenant) as sink:
            with pytest.raises(SinkRefused) as caught:
                await sink.head(a_log())
            return str(caught.value)

    engine.run("UPDATE SCHEMA.about SET schema_version = 0")
    assert "engine init" in await refused()
    engine.run("UPDATE SCHEMA.about SET schema_version = 99")
    assert "update audit-async" in await refused()
    engine.run(f"UPDATE SCHEMA.about SET schema_version = {SCHEMA_VERSION}, tenant = 'other'")  # noqa: S608 - a number of our own
    assert "tenant 'other'" in await refused()
    async with PostgresSink(engine.loopback(granted), tenant=engine.tenant) as sink:
        with pytest.raises(SinkRefused, match="tenant"):
            await sink.head(a_log(tenant="other"))


async def test_what_has_no_room_is_full(engine: EngineOfTest) -> None:
    """The server's disk, said by PostgreSQL itself, is what a forwarder waits for."""
    engine.run(
        """CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$""",
        "CREATE TRIGGER full_disk BEFORE UPDATE ON SCHEMA.heads EXECUTE FUNCTION public.fail()",
    )
    async with await engine.sink() as sink:
        with pytest.raises(SinkFull, match="could not extend file"):
            await sink.append(a_log(), a_batch(None), after=None)


async def test_a_warning_is_no_acknowledgement(engine: EngineOfTest) -> None:
    """A commit that stopped waiting for its standby ends with a warning only; it is not taken for durable."""
    engine.run(
        """CREATE FUNCTION public.warn() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE WARNING 'canceling the wait for synchronous replication'; RETURN NULL; END $$""",
        "CREATE TRIGGER w AFTER UPDATE ON SCHEMA.heads EXECUTE FUNCTION public.warn()",
    )
    async with await engine.sink() as sink:
        with pytest.raises(SinkUnavailable, match="canceling the wait"):
            await sink.append(a_log(), a_batch(None), after=None)


async def test_a_closed_sink_says_so(engine: EngineOfTest) -> None:
    """And shows it."""
    sink = await engine.sink()
    await sink.head(a_log())
    assert "1 idle" in repr(sink)
    await sink.aclose()
    assert "closed" in repr(sink)
    with pytest.raises(SinkUnavailable, match="closed"):
        await sink.head(a_log())


SECRET = "hunter2-s3cret"
URLS_WITH_A_SECRET = [
    f"postgres://role:{SECRET}@127.0.0.1:1/audit",
    f"postgres://role:{SECRET}@127.0.0.1:port/audit",
    f"postgres://role:{SECRET}@[::1/audit",
    f"postgres://role:{SECRET}@127.0.0.1/audit?no_such_option=1",
    f"postgres://role:{SECRET}%zz@127.0.0.1/audit",
    f"postgres://127.0.0.1:1/audit?user=role&password={SECRET}",
    f"postgres://role:{SECRET}\ud800@127.0.0.1/audit",
    # Not written as %XX, so libpq takes a part of the password for the host, the port or the database.
    f"postgres://role:pass@{SECRET}@127.0.0.1:1/audit",
    f"postgres://role:pass/{SECRET}@127.0.0.1:1/audit",
    f"postgres://role:{SECRET}/word@127.0.0.1:1/audit",
    f"postgres://role:pass?{SECRET}@127.0.0.1:1/audit",
]


@pytest.mark.parametrize("url", URLS_WITH_A_SECRET)
async def test_no_error_holds_the_password(url: str) -> None:
    """Neither its message, nor what it is caused by, nor what the sink shows of itself."""
    with pytest.raises((ConfigError, SinkUnavailable)) as caught:
        sink = PostgresSink(url, tenant="acme")
        assert SECRET not in repr(sink)
        await sink.head(a_log())
    error: BaseException | None = caught.value
    assert SECRET not in "".join(map(repr, (error, error.__cause__)))  # type: ignore[union-attr]  # it is an error
    assert error.__suppress_context__ or error.__context__ is None  # type: ignore[union-attr]


async def test_a_wrong_password_is_no_secret_either(engine: EngineOfTest) -> None:
    """The server's refusal is said as it is."""
    granted = await engine.granted("web-1")
    url = engine.loopback(granted).partition("?")[0].replace("@", f":{SECRET}@")
    async with PostgresSink(url, tenant=engine.tenant) as sink:
        with pytest.raises(SinkUnavailable, match="password authentication failed") as caught:
            await sink.head(a_log())
    assert SECRET not in str(caught.value)


SEED_IN_URL = f"nats://h:4222?nkey=SU{'A' * 56}"


@pytest.mark.parametrize(
    "url", [*URLS_WITH_A_SECRET, "nats://u:p@h", "nats://token@h", "postgres://u:p/w@h/d", SEED_IN_URL]
)
async def test_a_password_in_a_url_is_seen(url: str) -> None:
    """Also in a URL that libpq refuses."""
    assert has_password(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://role@db/audit?passfile=/x",
        "postgres://role@db/audit?passfile=/run/credentials/audit-forward@web.service/p:1",
        "postgres://role@[::1]:5432/audit",
        "postgres:///audit",
        "postgres://db:5432/audit",
        "nats://a:1,b:2",
        "",
        "x",
    ],
)
async def test_a_url_without_a_password_has_none(url: str) -> None:
    """A port is none, and a file with one is none."""
    assert not has_password(url)


async def test_another_machine_proves_its_name() -> None:
    """TLS with the server's name checked, unless the URL says otherwise; not by loopback and a socket."""
    for url, mode in [
        ("postgres://r@db.example/audit", "verify-full"),
        ("postgres://r@127.0.0.1,db.example/audit", "verify-full"),
        ("postgres://r@db.example/audit?sslmode=require", "require"),
        ("postgres://r@127.0.0.1/audit", None),
        ("postgres://r@[::1]/audit", None),
        ("postgres:///audit?host=/run/postgresql", None),
        ("postgres://r@localhost/audit?hostaddr=192.0.2.7", "verify-full"),
    ]:
        assert Server(url)._parameters.get("sslmode") == mode, url


@pytest.mark.parametrize("url", ["mysql://db/audit", "audit", "", "host=db dbname=audit"])
async def test_what_is_no_postgres_url_is_refused(url: str) -> None:
    """With the form that it should have."""
    with pytest.raises(ConfigError, match="postgres://ROLE@HOST/DATABASE"):
        PostgresSink(url, tenant="acme")


@pytest.mark.parametrize("wrong", [{"timeout_s": 0}, {"max_connections": 0}, {"tenant": ""}, {"tenant": "t" * 60}])
async def test_a_sink_that_could_not_work_is_refused(wrong: dict[str, object]) -> None:
    """When it is made."""
    with pytest.raises(ConfigError):
        PostgresSink("postgres:///audit", **({"tenant": "acme"} | wrong))  # type: ignore[arg-type]


async def test_nobody_listening_is_unavailable(postgres: PostgresServer) -> None:
    """At once, with libpq's reason."""
    async with PostgresSink(f"postgres://r@127.0.0.1:{postgres.port}/nothing", tenant="acme") as sink:
        with pytest.raises(SinkUnavailable, match=r"127\.0\.0\.1"):
            await sink.head(a_log())
