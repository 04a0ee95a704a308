"""The guard against regressions: what an event may cost, in measures that are the same on every machine.

Each bound stands with what was measured and the commit that set it. A change that makes an event cheaper lowers the
bound; one that makes it dearer says in its commit what it buys with that, and raises it. Timings are no test: they are
in `python -m bench`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from audit_async import AuditConfig, AuditEvent, AuditLogger, Disabled, Immediate
from audit_async._durable import disk
from audit_async.config import Privacy
from audit_async.context import audit_context
from audit_async.events import SealVerified
from audit_async.sync import SyncAuditLogger
from bench import counting
from bench.counting import BURST, SCENARIOS
from bench.frame import config, critical_event, ordinary_event
from tests.privacy.key_stores import make_store
from tests.privacy.sealed_logs import success
from tests.store.chained import memory_directory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems make other calls")

EVENTS = 1000


class Bound(NamedTuple):
    """The most that a measure may be."""

    most: float
    measured: float  #: when the bound was set, on CPython 3.11 to 3.14
    commit: str  #: that set it

    def holds(self, measured: float) -> bool:
        """Whether what is measured now is within the bound, which is not so wide that it means nothing."""
        assert self.most <= self.measured * 1.25 + 0.5, "a bound far above what was measured guards nothing"
        return measured <= self.most


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Give a directory in memory: what is counted does not depend on the disk, and a sync costs nothing there."""
    with memory_directory() as path:
        yield path


WAITING = Bound(4.2, 4.01, "549fa3f")
KEPT = Bound(5.2, 5.01, "549fa3f")
LEFT = Bound(0.1, 0.01, "549fa3f")


@pytest.mark.parametrize("event", [ordinary_event(), critical_event()], ids=["ordinary", "critical"])
def test_an_event_takes_few_memory_blocks_and_leaves_none(
    directory: Path, event: AuditEvent, request: pytest.FixtureRequest
) -> None:
    """An event that waits is its receipt, its bytes, its number and its time; durable and forgotten, it is nothing."""
    blocks = counting.count_blocks(directory / request.node.name, event, 2 * EVENTS)
    assert WAITING.holds(blocks.waiting)
    assert KEPT.holds(blocks.kept)
    assert LEFT.holds(blocks.left)


FRAME_BYTES = Bound(272, 270.6, "549fa3f")


def test_a_record_is_its_event_and_a_frame_of_fixed_size(directory: Path) -> None:
    """What makes a record of an event, two hashes of 64 digits among it, takes the same bytes whatever the event is."""
    for name, event in {"ordinary": ordinary_event(), "critical": critical_event()}.items():
        bytes_ = counting.count_bytes(directory / f"bytes {name}", event, EVENTS)
        assert FRAME_BYTES.holds(bytes_.record - bytes_.event)


def calls_of(configuration: AuditConfig) -> float:
    """Return how many Python functions an `emit` runs."""

    async def count() -> float:
        async with AuditLogger(configuration) as audit:
            audit.emit(ordinary_event())  # opens the chunk, and learns the class
            return counting.calls_of_one(audit.emit, ordinary_event(), EVENTS)

    return asyncio.run(count())


def test_emit_is_one_python_function(directory: Path) -> None:
    """The plain path calls no Python function but itself: a call would cost a tenth of the whole."""
    assert calls_of(config(directory / "emit", SCENARIOS["batched"].mode)) == 1.0


def test_a_bound_context_costs_one_function_more(directory: Path) -> None:
    """What is bound is encoded at the first event under it; the others look it up and copy it."""
    with audit_context(request_id="7f3a", tenant="acme"):
        assert calls_of(config(directory / "bound", SCENARIOS["batched"].mode)) == 2.0


def test_a_disabled_emit_is_one_python_function() -> None:
    """`Disabled()` costs one call."""
    assert calls_of(AuditConfig(mode=Disabled())) == 1.0


def test_an_emit_of_synchronous_code_is_two_python_functions(directory: Path) -> None:
    """`SyncAuditLogger.emit`, which can be overridden, and the intake, which does all the rest by itself."""
    with SyncAuditLogger(config(directory / "sync", SCENARIOS["batched"].mode)) as audit:
        audit.emit(ordinary_event())  # learns the class
        calls = counting.calls_of_one(audit.emit, ordinary_event(), EVENTS)
    assert 2.0 <= calls <= 2.1  # each time that the loop has emptied the inbox, it is woken again


#: `emit`, the look into the event and at the day; and what else is done once for an event that is sealed.
LOOKED_INTO_CALLS, SEALED_CALLS = Bound(3.1, 3.0, "b357781"), Bound(10.1, 10.0, "668b52a")


@pytest.mark.parametrize(
    ("event", "members"),
    [(SealVerified(shard_id="7", worker_id="w"), 0), (success(ip=None, display_name=None), 1), (success(), 3)],
    ids=["nothing personal", "one member", "three members"],
)
def test_a_sealed_member_costs_one_function_more(directory: Path, event: AuditEvent, members: int) -> None:
    """What is personal is found, and its keys and its random bytes are taken, once for all members of an event."""
    with TemporaryDirectory(dir=directory) as place:
        make_store(Path(place))
        privacy = Privacy(key_store=f"{place}/keys", master_key=f"file:{place}/master.key")

        async def count() -> float:
            mode = SCENARIOS["batched"].mode
            async with AuditLogger(config(Path(place) / "log", mode, privacy=privacy)) as audit:
                audit.emit(event)  # learns the class, and makes the key
                return counting.calls_of_one(audit.emit, event, EVENTS)

        calls = asyncio.run(count()) - members
    assert (SEALED_CALLS if members else LOOKED_INTO_CALLS).holds(calls), calls


#: Python functions of this package, what they call that is not written in Python, and memory blocks, a request. Of the
#: blocks one to three more are CPython's: a context variable's place in a context depends on its address.
A_REQUEST = (Bound(16.1, 16.01, "e65983a"), Bound(47.1, 47.01, "e65983a"), Bound(24.1, 21.1, "e65983a"))
AN_IGNORED_REQUEST = (Bound(12, 12, "e65983a"), Bound(26, 26, "e65983a"), Bound(24.1, 21.1, "e65983a"))


@pytest.mark.parametrize("max_delay", [0.0, 60.0])
def test_a_request_takes_few_functions_and_objects(directory: Path, max_delay: float) -> None:
    """The middleware around an application that answers from memory; the commit is shared with other requests."""
    mode = Immediate(max_delay=max_delay)
    counted = counting.count_request(config(directory / f"request {max_delay}", mode), EVENTS // 5)
    for bound, measured in zip(A_REQUEST, counted, strict=True):
        assert bound.holds(measured), counted


def test_a_request_to_a_disabled_log_takes_fewer() -> None:
    """The context is bound, and nothing is made to be recorded."""
    counted = counting.count_request(AuditConfig(mode=Disabled()), EVENTS // 5)
    for bound, measured in zip(AN_IGNORED_REQUEST, counted, strict=True):
        assert bound.holds(measured), counted


CALLS_A_COMMIT = Bound(60, 57, "e65983a")


@pytest.mark.parametrize("name", ["immediate", "batched", "hybrid"])
def test_a_commit_is_a_fixed_number_of_python_functions(directory: Path, name: str) -> None:
    """Framing, the way to the disk thread and back, and the flush that asks for it cost the same for 1 event and 200.

    So framing calls no Python function for each event.
    """
    counted = counting.count_in_bursts(directory / f"calls {name}", SCENARIOS[name], EVENTS).python_calls
    assert counted["AuditLogger.emit"] == EVENTS
    commits = counted["LogStore.commit"]
    assert commits == EVENTS // BURST
    assert CALLS_A_COMMIT.holds((counted.total() - EVENTS) / commits)


SYSTEM_CALLS_A_COMMIT = Bound(3, 3, "2067f95")
#: Syncs of a thousand events, written one at a time: what the flush modes promise, so neither more nor fewer.
SYNCS = {"immediate": 1000, "batched": 10, "hybrid": 10, "hybrid, 1 % critical": 10, "hybrid, 10 % critical": 100}


@pytest.mark.parametrize("name", SYNCS)
def test_a_thousand_events_one_at_a_time_take_few_system_calls(directory: Path, name: str) -> None:
    """A commit looks that the files are its own, writes and, where the flush mode says so, syncs; nothing else."""
    calls = counting.count_one_by_one(directory / f"alone {name}", SCENARIOS[name], EVENTS).system_calls
    syncs = calls["pwritev"] + calls["fdatasync"]
    assert syncs == SYNCS[name]
    # A sync of its own is one more call, where records were written before it without one.
    assert SYSTEM_CALLS_A_COMMIT.holds((calls.total() - calls["fdatasync"]) / EVENTS)
    assert calls["fsync"] == 0  # no file is made


@pytest.mark.parametrize("name", SCENARIOS)
def test_events_that_come_together_share_a_sync(directory: Path, name: str) -> None:
    """However many events wait, one commit takes them all, in every flush mode."""
    calls = counting.count_in_bursts(directory / f"bursts {name}", SCENARIOS[name], EVENTS).system_calls
    assert calls.total() == SYSTEM_CALLS_A_COMMIT.most * EVENTS / BURST
    assert calls["pwritev"] == EVENTS / BURST


def test_a_second_look_would_be_seen(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are of both threads, and of calls that go past `audit_async._durable.disk`: one more is found."""
    write: Callable[..., None] = disk.write_and_sync_at

    def look_twice(fd: int, data: bytes, offset: int) -> None:
        os.fstat(fd)
        write(fd, data, offset)

    before = counting.count_in_bursts(directory / "once", SCENARIOS["immediate"], EVENTS)
    monkeypatch.setattr(disk, "write_and_sync_at", look_twice)
    after = counting.count_in_bursts(directory / "twice", SCENARIOS["immediate"], EVENTS)
    assert after.system_calls.total() == before.system_calls.total() + EVENTS / BURST
    assert not SYSTEM_CALLS_A_COMMIT.holds(after.system_calls.total() / (EVENTS / BURST))
