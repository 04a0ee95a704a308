"""Alerts: rules in the terms of a query, counted within windows of time; each alert is an event in a log.

A sink of the type `alerts` in `deliver.toml` names a file of rules, or uses the starter set. Rules are put
to the records of all logs as they are delivered, and what was counted is durable: a deliverer that was killed and
started again raises each alert once. An alert is an `audit.alert_raised`, which every other sink gets.
"""

from __future__ import annotations

from audit_async.delivery.alerts.alert_engine import AlertEngine, Looked, ObservedRecord
from audit_async.delivery.alerts.alert_rules import AlertRule, read_rules, starter_rules, starter_rules_text
from audit_async.delivery.alerts.alert_state import AlertStateUnusable
from audit_async.delivery.alerts.alert_trial import RuleTrial, try_rules
from audit_async.delivery.alerts.rule_notes import notes_on

__all__ = [
    "AlertEngine",
    "AlertRule",
    "AlertStateUnusable",
    "Looked",
    "ObservedRecord",
    "RuleTrial",
    "notes_on",
    "read_rules",
    "starter_rules",
    "starter_rules_text",
    "try_rules",
]
