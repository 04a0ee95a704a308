"""A collector as a witness: it cosigns a checkpoint that is the tree of the records it has, and no other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, Local, Transparency, tlog
from audit_async._chain import Batch as ChainBatch
from audit_async._chain import Entry, Framer, Head
from audit_async.errors import ConfigError, LogCorrupted
from audit_async.forwarding import DirectorySink
from audit_async.forwarding.collector import Collector
from audit_async.forwarding.collector_root import Finding
from audit_async.reader import AuditReader
from audit_async.tlog.merkle import RightEdge, leaf_hashes
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import Signer, cosigner_key, load_signer
from tests.forwarding.shipped_logs import batch_of, head_of, ship, write_log
from tests.logs import failure, segment_lines

pytestmark = pytest.mark.anyio
ORIGIN = "web-1.example/orders/00"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What is tested is on the disk, so one loop will do."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[DirectorySink]:
    """An engine."""
    (tmp_path / "engine").mkdir()
    DirectorySink.prepare(tmp_path / "engine")
    async with DirectorySink(tmp_path / "engine", tenant="acme") as opened:
        yield opened


def a_signer(directory: Path, name: str) -> Signer:
    """Return the signer of a key, which is made at the first time."""
    path = directory / f"{name.replace('/', '-')}.pem"
    if not path.exists():
        tlog.write_key(path, tlog.new_key())
    return load_signer(str(path), origin=name)


async def write_signed(
    base_dir: Path, key: Path, events: int, *, checkpoints: int = 2, service: str = "orders", origin: str = ORIGIN
) -> Path:
    """Write a session of a log that signs; return its directory."""
    config = AuditConfig(
        mode=Local(base_dir), service_id=service, instance="00", handle_signals=False,
        transparency=Transparency(key=str(key), origin=origin, interval=3600),
    )  # fmt: skip
    async with AuditLogger(config) as audit:
        for _ in range(checkpoints):
            for n in range(events // checkpoints):
                audit.emit(failure(n))
            await audit.checkpoint()
        audit.emit(failure())
    return base_dir / service / "00"


class Site:
    """A host whose log signs, and a collector that cosigns."""

    def __init__(self, directory: Path, sink: DirectorySink) -> None:
        self.directory, self.sink = directory, sink
        self.log_signer = a_signer(directory, ORIGIN)
        self.key = directory / f"{ORIGIN.replace('/', '-')}.pem"
        self.signer = a_signer(directory, "collector-1")
        self.root = directory / "root"

    async def collect(self, *log_keys: str) -> list[Finding]:
        """Collect what there is, as a process of its own would; return what was found."""
        keys = log_keys or (str(self.log_signer.key),)
        async with Collector(self.root, self.sink, tenant="acme", signer=self.signer, log_keys=keys) as collector:
            return list((await collector.collect()).findings)

    @property
    def policy(self) -> Policy:
        """What an auditor trusts: the log's key, and the collector as its witness."""
        return Policy.parse(
            f"log {self.log_signer.key}\nwitness c1 {cosigner_key(self.signer.key)}\nquorum c1\n".encode()
        )

    def published(self) -> bytes:
        """Return the checkpoint that the collector has put next to the records."""
        [path] = self.root.glob("acme/*/*/*/tlog/checkpoint")
        return path.read_bytes()


@pytest.fixture
def site(tmp_path: Path, sink: DirectorySink) -> Site:
    """Return the parts."""
    return Site(tmp_path, sink)


async def test_a_checkpoint_of_the_records_is_cosigned_and_verified(site: Site) -> None:
    """By an auditor who trusts no host: the policy demands the collector's cosignature."""
    host = await write_signed(site.directory / "host", site.key, 60)
    log = await ship(host, site.sink)
    assert await site.collect() == []
    verified = site.policy.verify(site.published(), origin=ORIGIN)
    assert 30 < verified.checkpoint.size < len(segment_lines(host))
    report = await AuditReader(site.root / log.path()).verify(policy=site.policy)
    assert report.valid, report.findings
    # Another session goes on from there, and so does another process of the collector.
    await ship(await write_signed(site.directory / "host", site.key, 80), site.sink)
    assert await site.collect() == []
    later = site.policy.verify(site.published(), origin=ORIGIN)
    assert later.checkpoint.size > verified.checkpoint.size + 60
    assert (await AuditReader(site.root).verify(policy=site.policy)).valid
    assert await site.collect() == []
    assert site.published() == later.note.encode()


async def test_each_key_is_for_the_log_of_its_host(site: Site) -> None:
    """Logs of two hosts with one name each need their own key, and a log next to them that signs nothing needs none."""
    origins = {host: f"{host}/orders/00" for host in ("web-1", "web-2")}
    keys = [str(a_signer(site.directory, origin).key) for origin in origins.values()]
    for host, origin in origins.items():
        key = site.directory / f"{origin.replace('/', '-')}.pem"
        log = await write_signed(site.directory / host, key, 10, origin=origin)
        await ship(log, site.sink, host=host)
    await ship(await write_log(site.directory / "web-1", 3, service="audit-cli"), site.sink)
    assert await site.collect(*keys) == []
    policy = Policy.parse("".join([f"log {key}\n" for key in keys]).encode() + b"quorum none\n")
    report = await AuditReader(site.root).verify(policy=policy)
    assert report.valid, report.findings
    assert ["audit-cli" in note.log for note in report.notes if note.kind == "not_signed"] == [True]
    [first] = site.root.glob("acme/web-1/orders/*/tlog/checkpoint")
    [second] = site.root.glob("acme/web-2/orders/*/tlog/checkpoint")
    second.write_bytes(first.read_bytes())  # signed by a key of the policy, for another host's log
    report = await AuditReader(site.root).verify(policy=policy)
    assert {"web-2" in finding.log for finding in report.findings} == {True}
    second.unlink()
    report = await AuditReader(site.root).verify(policy=policy)
    assert {"web-2" in finding.log for finding in report.findings} == {True}


async def test_what_a_killed_collector_had_remembered_is_published_by_the_next_checkpoint(site: Site) -> None:
    """A checkpoint is remembered before the key is asked, so a crash in between costs its cosignature alone."""
    await ship(await write_signed(site.directory / "host", site.key, 20), site.sink)
    await site.collect()
    [tree] = site.root.glob("acme/*/*/*/tlog")
    (tree / "checkpoint").unlink()
    await ship(await write_signed(site.directory / "host", site.key, 20), site.sink)
    assert await site.collect() == []
    site.policy.verify(site.published(), origin=ORIGIN)


async def test_only_named_logs_are_cosigned(site: Site) -> None:
    """A log whose key the collector was not given is collected as ever."""
    await ship(await write_signed(site.directory / "host", site.key, 20), site.sink)
    other = a_signer(site.directory, "other.example/orders/00")
    assert await site.collect(str(other.key)) == []
    assert not list(site.root.glob("acme/*/*/*/tlog/*"))


async def test_another_key_under_the_log_s_name_is_a_finding(site: Site) -> None:
    """Whoever has the host may sign with another key; the collector was told which."""
    await ship(await write_signed(site.directory / "host", site.key, 20), site.sink)
    (site.directory / "wrong").mkdir()
    wrong = a_signer(site.directory / "wrong", ORIGIN)
    [found] = await site.collect(str(wrong.key))
    assert found.kind == "checkpoint_refused"
    assert not list(site.root.glob("acme/*/*/*/tlog/*"))


def claimed(site: Site, directory: Path, size: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return a record that follows a log's last one: a checkpoint of these leaves, which the log's key has signed."""
    edge = RightEdge()
    edge.append(leaf_hashes(leaves[:size]))
    assert edge.size == size
    text = tlog.Checkpoint(ORIGIN, size, edge.root()).text()
    signature = site.log_signer.sign(text.encode())
    assert isinstance(signature, bytes)
    note = tlog.Note(text, (tlog.Signature(ORIGIN, site.log_signer.key.key_id, signature),)).encode().decode()
    event = {"event_type": "audit.checkpoint", "size": size, "root": edge.root().hex(), "note": note}
    lines = segment_lines(directory)
    after = Head(len(lines) - 1, lines[-1][-67:-3])
    batch = ChainBatch(after)
    framer = Framer(after, audit_prefix="0" * 16, service_id="orders")
    framer.frame([Entry(1, time.time_ns(), msgspec.json.encode(event))], batch)
    return batch.lines


@pytest.mark.parametrize("what", ["rewritten", "too large", "cosigned before"])
async def test_a_checkpoint_that_contradicts_the_records_is_never_cosigned(site: Site, what: str) -> None:
    """By whoever has the host and its key: another tree, records that never came, another tree of the same size."""
    host = await write_signed(site.directory / "host", site.key, 30)
    log = await ship(host, site.sink)
    own = [bytes.fromhex(line[-67:-3].decode()) for line in segment_lines(host)]
    size = len(own)
    if what == "cosigned before":
        assert await site.collect() == []
        size = site.policy.verify(site.published(), origin=ORIGIN).checkpoint.size
    leaves = [*own, *own] if what == "too large" else [bytes(32)] * len(own)
    lines = claimed(site, host, 2 * size if what == "too large" else size, leaves)
    await site.sink.append(log, batch_of(lines, len(own)), after=head_of(host))
    [found] = await site.collect()
    assert (found.kind, found.log) == ("checkpoint_refused", log.path())
    if what == "cosigned before":
        site.policy.verify(site.published(), origin=ORIGIN)
    else:
        assert not list(site.root.glob("acme/*/*/*/tlog/*"))
    # The records are there all the same: they are what shows it.
    assert b"".join(segment_lines(site.root / log.path())).endswith(lines[-1])


async def test_a_second_log_of_the_same_origin_is_refused(site: Site) -> None:
    """Two trees under one name are what a witness is there to prevent; also if the second one came later."""
    await ship(await write_signed(site.directory / "host", site.key, 30), site.sink)
    assert await site.collect() == []
    before = site.published()
    await ship(await write_signed(site.directory / "other", site.key, 90, service="copy"), site.sink)
    [found] = await site.collect()
    assert found.kind == "checkpoint_refused"
    assert "another origin" in found.reason
    assert site.published() == before


async def test_a_refused_log_is_not_read_again_for_each_of_its_checkpoints(site: Site, sink: DirectorySink) -> None:
    """Or a hostile host would have its whole log read with each record that it sends."""
    host = await write_signed(site.directory / "host", site.key, 30)
    log, count = await ship(host, sink), len(segment_lines(host))
    keys = (str(site.log_signer.key),)
    async with Collector(site.root, sink, tenant="acme", signer=site.signer, log_keys=keys) as collector:
        for n in range(3):
            after = head_of(host)
            lines = claimed(site, host, count + n, [bytes(32)] * (count + n))
            [active] = sorted(host.glob("*.audit"))[-1:]
            active.write_bytes(active.read_bytes() + lines[-1])
            await sink.append(log, batch_of(lines, count + n), after=after)
            found = (await collector.collect()).findings
            assert [one.kind for one in found] == (["checkpoint_refused"] if n == 0 else [])


async def test_a_damaged_copy_is_not_read_again_in_each_round(
    site: Site, sink: DirectorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be read is a finding, and the checkpoint after it is the next try."""
    await ship(await write_signed(site.directory / "host", site.key, 30), sink)
    tries: list[Path] = []

    def unreadable(directory: Path, _: object) -> bool:
        tries.append(directory)
        raise LogCorrupted("a segment", None, 3, "it can't be read")

    monkeypatch.setattr("audit_async.forwarding.collected_checkpoints._remember", unreadable)
    keys = (str(site.log_signer.key),)
    async with Collector(site.root, sink, tenant="acme", signer=site.signer, log_keys=keys) as collector:
        kinds = [[one.kind for one in (await collector.collect()).findings] for _ in range(3)]
    assert kinds == [["damaged_copy"], [], []]
    assert len(tries) == 1


async def test_without_a_key_of_its_own_nothing_is_cosigned(site: Site) -> None:
    """It is said at the start, as is a key that is none."""
    with pytest.raises(ConfigError, match="signer"):
        Collector(site.root, site.sink, tenant="acme", log_keys=[str(site.log_signer.key)])
    with pytest.raises(ConfigError, match="log_keys"):
        Collector(site.root, site.sink, tenant="acme", signer=site.signer, log_keys=["nonsense"])
