"""Many logs through one sink, and logs that come, go and change their place: work is counted, not timed."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from aiohttp import web

from audit_async._trail.log_files import Log, find_logs
from audit_async.delivery import (
    Deliverer,
    DeliveryState,
    FileSettings,
    deliverer,
    idle_tails,
    log_watch,
)
from audit_async.delivery.log_watch import LogWatch
from audit_async.forwarding.batches import Head
from audit_async.forwarding.log_tail import LogTail
from tests.delivery.delivering import deliver_once, delivering, http, lines_of_log, settings, until, write_trail
from tests.delivery.http_receiver import Receiver, check_received
from tests.trails import read_events

pytestmark = pytest.mark.anyio
LOGS = 60


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """Look for logs often, and at each log."""
    monkeypatch.setattr(deliverer, "_LOOK_FOR_LOGS_S", 0.05)
    monkeypatch.setattr(log_watch, "_LAST_WAIT_S", 0.05)


async def write_many(base_dir: Path) -> list[Path]:
    """Make many logs from one: their ids are what tells them apart here."""
    made = await write_trail(base_dir.parent / "made", 3)
    directories = [base_dir / f"s{number:03}" / "00" for number in range(LOGS)]
    for directory in directories:
        shutil.copytree(made, directory)
        give_id(directory)
    return directories


def give_id(directory: Path) -> None:
    """Make a copied log another one."""
    path = directory / "log.json"
    members = json.loads(path.read_bytes()) | {"log_id": str(uuid4()), "service_id": directory.parent.name}
    path.unlink()
    path.write_text(json.dumps(members))


def to_a_file(tmp_path: Path) -> FileSettings:
    """Return a sink for everything but the deliverer's own log."""
    return FileSettings(name="siem", path=str(tmp_path / "out.ndjson"))


def all_caught_up(running: Deliverer, count: int) -> bool:
    """Return whether so many logs have nothing left."""
    return len(running.statuses) >= count and all(one.state is DeliveryState.CAUGHT_UP for one in running.statuses)


async def test_idle_logs_are_only_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each look a stat for each log; no file is opened, and few are kept open. A new record is found as ever."""
    monkeypatch.setattr(log_watch, "_RECENT_S", 0.0)
    monkeypatch.setattr(idle_tails, "_MOST", 8)
    directories = await write_many(tmp_path / "audit")
    calls: Counter[str] = Counter()
    for name in ("_stamp_of", "read_acknowledged", "_look"):
        original = getattr(log_watch, name)

        def counted(name: str, original: Callable[..., object], *arguments: object) -> object:
            calls[name] += 1
            return original(*arguments)

        monkeypatch.setattr(log_watch, name, partial(counted, name, original))
    before = len(os.listdir("/proc/self/fd"))
    given = settings(tmp_path, to_a_file(tmp_path), own_log=str(tmp_path / "own"))
    async with delivering(given) as running:
        await until(lambda: all_caught_up(running, LOGS))
        assert len(os.listdir("/proc/self/fd")) - before < 8 + 20
        opened = calls["read_acknowledged"]
        calls.clear()
        await until(lambda: calls["_look"] >= 4)
        assert calls["_stamp_of"] <= (calls["_look"] + 1) * (LOGS + 1) + 2
        assert calls["read_acknowledged"] <= 2  # of the deliverer's own log, that it is written to
        assert opened >= LOGS
        wanted = set(lines_of_log(await write_again(directories[7])))
        out = tmp_path / "out.ndjson"
        await until(lambda: wanted <= set(out.read_bytes().splitlines()))


async def write_again(directory: Path) -> Path:
    """Write another session of a log."""
    return await write_trail(directory.parent.parent, 2, service=directory.parent.name, first=3)


async def test_a_start_with_nothing_new_opens_no_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The position is that of the record which the writer has published; the status says so of each log."""
    await write_many(tmp_path / "audit")
    given = settings(tmp_path, to_a_file(tmp_path), own_log=str(tmp_path / "own"))
    await deliver_once(given)
    size = (tmp_path / "out.ndjson").stat().st_size
    opened: list[Path] = []

    def counted(directory: Path, **given: Any) -> LogTail:
        opened.append(directory)
        return LogTail(directory, **given)

    monkeypatch.setattr("audit_async.delivery.sink_delivery.LogTail", counted)
    async with delivering(given) as running:
        await until(lambda: all_caught_up(running, LOGS))
        assert {one.seq for one in running.statuses if one.log.service.startswith("s")} == {4}
    assert [path for path in opened if path.parent.name != "audit-deliver"] == []
    assert b"orders" not in (tmp_path / "out.ndjson").read_bytes()[size:]


async def test_a_dead_receiver_is_no_work_for_each_log(tmp_path: Path) -> None:
    """One log tries for all of them; what each has to deliver is known all the same."""
    directories = await write_many(tmp_path / "audit")
    receiver = Receiver(answer=lambda _: web.Response(status=503))
    services = tuple(directory.parent.name for directory in directories)
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, services=services))) as running:
        await until(lambda: len(receiver.requests) > 12)
        asked = len(receiver.requests)
        assert asked < LOGS
        await until(lambda: sum(one.lag_records for one in running.statuses) == 5 * LOGS)
        receiver.answer = None
        await until(lambda: len(receiver.accepted) == 5 * LOGS)


def by_log(receiver: Receiver) -> dict[str, list[bytes]]:
    """Return what was sent, each record once, by the id of the log that the requests named."""
    found: dict[str, dict[bytes, None]] = {}
    for request in receiver.requests:
        found.setdefault(request.headers["Audit-Log-Id"], {}).update(dict.fromkeys(request.text.splitlines()))
    return {log_id: list(lines) for log_id, lines in found.items()}


def id_of(directory: Path) -> str:
    """Return a log's id."""
    log_id: str = json.loads((directory / "log.json").read_bytes())["log_id"]
    return log_id


@pytest.mark.parametrize("is_delivered", [True, False])
async def test_a_log_that_is_begun_again_in_the_same_place_is_another_one(tmp_path: Path, is_delivered: bool) -> None:
    """Its records never count as those of the log before it; what is gone undelivered is recorded."""
    directory = await write_trail(tmp_path / "audit", 5)
    first_id, first_lines = id_of(directory), lines_of_log(directory)
    is_down = not is_delivered
    receiver = Receiver(answer=lambda _: web.Response(status=503) if is_down else None)
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url))) as running:
        await until(lambda: receiver.requests)
        await until(lambda: is_down or all_caught_up(running, 1))
        shutil.rmtree(directory)
        await write_trail(tmp_path / "audit", 9)
        second_id, second_lines = id_of(directory), lines_of_log(directory)
        is_down = False
        await until(lambda: by_log(receiver).get(second_id) == second_lines)
        wanted = {second_id: DeliveryState.CAUGHT_UP}
        if not is_delivered:
            wanted[first_id] = DeliveryState.UNREADABLE
        await until(lambda: {one.log.log_id: one.state for one in running.statuses} == wanted)
    assert set(by_log(receiver)[first_id]) <= set(first_lines)
    assert kinds_in(tmp_path) == ([] if is_delivered else ["unreadable"])


async def test_records_of_another_log_are_never_sent_as_those_of_the_log_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before it is noticed that another log has taken the place: its first record would fit."""
    monkeypatch.setattr(deliverer, "_LOOK_FOR_LOGS_S", 3600.0)
    monkeypatch.setattr("audit_async.delivery.sink_delivery._LOOK_AGAIN_S", 0.05)
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver(answer=lambda _: web.Response(status=503))
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url))) as running:
        await until(lambda: receiver.requests)
        shutil.rmtree(directory)
        await write_trail(tmp_path / "audit", 9)
        receiver.answer = None
        await until(lambda: [one.state for one in running.statuses] == [DeliveryState.UNREADABLE])
        assert "another log" in (running.statuses[0].problem or "")
    assert receiver.accepted == []


def kinds_in(tmp_path: Path) -> list[str]:
    """Return the kinds of problems that were recorded."""
    events = [one["event"] for one in read_events(tmp_path / "audit/audit-deliver/00")]
    return [event["kind"] for event in events if event["event_type"] == "audit.delivery_problem"]


async def test_a_log_that_is_taken_away_is_no_problem_once_it_is_delivered(tmp_path: Path) -> None:
    """It is in no status any more; the position stays, so that it goes on if the directory comes back."""
    await write_trail(tmp_path / "audit", 1, service="billing")
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    sink = {"services": ("orders", "billing")}
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, **sink))) as running:
        await until(lambda: all_caught_up(running, 2))
        directory.parent.rename(tmp_path / "away")
        await until(lambda: [one.log.service for one in running.statuses] == ["billing"])
        (tmp_path / "away").rename(directory.parent)
        await write_trail(tmp_path / "audit", 5, first=5)
        await until(lambda: set(lines_of_log(directory)) <= set(receiver.accepted))
    assert max(check_received(receiver.accepted, lines_of_log(directory)).values()) == 1
    assert kinds_in(tmp_path) == []


async def test_a_trail_that_can_t_be_found_is_not_gone(tmp_path: Path) -> None:
    """A disk that is not mounted ends no delivery, and is no problem of each log."""
    directory = await write_trail(tmp_path / "audit", 5)
    given = settings(tmp_path, to_a_file(tmp_path), own_log=str(tmp_path / "own"))
    async with delivering(given) as running:
        await until(lambda: all_caught_up(running, 1))
        (tmp_path / "audit").rename(tmp_path / "away")
        for _ in range(4):
            await anyio.sleep(0.05)
        (tmp_path / "away").rename(tmp_path / "audit")
        await write_trail(tmp_path / "audit", 5, first=5)
        out = tmp_path / "out.ndjson"
        await until(lambda: set(lines_of_log(directory)) <= set(out.read_bytes().splitlines()))


async def test_a_log_whose_directory_is_moved_goes_on_there(tmp_path: Path) -> None:
    """Nothing is missing and nothing comes twice."""
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, services=()))) as running:
        await until(lambda: all_caught_up(running, 2))
        directory.rename(directory.parent / "01")
        before = lines_of_log(directory.parent / "01")
        await write_trail(tmp_path / "audit", 3, first=50)  # a new log where the old one was
        new = lines_of_log(directory)
        await until(lambda: set(new) <= set(receiver.accepted))
        await until(lambda: sum(one.log.service == "orders" for one in running.statuses) == 2)
    counts = check_received(receiver.accepted, [*before, *new])
    assert {counts[line] for line in [*before, *new]} == {1}


@pytest.mark.parametrize("when", ["before the start", "while it runs"])
async def test_a_copy_of_a_log_s_directory_is_not_taken_for_the_log(tmp_path: Path, when: str) -> None:
    """Its name may come before the log's, and it does not grow: the log is delivered on."""
    directory = await write_trail(tmp_path / "audit", 5)
    copy = tmp_path / "audit" / "a-copy" / "00"
    receiver = Receiver()
    if when == "before the start":
        shutil.copytree(directory, copy)
        await write_trail(tmp_path / "audit", 2, first=5)
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, services=()))) as running:
        await until(lambda: all_caught_up(running, 1) and receiver.accepted)
        if when == "while it runs":
            shutil.copytree(directory, copy)
            for _ in range(4):
                await anyio.sleep(0.05)
        await write_trail(tmp_path / "audit", 5, first=7)
        await until(lambda: set(lines_of_log(directory)) <= set(receiver.accepted))


def log_at(directory: Path) -> Log:
    """Return the log in a directory."""
    [log] = find_logs(directory)
    return log


# -- the watch --------------------------------------------------------------------------------------------------------


async def test_the_watch_says_what_is_acknowledged_and_each_change(tmp_path: Path) -> None:
    """Of a log that is written, and of one whose writer publishes nothing; never of another one in its place."""
    directory = await write_trail(tmp_path / "audit", 2)
    silent = await write_trail(tmp_path / "audit", 2, service="old")
    (silent / "lock").unlink()
    watch, seen = LogWatch(), {directory: [], silent: []}  # type: ignore[var-annotated]
    ends = [watch.watch(log_at(path), seen[path].append) for path in (directory, silent)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        await until(lambda: all(seen.values()))
        assert seen[silent] == [None]
        last = json.loads(lines_of_log(directory)[-1])
        assert seen[directory] == [Head(seq=last["seq"], hash=last["hash"])]
        await write_trail(tmp_path / "audit", 2, first=2)
        await until(lambda: seen[directory][-1] is not None and seen[directory][-1].seq == 7)
        (silent / "manifest.json").write_text("{}")
        await until(lambda: len(seen[silent]) == 2)
        log_id = id_of(directory)
        shutil.rmtree(directory)
        await write_trail(tmp_path / "audit", 40)
        assert id_of(directory) != log_id
        for _ in range(4):
            await anyio.sleep(0.05)
        assert seen[directory][-1].seq == 7
        for end in ends:
            end()
        assert repr(watch) == "<LogWatch 0 logs>"
        tasks.cancel_scope.cancel()


async def test_two_changes_in_one_tick_of_the_clock_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's time is the same after the second: for a while the file is read at each look."""
    directory = await write_trail(tmp_path / "audit", 2)
    monkeypatch.setattr(log_watch, "_stamp_of", lambda _: (1, 2, 3))
    watch, seen = LogWatch(), []  # type: ignore[var-annotated]
    watch.watch(log_at(directory), seen.append)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        await until(lambda: seen)
        await write_trail(tmp_path / "audit", 2, first=2)
        await until(lambda: seen[-1].seq == 7)
        tasks.cancel_scope.cancel()
