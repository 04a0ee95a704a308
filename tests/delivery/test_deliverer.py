"""A deliverer and a receiver that fails in the ways receivers do: nothing is missing, nothing changed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pytest
from aiohttp import web

from audit_async.delivery import Deliverer, DelivererRuns, DeliveryState, sink_delivery
from tests.delivery.delivering import (
    deliver_once,
    delivering,
    http,
    lines_of_log,
    position_of,
    settings,
    until,
    write_trail,
)
from tests.delivery.http_receiver import Receiver, Request, chaotic, check_received
from tests.trails import read_events

pytestmark = pytest.mark.anyio


def answering(*statuses: int, **headers: str) -> Callable[[Request], web.StreamResponse | None]:
    """Return what answers with these statuses, one after the other, and then accepts."""
    left = list(statuses)
    return lambda _: web.Response(status=left.pop(0), headers=headers) if left else None


def problems(tmp_path: Path) -> list[tuple[str, int | None]]:
    """Return the kinds and records of what the deliverer has recorded."""
    directory = tmp_path / "audit" / "audit-deliver" / "00"
    events = [record["event"] for record in read_events(directory)]
    return [(e["kind"], e.get("seq")) for e in events if e["event_type"] == "audit.delivery_problem"]


async def test_what_is_there_is_delivered_once_and_what_comes_later_after_it(tmp_path: Path) -> None:
    """Byte by byte and in order; the next run goes on from the stored position."""
    directory = await write_trail(tmp_path / "audit", 500)
    receiver = Receiver()
    async with receiver.listening() as url:
        [status] = await deliver_once(settings(tmp_path, http(url, max_records=100)))
        assert (status.state, status.lag_records) == (DeliveryState.CAUGHT_UP, 0)
        assert receiver.accepted == lines_of_log(directory)
        assert len(receiver.requests) >= 5
        await write_trail(tmp_path / "audit", 10, first=500)
        await deliver_once(settings(tmp_path, http(url)))
    assert receiver.accepted == lines_of_log(directory)
    last = json.loads(receiver.accepted[-1])
    assert (position_of(tmp_path).seq, position_of(tmp_path).hash) == (last["seq"], last["hash"])
    [event] = [
        record["event"]
        for record in read_events(tmp_path / "audit" / "audit-deliver" / "00")
        if record["event"]["event_type"] == "audit.delivered"
    ]
    assert (event["sink"], event["log"], event["log_id"]) == ("siem", "orders/00", status.log.log_id)


async def test_it_follows_a_running_writer_and_finds_new_logs(tmp_path: Path, quick: None) -> None:
    """Next to the service, with a log that did not exist when it began."""
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, services=()))):
        await until(lambda: len(receiver.accepted) >= 7)
        other = await write_trail(tmp_path / "audit", 5, service="billing")
        await write_trail(tmp_path / "audit", 5, first=5)
        wanted = {*lines_of_log(directory), *lines_of_log(other)}
        await until(lambda: wanted <= set(receiver.accepted))


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (401, DeliveryState.UNAUTHORIZED),
        (403, DeliveryState.UNAUTHORIZED),
        (404, DeliveryState.MISCONFIGURED),
        (302, DeliveryState.MISCONFIGURED),
        (429, DeliveryState.RETRYING),
        (503, DeliveryState.RETRYING),
    ],
)
async def test_what_an_answer_means(tmp_path: Path, status: int, state: DeliveryState) -> None:
    """The position stays, the state says why, and what a person has to know is recorded."""
    await write_trail(tmp_path / "audit", 5)
    receiver = Receiver(answer=lambda _: web.Response(status=status, headers={"Location": "http://127.0.0.1:1/"}))
    async with receiver.listening() as url:
        [found] = await deliver_once(settings(tmp_path, http(url)))
    assert (found.state, found.seq, found.failures) == (state, -1, 1)
    assert found.waiting_since is not None
    assert str(status) in (found.problem or "")
    assert len(receiver.requests) == 1
    assert problems(tmp_path) == ([(state.name.lower(), None)] if state.needs_a_person else [])


async def test_a_pause_after_401_ends_by_itself(tmp_path: Path, quick: None) -> None:
    """The receiver takes the credentials again, and everything is delivered; the problem was recorded once."""
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver(answer=answering(401, 401, 401))
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url))):
        await until(lambda: len(receiver.accepted) == 7)
    assert receiver.accepted == lines_of_log(directory)
    assert problems(tmp_path) == [("unauthorized", None)]


async def test_retry_after_is_respected(tmp_path: Path, quick: None) -> None:
    """The receiver is left alone for as long as it asks."""
    await write_trail(tmp_path / "audit", 5)
    times: list[float] = []

    def answer(_: Request) -> web.Response | None:
        times.append(anyio.current_time())
        return web.Response(status=429, headers={"Retry-After": "1"}) if len(times) == 1 else None

    receiver = Receiver(answer=answer)
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url))):
        await until(lambda: receiver.accepted)
    assert times[1] - times[0] >= 1


def refusing(*numbers: int, status: int = 400) -> Callable[[Request], web.Response | None]:
    """Return what refuses a batch that has one of these paths in it."""
    poison = [f'"/login/{number}"'.encode() for number in numbers]
    return lambda request: web.Response(status=status) if any(one in request.text for one in poison) else None


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_record_is_set_aside_after_the_receiver_refused_it_alone(tmp_path: Path, status: int) -> None:
    """All others arrive; the record is named in a file and in the deliverer's own log."""
    directory = await write_trail(tmp_path / "audit", 40)
    receiver = Receiver(answer=refusing(7, 23, status=status))
    async with receiver.listening() as url:
        [found] = await deliver_once(settings(tmp_path, http(url)))
    lines = lines_of_log(directory)
    poison = [line for line in lines if b'"/login/7"' in line or b'"/login/23"' in line]
    check_received(receiver.accepted, [line for line in lines if line not in poison])
    assert not set(poison) & set(receiver.accepted)
    assert (found.state, found.set_aside, found.lag_records) == (DeliveryState.CAUGHT_UP, 2, 0)
    entries = [json.loads(line) for line in (tmp_path / "state/siem/set-aside.ndjson").read_bytes().splitlines()]
    assert [(entry["seq"], entry["hash"]) for entry in entries] == [
        (json.loads(line)["seq"], json.loads(line)["hash"]) for line in poison
    ]
    assert b"login" not in (tmp_path / "state/siem/set-aside.ndjson").read_bytes()
    assert problems(tmp_path) == [("set_aside", json.loads(line)["seq"]) for line in poison]


async def test_a_receiver_that_refuses_everything_has_nothing_set_aside(tmp_path: Path) -> None:
    """It is the receiver or the settings that are wrong, so the trail waits; also if it took records before."""
    directory = await write_trail(tmp_path / "audit", 10)
    receiver = Receiver(answer=lambda _: web.Response(status=400))
    async with receiver.listening() as url:
        [found] = await deliver_once(settings(tmp_path, http(url)))
        assert (found.state, found.set_aside, found.seq) == (DeliveryState.REFUSING, 0, -1)
        receiver.answer = None
        deliverer = settings(tmp_path, http(url, max_records=6))
        receiver.answer = lambda _: web.Response(status=400) if len(receiver.accepted) >= 6 else None
        [found] = await deliver_once(deliverer)
        assert (found.state, found.set_aside, found.seq) == (DeliveryState.REFUSING, 0, 5)
        receiver.answer = None
        [found] = await deliver_once(deliverer)
    assert found.state is DeliveryState.CAUGHT_UP
    assert receiver.accepted == lines_of_log(directory)
    assert not (tmp_path / "state/siem/set-aside.ndjson").exists()


async def test_a_lone_refused_record_is_set_aside_if_the_receiver_still_takes_the_one_before(
    tmp_path: Path, quick: None
) -> None:
    """The last accepted record is sent once more, with its key, to know which of the two is wrong."""
    directory = await write_trail(tmp_path / "audit", 20)
    receiver = Receiver(answer=refusing(20))
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, max_records=1))):
        await until(lambda: len(receiver.accepted) == 22)
        await write_trail(tmp_path / "audit", 2, first=20)
        lines = [line for line in lines_of_log(directory) if b'"/login/20"' not in line]
        await until(lambda: set(lines) <= set(receiver.accepted))
    counts = check_received(receiver.accepted, lines)
    assert sum(counts.values()) == len(lines) + 1
    assert position_of(tmp_path).set_aside == 1


async def test_two_deliverers_of_one_sink_can_t_run(tmp_path: Path) -> None:
    """The second is refused, and says what to do."""
    await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url))):
        await until(lambda: receiver.accepted)
        with pytest.raises(DelivererRuns, match="stop it first"):
            await deliver_once(settings(tmp_path, http(url)))
    await deliver_once(settings(tmp_path, http(url)))


async def test_nothing_is_missing_with_a_receiver_that_fails_by_chance(tmp_path: Path, quick: None) -> None:
    """429, 500, 503, 401, and connections that are dropped after the records were stored; the writer goes on."""
    directory = await write_trail(tmp_path / "audit", 200)
    receiver = Receiver()
    fails, drops = chaotic(3), itertools.count()

    def answer(request: Request) -> web.StreamResponse | None:
        if next(drops) % 5 == 3:
            receiver.accepted += request.text.splitlines()
            raise ConnectionResetError  # stored, and the answer is lost
        return fails(request)

    receiver.answer = answer
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, max_records=10))):
        for part in range(5):
            await write_trail(tmp_path / "audit", 40, first=200 + 40 * part)
        wanted = set(lines_of_log(directory))
        await until(lambda: wanted <= set(receiver.accepted))
    counts = check_received(receiver.accepted, lines_of_log(directory))
    assert max(counts.values()) > 1


async def test_a_receiver_that_stalls_is_left_after_its_timeout(tmp_path: Path, quick: None) -> None:
    """Another sink gets everything meanwhile, and nothing of the batch is kept in memory."""
    directory = await write_trail(tmp_path / "audit", 50)
    stalled = anyio.Event()
    slow, fine = Receiver(), Receiver()
    accept = slow.handle

    async def stall(request: web.Request) -> web.StreamResponse:
        if not stalled.is_set():
            await stalled.wait()
        return await accept(request)

    slow.handle = stall  # type: ignore[method-assign]  # of this one receiver
    async with slow.listening() as slow_url, fine.listening() as url:
        sinks = http(slow_url, name="slow", timeout_s=0.3), http(url)
        async with delivering(settings(tmp_path, *sinks)) as deliverer:
            await until(lambda: len(fine.accepted) == 52)
            await until(lambda: any(one.state is DeliveryState.RETRYING for one in deliverer.statuses))
            stalled.set()
            await until(lambda: set(lines_of_log(directory)) <= set(slow.accepted))


async def test_a_log_that_was_rewritten_is_not_delivered_on(tmp_path: Path) -> None:
    """Another record has the place of the last delivered one: that is recorded, and nothing is sent."""
    await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    async with receiver.listening() as url:
        await deliver_once(settings(tmp_path, http(url)))
        [path] = (tmp_path / "state/siem").glob("*.json")
        position = position_of(tmp_path)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(position, hash="0" * 64)))
        before = len(receiver.accepted)
        [found] = await deliver_once(settings(tmp_path, http(url)))
    assert found.state is DeliveryState.UNREADABLE
    assert "rewritten" in (found.problem or "")
    assert len(receiver.accepted) == before
    assert problems(tmp_path) == [("unreadable", None)]


async def test_a_damaged_position_is_no_beginning(tmp_path: Path) -> None:
    """It is an error that names the file: silently everything would be delivered again."""
    await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    async with receiver.listening() as url:
        await deliver_once(settings(tmp_path, http(url)))
        [path] = (tmp_path / "state/siem").glob("*.json")
        path.write_bytes(b"{}")
        [found] = await deliver_once(settings(tmp_path, http(url)))
    assert found.state is DeliveryState.STATE_UNUSABLE
    assert str(path) in (found.problem or "")


async def test_the_own_log_does_not_feed_itself(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is delivered of the deliverer's own log brings no records about it that are delivered in turn."""
    monkeypatch.setattr("audit_async.delivery.delivery_records._EVERY_S", 0.0)
    monkeypatch.setattr("audit_async.delivery.deliverer._REPORT_S", 0.05)
    await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, services=()))):
        await until(lambda: sum(b'"audit.delivered"' in line for line in receiver.accepted) >= 2)
        rounds = len(receiver.accepted)
        for _ in range(20):
            await anyio.sleep(0.05)
    assert len(receiver.accepted) <= rounds + 2


def test_the_deliverer_says_what_it_is(tmp_path: Path) -> None:
    """In a log of the application, without a secret."""
    text = repr(Deliverer(settings(tmp_path, http("http://127.0.0.1:1/secret-path"))))
    assert "siem" in text
    assert "secret" not in text
    assert sink_delivery.__doc__
