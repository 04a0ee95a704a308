"""Alerts by a real deliverer: each is in its own log once, whatever is killed, and nothing feeds back."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anyio
import msgspec
import pytest

from audit_async import AuditConfig, AuditLogger, Local
from audit_async._query.recorded_members import read_said
from audit_async._writer.receipts import Receipt
from audit_async.delivery import AlertSettings, DeliverableRecord, DeliveredLog, EncodedRecord, FileSettings, Outcome
from audit_async.delivery.alerts import AlertEngine, AlertStateUnusable, ObservedRecord, read_rules
from audit_async.delivery.alerts.alert_sink import AlertSink
from audit_async.delivery.alerts.alert_state import StateFiles
from audit_async.errors import BufferFull
from audit_async.events import AuditAlertRaised, AuditEvent, AuthFailure
from audit_async.logger.forwarding_records import record_own
from tests.campaign import Campaign
from tests.delivery.delivering import deliver_once, delivering, lines_of_log, settings, until, write_events
from tests.logs import segment_lines
from tests.trails import check_trail, read_events

pytestmark = pytest.mark.anyio

RULES = """
[[rule]]
name = "five"
reason = "five of an address"
match = { event_types = ["auth.failure"] }
threshold = 5
window_s = 3600
group_by = "event.ip"
cool_down_s = 0

[[rule]]
name = "many-users"
reason = "different users"
match = { event_types = ["auth.failure"] }
threshold = 30
window_s = 3600
distinct = "event.attempted_user"
cool_down_s = 0

[[rule]]
name = "silent"
reason = "a log says nothing"
match = { event_types = ["auth.failure"] }
silence_s = 1
"""


def failures(count: int, seed: str) -> list[AuditEvent]:
    """Return failed log-ins from some addresses as some users."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    return [
        AuthFailure(
            attempted_user=f"u{dice.randrange(100)}", reason="x", ip=f"10.0.0.{dice.randrange(9)}", path=f"/{n}"
        )
        for n in range(count)
    ]


def alerts_of(tmp_path: Path) -> list[dict[str, Any]]:
    """Return the alerts in the deliverer's own log, whose chain holds."""
    directory = tmp_path / "audit" / "audit-deliver" / "00"
    if not (directory / "log.json").exists():
        return []
    events = [record["event"] for record in read_events(directory)]
    return [event for event in events if event["event_type"] == "audit.alert_raised"]


def expected(tmp_path: Path, directory: Path) -> list[str]:
    """Return the ids of the alerts that a look at the whole log in one go raises."""
    engine = AlertEngine(read_rules(tmp_path / "alerts.toml"))
    records = [observed(line) for line in lines_of_log(directory)]
    log_id = msgspec.json.decode((directory / "log.json").read_bytes())["log_id"]
    return [alert.alert_id for alert in engine.look(log_id, "orders/00", records, datetime.now(UTC)).alerts]


def observed(line: bytes) -> ObservedRecord:
    """Return a line as rules look at it."""
    recorded = msgspec.json.decode(line)
    return ObservedRecord(recorded["seq"], recorded["audit_id"], recorded["timestamp"], read_said(line))


async def test_alerts_are_recorded_and_reach_the_other_sinks(tmp_path: Path) -> None:
    """Each alert is in the deliverer's own log, and from there in a file whose selection has no such type."""
    (tmp_path / "alerts.toml").write_text(RULES, encoding="utf-8")
    directory = await write_events(tmp_path / "audit", *failures(200, "reach"))
    given = settings(
        tmp_path,
        AlertSettings(name="alerts", rules=str(tmp_path / "alerts.toml")),
        FileSettings(name="file", path=str(tmp_path / "out.ndjson"), select=({"event_types": ["data.*"]},)),
    )
    async with delivering(given):
        out = tmp_path / "out.ndjson"
        await until(lambda: out.exists() and out.read_bytes().count(b"audit.alert_raised") >= 40)
    alerts = [alert for alert in alerts_of(tmp_path) if alert["kind"] == "match"]
    assert [alert["alert_id"] for alert in alerts] == expected(tmp_path, directory)
    assert {alert["rule"] for alert in alerts} == {"five", "many-users"}
    first = next(alert for alert in alerts if alert["rule"] == "five")
    assert (first["count"], first["window_s"], first["severity"]) == (5, 3600, "high")
    # Nothing of it comes again, with another deliverer or with what the first has recorded.
    await deliver_once(given)
    assert [alert for alert in alerts_of(tmp_path) if alert["kind"] == "match"] == alerts


def test_a_killed_deliverer_raises_each_alert_once(tmp_path: Path) -> None:
    """Four times with SIGKILL at any moment: none twice, none lost."""
    kill_again_and_again(tmp_path, 4, "a sample")


@pytest.mark.campaign
def test_thirty_killed_deliverers_raise_each_alert_once(tmp_path: Path, campaign: Campaign) -> None:
    """Thirty times, at other moments in each run."""
    kill_again_and_again(tmp_path, 30, str(campaign.seed))


def kill_again_and_again(tmp_path: Path, rounds: int, seed: str) -> None:
    """Kill a deliverer, have another one go on with its state, and so on; compare all alerts at the end."""
    (tmp_path / "alerts.toml").write_text(RULES.partition('[[rule]]\nname = "silent"')[0], encoding="utf-8")
    directory = anyio.run(lambda: write_events(tmp_path / "audit", *failures(4000, f"{seed} kill")))
    dice = random.Random(f"{seed} moments")  # noqa: S311 - no secret
    command = [sys.executable, "-m", "tests.delivery.alerts.killed_deliverer", str(tmp_path)]
    killed = 0
    for _ in range(rounds):
        wanted = len(alerts_of_quickly(tmp_path)) + dice.randrange(1, 60)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"started\n"
            deadline = time.monotonic() + 60
            while len(alerts_of_quickly(tmp_path)) < wanted and process.poll() is None and time.monotonic() < deadline:
                time.sleep(dice.random() / 50)
            process.kill()
            killed += process.wait() == -signal.SIGKILL
    assert killed >= rounds / 2, "the deliverer was at its end before it was killed"
    ended = subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert ended.stdout.endswith(b"done\n"), ended.stderr
    ids = [alert["alert_id"] for alert in alerts_of(tmp_path)]
    assert Counter(ids) == Counter(expected(tmp_path, directory))
    check_trail(tmp_path / "audit" / "audit-deliver" / "00")


def alerts_of_quickly(tmp_path: Path) -> list[bytes]:
    """Return the lines with alerts of a log that is being written."""
    return [line for line in segment_lines(tmp_path / "audit/audit-deliver/00") if b"alert_raised" in line]


class Recorder:
    """Takes alerts instead of a log, and refuses some."""

    def __init__(self, refused: Iterable[int] = ()) -> None:
        self.events: list[AuditAlertRaised] = []
        self._refused = set(refused)
        self._calls = 0

    def __call__(self, event: AuditEvent) -> Receipt:
        """Take an event, or refuse it."""
        self._calls += 1
        if self._calls in self._refused:
            raise BufferFull(event.event_type, 1, 1)
        assert isinstance(event, AuditAlertRaised)
        self.events.append(event)
        return DurableAtOnce()  # type: ignore[return-value]


class DurableAtOnce:
    """A receipt of what is durable."""

    async def durable(self) -> None:
        """Return at once."""


BEGIN = datetime.now(UTC) - timedelta(hours=1)


def batch(count: int, first: int = 0) -> list[EncodedRecord]:
    """Return failures of one address, as the deliverer sends them."""
    log = DeliveredLog("0f" * 8, "orders", "00", "web-1")
    records = []
    for seq in range(first, first + count):
        at = (BEGIN + timedelta(seconds=seq)).isoformat(timespec="microseconds")
        event = {"event_type": "auth.failure", "ip": "10.0.0.1", "reason": "x", "path": "/"}
        members = {"seq": seq, "audit_id": f"{0:016x}-{seq:x}", "timestamp": at.replace("+00:00", "Z")}
        line = msgspec.json.encode({**members, "service_id": "orders", "event": event, "prev_hash": "", "hash": ""})
        records.append(EncodedRecord(DeliverableRecord(line, log), line))
    return records


def sink_of(tmp_path: Path, recorder: Recorder, **more: Any) -> AlertSink:
    """Return a sink with the rules, whose state is in `tmp_path`."""
    (tmp_path / "alerts.toml").write_text(RULES, encoding="utf-8")
    return AlertSink(tmp_path / "alerts.toml", tmp_path, recorder, **more)


async def test_a_full_log_delays_alerts_and_loses_none(tmp_path: Path) -> None:
    """While the deliverer's own log refuses, the batch is to be sent again; then each alert is recorded once."""
    recorder = Recorder(refused=[2, 3])
    sink = sink_of(tmp_path, recorder)
    sent = batch(20)
    assert [(await sink.send(sent)).outcome for _ in range(3)] == [Outcome.RETRY, Outcome.RETRY, Outcome.ACCEPTED]
    assert [alert.seq for alert in recorder.events] == [4, 9, 14, 19]
    assert (await sink.send(sent)).outcome is Outcome.ACCEPTED
    assert len(recorder.events) == 4


async def test_what_was_counted_outlives_the_process(tmp_path: Path) -> None:
    """Four failures before a restart and one after it are five."""
    recorder = Recorder()
    sink = sink_of(tmp_path, recorder)
    await sink.send(batch(4))
    assert await sink.finish()
    assert recorder.events == []
    await sink_of(tmp_path, recorder).send(batch(1, first=4))
    assert [alert.seq for alert in recorder.events] == [4]


async def test_a_torn_journal_is_read_up_to_its_last_whole_entry(tmp_path: Path) -> None:
    """What a power cut has left of an entry is of a batch that comes again; damage elsewhere is said."""
    recorder = Recorder()
    sink = sink_of(tmp_path, recorder)
    for first in (0, 2, 4):
        await sink.send(batch(2, first=first))
    await sink.finish()
    [journal] = tmp_path.glob("*.journal")
    whole = journal.read_bytes()
    for cut in (whole[:-7], whole[:-7] + b"\n", whole[:-30] + b"\0" * 30):
        journal.write_bytes(cut)
        again = Recorder()
        torn = sink_of(tmp_path, again)
        await torn.send(batch(2, first=4))
        await torn.finish()
        assert [alert.seq for alert in again.events] == [4]
        assert journal.read_bytes() == whole
    journal.write_bytes(b"X" + whole[1:])
    with pytest.raises(AlertStateUnusable, match="move its files"):
        sink_of(tmp_path, recorder)


async def test_a_large_journal_becomes_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files do not grow without end, and a snapshot is gone on with."""
    monkeypatch.setattr("audit_async.delivery.alerts.alert_state._MAX_JOURNAL_BYTES", 1500)
    recorder = Recorder()
    sink = sink_of(tmp_path, recorder)
    for first in range(0, 98, 2):
        await sink.send(batch(2, first=first))
    await sink.finish()
    assert (tmp_path / "alerts.json").exists()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 8000
    await sink_of(tmp_path, recorder).send(batch(2, first=98))
    assert [alert.seq for alert in recorder.events] == list(range(4, 100, 5))


async def test_a_batch_that_comes_again_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a crash, if it was stored each time: there was no room for a snapshot, so it was not answered."""
    monkeypatch.setattr("audit_async.delivery.alerts.alert_state._MAX_JOURNAL_BYTES", 1)
    recorder = Recorder()
    sink = sink_of(tmp_path, recorder)
    in_its_place = tmp_path / "alerts.json.new"
    in_its_place.mkdir()
    assert {(await sink.send(batch(4))).outcome for _ in range(3)} == {Outcome.RETRY}
    in_its_place.rmdir()
    assert (await sink_of(tmp_path, recorder).send(batch(5))).outcome is Outcome.ACCEPTED
    assert [(alert.seq, alert.count) for alert in recorder.events] == [(4, 5)]


async def test_silence_is_found_without_a_record(tmp_path: Path) -> None:
    """A log that says nothing is found by the time that passes, once, also over a restart."""
    recorder = Recorder()
    now = [datetime.now(UTC)]
    sink = sink_of(tmp_path, recorder, clock=lambda: now[0])
    await sink.send(batch(1))
    await sink.tick()
    assert recorder.events == []
    now[0] += timedelta(seconds=2)
    await sink.tick()
    await sink.tick()
    await sink.finish()
    again = sink_of(tmp_path, recorder, clock=lambda: now[0])
    now[0] += timedelta(seconds=2)
    await again.tick()
    assert [(alert.kind, alert.log) for alert in recorder.events] == [("silence", "orders/00")]


async def test_an_alert_that_was_recorded_before_a_crash_is_not_recorded_again(tmp_path: Path) -> None:
    """The alert is in the log and its count was not stored: the batch comes again, and the alert does not."""
    config = AuditConfig(mode=Local(tmp_path / "audit"), service_id="audit-deliver", handle_signals=False)
    rules = tmp_path / "alerts.toml"
    rules.write_text(RULES, encoding="utf-8")
    async with AuditLogger(config) as own:
        for unstored in ("files can't be written", ""):
            sink = AlertSink(rules, tmp_path, partial(record_own, own), own.directory)
            with pytest.MonkeyPatch.context() as patch:
                if unstored:
                    patch.setattr(StateFiles, "append", Mock(side_effect=AlertStateUnusable(unstored)))
                result = await sink.send(batch(12))
            assert (result.outcome, result.reason) == (Outcome.RETRY if unstored else Outcome.ACCEPTED, unstored)
            await sink.finish()
    assert [alert["seq"] for alert in alerts_of(tmp_path)] == [4, 9]
