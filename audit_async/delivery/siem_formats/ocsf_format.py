"""Records as events of OCSF, the Open Cybersecurity Schema Framework (https://schema.ocsf.io/1.8.0/).

An event has everything that its record has: what has a place in the schema is there, and the rest is in `unmapped`,
byte for byte as it was recorded. `metadata.uid` is the audit_id, `metadata.sequence` the record's place in the chain,
and `unmapped.audit` names the log and the record's hashes, so that a copy can be compared with the trail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from audit_async._version import __version__
from audit_async.delivery.deliverable_record import DeliverableRecord
from audit_async.delivery.siem_formats.ocsf_classes import OCSF_VERSION, SEVERITIES, UNKNOWN, OcsfClass
from audit_async.delivery.siem_formats.ocsf_mapping import BUILT_IN, OcsfMapping
from audit_async.delivery.siem_formats.ocsf_members import Actor, MemberRule
from audit_async.delivery.siem_formats.recorded_line import RecordedLine, epoch_ms, open_line, plain_value, provenance
from audit_async.events.class_rules import class_of

__all__ = ["OcsfFormat", "mapping_of"]

_PRODUCT: Final = {"name": "audit-async", "vendor_name": "audit-async", "version": __version__}
_OTHER: Final = 99
_SHA_256: Final = 3
_REGULAR_FILE: Final = 1
_STATUS: Final = {1: "Success", 2: "Failure"}

#: Of the types that neither the table nor a class says anything of, with an actor and without.
_DEFAULT_WITH_ACTOR: Final = OcsfMapping(
    ocsf_class=OcsfClass.API_ACTIVITY, activity=_OTHER, activity_name="Other", members={"actor": Actor()}
)
_DEFAULT: Final = OcsfMapping(ocsf_class=OcsfClass.BASE_EVENT, activity=_OTHER, activity_name="Other")

#: What a class requires, and is said to be unknown if the record does not say it.
_REQUIRED: Final[Mapping[OcsfClass, Mapping[str, object]]] = {
    OcsfClass.PROCESS_ACTIVITY: {
        "actor": {"user": {"name": UNKNOWN}},
        "device": {"name": UNKNOWN, "type_id": 0},
        "process": {"uid": UNKNOWN},
    },
    OcsfClass.AUTHENTICATION: {"user": {"name": UNKNOWN}},
    OcsfClass.AUTHORIZE_SESSION: {"user": {"name": UNKNOWN}, "privileges": []},
    OcsfClass.ACCOUNT_CHANGE: {"user": {"name": UNKNOWN}},
    OcsfClass.USER_ACCESS: {"user": {"name": UNKNOWN}, "privileges": []},
    OcsfClass.HTTP_ACTIVITY: {"http_request": {}},
    OcsfClass.WEB_RESOURCES_ACTIVITY: {"web_resources": [{"name": UNKNOWN}]},
    OcsfClass.API_ACTIVITY: {"actor": {"user": {"name": UNKNOWN}}, "src_endpoint": {"name": UNKNOWN}},
    OcsfClass.DATASTORE_ACTIVITY: {
        "actor": {"user": {"name": UNKNOWN}},
        "src_endpoint": {"name": UNKNOWN},
        "table": {"name": UNKNOWN},
    },
    OcsfClass.FILE_HOSTING: {"actor": {"user": {"name": UNKNOWN}}, "src_endpoint": {"name": UNKNOWN}},
}


def mapping_of(event_type: str, *, has_actor: bool) -> OcsfMapping:
    """Return how events of a type are delivered: by the table, the annotation `ocsf` of its class, or the default.

    Args:
        event_type: The type.
        has_actor: Whether the event has a member `actor`, which decides the default.
    """
    mapping = BUILT_IN.get(event_type)
    if mapping is None:
        annotated = getattr(class_of(event_type), "ocsf", None)
        mapping = annotated if isinstance(annotated, OcsfMapping) else None
    return mapping or (_DEFAULT_WITH_ACTOR if has_actor else _DEFAULT)


class OcsfFormat:
    """Makes OCSF events of records. From any thread; two formats share nothing.

    Args:
        raw_data: Whether each event holds the recorded line as well, in `raw_data`, with its SHA-256. It is about twice
            as long then, and proves itself: the line's own hash follows from its bytes.
    """

    is_json: Final = True
    content_type: Final = "application/json"

    def __init__(self, *, raw_data: bool = False) -> None:
        self._raw_data = raw_data
        self._makers: dict[tuple[str, bool], _Maker] = {}

    def encode(self, record: DeliverableRecord) -> bytes:
        """Return the event of a record as one JSON object, without a line feed in it or after it.

        Args:
            record: The record, with the log that it is from.

        Raises:
            NotARecord: If its line is none.
        """
        line = open_line(record)
        event = self._maker(line).event(record, line)
        if self._raw_data:
            raw = record.line.rstrip(b"\n")
            event["raw_data"] = raw.decode()
            event["raw_data_size"] = len(raw)
            digest = sha256(raw).hexdigest()
            event["raw_data_hash"] = {"algorithm": "SHA-256", "algorithm_id": _SHA_256, "value": digest}
        return _encode(event)

    def _maker(self, record: RecordedLine) -> _Maker:
        key = (record.event_type, "actor" in record.event)
        maker = self._makers.get(key)
        if maker is None:
            maker = _Maker(record.event_type, mapping_of(record.event_type, has_actor=key[1]))
            if len(self._makers) < _MOST_TYPES:
                self._makers[key] = maker
        return maker


#: Types that a format remembers: a service has some hundreds at most.
_MOST_TYPES: Final = 4096

_encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


class _Maker:
    """What all events of one type have in common, made once."""

    def __init__(self, event_type: str, mapping: OcsfMapping) -> None:
        self._class = mapping.ocsf_class
        self._mapping = mapping
        self._event_type = event_type
        self._rules: Mapping[str, MemberRule] = mapping.members
        self._required = _REQUIRED.get(mapping.ocsf_class, {})
        self._constants: dict[str, Any] = {
            "category_uid": self._class.category_uid,
            "category_name": self._class.category,
            "class_uid": self._class.uid,
            "class_name": self._class.caption,
            "activity_id": mapping.activity,
            "activity_name": mapping.activity_name,
            "type_uid": self._class.uid * 100 + mapping.activity,
            "severity_id": mapping.severity,
            "severity": SEVERITIES[mapping.severity],
        }
        if mapping.status is not None:
            self._constants["status_id"] = mapping.status
            self._constants["status"] = _STATUS[mapping.status]

    def event(self, delivered: DeliverableRecord, record: RecordedLine) -> dict[str, Any]:
        """Return the event of a record of this type."""
        out = dict(self._constants)
        emitted = epoch_ms(record.timestamp) or 0
        out["time"] = emitted
        out["metadata"] = metadata = {
            "version": OCSF_VERSION,
            "profiles": ["host"],
            "product": _PRODUCT,
            "uid": record.audit_id,
            "sequence": record.seq,
            "event_code": record.event_type,
            "log_name": record.service_id,
            "logged_time": emitted,
            "original_time": record.timestamp,
        }
        rest = self._put_members(out, record.event)
        context = record.context
        if "request_id" in context:
            request_id = plain_value(context["request_id"])
            if isinstance(request_id, str):
                metadata["correlation_uid"] = request_id
        self._complete(out, record, rest)
        unmapped: dict[str, Any] = {"audit": provenance(delivered, record)}
        if rest:
            unmapped["event"] = rest
        if context:
            unmapped["context"] = context
        out["unmapped"] = unmapped
        return out

    def _put_members(self, out: dict[str, Any], members: dict[str, msgspec.Raw]) -> dict[str, Any]:
        """Put each member in its place; return what has none, by name."""
        rest: dict[str, Any] = {}
        rules = self._rules
        for name, raw in members.items():
            rule = rules.get(name)
            if rule is None:
                rest[name] = raw
                if name == "occurred_at" and (happened := epoch_ms(str(plain_value(raw)))) is not None:
                    out["time"] = happened
                continue
            value = plain_value(raw)
            left = rule.put(out, value)
            if left is value:
                rest[name] = raw  # as it was recorded: a number may be one that JSON has and Python's decoder has not
            elif left is not None:
                rest[name] = left
        return rest

    def _complete(self, out: dict[str, Any], record: RecordedLine, rest: dict[str, Any]) -> None:
        """Set what the class requires and the record does not say, and the constants of the type."""
        out["type_uid"] = self._class.uid * 100 + out["activity_id"]
        for name, unknown in self._required.items():
            out.setdefault(name, unknown)
        match self._class:
            case OcsfClass.API_ACTIVITY:
                out.setdefault("api", {}).setdefault("operation", self._event_type)
            case OcsfClass.AUTHENTICATION:
                out["service"] = {"name": record.service_id}
            case OcsfClass.EVENT_LOG_ACTIVITY:
                out["log_name"] = record.service_id
                out["log_type_id"], out["log_type"] = 2, "Application"
                if "file" in out:
                    out["file"]["type_id"] = _REGULAR_FILE
            case OcsfClass.DETECTION_FINDING:
                out.setdefault("finding_info", {})["uid"] = record.audit_id
            case OcsfClass.ENTITY_MANAGEMENT:
                entity = out.setdefault("entity", {})
                if "uid" not in entity:
                    entity["name"] = UNKNOWN
            case OcsfClass.FILE_HOSTING:
                out.setdefault("file", {}).setdefault("name", UNKNOWN)
            case OcsfClass.HTTP_ACTIVITY:
                _require_status(out, record, rest)
            case _:
                pass
        for place, text in self._mapping.constants.items():
            _set_constant(out, place, text)
        _complete_objects(out)


def _set_constant(out: dict[str, Any], place: str, text: str) -> None:
    """Set a text that all events of a type have, unless the event itself says it."""
    outer, _, name = place.rpartition(".")
    target = out.setdefault(outer, {}) if outer else out
    target.setdefault(name, [text] if name == "types" else text)


def _require_status(out: dict[str, Any], record: RecordedLine, rest: dict[str, Any]) -> None:
    """Take a response without a status code out again: the schema has none, and it may have had no beginning."""
    response = out.get("http_response")
    if response is not None and "code" not in response:
        del out["http_response"]
        rest.update((name, record.event[name]) for name in _OF_RESPONSE if name in record.event)


_OF_RESPONSE: Final = ("bytes_out",)


def _complete_objects(out: dict[str, Any]) -> None:
    """Give the objects of an event what the schema requires of each."""
    actor = out.get("actor")
    for user in (out.get("user"), actor.get("user") if actor else None):
        if user is not None and "uid" not in user and "name" not in user:
            user["name"] = UNKNOWN
    for name in ("resources", "web_resources"):
        for resource in out.get(name, ()):
            if "uid" not in resource and "name" not in resource:
                resource["name"] = UNKNOWN
    for name in ("file", "device"):
        if name in out:
            out[name].setdefault("type_id", 0)  # unknown
