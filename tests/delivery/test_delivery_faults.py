"""Kills at every point, full disks, settings that change, secrets: nothing is lost, and nothing false is recorded."""

from __future__ import annotations

import errno
import json
import logging
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from audit_async.delivery import DeliveryState, FileSettings, delivery_records, position_file
from audit_async.delivery.replay_position import replay
from tests.delivery.crashing_deliverer import POINTS
from tests.delivery.delivering import (
    DEADLINE_S,
    deliver_once,
    http,
    lines_of_log,
    position_of,
    settings,
    write_events,
    write_trail,
)
from tests.delivery.http_receiver import Receiver, Request, check_received
from tests.delivery.test_selection import EVENTS, types_of
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio


def poison(request: Request) -> web.Response | None:
    """Refuse one record."""
    return web.Response(status=400) if b'"/login/7"' in request.text else None


def set_aside_in(tmp_path: Path) -> list[int]:
    """Return the numbers of the records that are set aside."""
    path = tmp_path / "state/siem/set-aside.ndjson"
    return [json.loads(line)["seq"] for line in path.read_bytes().splitlines()] if path.exists() else []


async def test_a_kill_at_any_point_loses_nothing(tmp_path: Path) -> None:
    """Between sending, the answer, what is set aside and the position: a record may come twice, never not at all."""
    directory = await write_trail(tmp_path / "audit", 30)
    receiver = Receiver(answer=poison)
    config = tmp_path / "deliver.toml"
    async with receiver.listening() as url:
        config.write_text(
            f'base_dir = "{tmp_path / "audit"}"\nstate_dir = "{tmp_path / "state"}"\nown_log = "{tmp_path / "own"}"\n'
            f'[[sink]]\nname = "siem"\ntype = "http"\nurl = "{url}"\nservices = ["orders"]\nmax_records = 4\n'
        )
        command = [sys.executable, "-m", "tests.delivery.crashing_deliverer", str(config)]
        with anyio.fail_after(DEADLINE_S):
            done = await anyio.run_process(command, check=False)
    assert done.stdout.decode().splitlines() == [f"{name}: killed" for name in POINTS], done.stderr.decode()
    lines = lines_of_log(directory)
    wanted = [line for line in lines if b'"/login/7"' not in line]
    for number, name in enumerate(POINTS):
        taken = [one for one in receiver.requests if one.path.endswith(f"/{number}") and poison(one) is None]
        counts = check_received([line for one in taken for line in one.text.splitlines()], wanted)
        assert len(counts) == len(wanted), name
        state = tmp_path / "state" / str(number) / "siem"
        aside = [json.loads(line)["seq"] for line in (state / "set-aside.ndjson").read_bytes().splitlines()]
        assert set(aside) == {8}, name
        [path] = state.glob("*.json")
        assert json.loads(path.read_bytes())["seq"] == len(lines) - 1, name
    check_trail(tmp_path / "own/audit-deliver/00")


@pytest.mark.parametrize("what", ["append_lines", "replace_file"])
async def test_a_full_disk_below_the_state_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What can't be set aside is not passed over; a position that can't be stored is behind, never ahead."""
    directory = await write_trail(tmp_path / "audit", 20)
    receiver = Receiver(answer=poison)
    full = True
    original = getattr(position_file, what)

    def write(*arguments: Any, **more: Any) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments, **more)

    monkeypatch.setattr(position_file, what, write)
    async with receiver.listening() as url:
        given = settings(tmp_path, http(url, max_records=4))
        [status] = await deliver_once(given)
        assert status.state is DeliveryState.STATE_UNUSABLE
        assert "No space left" in (status.problem or "")
        assert status.set_aside == 0
        full = False
        [status] = await deliver_once(given)
    assert (status.state, status.set_aside) == (DeliveryState.CAUGHT_UP, 1), status.problem
    check_received(receiver.accepted, [line for line in lines_of_log(directory) if b'"/login/7"' not in line])
    assert set_aside_in(tmp_path) == [8]


async def test_two_sinks_of_one_file_don_t_write_over_each_other(tmp_path: Path) -> None:
    """The second is told so, and has nothing delivered."""
    directory = await write_trail(tmp_path / "audit", 50)
    path = str(tmp_path / "out.ndjson")
    sinks = [FileSettings(name=name, path=path, services=("orders",), max_records=5) for name in ("a", "b")]
    statuses = await deliver_once(settings(tmp_path, *sinks))
    assert {one.state for one in statuses} == {DeliveryState.CAUGHT_UP, DeliveryState.MISCONFIGURED}
    assert (tmp_path / "out.ndjson").read_bytes().splitlines() == lines_of_log(directory)


# -- settings that change ---------------------------------------------------------------------------------------------


async def test_another_selection_holds_from_the_position_on(tmp_path: Path) -> None:
    """Nothing comes twice; what it had left out before comes only if it is asked for."""
    await write_events(tmp_path / "audit", *EVENTS)
    receiver = Receiver()
    async with receiver.listening() as url:
        await deliver_once(settings(tmp_path, http(url, select=({"event_types": ["auth.failure"]},))))
        assert types_of(receiver.accepted) == ["auth.failure"]
        wider = settings(tmp_path, http(url, select=({"event_types": ["auth.*"]},)))
        await write_events(tmp_path / "audit", *EVENTS)
        await deliver_once(wider)
        assert types_of(receiver.accepted) == ["auth.failure", "auth.failure", "auth.success"]
        await replay(wider, "siem", 0, service="orders")
        receiver.accepted.clear()
        await deliver_once(wider)
    assert types_of(receiver.accepted) == 2 * ["auth.failure", "auth.success"]


async def test_a_sink_with_another_name_begins_from_the_beginning(tmp_path: Path) -> None:
    """Everything comes again, with the same keys; nothing is missing, and the old position stays as it was."""
    directory = await write_trail(tmp_path / "audit", 5)
    receiver = Receiver()
    async with receiver.listening() as url:
        await deliver_once(settings(tmp_path, http(url)))
        before = position_of(tmp_path)
        await deliver_once(settings(tmp_path, http(url, name="other")))
    assert receiver.accepted == 2 * lines_of_log(directory)
    assert position_of(tmp_path) == before


async def test_what_was_redacted_is_recorded_as_it_was_when_it_was_delivered(tmp_path: Path) -> None:
    """Settings change within the hour of `audit.delivered`: each event says what held for its records."""
    await write_events(tmp_path / "audit", *EVENTS)
    receiver = Receiver()
    async with receiver.listening() as url:
        for redact in ((), ("event.ip",), ("event.ip",), ()):
            await write_events(tmp_path / "audit", *EVENTS)
            await deliver_once(settings(tmp_path, http(url, redact=redact)))
        await replay(settings(tmp_path, http(url)), "siem", 0, service="orders")
    own = [one["event"] for one in read_events(tmp_path / "audit/audit-deliver/00")]
    delivered = [(one["records"], one.get("redacted")) for one in own if one["event_type"] == "audit.delivered"]
    assert delivered == [(10, None), (10, ["event.ip"]), (5, None)]


def test_a_clock_that_was_set_back_keeps_nothing_from_being_recorded() -> None:
    """What was recorded in the future is no reason to be silent until then."""
    recorded: list[object] = []

    class Log:
        directory = None

    class Delivery:
        position = position_file.Position(
            log_id="id", log="orders/00", seq=3, hash="0" * 64, delivered=4, recorded_at=4e9, recorded_delivered=1
        )

        def note_recorded(self, now: float) -> None:
            recorded.append(now)

    records = delivery_records.DeliveryRecords(Log())  # type: ignore[arg-type]  # not written to

    def record(event: object) -> bool:
        recorded.append(event)
        return True

    records._record = record  # type: ignore[method-assign]  # of this one
    records.record_progress([(http("http://127.0.0.1:1/"), Delivery())])  # type: ignore[list-item]  # what it asks for
    assert len(recorded) == 2


# -- secrets ----------------------------------------------------------------------------------------------------------


async def test_no_failure_shows_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a URL, a token or a key that can't be used, only where it comes from is named, wherever something is said."""
    caplog.set_level(logging.DEBUG)
    await write_trail(tmp_path / "audit", 3)
    receiver = Receiver(answer=lambda _: web.Response(status=403))
    async with receiver.listening() as url:
        for value in (
            url + "/s3cret",
            "https://user:s3cret@siem.example/",
            "http://siem.example/s3cret",
            "https://[s3cret",
            "http://127.0.0.1:1/s3cret",
            "s3cret",
        ):
            monkeypatch.setenv("SIEM_URL", value)
            [status] = await deliver_once(settings(tmp_path, http("env:SIEM_URL")))
            assert status.state is not DeliveryState.CAUGHT_UP
            assert "s3cret" not in repr(status), value
        for value in ("s3cret\nX-Injected: 1", "s3crét", "s3cret\x00"):
            path = tmp_path / "token"
            path.write_text(value, encoding="utf-8")
            path.chmod(0o600)
            [status] = await deliver_once(settings(tmp_path, http(url, token=f"file:{path}")))
            assert status.state is DeliveryState.MISCONFIGURED
            assert "s3cr" not in repr(status)
            assert "token" in (status.problem or "")
    assert "s3cr" not in "".join(one.getMessage() for one in caplog.records if one.name != "aiohttp.access")
    own = b"".join(path.read_bytes() for path in (tmp_path / "audit/audit-deliver/00").glob("*.audit"))
    states = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*.*") if path.is_file())
    assert b"s3cr" not in own + states
    assert b"X-Injected" not in b"".join(repr(dict(one.headers)).encode() for one in receiver.requests)
