"""What a host that is in other hands tries on a NATS cluster with the accounts that the engine makes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from audit_async.forwarding import Batch, LogIdentity, NatsSink, SinkError, SinkRefused
from audit_async.forwarding.nats_connection import NoRight, inbox_of, public_key_in
from audit_async.forwarding.nats_names import confirmation_subject, description_subject, subject_of
from tests.forwarding.logs_to_ship import a_batch, a_log
from tests.forwarding.nats_engines import NatsEngineOfTest, nats_engine, until_appended

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The servers are what is attacked, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="module")
async def engine(anyio_backend: object) -> AsyncIterator[NatsEngineOfTest]:
    """Three servers with an engine."""
    with nats_engine(3) as made:
        await made.start()
        yield made


class Victim:
    """A host's log with one batch, and what it must still be after an attack."""

    def __init__(self, engine: NatsEngineOfTest) -> None:
        self.engine = engine
        self.log: LogIdentity = a_log(host="web-2")
        self.batch: Batch = a_batch(None)

    async def begin(self) -> None:
        """Store the batch, with a description and a confirmation."""
        async with await self.engine.host("web-2") as host, await self.engine.collector() as collector:
            await until_appended(host, self.log, self.batch, None)
            await host.describe(self.log, b"the victim's")
            await collector.confirm(self.log, b"the collector's")

    async def check(self) -> None:
        """Its log, its description and its confirmation are what they were, and it goes on."""
        async with await self.engine.host("web-2") as host, await self.engine.collector() as collector:
            assert await host.head(self.log) == self.batch.head
            assert await host.description(self.log) == b"the victim's"
            assert await host.confirmation(self.log) == b"the collector's"
            following = a_batch(self.batch.head)
            await host.append(self.log, following, after=self.batch.head)
            assert [batch async for batch in collector.read(self.log, None)] == [self.batch, following]


@pytest.fixture
async def victim(engine: NatsEngineOfTest) -> Victim:
    """A log of another host."""
    made = Victim(engine)
    await made.begin()
    return made


async def connected(sink: NatsSink) -> Client:
    """Return a sink's own connection, to send on it what no sink sends."""
    await sink.largest_record_bytes()
    client = sink._servers._client
    assert client is not None
    return client


async def test_writing_as_another_is_refused(engine: NatsEngineOfTest, victim: Victim) -> None:
    """Records, descriptions and confirmations, also one's own."""
    own = a_log(host="web-1")
    async with await engine.host("web-1", timeout_s=120) as host:
        with anyio.fail_after(60):
            for call in (
                host.append(victim.log, a_batch(victim.batch.head), after=victim.batch.head),
                host.append(a_log(host="web-2"), a_batch(None), after=None),
                host.describe(a_log(host="web-2"), b"forged"),
                host.confirm(victim.log, b"forged"),
                host.confirm(own, b"forged"),
            ):
                with pytest.raises(SinkRefused, match="has no right to"):
                    await call
    await victim.check()


async def test_reading_anothers_is_refused(engine: NatsEngineOfTest, victim: Victim) -> None:
    """By every form of the API, and with a wanted message in the payload of the form that is allowed."""
    own = a_log(host="web-1")
    async with await engine.host("web-1", timeout_s=120) as host:
        await host.append(own, a_batch(None), after=None)
        with anyio.fail_after(60):
            for call in (
                host.head(victim.log),
                host.confirmation(victim.log),
                host.description(victim.log),
                host.logs(),
                anext(host.read(own, None)),
            ):
                with pytest.raises(SinkRefused, match="has no right to"):
                    await call
            for subject in (
                "audit_api.STREAM.MSG.GET.audit_acme",
                "$JS.API.STREAM.MSG.GET.audit_acme",
                "$JS.API.DIRECT.GET.audit_acme",
                "$JS.API.CONSUMER.CREATE.audit_acme",
                f"audit_api.DIRECT.GET.audit_acme.{subject_of(victim.log)}",
                "audit_api.DIRECT.GET.audit_acme.audit.acme.>",
                "audit_api.DIRECT.GET.audit_acme.audit.acme.*.*.>",
            ):
                with pytest.raises(NoRight):
                    await host._servers.request(subject, b'{"seq": 1}')
        for wanted in (
            b'{"seq": 1}',
            b'{"seq": 1, "next_by_subj": "audit.>"}',
            b'{"multi_last": ["audit.>"]}',
            b'{"last_by_subj": "%s"}' % subject_of(victim.log).encode(),
        ):
            answer = await host._servers.request(f"audit_api.DIRECT.GET.audit_acme.{subject_of(own)}", wanted)
            assert not answer.data
            assert (answer.headers or {})["Status"] == "408"


async def test_an_answer_is_not_stored_in_anothers_log(engine: NatsEngineOfTest, victim: Victim) -> None:
    """A server sends an answer wherever the question says: an acknowledgement, or one's own forged records.

    In one account with its victims, the host would have written as another, and deleted the stream.
    """
    own = a_log(host="web-1")
    forged = a_batch(victim.batch.head, text="forged")
    places = [subject_of(victim.log), confirmation_subject(victim.log), description_subject(victim.log)]
    places += [f"{api}.STREAM.{call}.audit_acme" for api in ("$JS.API", "audit_api") for call in ("PURGE", "DELETE")]
    async with await engine.host("web-1") as sink:
        await sink.append(own, a_batch(None), after=None)
        # What the victim's next batch would look like is the last message of the own log.
        await sink._store(own, forged.head, await sink._newest(own), forged.lines, {"Audit-First-Seq": "3"})
        url = await engine.granted("web-1")
        query = url.partition("?")[2]
        for node in engine.servers.nodes:
            async with NatsSink(f"nats://127.0.0.1:{node.port}?{query}", tenant="acme") as there:
                client = await connected(there)
                for place in places:
                    await client.publish(f"audit_api.DIRECT.GET.audit_acme.{subject_of(own)}", b"", reply=place)
                    await client.publish(subject_of(own), b"{}", reply=place)
                await client.flush()
        # Each question that comes after is answered after.
        await sink._servers.request(f"audit_api.DIRECT.GET.audit_acme.{subject_of(own)}")
    await anyio.sleep(0.5)
    await victim.check()
    assert all(one.verdict != "wrong" for one in await engine.engine.check())


async def test_others_answers_are_not_heard(engine: NatsEngineOfTest, victim: Victim) -> None:
    """An inbox gets records, so each user may listen to its own only."""
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    secret = (await engine.granted("web-2")).partition("nkey=")[2].partition("&")[0]
    others = inbox_of(public_key_in(engine.directory / secret.rpartition("/")[2], "nkey"))
    async with await engine.host("web-1") as host:
        client = await connected(host)
        for subject in ("_INBOX.>", ">", "*.>", f"{others}.>", "audit.>", "audit_api.>", "_R_.>"):
            await client.subscribe(subject, cb=hear)
        await client.flush()
        await victim.check()
        await client.flush()
    assert heard == []


async def test_a_batch_is_not_suppressed_by_what_another_sends(engine: NatsEngineOfTest, victim: Victim) -> None:
    """Neither by message ids, nor by conditions, nor by what a header has the server do with the stream."""
    own = a_log(host="web-1")
    following = a_batch(victim.batch.head)
    async with await engine.host("web-1") as host:
        for name in (following.last_hash, victim.log.log_id, subject_of(victim.log)):
            await host._servers.request(subject_of(own), b"x", {"Nats-Msg-Id": name})
        foreign = {"Nats-Expected-Last-Subject-Sequence-Subject": subject_of(victim.log)}
        for headers in (
            {"Nats-Rollup": "all"},
            {"Nats-Rollup": "sub"},
            {"Nats-TTL": "1s"},
            {"Nats-Expected-Last-Subject-Sequence": "999"},
            {"Nats-Expected-Last-Subject-Sequence": "999", **foreign},
        ):
            answer = await host._servers.request(subject_of(own), b"x", headers)
            with pytest.raises(SinkError):
                host._servers.check(answer)
    await victim.check()


async def test_a_collector_neither_appends_nor_deletes(engine: NatsEngineOfTest, victim: Victim) -> None:
    """It reads and confirms."""
    async with await engine.collector() as collector:
        assert victim.log in await collector.logs()
        with pytest.raises(SinkRefused, match="has no right to"):
            await collector.append(victim.log, a_batch(victim.batch.head), after=victim.batch.head)
        with pytest.raises(SinkRefused, match="has no right to"):
            await collector.describe(a_log(), b"forged")
        client = await connected(collector)
        for call in ("PURGE", "DELETE", "UPDATE", "MSG.DELETE"):
            with pytest.raises(NoRight):
                await collector._servers.request(f"audit_api.STREAM.{call}.audit_acme", b"{}")
            await client.publish(
                "audit_api.STREAM.INFO.audit_acme", b"", reply=f"$JS.API.STREAM.{call}.audit_acme"
            )  # fmt: skip
        await client.flush()
    await victim.check()


async def test_a_revoked_host_is_let_in_nowhere(engine: NatsEngineOfTest) -> None:
    """Its connections are ended, and no server knows its key; what it has stored stays."""
    log, batch = a_log(host="web-9"), a_batch(None)
    async with await engine.host("web-9", timeout_s=5) as host, await engine.collector() as collector:
        await host.append(log, batch, after=None)
        await engine.engine.revoke("web-9", kind="host")
        with pytest.raises(SinkError):  # the connection may have ended while it waited
            await host.head(log)
        with pytest.raises(SinkRefused, match="do not know this key"):
            await host.head(log)
        assert [one async for one in collector.read(log, None)] == [batch]
