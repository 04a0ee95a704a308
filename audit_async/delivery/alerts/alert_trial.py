"""What rules would have raised on a trail that is there: to try a rule before somebody is woken by it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async._query.recorded_members import Said
from audit_async.delivery.alerts.alert_engine import AlertEngine, ObservedRecord
from audit_async.delivery.alerts.alert_rules import AlertRule
from audit_async.delivery.deliverable_record import OWN_SERVICE
from audit_async.events import AuditAlertRaised, Record
from audit_async.events.recorded import event_members, recorded_time
from audit_async.reader import AuditReader

__all__ = ["RuleTrial", "try_rules"]

#: So long ago that no record is too old.
_ALL: Final = timedelta(days=365 * 200)


class RuleTrial(msgspec.Struct, frozen=True, kw_only=True):
    """What rules would have raised.

    Args:
        records: How many records were looked at.
        alerts: The alerts, in the order of the records' times.
        by_rule: The number of alerts of each rule that raised one or more, in the order of the rules.
        silent_now: The alerts that logs would raise at this moment by their silence.
    """

    records: int
    alerts: list[AuditAlertRaised]
    by_rule: dict[str, int]
    silent_now: list[AuditAlertRaised]


async def try_rules(
    rules: Iterable[AlertRule],
    reader: AuditReader,
    query: AuditQuery = AuditQuery(),  # noqa: B008 - frozen, and it asks for everything
    *,
    most_alerts: int = 100_000,
) -> RuleTrial:
    """Put rules to the records of a trail, in the order of time, and return what they would have raised.

    Nothing is recorded, and no deliverer is asked or changed. A log is named by its service and instance here, so the
    ids of alerts are not those that a deliverer gives.

    Args:
        rules: The rules.
        reader: Of the trail.
        query: Which of its records; a time, for example.
        most_alerts: After so many alerts the rest is not looked at.

    Raises:
        TrailUnreadable: A log can't be read.
        LogCorrupted: A line is no genuine record.
    """
    given = list(rules)
    engine = AlertEngine(given, max_age=_ALL)
    now = datetime.now(UTC)
    alerts: list[AuditAlertRaised] = []
    records = 0
    async with aclosing(reader.query(query)) as found:
        async for record in found:
            if record.service_id == OWN_SERVICE:
                continue
            records += 1
            alerts += engine.look(record.log, record.log, [_observed(record)], now).alerts
            if len(alerts) >= most_alerts:
                break
    silent = [alert for looked in engine.silent(now, datetime.min.replace(tzinfo=UTC)) for alert in looked.alerts]
    by_rule = {rule.name: count for rule in given if (count := sum(alert.rule == rule.name for alert in alerts))}
    return RuleTrial(records=records, alerts=alerts, by_rule=by_rule, silent_now=silent)


def _observed(record: Record) -> ObservedRecord:
    at = recorded_time(record.timestamp)
    said = Said(event_members(record.event), record.context, at)
    return ObservedRecord(record.seq, record.audit_id, at, said)
