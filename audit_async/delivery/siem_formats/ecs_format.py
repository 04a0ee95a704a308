"""Records in ECS, the Elastic Common Schema 9.4 (https://www.elastic.co/docs/reference/ecs).

What has a field in ECS is there, and the whole event and context are in `audit_async.event` and `audit_async.context`
as they were recorded. `event.id` is the audit_id, `event.sequence` the record's place in the chain, `event.hash` its
hash, and `audit_async` names the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from audit_async.delivery.deliverable_record import DeliverableRecord
from audit_async.delivery.siem_formats.member_fields import FieldRule, address, field_values, number, outcome_of, text
from audit_async.delivery.siem_formats.ocsf_classes import OcsfClass
from audit_async.delivery.siem_formats.ocsf_format import mapping_of
from audit_async.delivery.siem_formats.recorded_line import RecordedLine, open_line, plain_value, provenance
from audit_async.events.recorded import recorded_time

__all__ = ["ECS_FIELDS", "ECS_VERSION", "EcsFormat"]

ECS_VERSION: Final = "9.4.0"

_NANOSECONDS: Final = 1_000_000


def _nanoseconds(value: object) -> object:
    """Take a duration in milliseconds."""
    return value * _NANOSECONDS if type(value) is int and 0 <= value < 2**63 // _NANOSECONDS else None


def _texts(value: object) -> object:
    """Take a text as a list of it."""
    return [value] if isinstance(value, str) and value else None


#: Who acts, in events that have no `actor`.
_PERSONS: Final = (
    "actor.user_id",
    "actor",
    "requester",
    "set_by",
    "lifted_by",
    "requested_by",
    "approved_by",
    "cancelled_by",
    "changed_by",
    "acknowledged_by",
)

#: The fields that members of events have.
ECS_FIELDS: Final = (
    FieldRule("user.id", _PERSONS, text),
    FieldRule("user.name", ("attempted_user",), text),
    FieldRule("user.full_name", ("actor.display_name",), text),
    FieldRule("user.roles", ("actor.role",), _texts),
    FieldRule("user.target.id", ("subject",), text),
    FieldRule("organization.id", ("actor.tenant",), text),
    FieldRule("source.ip", ("actor.ip", "ip"), address),
    FieldRule("url.path", ("path", "endpoint"), text),
    FieldRule("url.query", ("query",), text),
    FieldRule("http.request.method", ("method",), text),
    FieldRule("http.request.body.bytes", ("bytes_in",), number),
    FieldRule("http.response.status_code", ("status",), number),
    FieldRule("http.response.body.bytes", ("bytes_out",), number),
    FieldRule("user_agent.original", ("user_agent",), text),
    FieldRule("event.duration", ("duration_ms",), _nanoseconds),
    FieldRule("event.reason", ("reason", "result.reason", "result.details"), text),
    FieldRule("event.risk_score", ("risk_score",), number),
    FieldRule("error.type", ("error", "exception"), text),
    FieldRule("log.level", ("level",), text),
    FieldRule("log.logger", ("logger",), text),
    FieldRule("message", ("message",), text),
    FieldRule("file.name", ("segment",), text),
    FieldRule("process.name", ("command",), text),
    FieldRule("process.entity_id", ("run_id",), text),
    FieldRule("process.exit_code", ("exit_status",), number),
)
#: Only an HTTP request's `method` and `status` are HTTP's.
_HTTP_ALONE: Final = frozenset({"http.request.method", "http.response.status_code"})
_OTHER_FIELDS: Final = tuple(rule for rule in ECS_FIELDS if rule.field not in _HTTP_ALONE)

_CONTEXT_FIELDS: Final = (
    FieldRule("http.request.id", ("request_id",), text),
    FieldRule("trace.id", ("trace_id",), text),
    FieldRule("span.id", ("span_id",), text),
)

_CHANGES: Final = {1: "creation", 2: "access", 3: "change", 4: "deletion", 6: "creation", 7: "deletion", 11: "change"}
_ACCOUNTS: Final = {1: "creation", 6: "deletion"}
_CATEGORY_OF_ENTITY: Final = {"Token": "iam", "API Key": "iam", "Configuration": "configuration"}


class EcsFormat:
    """Makes ECS documents of records. From any thread."""

    is_json: Final = True
    content_type: Final = "application/json"

    def encode(self, record: DeliverableRecord) -> bytes:
        """Return the document of a record as one JSON object, without a line feed in it or after it.

        Args:
            record: The record, with the log that it is from.

        Raises:
            NotARecord: If its line is none.
        """
        line = open_line(record)
        event: dict[str, Any] = {name: plain_value(raw) for name, raw in line.event.items()}
        document: dict[str, Any] = {
            "@timestamp": _happened(event.get("occurred_at")) or line.timestamp,
            "ecs": {"version": ECS_VERSION},
            "event": {
                **_classified(line.event_type, event),
                "action": line.event_type,
                "code": line.event_type,
                "created": line.timestamp,
                "dataset": "audit_async.trail",
                "module": "audit_async",
                "provider": "audit-async",
                "outcome": outcome_of({"event_type": line.event_type, **event}),
                "id": line.audit_id,
                "sequence": line.seq,
                "hash": record.hash,
            },
            "service": {"name": line.service_id},
            "audit_async": {**provenance(record, line), "event": line.event},
        }
        if record.host:
            document["agent"] = {"name": record.host, "type": "audit-async"}
        if record.instance:
            document["service"]["node"] = {"name": record.instance}
        _set_fields(document, line, event)
        if line.context:
            document["audit_async"]["context"] = line.context
        return _encode(document)


_encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode

#: What Elasticsearch's type `date_nanos` can hold: nanoseconds since 1970 in 63 bits.
_FIRST_YEAR, _LAST_YEAR = 1970, 2261


def _happened(value: object) -> str | None:
    """Return a time in UTC; None if a text is none, as one that was redacted, or a receiver could not store it."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None or moment.utcoffset() is None:
            return None
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return recorded_time(moment) if _FIRST_YEAR <= moment.year <= _LAST_YEAR else None


def _set_fields(document: dict[str, Any], line: RecordedLine, event: dict[str, Any]) -> None:
    rules = ECS_FIELDS if line.event_type.startswith("http.") else _OTHER_FIELDS
    for field, value in field_values(event, rules):
        _set(document, field, value)
    if line.context:
        context = {name: plain_value(line.context[name]) for name in _CONTEXT_NAMES & line.context.keys()}
        for field, value in field_values(context, _CONTEXT_FIELDS):
            _set(document, field, value)
    related: dict[str, list[object]] = {}
    user, source = document.get("user", {}), document.get("source", {})
    users = [name for name in (user.get("id"), user.get("name"), user.get("target", {}).get("id")) if name is not None]
    if users:
        related["user"] = users
    if source:
        related["ip"] = [source["ip"]]
    if related:
        document["related"] = related


_CONTEXT_NAMES: Final = frozenset({"request_id", "trace_id", "span_id"})


def _set(document: dict[str, Any], field: str, value: object) -> None:
    *outer, name = field.split(".")
    for part in outer:
        document = document.setdefault(part, {})
    document[name] = value


def _classified(event_type: str, event: Mapping[str, object]) -> dict[str, object]:
    """Return `event.kind`, `event.category` and `event.type`, which follow from the class in OCSF."""
    mapping = mapping_of(event_type, has_actor="actor" in event)
    kind = "alert" if mapping.ocsf_class is OcsfClass.DETECTION_FINDING else "event"
    categories: list[str] = []
    types = ["info"]
    match mapping.ocsf_class:
        case OcsfClass.AUTHENTICATION:
            categories = ["authentication", "session"] if event_type.startswith("session.") else ["authentication"]
            types = ["end"] if mapping.activity in {2, 99} else ["start"]
        case OcsfClass.AUTHORIZE_SESSION:
            categories, types = ["api"], ["denied" if mapping.status == _FAILURE else "allowed"]
        case OcsfClass.ACCOUNT_CHANGE:
            categories, types = ["iam"], ["user", _ACCOUNTS.get(mapping.activity, "change")]
        case OcsfClass.USER_ACCESS:
            categories, types = ["iam"], ["admin", "change"]
        case OcsfClass.ENTITY_MANAGEMENT:
            categories = [_CATEGORY_OF_ENTITY.get(mapping.constants.get("entity.type", ""), "api")]
            types = [_CHANGES.get(mapping.activity, "info")]
        case OcsfClass.API_ACTIVITY:
            categories, types = ["api"], [_CHANGES.get(mapping.activity, "info")]
        case OcsfClass.DATASTORE_ACTIVITY:
            categories, types = ["database"], ["change"]
        case OcsfClass.HTTP_ACTIVITY:
            categories, types = ["web"], ["access"]
        case OcsfClass.WEB_RESOURCES_ACTIVITY | OcsfClass.FILE_HOSTING:
            categories, types = ["file"], ["access"]
        case OcsfClass.DETECTION_FINDING:
            categories = ["intrusion_detection"]
        case OcsfClass.PROCESS_ACTIVITY:
            categories, types = ["process"], ["start" if mapping.activity == 1 else "end"]
        case _:
            pass
    return {"kind": kind, "category": categories, "type": types} if categories else {"kind": kind, "type": types}


_FAILURE: Final = 2
