"""The collector: byte for byte what the host has, every record checked, and each fault a finding of that log alone."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from audit_async import tlog
from audit_async._durable import disk
from audit_async.errors import ConfigError
from audit_async.forwarding import DirectorySink, LogIdentity, check_confirmations, collector_root
from audit_async.forwarding.collector import Collector, Shard
from audit_async.forwarding.collector_findings import CollectorFindings
from audit_async.forwarding.collector_root import (
    CollectorRunning,
    Finding,
    acknowledge,
    append_finding,
    open_findings,
    prepare_root,
    read_findings,
    read_status,
)
from audit_async.reader import AuditReader
from audit_async.tlog.signing_keys import Signer, load_signer
from tests.forwarding.shipped_logs import batch_of, files_of, head_of, identity_of, ship, write_log
from tests.logs import segment_lines

pytestmark = pytest.mark.anyio


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


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """The collector's key."""
    return a_signer(tmp_path, "collector-1")


def a_signer(directory: Path, name: str) -> Signer:
    """Make a key."""
    tlog.write_key(directory / f"{name}.pem", tlog.new_key())
    return load_signer(str(directory / f"{name}.pem"), origin=name)


async def collect(root: Path, sink: DirectorySink, **settings: object) -> list[Finding]:
    """Collect once with a new collector, as `--once` does; return what was found in that round."""
    async with Collector(root, sink, tenant="acme", **settings) as collector:  # type: ignore[arg-type]
        return list((await collector.collect()).findings)


async def assert_verified(root: Path) -> None:
    """Assert that every log below a collector's root verifies without a finding."""
    result = await AuditReader(root).verify()
    assert result.valid, result.findings


async def test_what_is_collected_is_what_the_host_has(tmp_path: Path, sink: DirectorySink) -> None:
    """Segments and checksums byte for byte, however the batches were cut and in how many rounds they came."""
    root = tmp_path / "root"
    host = await write_log(tmp_path / "host", 900)
    assert len(list(host.glob("*.audit"))) > 3
    lines = len(segment_lines(host))
    for a_batch, until in ((1, 5), (7, 300), (500, 801), (64, lines)):
        log = await ship(host, sink, a_batch=a_batch, until=until)
        assert await collect(root, sink) == []
        await assert_verified(root)
    copy = root / log.path()
    assert files_of(copy) == files_of(host)
    assert (copy / "log.json").read_bytes() == (host / "log.json").read_bytes()
    await write_log(tmp_path / "host", 300)
    await ship(host, sink)
    assert await collect(root, sink) == []
    assert files_of(copy) == files_of(host)
    await assert_verified(root)
    [status] = read_status(root).logs  # type: ignore[union-attr]
    assert (status.seq, status.engine_seq, status.host) == (len(segment_lines(host)) - 1,) * 2 + ("web-1",)


async def test_segments_end_where_the_chain_says_so_however_late(tmp_path: Path, sink: DirectorySink) -> None:
    """A host that ends right after a rotation states its seals at its next start, several at once."""
    root = tmp_path / "root"
    host = await write_log(tmp_path / "host", 60, max_bytes=6_000, flush_every=99)
    log = await ship(host, sink, a_batch=11)
    async with Collector(root, sink, tenant="acme") as collector:
        await collector.collect()
        await assert_verified(root)
        assert len(files_of(root / log.path())) < len(files_of(host))
        await write_log(tmp_path / "host", 3)
        await ship(host, sink, a_batch=11)
        await collector.collect()
    assert len(files_of(host)) > 8
    assert files_of(root / log.path()) == files_of(host)
    await assert_verified(root)


async def test_a_running_collector_goes_on_from_what_it_has(tmp_path: Path, sink: DirectorySink) -> None:
    """Round after round, also over the end of segments."""
    root = tmp_path / "root"
    host = await write_log(tmp_path / "host", 600)
    lines = len(segment_lines(host))
    async with Collector(root, sink, tenant="acme") as collector:
        received = 0
        for until in range(40, lines + 40, 40):
            log = await ship(host, sink, a_batch=9, until=until)
            received += (await collector.collect()).records
        assert received == lines
        with pytest.raises(CollectorRunning, match="one collector"):
            await collect(root, sink)
    assert files_of(root / log.path()) == files_of(host)


async def test_names_that_are_no_plain_ones_are_escaped_and_found(tmp_path: Path, sink: DirectorySink) -> None:
    """A host's full name has dots; the log is verified, queried and filtered by it like any other."""
    root = tmp_path / "root"
    one = await write_log(tmp_path / "one", 10, service="orders.v2")
    two = await write_log(tmp_path / "two", 20)
    await ship(one, sink, host="web-1.example.org")
    await ship(two, sink, host="..\\etc")
    assert await collect(root, sink) == []
    await assert_verified(root)
    assert sorted(path.name for path in (root / "acme").iterdir()) == [
        "%2E%2E%5Cetc",
        "web-1%2Eexample%2Eorg",
    ]
    logs = AuditReader(root).logs()
    assert {(log.collected.host, log.service_id) for log in logs if log.collected} == {
        ("web-1.example.org", "orders.v2"), ("..\\etc", "orders"),
    }  # fmt: skip


async def test_a_batch_that_does_not_fit_affects_its_log_alone(tmp_path: Path, sink: DirectorySink) -> None:
    """A forged line, and a declaration that is not what the lines say: found, reported once, and nothing is stored."""
    root, reported = tmp_path / "root", []
    bad = await write_log(tmp_path / "bad", 40)
    good = await write_log(tmp_path / "good", 40)
    log = await ship(bad, sink, host="bad", until=20)
    await ship(good, sink, host="good")
    lines = segment_lines(bad)
    forged = [lines[20].replace(b"mallory", b"nobody!"), *lines[21:30]]
    forge(tmp_path / "engine", log, forged, 20)

    async def report(finding: Finding) -> None:
        reported.append(finding.kind)

    for _ in range(2):
        [found] = await collect(root, sink, report=report)
        assert (found.kind, found.seq, found.log) == ("bad_batch", 20, log.path())
        assert "hash" in found.reason
    assert reported == ["bad_batch"]
    assert b"".join(segment_lines(root / log.path())) == b"".join(lines[:20])
    assert files_of(root / identity_of(good, "good").path()) == files_of(good)
    acknowledge(root, open_findings(root), by="ops", reason="restored the engine")
    assert open_findings(root) == []


@pytest.mark.parametrize("what", ["a root", "an acknowledgement"])
def test_two_that_write_to_a_root_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Two operators note what they have looked at, or two restores make the root: neither breaks the other's."""
    monkeypatch.setattr(collector_root, "_WAIT_S", 120.0)
    root, now = tmp_path / "root", datetime.now(UTC)
    findings = [Finding(log="acme/a/b/c", kind="gap", seq=seq, reason="x", seen_at=now) for seq in range(2)]
    failed: list[OSError] = []
    if what == "an acknowledgement":
        prepare_root(root)
        for finding in findings:
            append_finding(root, finding)

    def write(finding: Finding) -> None:
        try:
            if what == "a root":
                prepare_root(root)
            else:
                acknowledge(root, [finding], by="ops", reason="seen")
        except OSError as error:
            failed.append(error)

    sync, other = disk.sync_data, Thread(target=write, args=(findings[1],))

    def interrupted(fd: int) -> None:
        if other.ident is None:
            other.start()
            other.join(0.2)  # it gets no further if it waits for us, as it has to
        sync(fd)

    monkeypatch.setattr(disk, "sync_data", interrupted)
    write(findings[0])
    other.join(60)
    assert failed == []
    assert open_findings(root) == []
    assert [path.name for path in root.iterdir() if "unfinished" in path.name] == []


def forge(engine: Path, log: LogIdentity, lines: list[bytes], first_seq: int) -> None:
    """Put lines into an engine that checks nothing."""
    batch = batch_of(lines, first_seq)
    name = f"{batch.first_seq:012d}-{batch.last_seq:012d}-{batch.last_hash}.lines"
    (engine / log.path() / name).write_bytes(batch.lines)


async def test_an_engine_with_another_history_is_a_fork(tmp_path: Path, sink: DirectorySink) -> None:
    """At the same length, longer and shorter: what was collected stays as it is."""
    root, engine = tmp_path / "root", tmp_path / "engine"
    host = await write_log(tmp_path / "host", 30)
    shutil.copytree(tmp_path / "host", tmp_path / "other")
    await write_log(tmp_path / "host", 5)
    other = await write_log(tmp_path / "other", 5)
    log = await ship(host, sink)
    assert await collect(root, sink) == []
    before = files_of(root / log.path())
    kinds = []
    for until, grow in ((len(segment_lines(other)), 0), (None, 20), (10, 0)):
        shutil.rmtree(engine / log.path())
        if grow:
            await write_log(tmp_path / "other", grow)
        await ship(other, sink, until=until)
        kinds.append([one.kind for one in await collect(root, sink)])
    shutil.rmtree(engine / log.path())
    await ship(host, sink)
    assert kinds == [["fork"], ["fork"], ["engine_went_back"]]
    assert await collect(root, sink) == []
    assert files_of(root / log.path()) == before


async def test_what_the_engine_trimmed_too_early_is_a_gap(tmp_path: Path, sink: DirectorySink) -> None:
    """Records that nobody has any more are named."""
    host = await write_log(tmp_path / "host", 100)
    log = await ship(host, sink, a_batch=10)
    for old in sorted((tmp_path / "engine" / log.path()).glob("*.lines"))[:3]:
        old.unlink()
    [found] = await collect(tmp_path / "root", sink)
    assert (found.kind, found.seq) == ("gap", 0)
    assert "goes on with record 30" in found.reason


async def test_a_log_in_the_place_of_another_is_reported_until_somebody_has_looked(
    tmp_path: Path, sink: DirectorySink
) -> None:
    """Both are kept, and the new one is collected all the same."""
    root = tmp_path / "root"
    host = await write_log(tmp_path / "host", 20)
    old = await ship(host, sink)
    assert await collect(root, sink) == []
    shutil.rmtree(host)
    await write_log(tmp_path / "host", 30)
    new = await ship(host, sink)
    [found] = await collect(root, sink)
    assert (found.kind, found.log) == ("log_replaced", new.path())
    assert old.log_id in found.reason
    assert await collect(root, sink) == []
    assert [one.kind for one in open_findings(root)] == ["log_replaced"]
    assert files_of(root / new.path()) == files_of(host)
    await assert_verified(root)


async def test_an_idle_host_that_shows_itself_is_heard(
    tmp_path: Path, sink: DirectorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status says when; the engine is asked at the start and then now and then, and only of what is idle."""
    log = await ship(await write_log(tmp_path / "host", 20), sink)
    root = tmp_path / "root"
    async with Collector(root, sink, tenant="acme") as collector:
        await collector.collect()
        assert (status := read_status(root)) is not None
        assert (first := status.logs[0].heard_at) is not None
        await sink.repeat_head(log)
        for every_s, is_known in ((600.0, False), (0.0, True)):
            monkeypatch.setattr("audit_async.forwarding.collector._HEARD_EVERY_S", every_s)
            monkeypatch.setattr("audit_async.forwarding.collector._STATUS_EVERY_S", 0.0)
            await collector.collect()
            assert (status := read_status(root)) is not None
            assert (status.logs[0].heard_at != first) == is_known


async def test_a_log_that_is_replaced_twice_a_day_is_an_alarm(tmp_path: Path, sink: DirectorySink) -> None:
    """Also if the collector was started again in between; the third time is one more."""
    root, kinds = tmp_path / "root", []
    for n in range(3):
        shutil.rmtree(tmp_path / "host", ignore_errors=True)
        await ship(await write_log(tmp_path / "host", 20 + n), sink)
        kinds.append([one.kind for one in await collect(root, sink)])
    assert kinds == [[], ["log_replaced"], ["log_replaced", "log_replaced_often"]]
    assert [one.kind for one in open_findings(root)] == ["log_replaced", "log_replaced", "log_replaced_often"]


async def test_findings_of_one_host_are_bounded(tmp_path: Path) -> None:
    """More than a hundred a day are one more; other hosts, and the next start, are not affected."""
    reported: list[Finding] = []

    async def report(finding: Finding) -> None:
        reported.append(finding)

    def log_of(host: str) -> LogIdentity:
        return LogIdentity(tenant="acme", host=host, service="orders", instance="00", log_id="ab")

    prepare_root(tmp_path)
    for _ in range(2):
        findings = CollectorFindings(report)
        findings.open(tmp_path)
        for seq in range(150):
            await findings.found(log_of("hostile"), "bad_batch", seq, "no record")
        await findings.found(log_of("other"), "gap", 7, "trimmed")
    kinds = Counter((one.host, one.kind) for one in read_findings(tmp_path))
    assert kinds == {("hostile", "bad_batch"): 100, ("hostile", "too_many_findings"): 1, ("other", "gap"): 1}
    assert reported == read_findings(tmp_path)


async def test_findings_survive_a_kill_between_their_lines(tmp_path: Path) -> None:
    """A line that was not finished counts for nothing and is found again; each finding costs one line of writing."""
    prepare_root(tmp_path)
    log = LogIdentity(tenant="acme", host="web-1", service="orders", instance="00", log_id="ab")
    for torn in (b"", b'{"log":"acme/we', b"\0\0"):
        with (tmp_path / "findings.jsonl").open("ab") as file:
            file.write(torn)
        assert len(read_findings(tmp_path)) == len({one.seq for one in read_findings(tmp_path)})
        findings = CollectorFindings(None)
        findings.open(tmp_path)
        for seq in range(3):
            await findings.found(log, "gap", seq, "trimmed")
        assert [one.seq for one in read_findings(tmp_path)] == [0, 1, 2]
        if not torn:
            whole = (tmp_path / "findings.jsonl").read_bytes()
            (tmp_path / "findings.jsonl").write_bytes(whole[: whole.rindex(b"{")])


async def test_a_log_without_its_own_log_json_waits(tmp_path: Path, sink: DirectorySink) -> None:
    """None yet: nothing is made. That of another log: a finding, and nothing is made."""
    root = tmp_path / "root"
    host = await write_log(tmp_path / "host", 20)
    log, lines = identity_of(host), segment_lines(host)
    await sink.append(log, batch_of(lines, 0), after=None)
    assert await collect(root, sink) == []
    other = await write_log(tmp_path / "other", 1)
    await sink.describe(log, (other / "log.json").read_bytes())
    assert [one.kind for one in await collect(root, sink)] == ["bad_description"]
    assert not (root / "acme").exists()


async def test_what_is_durable_here_is_confirmed(tmp_path: Path, sink: DirectorySink, signer: Signer) -> None:
    """And no more; a collector whose directory went back withdraws, and says so."""
    root = tmp_path / "root"
    host = await write_log(tmp_path / "host", 40)
    log = await ship(host, sink, until=30)
    assert await collect(root, sink, signer=signer, copies=2) == []
    shutil.copytree(root, tmp_path / "older")

    async def confirmed() -> list[tuple[int, str, int]]:
        data = await sink.confirmation(log) or b""
        return [(one.seq, one.hash, one.copies) for one in check_confirmations(data, [signer.key], log_id=log.log_id)]

    lines = segment_lines(host)
    assert await confirmed() == [(29, batch_of(lines[29:30], 29).last_hash, 2)]
    await ship(host, sink)
    assert await collect(root, sink, signer=signer) == []
    head = head_of(host)
    assert await confirmed() == [(head.seq, head.hash, 1)]
    # Restored from an older copy, and what came since is not at the engine any more.
    for newer in sorted((tmp_path / "engine" / log.path()).glob("*.lines"))[1:]:
        newer.unlink()
    assert [one.kind for one in await collect(tmp_path / "older", sink, signer=signer)] == ["collector_went_back"]
    assert [seq for seq, _, _ in await confirmed()] == [29]


async def test_an_emptied_directory_withdraws_the_confirmation(
    tmp_path: Path, sink: DirectorySink, signer: Signer
) -> None:
    """Of this collector only; that of another stays."""
    host = await write_log(tmp_path / "host", 40)
    other = a_signer(tmp_path, "collector-2")
    log = await ship(host, sink)
    await collect(tmp_path / "root", sink, signer=signer)
    await collect(tmp_path / "second", sink, signer=other)
    both = check_confirmations(await sink.confirmation(log) or b"", [signer.key, other.key], log_id=log.log_id)
    assert {one.collector for one in both} == {"collector-1", "collector-2"}
    for lines in (tmp_path / "engine" / log.path()).glob("*.lines"):
        lines.unlink()
    (tmp_path / "engine" / log.path() / f"{0:012d}-{0:012d}-{'0' * 64}.lines").write_bytes(b"")
    found = await collect(tmp_path / "emptied", sink, signer=signer)
    assert "collector_went_back" in [one.kind for one in found]
    left = check_confirmations(await sink.confirmation(log) or b"", [signer.key, other.key], log_id=log.log_id)
    assert {one.collector for one in left} == {"collector-2"}


async def test_every_host_is_in_one_shard(tmp_path: Path, sink: DirectorySink) -> None:
    """And a directory that is no collector's is refused."""
    for number in range(6):
        await ship(await write_log(tmp_path / f"h{number}", 3), sink, host=f"h{number}")
    hosts = []
    for number in (1, 2, 3):
        root = tmp_path / f"root-{number}"
        assert await collect(root, sink, shard=Shard(number, 3)) == []
        hosts += [path.name for path in (root / "acme").iterdir()] if (root / "acme").exists() else []
    assert sorted(hosts) == [f"h{number}" for number in range(6)]
    with pytest.raises(ConfigError, match="no collector's directory"):
        await collect(tmp_path, sink)
    for wrong in (Shard(0, 3), Shard(4, 3)):
        with pytest.raises(ConfigError, match="shard"):
            Collector(tmp_path / "root", sink, tenant="acme", shard=wrong)


async def test_a_copy_that_somebody_changed_is_a_finding(tmp_path: Path, sink: DirectorySink) -> None:
    """While the collector runs and before it starts; nothing is written to it, and the other logs go on."""
    root = tmp_path / "root"
    host = await write_log(tmp_path / "host", 40)
    log = await ship(host, sink, until=20)
    async with Collector(root, sink, tenant="acme") as collector:
        await collector.collect()
        [segment] = (root / log.path()).glob("*.audit")
        segment.write_bytes(segment.read_bytes().replace(b"/login/7", b"/login/8") + b"x\n")
        await ship(host, sink, until=30)
        [found] = (await collector.collect()).findings
        assert found.kind == "damaged_copy"
    assert [one.kind for one in await collect(root, sink)] == ["damaged_copy"]


async def test_a_directory_that_others_may_write_to_is_a_finding(tmp_path: Path, sink: DirectorySink) -> None:
    """Of that log, and the others go on."""
    root = tmp_path / "root"
    one, two = await write_log(tmp_path / "one", 40), await write_log(tmp_path / "two", 40)
    for until in (20, None):
        insecure = await ship(one, sink, host="one", until=until)
        other = await ship(two, sink, host="two", until=until)
        if until is not None:
            collector = await Collector(root, sink, tenant="acme").__aenter__()
            assert (await collector.collect()).findings == ()
            (root / insecure.path()).chmod(0o777)
    [found] = (await collector.collect()).findings
    await collector.__aexit__(None, None, None)
    assert (found.kind, found.log) == ("damaged_copy", insecure.path())
    assert files_of(root / other.path()) == files_of(two)


async def test_nothing_else_writes_to_a_copy(tmp_path: Path, sink: DirectorySink) -> None:
    """A record that a service or the command line wrote there would make it another log than the host's."""
    root = tmp_path / "root"
    host = await write_log(tmp_path / "host", 20)
    log = await ship(host, sink)
    await collect(root, sink)
    copy = root / log.path()
    (root / "acme/web-1/orders/00").symlink_to(copy)
    (root / "acme/web-1/orders/00").unlink()
    copy.rename(copy.with_name("00"))
    with pytest.raises(ConfigError, match="collector's copy"):
        await write_log(root / "acme/web-1", 1)
    assert msgspec.json.decode((copy.with_name("00") / "collected.json").read_bytes())["log_id"] == log.log_id
