"""Which OCSF class each built-in event is delivered as, and where its members go.

docs/ocsf.md is this table. A service says the same of its own events by an annotation on the class (`Mapping`).
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from types import MappingProxyType
from typing import Final

import msgspec

from audit_async.delivery.siem_formats.ocsf_classes import SEVERITIES, OcsfClass
from audit_async.delivery.siem_formats.ocsf_members import (
    Activity,
    Actor,
    Address,
    AuthProtocol,
    HttpMethod,
    MemberRule,
    Number,
    Resource,
    Result,
    SeverityText,
    Status,
    Text,
    Texts,
)
from audit_async.errors import ConfigError

__all__ = ["BUILT_IN", "OcsfMapping"]

_INFORMATIONAL: Final = 1
_LOW: Final = 2
_MEDIUM: Final = 3
_HIGH: Final = 4

_SUCCESS: Final = 1
_FAILURE: Final = 2


class OcsfMapping(msgspec.Struct, frozen=True, kw_only=True):
    """How events of one type are delivered in OCSF.

    A service says it of its own events by an annotation on the class, in the process that delivers them:

        class InvoicePaid(AuditEvent, tag="billing.invoice_paid"):
            ocsf: ClassVar[OcsfMapping] = OcsfMapping(
                ocsf_class=OcsfClass.API_ACTIVITY,
                activity=3,
                activity_name="Update",
                members={"actor": Actor(), "invoice_id": Text("resources[].uid")},
            )

    Args:
        ocsf_class: The class of the OCSF event.
        activity: Its `activity_id`; 99 for one that the class does not list.
        activity_name: Its name, required by OCSF if it is 99.
        severity: Its `severity_id`, 1 (Informational) to 5 (Critical).
        status: 1 if the type says that it succeeded, 2 if it says that it failed; None if it says neither.
        members: By the name of a member, where it goes; any other member stays in `unmapped`.
        constants: By place, a text that every such event has, such as the type of an entity.

    Raises:
        ConfigError: If an activity or severity is none that OCSF has.
    """

    ocsf_class: OcsfClass
    activity: int
    activity_name: str
    severity: int = _INFORMATIONAL
    status: int | None = None
    members: MappingOf[str, MemberRule] = {}
    constants: MappingOf[str, str] = {}

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ConfigError("severity", f"is none of OCSF's: {', '.join(map(str, SEVERITIES))}")
        if not 0 <= self.activity <= 99 or not self.activity_name:
            raise ConfigError("activity", "is no activity of a class: a number from 0 to 99, with its name")
        msgspec.structs.force_setattr(self, "members", MappingProxyType(dict(self.members)))


def _authentication(activity: int, name: str, severity: int = _INFORMATIONAL, /, **more: MemberRule) -> OcsfMapping:
    members: dict[str, MemberRule] = {
        "actor": Actor("user"),
        "method": AuthProtocol(),
        "reason": Text("status_detail"),
        "path": Text("http_request.url.path"),
    }
    return OcsfMapping(
        ocsf_class=OcsfClass.AUTHENTICATION,
        activity=activity,
        activity_name=name,
        severity=severity,
        status=_SUCCESS,
        members={**members, **more},
    )


def _account(activity: int, name: str, severity: int = _INFORMATIONAL) -> OcsfMapping:
    return OcsfMapping(
        ocsf_class=OcsfClass.ACCOUNT_CHANGE,
        activity=activity,
        activity_name=name,
        severity=severity,
        status=_SUCCESS,
        members={"actor": Actor(), "subject": Text("user.uid"), "reason": Text("status_detail")},
    )


def _entity(kind: str, activity: int, name: str, severity: int = _INFORMATIONAL, /, **more: MemberRule) -> OcsfMapping:
    """Return how the life of something with an id is delivered: a pool, a key, a customer's data."""
    members: dict[str, MemberRule] = {"actor": Actor(), "reason": Text("comment")}
    return OcsfMapping(
        ocsf_class=OcsfClass.ENTITY_MANAGEMENT,
        activity=activity,
        activity_name=name,
        severity=severity,
        status=_SUCCESS,
        members={**members, **more},
        constants={"entity.type": kind},
    )


def _api(activity: int, name: str, status: int | None = None, /, **more: MemberRule) -> OcsfMapping:
    members: dict[str, MemberRule] = {
        "actor": Actor(),
        "ip": Address(),
        "resource": Resource(),
        "result": Result(),
        "duration_ms": Number("duration"),
    }
    return OcsfMapping(
        ocsf_class=OcsfClass.API_ACTIVITY,
        activity=activity,
        activity_name=name,
        status=status,
        members={**members, **more},
    )


def _finding(title: str, severity: int = _HIGH, *, kind: str = "security", **more: MemberRule) -> OcsfMapping:
    members: dict[str, MemberRule] = {
        "actor": Actor(address="evidences[].src_endpoint.ip"),
        "ip": Address("evidences[].src_endpoint.ip"),
        "severity": SeverityText(),
        "details": Text("finding_info.desc"),
        "reason": Text("finding_info.desc"),
        "resource_type": Text("resources[].type"),
        "resource_id": Text("resources[].uid"),
    }
    return OcsfMapping(
        ocsf_class=OcsfClass.DETECTION_FINDING,
        activity=1,
        activity_name="Create",
        severity=severity,
        members={**members, **more},
        constants={"finding_info.title": title, "finding_info.types": kind},
    )


def _base(name: str, status: int | None = None, **more: MemberRule) -> OcsfMapping:
    members: dict[str, MemberRule] = {
        "actor": Actor(address=""),
        "result": Result(),
        "reason": Text("status_detail"),
        "duration_ms": Number("duration"),
    }
    return OcsfMapping(
        ocsf_class=OcsfClass.BASE_EVENT,
        activity=99,
        activity_name=name,
        severity=_INFORMATIONAL,
        status=status,
        members={**members, **more},
    )


def _log(activity: int, name: str, severity: int = _INFORMATIONAL, /, **more: MemberRule) -> OcsfMapping:
    """Return how the log's own life is delivered."""
    members: dict[str, MemberRule] = {"reason": Text("status_detail"), "segment": Text("file.name")}
    return OcsfMapping(
        ocsf_class=OcsfClass.EVENT_LOG_ACTIVITY,
        activity=activity,
        activity_name=name,
        severity=severity,
        members={**members, **more},
    )


def _person(member: str) -> dict[str, MemberRule]:
    return {member: Text("actor.user.uid")}


_TABLE_OPERATIONS: Final = (("create", 5, "Write"), ("update", 2, "Update"), ("delete", 7, "Delete"))
_OUTCOME: Final = Status(
    success=frozenset({"completed", "committed"}), failure=frozenset({"failed", "rolled_back", "cancelled"})
)


def _http(name: str, **more: MemberRule) -> OcsfMapping:
    members: dict[str, MemberRule] = {
        "actor": Actor(),
        "method": HttpMethod(),
        "path": Text("http_request.url.path"),
        "query": Text("http_request.url.query_string"),
        "ip": Address(),
        "user_agent": Text("http_request.user_agent"),
        "status": Number("http_response.code"),
        "duration_ms": Number("duration"),
        "bytes_in": Number("http_request.body_length"),
        "bytes_out": Number("http_response.body_length"),
        "outcome": _OUTCOME,
        "error": Text("status_detail"),
    }
    return OcsfMapping(ocsf_class=OcsfClass.HTTP_ACTIVITY, activity=99, activity_name=name, members={**members, **more})


def _datastore(name: str, **more: MemberRule) -> OcsfMapping:
    members: dict[str, MemberRule] = {
        "actor": Actor(),
        "resource_type": Text("table.name"),
        "rows": Number("count"),
    }
    return OcsfMapping(
        ocsf_class=OcsfClass.DATASTORE_ACTIVITY,
        activity=99,
        activity_name=name,
        members={**members, **more},
    )


def _access(activity: int, name: str, severity: int, **more: MemberRule) -> OcsfMapping:
    members: dict[str, MemberRule] = {"actor": Actor(), "subject": Text("user.uid"), "scope": Text("resources[].name")}
    return OcsfMapping(
        ocsf_class=OcsfClass.USER_ACCESS,
        activity=activity,
        activity_name=name,
        severity=severity,
        status=_SUCCESS,
        members={**members, **more},
    )


def _decision(name: str, severity: int, status: int) -> OcsfMapping:
    members: dict[str, MemberRule] = {
        "actor": Actor("user"),
        "action": Texts("privileges"),
        "reason": Text("status_detail"),
    }
    return OcsfMapping(
        ocsf_class=OcsfClass.AUTHORIZE_SESSION,
        activity=99,
        activity_name=name,
        severity=severity,
        status=status,
        members=members,
    )


def _process(activity: int, name: str, **more: MemberRule) -> OcsfMapping:
    members: dict[str, MemberRule] = {
        "actor": Actor(address=""),
        "command": Text("process.name"),
        "run_id": Text("process.uid"),
        "duration_ms": Number("duration"),
        "error": Text("status_detail"),
    }
    return OcsfMapping(
        ocsf_class=OcsfClass.PROCESS_ACTIVITY,
        activity=activity,
        activity_name=name,
        members={**members, **more},
    )


def _resources(activity: int, name: str) -> OcsfMapping:
    return OcsfMapping(
        ocsf_class=OcsfClass.WEB_RESOURCES_ACTIVITY,
        activity=activity,
        activity_name=name,
        status=_SUCCESS,
        members={"actor": Actor(), "resource": Resource("web_resources[]"), "customer_id": Text("web_resources[].uid")},
    )


_FAILED_LOGON: Final[MappingOf[str, MemberRule]] = {
    "attempted_user": Text("user.name"),
    "subject": Text("user.uid"),
    "actor": Actor(),
    "ip": Address(),
    "method": AuthProtocol(),
}
_TOKEN: Final = {"token_fingerprint": Text("entity.uid"), "key_fingerprint": Text("entity.uid")}
_CUSTOMER: Final = {"customer_id": Text("entity.uid")}
_TOOL: Final = {"tool": Text("api.operation"), "call_id": Text("api.request.uid")}

_IDENTITY: Final = {
    "auth.success": _authentication(1, "Logon"),
    "auth.failure": msgspec.structs.replace(_authentication(1, "Logon", _LOW, **_FAILED_LOGON), status=_FAILURE),
    "user.mfa_failed": msgspec.structs.replace(_authentication(1, "Logon", _MEDIUM, **_FAILED_LOGON), status=_FAILURE),
    "session.started": _authentication(1, "Logon"),
    "session.ended": _authentication(2, "Logoff"),
    "session.impersonation_started": _authentication(
        7, "Account Switch", _MEDIUM, actor=Actor(), subject=Text("user.uid")
    ),
    "session.impersonation_ended": _authentication(99, "Account Switch Ended", actor=Actor(), subject=Text("user.uid")),
    "authz.granted": _decision("Access Granted", _INFORMATIONAL, _SUCCESS),
    "authz.denied": _decision("Access Denied", _LOW, _FAILURE),
    "authz.permission_changed": _access(99, "Permissions Replaced", _MEDIUM, new_permissions=Texts("privileges")),
    "access.role_granted": _access(1, "Assign Privileges", _MEDIUM, role=Texts("privileges")),
    "access.role_revoked": _access(2, "Revoke Privileges", _MEDIUM, role=Texts("privileges")),
    "token.created": _entity("Token", 1, "Create", **_TOKEN),
    "token.revoked": _entity("Token", 11, "Deactivate", _MEDIUM, **_TOKEN),
    "access.api_key_created": _entity("API Key", 1, "Create", **_TOKEN),
    "access.api_key_rotated": _entity("API Key", 3, "Update", **_TOKEN),
    "access.api_key_revoked": _entity("API Key", 11, "Deactivate", _MEDIUM, **_TOKEN),
    "user.created": _account(1, "Create"),
    "user.deleted": _account(6, "Delete"),
    "user.restored": _account(99, "Restore"),
    "user.updated": _account(99, "Update"),
    "user.password_changed": _account(3, "Password Change"),
    "user.password_reset": _account(4, "Password Reset", _MEDIUM),
    "user.mfa_enabled": _account(10, "MFA Factor Enable"),
    "user.mfa_disabled": _account(11, "MFA Factor Disable", _MEDIUM),
    "user.locked": _account(9, "Lock", _MEDIUM),
    "user.unlocked": _account(12, "Unlock"),
}

_APPLICATION: Final = {
    "http.request": _http("Request"),
    "http.request_started": _http("Request Started"),
    "http.websocket_closed": _http("WebSocket Closed"),
    "rpc.ended": _api(99, "Call", method=Text("api.operation"), error=Text("api.response.error")),
    "resource.created": _api(1, "Create", _SUCCESS),
    "resource.read": _api(2, "Read", _SUCCESS),
    "resource.updated": _api(3, "Update", _SUCCESS),
    "resource.deleted": _api(4, "Delete", _SUCCESS),
    "resource.change_intended": _api(99, "Change Intended"),
    "resource.bulk_changed": _datastore("Bulk Change", operation=Activity(_TABLE_OPERATIONS)),
    "resource.bulk_change_intended": _datastore("Bulk Change Intended"),
    "transaction.intended": _base("Transaction Intended"),
    "transaction.ended": _base("Transaction Ended", outcome=_OUTCOME),
    "config.changed": _entity("Configuration", 3, "Update", _MEDIUM, resource=Resource("entity")),
    "data.exported": _resources(7, "Export"),
    "data.file_downloaded": OcsfMapping(
        ocsf_class=OcsfClass.FILE_HOSTING,
        activity=2,
        activity_name="Download",
        status=_SUCCESS,
        members={"actor": Actor(), "resource": Resource("file", "name")},
    ),
    "data.deleted": _entity("Customer Data", 4, "Delete", **_CUSTOMER),
    "data.model_accessed": _entity("Model", 2, "Read", model_ref=Text("entity.uid")),
    "data.inference_executed": _base("Inference Executed"),
    "compliance.gdpr_data_access_request": _base("Data Access Requested", requester=Text("actor.user.uid")),
    "compliance.gdpr_data_export": _resources(7, "Export"),
    "compliance.gdpr_right_to_erasure": _entity("Customer Data", 4, "Delete", **_CUSTOMER),
    "agent.tool_called": _api(99, "Tool Called", **_TOOL),
    "agent.decision": _api(99, "Tool Call Decided", **_TOOL),
    "agent.approval": _api(99, "Tool Call Approval Asked", **_TOOL),
    "agent.model_called": _api(99, "Model Called", model=Text("resources[].name"), call_id=Text("api.request.uid")),
    "job.ended": _base("Job Ended"),
    "command.started": _process(1, "Launch"),
    "command.ended": _process(2, "Terminate", exit_status=Number("exit_code")),
    "log.recorded": _base("Log Record", level=SeverityText(), message=Text("message")),
}

_INFERENCE: Final = {
    "pool.created": _entity("Pool", 1, "Create", pool_id=Text("entity.uid")),
    "pool.deleted": _entity("Pool", 4, "Delete", pool_id=Text("entity.uid")),
    "pool.modified": _entity("Pool", 3, "Update", pool_id=Text("entity.uid")),
    "node.registered": _entity("Node", 6, "Enroll", node_id=Text("entity.uid")),
    "node.deregistered": _entity("Node", 7, "Unenroll", node_id=Text("entity.uid")),
    "task.submitted": _entity("Task", 99, "Submitted", task_id=Text("entity.uid")),
    "task.completed": msgspec.structs.replace(
        _entity("Task", 99, "Completed", task_id=Text("entity.uid"), result=Result(), duration_ms=Number("duration")),
        status=None,
    ),
    "task.canceled": _entity("Task", 99, "Canceled", task_id=Text("entity.uid")),
    "vram.sealed": _base("Memory Sealed", status=_SUCCESS),
    "seal.verified": _base("Seal Verified", status=_SUCCESS),
    "seal.verification_failed": _finding("A shard is not what was sealed", kind="integrity"),
    "vram.allocated": _base("Memory Allocated", status=_SUCCESS),
    "vram.allocation_failed": OcsfMapping(
        ocsf_class=OcsfClass.APPLICATION_ERROR,
        activity=1,
        activity_name="General Error",
        severity=_MEDIUM,
        status=_FAILURE,
        members={"reason": Text("status_detail")},
    ),
    "vram.deallocated": _base("Memory Deallocated", status=_SUCCESS),
}

_SECURITY: Final = {
    "security.rate_limit_exceeded": _finding("More requests than are allowed", _LOW),
    "security.path_traversal_attempt": _finding("A path pointed out of where it may point"),
    "security.invalid_token_used": _finding("A token was shown that is none", _MEDIUM),
    "security.policy_violation": _finding("A worker broke a policy"),
    "security.suspicious_activity": _finding("An actor did something unusual", risk_score=Number("risk_score")),
    "security.integrity_violation": _finding("A resource is not what it should be", kind="integrity"),
    "security.malformed_model_rejected": _finding(
        "A model file was refused because of its form",
        model_ref=Text("resources[].uid"),
        validation_error=Text("finding_info.desc"),
    ),
    "security.resource_limit_violation": _finding("A limit was passed", resource_type=Text("resources[].name")),
}

_LIFECYCLE: Final = {
    "audit.log_opened": _log(6, "Start", host=Text("device.hostname")),
    "audit.log_closed": _log(7, "Stop"),
    "audit.log_recovered": _log(99, "Recover", _LOW, torn_file=Text("file.name")),
    "audit.events_dropped": _log(99, "Events Dropped", _HIGH, count=Number("count")),
    "audit.segment_sealed": _log(5, "Rotate", records=Number("count")),
    "audit.segment_archived": _log(4, "Archive"),
    "audit.segment_deleted": _log(2, "Delete", _LOW),
    "audit.segment_kept": _log(99, "Segment Kept", _LOW),
    "audit.segment_damaged": _finding("A segment was changed while the log was being written", kind="integrity"),
    "audit.hold_set": _log(99, "Legal Hold Set", _LOW, **_person("set_by")),
    "audit.hold_lifted": _log(99, "Legal Hold Lifted", _MEDIUM, **_person("lifted_by")),
    "audit.log_accessed": _log(99, "Query", actor=Actor(), records=Number("count")),
    "audit.exported": _log(3, "Export", actor=Actor(), records=Number("count")),
    "audit.erasure_started": _log(99, "Erasure Started", _MEDIUM, **_person("requested_by")),
    "audit.subject_erased": _log(99, "Subject Erased", _MEDIUM),
    "audit.erasure_requested": _log(99, "Erasure Requested", _LOW, **_person("requested_by")),
    "audit.erasure_approved": _log(99, "Erasure Approved", _LOW, **_person("approved_by")),
    "audit.erasure_cancelled": _log(99, "Erasure Cancelled", _LOW, **_person("cancelled_by")),
    "audit.erasure_rules_changed": _log(99, "Erasure Rules Changed", _MEDIUM, **_person("changed_by")),
    "audit.erased_in_flight": _log(99, "Erased In Flight", _LOW, records=Number("count")),
    "audit.keys_forgotten": _log(99, "Keys Forgotten"),
    "audit.key_store_restored": _log(99, "Key Store Restored", _HIGH),
    "audit.erasure_noticed": _log(99, "Erasure Noticed"),
    "audit.verification_failed": _finding("The log is not as it was written", kind="integrity"),
    "audit.alert_raised": _finding("A rule has raised an alert", kind="alert"),
    "audit.delivered": _log(99, "Delivered", records=Number("count")),
    "audit.delivery_problem": _finding("Records are not delivered", kind="availability"),
    "audit.delivery_replayed": _log(99, "Delivered Again", _LOW, **_person("requested_by")),
    "audit.checkpoint": _log(99, "Checkpoint Signed"),
    "audit.signing_keys_changed": _log(99, "Signing Keys Changed", _MEDIUM),
    "audit.signing_refused": _finding("A checkpoint would contradict what was signed before", kind="integrity"),
    "audit.forwarding_problem": _finding("A log is not shipped on", kind="integrity"),
    "audit.log_replaced": _log(99, "Log Replaced", _HIGH, **_person("requested_by")),
    "audit.collection_finding": _finding("A host's log is not as it should be", kind="integrity"),
    "audit.finding_acknowledged": _log(99, "Finding Acknowledged", **_person("acknowledged_by")),
}

#: By type of event, how it is delivered.
BUILT_IN: Final[MappingOf[str, OcsfMapping]] = MappingProxyType(
    {**_IDENTITY, **_APPLICATION, **_INFERENCE, **_SECURITY, **_LIFECYCLE}
)
