"""What rules count: exactly, by the records' own time, in bounded memory, and the same again after a restart."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async._query.recorded_members import Said
from audit_async.delivery.alerts import AlertEngine, AlertRule, ObservedRecord, starter_rules
from audit_async.delivery.alerts.alert_state import JournalEntry, Snapshot
from audit_async.events import AuditAlertRaised
from audit_async.events.recorded import recorded_time

BEGIN = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
NOW = BEGIN + timedelta(hours=1)


def rule(**members: Any) -> AlertRule:
    """Return a rule on failed log-ins."""
    return AlertRule(**{"name": "r", "reason": "why", "match": [{"event_types": ["auth.failure"]}], **members})


FIVE_A_MINUTE = rule(threshold=5, window_s=60, group_by=["event.ip"], cool_down_s=0)


def failed(at_s: float, ip: str = "203.0.113.9", user: str = "alice", *, seq: int = -1) -> ObservedRecord:
    """Return a failed log-in so many seconds after the beginning; its seq is made of that unless it is given."""
    members: dict[str, object] = {"ip": ip, "attempted_user": user, "reason": "x", "path": "/"}
    return observed({"event_type": "auth.failure", **members}, at_s, seq=seq)


def observed(event: dict[str, object], at_s: float, *, seq: int = -1) -> ObservedRecord:
    """Return a record with this event."""
    at = recorded_time(BEGIN + timedelta(seconds=at_s))
    return ObservedRecord(seq if seq >= 0 else int(at_s * 1000), f"a-{at_s}", at, Said(event, {}, at))


def raised(engine: AlertEngine, records: Iterable[ObservedRecord], log: str = "l0") -> list[AuditAlertRaised]:
    """Return what records of one log raise."""
    return engine.look(log, "orders/00", list(records), NOW).alerts


@pytest.mark.parametrize(("times", "alerts"), [((0, 10, 20, 30, 60), 1), ((0, 10, 20, 30, 61), 0), ((0, 1, 2, 3), 0)])
def test_a_threshold_within_a_window(times: tuple[int, ...], alerts: int) -> None:
    """Five in a minute are five of which the last comes at most a minute after the first."""
    found = raised(AlertEngine([FIVE_A_MINUTE]), map(failed, times))
    assert len(found) == alerts
    for alert in found:
        assert (alert.rule, alert.kind, alert.count, alert.window_s) == ("r", "match", 5, 60)
        assert (alert.first_at, alert.last_at) == (BEGIN, BEGIN + timedelta(seconds=60))
        assert alert.group == {"event.ip": "203.0.113.9"}
        assert (alert.log, alert.log_id, alert.seq) == ("orders/00", "l0", 60_000)


def test_a_host_whose_clock_is_ahead_blinds_no_rule() -> None:
    """What claims to be of the future counts at its arrival: it neither ages what is there nor hides an overflow."""
    engine = AlertEngine([msgspec.structs.replace(FIVE_A_MINUTE, max_groups=3, window_s=3600)])
    assert raised(engine, [failed(3590 + n, seq=n) for n in range(3)]) == []
    future = [failed(10**9 + n, f"10.0.0.{n}", seq=n) for n in range(4)]
    assert [alert.kind for alert in raised(engine, [failed(10**9, seq=10), *future], log="l1")] == []
    assert [alert.kind for alert in raised(engine, [failed(10**9, seq=11), *future], log="l1")] == ["match"]
    assert engine.snapshot().windows["r"].newest_ms == int(NOW.timestamp() * 1000)


def test_groups_are_counted_apart_and_logs_together() -> None:
    """Four of each of two addresses raise nothing; of one address on two logs five do."""
    engine = AlertEngine([FIVE_A_MINUTE])
    assert raised(engine, [failed(n, f"10.0.0.{n % 2}", seq=n) for n in range(8)]) == []
    assert len(raised(engine, [failed(9, "10.0.0.1", seq=0)], log="l1")) == 1


def test_a_rule_can_count_each_log_apart() -> None:
    """Three of one log and two of another are no five; nor is an alert of one log the cool-down of another."""
    engine = AlertEngine([msgspec.structs.replace(FIVE_A_MINUTE, per_log=True, cool_down_s=600)])
    assert raised(engine, [failed(n) for n in range(3)]) == []
    other = [failed(n) for n in range(5)]
    (alert,) = engine.look("l1", "orders/01", other, NOW).alerts
    assert (alert.log, alert.group) == ("orders/01", {"event.ip": "203.0.113.9"})
    assert [one.log for one in raised(engine, [failed(n) for n in (3, 4)])] == ["orders/00"]
    alone = AlertEngine([rule(per_log=True)])
    assert [alert.group for alert in raised(alone, [failed(0)])] == [None]


def test_a_late_record_of_another_log_counts_with_those_of_its_time() -> None:
    """Logs are not delivered in step: what comes late is counted at its own time."""
    engine = AlertEngine([FIVE_A_MINUTE])
    assert raised(engine, [failed(t) for t in (0, 10, 20, 100, 110, 120)]) == []
    (alert,) = raised(engine, [failed(30), failed(40)], log="l1")
    assert (alert.first_at, alert.last_at) == (BEGIN, BEGIN + timedelta(seconds=40))


@pytest.mark.parametrize("distinct", [None, "event.attempted_user"])
def test_logs_that_are_caught_up_with_one_after_the_other_are_each_counted(distinct: str | None) -> None:
    """After a night's stop a log comes as a whole, then the next: what happened in it early is found all the same."""
    counted = rule(threshold=5, window_s=60, group_by=["event.ip"], distinct=distinct, cool_down_s=0)
    engine = AlertEngine([counted])
    assert raised(engine, [failed(n * 16, user=f"u{n % 7}", seq=n) for n in range(200)]) == []
    found = []
    for n in range(5):  # two logs at a time, an hour apart
        found += raised(engine, [failed(1 + n, user=f"u{n}", seq=n)], log="l1")
        found += raised(engine, [failed(3300 + n, user=f"v{n}", seq=n)], log="l2")
    assert [alert.log_id for alert in found] == ["l1", "l2"]


def test_a_rule_is_quiet_after_an_alert_and_counts_what_it_kept_quiet() -> None:
    """During the cool-down nothing is raised; the next alert says how much there was."""
    engine = AlertEngine([rule(cool_down_s=60)])
    found = raised(engine, [failed(t) for t in (0, 1, 59, 60, 61, 200)])
    assert [(alert.last_at - BEGIN).seconds for alert in found] == [0, 60, 200]
    assert [alert.suppressed for alert in found] == [None, 2, 1]


def test_different_values_are_counted_once_each() -> None:
    """Ten users of one address raise the alert, a hundred attempts at three users do not."""
    spraying = rule(threshold=4, window_s=60, group_by=["event.ip"], distinct="event.attempted_user", cool_down_s=0)
    engine = AlertEngine([spraying])
    assert raised(engine, [failed(n / 10, user=f"u{n % 3}") for n in range(100)]) == []
    assert len(raised(engine, [failed(11, user="u4")])) == 1


@settings(max_examples=150, deadline=None)
@given(
    times=st.lists(st.integers(0, 400), min_size=1, max_size=40),
    threshold=st.integers(1, 5),
    window_s=st.integers(1, 60),
    cool_down_s=st.sampled_from([0, 30]),
)
def test_alerts_are_those_of_a_plain_count(times: list[int], threshold: int, window_s: int, cool_down_s: int) -> None:
    """Records in order raise what a count of all that has come since the last alert raises."""
    counted = rule(threshold=threshold, window_s=window_s, cool_down_s=cool_down_s)
    times.sort()
    records = [failed(at, seq=n) for n, at in enumerate(times)]
    expected = []
    seen: list[int] = []
    quiet_until = -1
    for n, at in enumerate(times):
        if at < quiet_until:
            continue
        seen.append(at)
        if len(seen) >= threshold and seen[-1] - seen[-threshold] <= window_s:
            expected.append(n)
            seen = []
            quiet_until = at + cool_down_s
    assert [alert.seq for alert in raised(AlertEngine([counted]), records)] == expected


@settings(max_examples=150, deadline=None)
@given(
    times=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3)), min_size=1, max_size=60),
    threshold=st.integers(2, 5),
    window_s=st.integers(1, 60),
    is_distinct=st.booleans(),
)
def test_records_in_any_order_raise_what_a_search_of_all_bursts_finds(
    times: list[tuple[int, int]], threshold: int, window_s: int, is_distinct: bool
) -> None:
    """A look at the bursts that the new record is in is enough; what is kept of a group is bounded."""
    distinct = "event.attempted_user" if is_distinct else None
    engine = AlertEngine([rule(threshold=threshold, window_s=window_s, distinct=distinct, cool_down_s=0)])
    kept: list[tuple[int, int, int]] = []
    for n, (at, user) in enumerate(times):
        alerts = raised(engine, [failed(at, user=f"u{user}", seq=n)])
        newest = at
        for known in [one for one in kept if is_distinct and one[2] == user]:
            kept.remove(known)
            newest = max(at, known[0]) if abs(at - known[0]) <= window_s else at
        kept = sorted([*kept, (newest, n, user)])
        bursts = [kept[first : first + threshold] for first in range(len(kept) - threshold + 1)]
        found = [(burst[0][0], burst[-1][0]) for burst in bursts if burst[-1][0] - burst[0][0] <= window_s]
        moments = [((one.first_at - BEGIN).seconds, (one.last_at - BEGIN).seconds) for one in alerts]
        assert moments == found[:1]
        if found:
            last = found[0][1]
            kept = [one for one in kept if not last - window_s <= one[0] <= last]
        elif len(kept) > 4 * threshold:
            kept.remove(min(kept, key=lambda one: one[1]))
        assert all(len(group.times) <= 4 * threshold for group in engine.snapshot().windows["r"].groups.values())


def test_a_flood_of_groups_takes_bounded_memory_and_is_an_alert_of_its_own() -> None:
    """An attacker with many addresses is counted with others in bounded memory; the overflow is said once."""
    engine = AlertEngine([msgspec.structs.replace(FIVE_A_MINUTE, max_groups=100)])
    found = raised(engine, [failed(n / 1000, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", seq=n) for n in range(5000)])
    assert [alert.kind for alert in found][:2] == ["overflow", "match"]
    assert sum(alert.kind == "overflow" for alert in found) == 1
    assert found[1].group == {"event.ip": "(others)"}
    assert len(engine.snapshot().windows["r"].groups) <= 101
    # Those that were there before are counted as before.
    assert [a.group for a in raised(engine, [failed(6 + n / 10, "10.0.0.1") for n in range(4)])] == [
        {"event.ip": "10.0.0.1"}
    ]
    # An hour later there is room again.
    engine.look("l0", "orders/00", [failed(7200 + n, "10.9.9.9") for n in range(4)], NOW + timedelta(hours=3))
    assert set(engine.snapshot().windows["r"].groups) == {"10.9.9.9"}


@pytest.mark.parametrize("text", ["x" * 100_000, "a\x1fb", "\ud800", "", "sealed:1:key:one", "(others)"])
def test_hostile_groups_are_texts_of_bounded_length(text: str) -> None:
    """A group is named whatever its member holds, and two long texts stay two groups."""
    engine = AlertEngine([rule(group_by=["event.ip", "event.attempted_user"])])
    (alert,) = raised(engine, [failed(0, ip=text)])
    assert alert.group is not None
    assert alert.group.keys() == {"event.ip", "event.attempted_user"}
    assert all(len(value) < 200 for value in alert.group.values())
    if len(text) > 100:
        assert len(raised(engine, [failed(1, ip=text + "y")])) == 1


def test_sealed_members_are_grouped_by_their_key() -> None:
    """Two ciphertexts of one person on one day are one group, of two persons two."""
    engine = AlertEngine([rule(threshold=2, window_s=60, group_by=["event.attempted_user"])])
    assert raised(engine, [failed(0, user="sealed:1:k1:aa:b"), failed(1, user="sealed:1:k2:cc:d")]) == []
    assert len(raised(engine, [failed(2, user="sealed:1:k1:ee:f")])) == 1


def test_a_trail_of_years_raises_nothing_when_it_is_seen_first() -> None:
    """Old records of a new log are passed over; once they are recent, and later, all are counted."""
    engine = AlertEngine([rule(cool_down_s=0)])
    assert raised(engine, [failed(-90_000, seq=0), failed(-88_000, seq=1)]) == []
    assert len(raised(engine, [failed(0, seq=2)])) == 1
    # A deliverer that was stopped for a week counts what it missed.
    late = engine.look("l0", "orders/00", [failed(10, seq=3)], NOW + timedelta(days=7))
    assert len(late.alerts) == 1


def test_a_replay_raises_nothing_again() -> None:
    """Records that were looked at are passed over."""
    engine = AlertEngine([FIVE_A_MINUTE])
    records = [failed(n, seq=n) for n in range(5)]
    assert len(raised(engine, records)) == 1
    assert raised(engine, records) == []
    assert raised(engine, records[2:]) == []


def test_a_log_that_falls_silent_is_said_once() -> None:
    """Silence is counted from the last record, or from the start of the deliverer; a closed log may be silent."""
    engine = AlertEngine([rule(match=[{}], silence_s=60)])
    raised(engine, [failed(0)])

    def silent(at_s: float, since_s: float = -1000) -> list[AuditAlertRaised]:
        looked = engine.silent(BEGIN + timedelta(seconds=at_s), BEGIN + timedelta(seconds=since_s))
        return [alert for one in looked for alert in one.alerts]

    assert silent(59) == []
    assert silent(100, since_s=50) == []
    (alert,) = silent(120)
    assert (alert.kind, alert.log, alert.first_at, alert.count) == ("silence", "orders/00", BEGIN, 0)
    assert silent(500) == []
    raised(engine, [failed(600)])
    assert len(silent(700)) == 1
    raised(engine, [observed({"event_type": "audit.log_closed"}, 800)])
    assert silent(5000) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_restart_at_any_point_counts_on(seed: int) -> None:
    """With the journal's entries, or a snapshot and the rest of them, an engine goes on as if nothing had been."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    rules = [
        msgspec.structs.replace(FIVE_A_MINUTE, threshold=3, max_groups=3, cool_down_s=5),
        rule(name="s", match=[{}], silence_s=30),
        rule(name="d", threshold=2, window_s=20, distinct="event.attempted_user", cool_down_s=0),
    ]
    records = [
        failed(n * 2 + dice.random(), f"10.0.0.{dice.randrange(5)}", f"u{dice.randrange(3)}", seq=n) for n in range(60)
    ]
    cuts = sorted(dice.sample(range(1, 60), 6))
    batches = [records[a:b] for a, b in pairwise([0, *cuts, 60])]
    whole = AlertEngine(rules)
    expected = [alert for batch in batches for alert in raised(whole, batch)]
    found: list[AuditAlertRaised] = []
    snapshot: bytes | None = None
    entries: list[bytes] = []
    for batch in batches:
        engine = AlertEngine(rules)
        if snapshot is not None:
            engine.restore(msgspec.json.decode(snapshot, type=Snapshot))
        for entry in entries:
            engine.replay(msgspec.json.decode(entry, type=JournalEntry))
        looked = engine.look("l0", "orders/00", batch, NOW)
        found += looked.alerts
        if looked.entry is not None:
            entries.append(msgspec.json.encode(looked.entry))
        if dice.random() < 0.3:
            snapshot, entries = msgspec.json.encode(engine.snapshot()), []
    assert found == expected


def test_a_changed_rule_counts_from_nothing() -> None:
    """What was counted for another rule of the same name is dropped; the places in the logs stay."""
    engine = AlertEngine([FIVE_A_MINUTE])
    raised(engine, [failed(n, seq=n) for n in range(4)])
    other = AlertEngine([msgspec.structs.replace(FIVE_A_MINUTE, window_s=61)])
    other.restore(msgspec.json.decode(msgspec.json.encode(engine.snapshot()), type=Snapshot))
    assert raised(other, [failed(n, seq=n) for n in range(5)]) == []


def test_the_starter_set_finds_what_it_is_for() -> None:
    """A small story raises exactly the rules that are meant for it."""
    engine = AlertEngine(starter_rules())
    actor = {"user_id": "mallory", "ip": "203.0.113.9"}
    story = [
        *(failed(n, user=f"user{n}", seq=n) for n in range(10)),
        observed({"event_type": "user.mfa_disabled", "actor": actor, "subject": "alice", "method": "totp"}, 20, seq=20),
        observed(
            {"event_type": "access.role_granted", "actor": actor, "subject": "mallory", "role": "root"}, 21, seq=21
        ),
        *(
            observed({"event_type": "data.exported", "actor": actor, "resource": {}}, 30 + n, seq=30 + n)
            for n in range(10)
        ),
        observed({"event_type": "audit.hold_lifted", "reason": "", "lifted_by": "mallory"}, 50, seq=50),
        observed({"event_type": "audit.verification_failed", "findings": 1}, 51, seq=51),
    ]
    assert [alert.rule for alert in raised(engine, story)] == [
        "failed-logins-of-an-address",
        "password-spraying",
        "mfa-disabled",
        "role-granted",
        "many-exports-of-an-actor",
        "hold-lifted-or-log-replaced",
        "trail-changed",
    ]
