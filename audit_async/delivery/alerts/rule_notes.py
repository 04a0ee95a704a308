"""What is probably a mistake in rules that are right by themselves: types and members that no known event has.

A rule that asks for a type that is misspelt never raises anything, and one that groups by a member that is not there
counts all records together. Neither is wrong for sure: the type, or the member, may be one of the service's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.recorded_members import MemberPath
from audit_async.config.wording import brief, did_you_mean
from audit_async.delivery.alerts.alert_rules import AlertRule
from audit_async.events import AuditEvent
from audit_async.events.registry import known_types

__all__ = ["notes_on"]


def notes_on(rules: Iterable[AlertRule]) -> list[str]:
    """Return a sentence for each type that no known event has, and each member that no known event of a rule has.

    Known are the library's own events, and those of the modules that this process has imported.

    Args:
        rules: The rules.
    """
    types = known_types()
    return [note for rule in rules for note in (*_on_types(rule, types), *_on_members(rule, types))]


def _on_types(rule: AlertRule, types: Mapping[str, type[AuditEvent]]) -> Iterator[str]:
    for event_type in _unknown_types(rule, types):
        yield (
            f"rule.{rule.name}.match: no known event has the type {brief(event_type)}{did_you_mean(event_type, types)}"
        )


def _on_members(rule: AlertRule, types: Mapping[str, type[AuditEvent]]) -> Iterator[str]:
    if _unknown_types(rule, types):
        return  # there is a note on that already, or it is about the service's own events
    filters = [Filter(query) for query in rule.queries()]
    classes = [cls for event_type, cls in types.items() if any(one.wants_type(event_type) for one in filters)]
    members = {name for cls in classes for name in cls.__struct_fields__} | {"event_type"}
    asked = [("group_by", path) for path in rule.group_by]
    if rule.distinct is not None:
        asked.append(("distinct", rule.distinct))
    for key, path in asked:
        parsed = MemberPath.parse(path)
        name = parsed.names[0]
        if not parsed.in_context and name not in members:
            hint = did_you_mean(name, members)
            yield f"rule.{rule.name}.{key}: no known event that it is about has a member {brief(name)}{hint}"


def _unknown_types(rule: AlertRule, types: Mapping[str, type[AuditEvent]]) -> list[str]:
    """Return the types and patterns of a rule that no known event has."""
    return [
        wanted
        for query in rule.queries()
        for wanted in query.event_types
        if not any(map(Filter(AuditQuery(event_types=(wanted,))).wants_type, types))
    ]
