"""Counting the records of one rule within its window, group by group, in bounded memory.

Time is the record's own, not that of its arrival: a deliverer that was stopped finds the same alerts when it goes on.
Records of several logs come in no common order, and after a stop one log is caught up with after the other: so
a window is that of the record that comes, wherever it is in time. Everything follows from
the sequence of hits alone, so that the state after a crash is made again from a journal of them.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec

from audit_async.delivery.alerts.alert_rules import AlertRule

__all__ = ["OTHERS", "Group", "Hit", "Raised", "RuleWindow"]

#: The group of records that have no place of their own any more.
OTHERS: Final = "(others)"
#: How much longer than its window a group is kept if there is no room for others.
_LATE_MS: Final = 300_000
#: For how long the overflow of a rule is not said again.
_OVERFLOW_MS: Final = 3_600_000


class Hit(msgspec.Struct, frozen=True, array_like=True):
    """A record that counts for a rule."""

    rule: str
    group: str
    at_ms: int  #: when it was recorded
    value: str | None = None  #: of the member that is counted by its different values


class Raised(NamedTuple):
    """A rule's threshold was reached."""

    group: str
    records: int
    first_ms: int
    last_ms: int
    suppressed: int = 0  #: how many records counted during the cool-down before
    kind: str = "match"  #: or `overflow`, or `silence`


class Group(msgspec.Struct, array_like=True):
    """What is known of one group of a rule."""

    #: Of the newest records: when each was recorded, the how manyth it was to come, and the value that counts.
    times: list[tuple[int, int, str]] = []
    arrived: int = 0
    quiet_from_ms: int = 0
    quiet_until_ms: int = 0
    suppressed: int = 0
    last_ms: int = 0


class RuleWindow(msgspec.Struct):
    """The groups of one rule. For one thread at a time.

    Args:
        digest: Of the rule that this was counted for.
        groups: By their text.
        newest_ms: The newest time of a hit.
        swept_ms: The newest time at the last look for groups whose time is over.
        overflow_until_ms: Until when an overflow is not said again.
    """

    digest: str
    groups: dict[str, Group] = {}
    newest_ms: int = 0
    swept_ms: int = 0
    overflow_until_ms: int = 0

    def count(self, rule: AlertRule, hit: Hit) -> Iterator[Raised]:
        """Count a record; yield what it raises, at most an overflow and an alert."""
        self.newest_ms = max(self.newest_ms, hit.at_ms)
        name = hit.group
        group = self.groups.get(name)
        if group is None and len(self.groups) >= rule.max_groups and not self._has_swept(rule):
            name = OTHERS
            group = self.groups.get(name)
            if hit.at_ms >= self.overflow_until_ms:
                self.overflow_until_ms = hit.at_ms + _OVERFLOW_MS
                yield Raised(OTHERS, rule.max_groups, hit.at_ms, hit.at_ms, kind="overflow")
        if group is None:
            group = self.groups[name] = Group()
        raised = _count(rule, group, hit, name)
        if raised is not None:
            yield raised

    def _has_swept(self, rule: AlertRule) -> bool:
        """Forget the groups whose time is over; return whether there is room now."""
        span = (rule.window_s or 0) * 1000 + _LATE_MS
        # Not at each new group: a look at all of them, for each record of a flood, would be the attacker's gain.
        if self.swept_ms and self.newest_ms - self.swept_ms < span // 4:
            return False
        self.swept_ms = self.newest_ms
        oldest = self.newest_ms - span
        self.groups = {
            name: group
            for name, group in self.groups.items()
            if group.last_ms >= oldest or group.quiet_until_ms >= self.newest_ms
        }
        return len(self.groups) < rule.max_groups


def _count(rule: AlertRule, group: Group, hit: Hit, name: str) -> Raised | None:
    group.last_ms = max(group.last_ms, hit.at_ms)
    if group.quiet_from_ms <= hit.at_ms < group.quiet_until_ms:
        group.suppressed += 1
        return None
    found = _found(rule, group, hit)
    if found is None:
        return None
    first_ms, last_ms = found
    raised = Raised(name, rule.threshold, first_ms, last_ms, group.suppressed)
    # All that could count a second time; a burst of another log at another time goes on.
    begin_ms = last_ms - (rule.window_s or 0) * 1000
    group.times = [entry for entry in group.times if not begin_ms <= entry[0] <= last_ms]
    group.suppressed = 0
    group.quiet_from_ms = last_ms
    group.quiet_until_ms = last_ms + rule.cool_down_s * 1000
    return raised


def _found(rule: AlertRule, group: Group, hit: Hit) -> tuple[int, int] | None:
    """Put a record among those that count; return the first and last time of those that reach the threshold."""
    if rule.threshold == 1:
        return hit.at_ms, hit.at_ms
    span = (rule.window_s or 0) * 1000
    times = group.times
    value = hit.value or ""
    at_ms = hit.at_ms
    if rule.distinct is not None:
        known = next((entry for entry in times if entry[2] == value), None)
        if known is not None:  # a value counts once
            times.remove(known)
            at_ms = max(at_ms, known[0]) if abs(at_ms - known[0]) <= span else at_ms
    group.arrived += 1
    entry = (at_ms, group.arrived, value)
    place = bisect(times, entry)
    times.insert(place, entry)
    further = rule.threshold - 1
    # Only bursts that this record is in: the others were no bursts when the record before came.
    for first in range(max(0, place - further), min(place, len(times) - 1 - further) + 1):
        if times[first + further][0] - times[first][0] <= span:
            return times[first][0], times[first + further][0]
    if len(times) > _ENTRIES * rule.threshold:
        # The one that came first, not the oldest: logs that are caught up with one after the other are each counted.
        times.remove(min(times, key=itemgetter(1)))
    return None


#: What is kept of a group, in thresholds: so many bursts at different times may come mixed, of several logs.
_ENTRIES: Final = 4
