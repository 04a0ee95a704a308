"""The power goes, at every moment of a scenario: whatever the disk kept, every acknowledged record is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from audit_async._durable import disk
from audit_async._store.log_store import LogStore
from tests.campaign import sampled
from tests.store.chained import Chain, log_path, memory_directory, open_store, stored_lines
from tests.store.power_cut import Recorder, State, crash_states

MAX_BYTES = 1500


def record(chain: Chain, scenario: Callable[[LogStore, Recorder, Chain], None], **settings: object) -> Recorder:
    """Run a scenario on a new log, recorded from the making of the log on."""
    with memory_directory() as base_dir, pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(base_dir)
        for name, value in settings.items():
            setattr(recorder, name, value)
        recorder.install(patch)
        store = open_store(base_dir, max_bytes=MAX_BYTES)
        scenario(store, recorder, chain)
        store.close()
    return recorder


def survives(
    chain: Chain,
    acknowledged_seq: int,
    state: State,
    base_dir: Path,
    read: Callable[[Path], list[bytes]],
    *,
    all_of_it: bool,
) -> None:
    """Assert that a log in this state opens without help, has what was acknowledged, verifies, and goes on."""
    state.write_to(base_dir)
    store = open_store(base_dir, max_bytes=MAX_BYTES)
    head = store.head
    assert chain.holds(head)
    assert head.seq >= acknowledged_seq
    after = Chain()
    after.lines, after.heads = chain.lines[: head.seq + 1], chain.heads[: head.seq + 1]
    after.number, after.now_ns = 10_000, chain.now_ns
    assert store.commit(after.batch(), sync=True).synced == after.head
    store.close()
    lines = read(base_dir)
    assert lines == after.lines[len(after.lines) - len(lines) :]
    assert len(lines) == len(after.lines) or not all_of_it


def check_all_crash_points(
    recorder: Recorder,
    chain: Chain,
    *,
    at_least: int,
    every: int = 1,
    since: int = 0,
    intact: Callable[[Path], list[bytes]] = stored_lines,
    all_of_it: bool = True,
) -> None:
    """Replay every crash point of what was recorded, from call number `since` on.

    With `every`, of the states that the disk may be in at a crash point the first, and then one in so many.
    `intact` checks a log and returns the records that it holds: `all_of_it`, or the last of them where retention was
    at work.
    """
    seen: dict[State, int] = {}  # to the seq that had been acknowledged
    last_count = -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "sync_data", lambda _: None)  # what is tried here stays in memory
        patch.setattr(disk, "sync_directory", lambda _: None)
        for count, state in crash_states(recorder.calls, since):
            acknowledged_seq = recorder.acknowledged_after(count)
            if seen.get(state, -2) >= acknowledged_seq:
                continue
            seen[state] = acknowledged_seq
            if count == last_count and len(seen) % every:
                continue
            last_count = count
            with memory_directory() as base_dir:
                try:
                    survives(chain, acknowledged_seq, state, base_dir, intact, all_of_it=all_of_it)
                except BaseException as error:
                    listing = "\n".join(f"{path} {mode:04o} {len(data)} bytes" for path, mode, data in state.files)
                    error.add_note(f"after {count} calls, acknowledged up to seq {acknowledged_seq}:\n{listing}")
                    raise
    assert len(seen) >= at_least, "the recorder has missed what the store does"


def immediate(store: LogStore, recorder: Recorder, chain: Chain) -> None:
    """Sync each batch, across two rotations, one of them within a batch."""
    for count in (1, 3, 2, 4, 3, 1):
        recorder.acknowledge(store.commit(chain.batch(count), sync=True).synced)
    assert len(store.sealed_segments) >= 2


def batched(store: LogStore, recorder: Recorder, chain: Chain) -> None:
    """Sync now and then, across two rotations."""
    for count, sync in ((2, False), (3, True), (2, False), (3, False), (1, True), (4, False), (1, False), (1, True)):
        recorder.acknowledge(store.commit(chain.batch(count), sync=sync).synced)
    assert len(store.sealed_segments) >= 2


def retrying(store: LogStore, recorder: Recorder, chain: Chain) -> None:
    """Sync each batch; where that fails, try again, as the writer does."""
    for count in (2, 2, 1):
        batch = chain.batch(count)
        for handed_over in (batch, None, None, None):
            try:
                recorder.acknowledge(store.commit(handed_over, sync=True).synced)
                break
            except OSError:
                continue
        else:
            pytest.fail("the disk was mended, but committing goes on failing")


@sampled(7)
def test_every_crash_point_of_immediate_commits(every: int) -> None:
    """Synced batches across two rotations: whatever a power cut leaves at any call, nothing acknowledged is missing."""
    chain = Chain()
    check_all_crash_points(record(chain, immediate), chain, at_least=300, every=every)


@sampled(7)
def test_every_crash_point_of_batched_commits(every: int) -> None:
    """The same where several batches are written before a sync."""
    chain = Chain()
    check_all_crash_points(record(chain, batched), chain, at_least=300, every=every)


def _syncs(recorder: Recorder) -> int:
    return sum(call.kind == "sync" for call in recorder.calls)


@sampled(7)
def test_every_crash_point_around_each_failed_sync(every: int) -> None:
    """Each sync fails in turn, and what it was to make durable may or may not be there for ever: none is believed."""
    first = _syncs(record(Chain(), lambda *_: None)) + 1
    last = _syncs(record(Chain(), retrying))
    assert last - first > 5
    for failing in range(first, last + 1):
        chain = Chain()
        recorder = record(chain, retrying, fail_sync=lambda number, failing=failing: number == failing)
        (failed,) = [at for at, call in enumerate(recorder.calls) if call.kind == "sync failed"]
        check_all_crash_points(recorder, chain, at_least=10, every=every, since=failed + 1)


@sampled(3)
def test_every_crash_point_of_a_recovery(in_memory: Path, every: int) -> None:
    """The power goes again while opening puts right what the first power cut has left; the torn line is kept, too."""
    chain = Chain()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(in_memory)
        recorder.install(patch)
        store = open_store(in_memory, max_bytes=MAX_BYTES)
        for count in (4, 4, 4):
            recorder.acknowledge(store.commit(chain.batch(count), sync=True).synced)
        store.commit(chain.batch(), sync=False)
        store.close()
        # What the first power cut has left: no manifest, no seals, a torn line; all of it is on the disk.
        log = log_path(in_memory)
        fd = disk.open_directory(str(log))
        sealed = [path.name for path in log.glob("*.sha256")]
        for name in ("manifest.json", *sealed):
            disk.unlink(name, dir_fd=fd)
        torn = max(log.glob("*.audit"))
        last = disk.open_file(torn.name, dir_fd=fd, writable=True)
        disk.truncate(last, torn.stat().st_size - 9)
        torn_bytes = torn.read_bytes().rpartition(b"\n")[2]
        disk.sync_data(last)
        disk.sync_directory(fd)
        disk.close(last)
        disk.close(fd)
        before = len(recorder.calls)
        open_store(in_memory, max_bytes=MAX_BYTES).close()
    assert len(recorder.calls) - before > 20
    assert len(torn_bytes) > 300

    def intact(base_dir: Path) -> list[bytes]:
        assert torn_bytes in [path.read_bytes() for path in (log_path(base_dir) / "torn").iterdir()]
        return stored_lines(base_dir)

    check_all_crash_points(recorder, chain, at_least=100, every=every, since=before, intact=intact)


@sampled(3)
def test_the_head_of_an_opening_is_durable(in_memory: Path, every: int) -> None:
    """What a killed process had only written is synced, with its name, before the next opening counts it as there."""
    chain = Chain()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(in_memory)
        recorder.install(patch)
        for counts in ((2, 1), (3, 2), (1,)):
            store = open_store(in_memory, max_bytes=MAX_BYTES)
            assert store.head == chain.head
            recorder.acknowledge(store.head)
            for count in counts:
                recorder.acknowledge(store.commit(chain.batch(count), sync=False).synced)
            store.abandon()  # as a killed process leaves it
        store = open_store(in_memory, max_bytes=MAX_BYTES)
        recorder.acknowledge(store.head)
        store.close()
    assert recorder.acknowledged[-1][1] == chain.head
    check_all_crash_points(recorder, chain, at_least=100, every=every)
