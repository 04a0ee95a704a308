"""The built-in events: their names, fields and weight; what a class must have to be recorded."""

from __future__ import annotations

import gc
import subprocess
import sys
import types
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from typing import Generic as TypingGeneric

import msgspec
import pytest
from hypothesis import strategies as st

from audit_async import AuditLogger, events
from audit_async.errors import InvalidEvent
from audit_async.events import (
    ActorInfo,
    ActorKind,
    AuditEvent,
    AuthFailure,
    AuthMethod,
    AuthSuccess,
    Change,
    GenericEvent,
    ResourceInfo,
    ResourceUpdated,
    decode_event,
    describe,
)
from audit_async.events.base import encode
from audit_async.events.field_types import quick_checks
from tests.logs import ConfigFor, log_directory
from tests.trails import read_events

#: Critical or not, class, type and fields of every built-in event, as documented.
TABLE = """
- AuthSuccess auth.success actor method path
* AuthFailure auth.failure attempted_user? reason ip path known?
- TokenCreated token.created actor token_fingerprint scope expires_at?
* TokenRevoked token.revoked actor token_fingerprint reason
- AuthorizationGranted authz.granted actor resource action
- AuthorizationDenied authz.denied actor resource action reason
- PermissionChanged authz.permission_changed actor subject old_permissions new_permissions
- PoolCreated pool.created actor pool_id model_ref node_id replicas gpu_devices
- PoolDeleted pool.deleted actor pool_id model_ref node_id reason replicas_terminated
- PoolModified pool.modified actor pool_id changes
- NodeRegistered node.registered actor node_id gpu_count total_vram_gb capabilities
- NodeDeregistered node.deregistered actor node_id reason pools_affected
- TaskSubmitted task.submitted actor task_id model_ref prompt_length prompt_hash max_tokens
- TaskCompleted task.completed task_id worker_id tokens_generated duration_ms result
- TaskCanceled task.canceled actor task_id reason
- VramSealed vram.sealed shard_id gpu_device vram_bytes digest worker_id
- SealVerified seal.verified shard_id worker_id
* SealVerificationFailed seal.verification_failed shard_id reason expected_digest actual_digest worker_id severity
- VramAllocated vram.allocated requested_bytes allocated_bytes available_bytes used_bytes gpu_device worker_id
- VramAllocationFailed vram.allocation_failed requested_bytes available_bytes reason gpu_device worker_id
- VramDeallocated vram.deallocated shard_id freed_bytes remaining_used gpu_device worker_id
- RateLimitExceeded security.rate_limit_exceeded ip endpoint limit? actual? window_seconds?
* PathTraversalAttempt security.path_traversal_attempt actor attempted_path endpoint
* InvalidTokenUsed security.invalid_token_used ip token_prefix endpoint
* PolicyViolation security.policy_violation policy violation details severity worker_id action_taken
* SuspiciousActivity security.suspicious_activity actor activity_type details risk_score
* IntegrityViolation security.integrity_violation \
    resource_type resource_id expected_hash actual_hash severity action_taken worker_id?
* MalformedModelRejected security.malformed_model_rejected model_ref validation_error severity action_taken worker_id?
* ResourceLimitViolation security.resource_limit_violation \
    resource_type limit_type limit_value actual_value severity action_taken worker_id?
- InferenceExecuted data.inference_executed customer_id job_id model_ref tokens_processed provider_id? result
- ModelAccessed data.model_accessed customer_id model_ref access_type provider_id?
- DataDeleted data.deleted customer_id data_types reason
- GdprDataAccessRequest compliance.gdpr_data_access_request customer_id requester scope
- GdprDataExport compliance.gdpr_data_export customer_id data_types export_format file_hash
- GdprRightToErasure compliance.gdpr_right_to_erasure customer_id completed_at data_types_deleted
- UserCreated user.created actor subject
- UserDeleted user.deleted actor subject
- UserRestored user.restored actor subject
- UserUpdated user.updated actor subject changes
* PasswordChanged user.password_changed actor subject method?
* PasswordReset user.password_reset actor subject method?
* MfaEnabled user.mfa_enabled actor subject method
* MfaDisabled user.mfa_disabled actor subject method
* MfaFailed user.mfa_failed actor subject method
* AccountLocked user.locked actor? subject reason
- AccountUnlocked user.unlocked actor? subject reason
- SessionStarted session.started actor method? reason?
- SessionEnded session.ended actor method? reason?
* ImpersonationStarted session.impersonation_started actor subject reason
- ImpersonationEnded session.impersonation_ended actor subject reason
* RoleGranted access.role_granted actor subject role scope?
* RoleRevoked access.role_revoked actor subject role scope?
- ApiKeyCreated access.api_key_created actor key_fingerprint scope
- ApiKeyRotated access.api_key_rotated actor key_fingerprint scope
* ApiKeyRevoked access.api_key_revoked actor key_fingerprint scope
- ResourceCreated resource.created actor resource changes?
- ResourceRead resource.read actor resource
- ResourceUpdated resource.updated actor resource changes?
- ResourceDeleted resource.deleted actor resource changes?
- BulkChanged resource.bulk_changed \
    actor resource_type operation criteria? parameters? values? rows? resource_ids?
- ResourceChangeIntended resource.change_intended actor transaction_id operation resource changes?
- BulkChangeIntended resource.bulk_change_intended \
    actor transaction_id resource_type operation criteria? parameters? values? rows? resource_ids?
- TransactionIntended transaction.intended actor transaction_id changes database? xid? marker?
- TransactionEnded transaction.ended transaction_id outcome actor? reason? found_by?
- RpcEnded rpc.ended actor? method status duration_ms messages_in messages_out ip? error? metadata?
- CommandStarted command.started actor command run_id parameters?
- CommandEnded command.ended actor command run_id exit_status duration_ms parameters? error?
- JobEnded job.ended actor? job job_id attempt result queue? duration_ms? arguments?
- DataExported data.exported actor resource records? bytes?
- FileDownloaded data.file_downloaded actor resource records? bytes?
* ConfigChanged config.changed actor resource changes
- AgentDecision agent.decision actor on_behalf_of? tool input_hash output_hash? policy_decision? call_id?
- AgentApproval agent.approval actor on_behalf_of? tool input_hash output_hash? policy_decision? call_id? approver?
- AgentToolCalled agent.tool_called \
    actor on_behalf_of? tool input_hash output_hash? policy_decision? call_id? result?
- ModelCalled agent.model_called actor on_behalf_of? model input_hash output_hash? policy_decision? call_id? result?
"""

ROWS = [(weight == "*", name, tag, fields) for weight, name, tag, *fields in map(str.split, TABLE.strip().splitlines())]
BUILT_IN: list[type[AuditEvent]] = [getattr(events, name) for _, name, _, _ in ROWS]
LIFECYCLE: list[type[AuditEvent]] = [
    cls
    for cls in vars(events).values()
    if isinstance(cls, type) and issubclass(cls, AuditEvent) and cls.__module__ == "audit_async.events.lifecycle"
]


def values(info: msgspec.inspect.Type, texts: st.SearchStrategy[str], anything: st.SearchStrategy[Any]) -> Any:
    """Return a strategy for all values of a type, as msgspec sees it in an annotation."""
    match info:
        case msgspec.inspect.StrType():
            return texts
        case msgspec.inspect.IntType(ge=low, le=high):
            return st.integers(-(2**63) if low is None else low, 2**63 if high is None else high)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.AnyType():
            return anything
        case msgspec.inspect.DateTimeType():
            return st.datetimes(timezones=st.just(UTC))
        case msgspec.inspect.EnumType():
            return st.sampled_from(list(info.cls))
        case msgspec.inspect.LiteralType():
            return st.sampled_from(info.values)
        case msgspec.inspect.ListType():
            return st.lists(values(info.item_type, texts, anything), max_size=3)
        case msgspec.inspect.DictType():
            key, value = values(info.key_type, texts, anything), values(info.value_type, texts, anything)
            return st.dictionaries(key, value, max_size=3)
        case msgspec.inspect.UnionType():
            return st.one_of([values(choice, texts, anything) for choice in info.types])
        case msgspec.inspect.StructType():
            members = {f.name: values(f.type, texts, anything) for f in info.fields if f.name != "reduced"}
            return st.builds(info.cls, **members)
    raise NotImplementedError(info)


def defevent(name: str, fields: list[Any], *, tag: str, namespace: dict[str, Any] | None = None) -> Any:
    """Return an event's class that is made at run time; a field is (name, type) or (name, type, default)."""

    def body(members: dict[str, Any]) -> None:
        members["__annotations__"] = {field[0]: field[1] for field in fields}
        members.update({field[0]: field[2] for field in fields if len(field) > 2})
        members.update(namespace or {})
        members.setdefault("__module__", __name__)

    return types.new_class(name, (AuditEvent,), {"tag": tag}, body)


def any_event(cls: type, texts: st.SearchStrategy[str], anything: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for all events of a class."""
    strategy: st.SearchStrategy[Any] = values(msgspec.inspect.type_info(cls), texts, anything)
    return strategy


def test_the_built_in_events_are_those_of_the_table() -> None:
    """Each of the 75 types has exactly its documented name, fields and optional fields, in that order."""
    assert len(ROWS) == 75
    for _, name, tag, fields in ROWS:
        cls = getattr(events, name)
        found = [
            f.name + ("" if f.required else "?")
            for f in msgspec.structs.fields(cls)
            if f.name not in {"occurred_at", "reduced"}
        ]
        assert (describe(cls).tag, found) == (tag, fields)


def test_exactly_the_documented_events_are_critical() -> None:
    """A type is critical if and only if the table says so; of the log's own, what somebody has to look at."""
    assert {cls.__name__ for cls in BUILT_IN if describe(cls).critical} == {
        name for critical, name, *_ in ROWS if critical
    }
    assert sum(critical for critical, *_ in ROWS) == 21
    assert [cls.__name__ for cls in LIFECYCLE if describe(cls).critical] == [
        "AuditAlertRaised",
        "AuditCollectionFinding",
        "AuditDeliveryProblem",
        "AuditForwardingProblem",
        "AuditLogReplaced",
        "AuditVerificationFailed",
    ]


def test_what_is_not_known_of_a_change_is_left_out_of_the_record() -> None:
    """A change whose old or new value is not known says nothing of it, which is something else than null."""
    changes = {"a": Change(after=3), "b": Change(before=3), "c": Change(before=None, after=1)}
    actor, resource = ActorInfo(user_id="u"), ResourceInfo(resource_type="order", resource_id="1")
    event = ResourceUpdated(actor=actor, resource=resource, changes=changes)
    recorded = msgspec.json.decode(encode(event))["changes"]
    assert recorded == {"a": {"after": 3}, "b": {"before": 3}, "c": {"before": None, "after": 1}}
    assert decode_event(encode(event)) == event


def test_what_may_hold_anything_is_checked_quickly() -> None:
    """A recorded event of a type that is not known here has members of any kind: reading one is no slow check."""
    event = GenericEvent(event_type="made.elsewhere", fields={"a": 1, "b": [None], "c": {"d": "e"}})
    assert quick_checks[GenericEvent](event)
    for fields in ([1], "a", None):
        with pytest.raises(InvalidEvent, match="fields"):
            GenericEvent(event_type="made.elsewhere", fields=fields)  # type: ignore[arg-type]


def test_changes_and_choices_are_checked_quickly() -> None:
    """What is recorded for each object of a database takes no precise check, which costs a hundred times more."""
    actor, resource = ActorInfo(user_id="u"), ResourceInfo(resource_type="order", resource_id="1")
    updated = ResourceUpdated(actor=actor, resource=resource, changes={"a": Change(before=1, after=[2])})
    bulk = events.BulkChanged(actor=actor, resource_type="order", operation="update", values={"a": 1}, rows=2)
    for event in (updated, bulk):
        assert quick_checks[type(event)](event)
    for changes in ({"a": 3}, {"a": Change(1, 2), "b": None}, [Change(1, 2)]):
        with pytest.raises(InvalidEvent, match="changes"):
            ResourceUpdated(actor=actor, resource=resource, changes=changes)  # type: ignore[arg-type]
    for operation in ("upsert", 1, None, ["update"]):
        with pytest.raises(InvalidEvent, match="operation"):
            events.BulkChanged(actor=actor, resource_type="order", operation=operation)  # type: ignore[arg-type]


def test_only_the_log_s_own_events_are_internal() -> None:
    """The audit.* types are marked as internal, and no other built-in type is."""
    assert len(LIFECYCLE) == 32
    assert all(describe(cls).internal and describe(cls).tag.startswith("audit.") for cls in LIFECYCLE)
    assert not any(describe(cls).internal for cls in BUILT_IN)


def test_only_open_data_is_free_form() -> None:
    """Among the built-in types, NaN can hide only where any JSON is allowed."""
    assert {cls.__name__ for cls in BUILT_IN + LIFECYCLE if describe(cls).free_form} == {
        "PoolModified",
        "AuditLogAccessed",
        "UserUpdated",
        "ResourceCreated",
        "ResourceUpdated",
        "ResourceDeleted",
        "BulkChanged",
        "ResourceChangeIntended",
        "BulkChangeIntended",
        "ConfigChanged",
        "JobEnded",
        "CommandStarted",
        "CommandEnded",
    }


@pytest.mark.parametrize("ip", ["2001:db8::1", IPv6Address("2001:db8::1")])
def test_an_address_may_be_text_or_an_object(ip: str | IPv6Address) -> None:
    """The record holds the same text, whichever way the address was given, also inside the actor."""
    failure = AuthFailure(reason="bad_password", ip=ip, path="/login")
    assert msgspec.json.decode(encode(failure))["ip"] == "2001:db8::1"
    actor = ActorInfo(user_id="u", ip=IPv4Address("192.0.2.1"), auth_method=AuthMethod.M_TLS)
    success = AuthSuccess(actor=actor, method=AuthMethod.M_TLS, path="/")
    assert msgspec.json.decode(encode(success))["actor"] == {"user_id": "u", "ip": "192.0.2.1", "auth_method": "m_tls"}


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("AuthFailure", {"reason": "", "ip": "", "path": "", "occurred_at": datetime(2026, 1, 1)}),  # noqa: DTZ001
        (
            "GdprRightToErasure",
            {"customer_id": "c", "completed_at": datetime(2026, 1, 1), "data_types_deleted": []},  # noqa: DTZ001
        ),
    ],
)
def test_a_datetime_without_a_zone_is_refused(name: str, members: dict[str, Any]) -> None:
    """Time without a zone is no evidence: it is refused, and the error names the field."""
    with pytest.raises(InvalidEvent, match="time zone") as caught:
        getattr(events, name)(**members)
    assert caught.value.field in {"occurred_at", "completed_at"}


@pytest.mark.parametrize("score", [-1, 101])
def test_a_risk_score_outside_its_range_is_refused(score: int) -> None:
    """A risk score is 0 to 100, and anything else names the field."""
    actor = ActorInfo(user_id="u", auth_method=AuthMethod.INTERNAL)
    with pytest.raises(InvalidEvent) as caught:
        events.SuspiciousActivity(actor=actor, activity_type="scan", details="", risk_score=score)
    assert caught.value.field == "risk_score"


class InvoicePaid(AuditEvent, tag="test.invoice_paid"):
    """A service's own event, as the documentation shows it."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    invoice_id: str
    cents: int


def test_a_service_may_define_its_own_event() -> None:
    """A subclass with a tag is described and encoded like a built-in event."""
    assert describe(InvoicePaid)[:4] == ("test.invoice_paid", True, False, False)
    event = InvoicePaid(actor=ActorInfo(user_id="u", auth_method=AuthMethod.API_KEY), invoice_id="7", cents=100)
    assert encode(event).startswith(b'{"event_type":"test.invoice_paid","actor":')
    assert event.event_type == "test.invoice_paid"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tag": "Mine"},
        {"tag": "nodot"},
        {"tag": "Bad.Case"},
        {"tag": "line.end\n"},
        {"tag": "a." + "b" * 200},
        {"tag": 7},
        {"tag": False},
        {"tag": "audit.log_closed2"},
        {"tag": "auth.failure"},
        {"tag": "my.event", "tag_field": "kind"},
        {"tag": "my.event", "array_like": True},
    ],
)
def test_a_class_that_can_t_be_recorded_can_t_be_defined(options: dict[str, Any]) -> None:
    """A missing, malformed, reserved or taken tag, or another form of record, is an InvalidEvent at the definition."""
    known = describe(AuthFailure), events.registry.known_types()
    with pytest.raises(InvalidEvent, match="Mine"):
        types.new_class("Mine", (AuditEvent,), options)
    assert (describe(AuthFailure), events.registry.known_types()) == known


@pytest.mark.anyio
async def test_a_built_in_type_is_recorded_after_somebody_tried_to_take_its_tag(config_for: ConfigFor) -> None:
    """The class that was refused changes nothing for the class whose tag it wanted."""
    failure = AuthFailure(reason="bad_password", ip="192.0.2.1", path="/login")
    config = config_for()
    async with AuditLogger(config) as audit:
        with pytest.raises(InvalidEvent, match=r"auth\.failure is that of audit_async\.events\.authentication"):

            class LoginFailed(AuditEvent, tag="auth.failure"):
                reason: str

        await audit.emit_durable(failure)
    recorded = [record["event"]["event_type"] for record in read_events(log_directory(config))]
    assert "auth.failure" in recorded
    assert type(events.decode_event(encode(failure))) is AuthFailure


def test_an_inherited_tag_is_refused() -> None:
    """A subclass of an event needs a tag of its own, or its records could not be told from its parent's."""
    with pytest.raises(InvalidEvent, match="no tag of its own") as caught:
        types.new_class("Child", (InvoicePaid,))
    assert "abstract=True" in str(caught.value)


class Billing(AuditEvent, abstract=True):
    """What several events share: a base without a tag."""

    critical: ClassVar[bool] = True

    customer: str


class Refund(Billing, tag="billing.refund"):
    """An event of that base, and itself the base of another."""

    cents: int


class LateRefund(Refund, tag="billing.late_refund"):
    """A subclass of a subclass."""

    days: int


T = TypeVar("T")


class Generic(Billing, TypingGeneric[T], tag="billing.generic"):
    """A generic event."""

    value: T


def test_events_may_share_an_abstract_base() -> None:
    """A base without a tag is declared as abstract; what it has is inherited, and it is never recorded itself."""
    refund = LateRefund(customer="c", cents=1, days=2)
    assert encode(refund) == b'{"event_type":"billing.late_refund","customer":"c","cents":1,"days":2}'
    assert describe(LateRefund).critical
    assert describe(Generic).tag == "billing.generic"
    assert type(events.decode_event(encode(refund))) is LateRefund
    with pytest.raises(InvalidEvent, match="abstract"):
        describe(Billing)


def test_what_is_no_event_is_refused() -> None:
    """Neither the base itself, nor a decoded stand-in, nor any other class can be emitted."""
    for cls in (AuditEvent, GenericEvent, str):
        with pytest.raises(InvalidEvent):
            describe(cls)  # type: ignore[arg-type]  # it is the point


def test_critical_as_a_field_is_refused() -> None:
    """`critical` without ClassVar would be a field of every event; the error says how to write it."""
    with pytest.raises(InvalidEvent, match="ClassVar"):
        defevent("Mine", [("critical", bool, True)], tag="my.critical")
    with pytest.raises(InvalidEvent, match="ClassVar"):
        defevent("Mine", [], tag="my.critical", namespace={"critical": "yes"})


@pytest.mark.parametrize("name", ["event_type", "reduced"])
def test_a_field_that_the_library_fills_in_is_refused(name: str) -> None:
    """The error names the field, and comes when the class is defined."""
    with pytest.raises(InvalidEvent) as caught:
        defevent("Mine", [(name, str)], tag="my.reserved")
    assert caught.value.field == name


def test_raw_bytes_are_refused() -> None:
    """A class with a member of raw JSON, which nothing could check, can't be recorded."""
    cls = defevent("Mine", [("raw", list[msgspec.Raw])], tag="my.raw")
    with pytest.raises(InvalidEvent, match="Raw"):
        describe(cls)


def test_a_redefined_class_takes_its_tag_over() -> None:
    """A class that is defined again under the same name, as by a reload, is accepted, and so is the older one."""
    first, second = (defevent("Again", [("n", int)], tag="my.again") for _ in range(2))
    assert describe(first) == describe(second) == ("my.again", False, False, False, ())
    assert type(events.decode_event(b'{"event_type":"my.again","n":1}')) is second
    with pytest.raises(InvalidEvent, match=r"my\.again"):
        defevent("Other", [("n", int)], tag="my.again")


def test_the_tag_of_a_class_that_is_gone_is_free() -> None:
    """A class in a function that nobody refers to any more does not keep its tag, whenever the collector runs."""
    gc.disable()
    try:
        defevent("Gone", [("n", int)], tag="my.gone")
        assert describe(defevent("Next", [("n", int)], tag="my.gone")).tag == "my.gone"
    finally:
        gc.enable()


SCRIPT = """
from audit_async.events import AuditEvent, describe
class Paid(AuditEvent, tag="script.paid"):
    cents: int
describe(Paid)
if __name__ == "__main__":
    import importlib, multiprocessing, sys
    again = importlib.import_module("script")     # as `uvicorn.run("script:app")` does
    assert again.Paid is not Paid
    importlib.reload(again)
    describe(again.Paid)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(repr, (1,)))
"""


def test_a_file_that_is_imported_under_two_names_is_one_module(tmp_path: Path) -> None:
    """A script may be imported again by its own name, reloaded, and started again by multiprocessing."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (run.stdout, run.stderr) == ("1\n", "")


def test_floats_at_any_depth_are_free_form() -> None:
    """A float, or anything at all, inside lists, mappings and structs makes a type free-form."""

    def free_form(number: int, annotation: object) -> bool:
        cls = defevent(f"F{number}", [("x", annotation)], tag=f"my.f{number}")
        return describe(cls).free_form

    inner: Any = msgspec.defstruct("Inner", [("y", list[float | None])])
    assert [free_form(n, t) for n, t in enumerate([float, dict[str, list[inner]], Any, tuple[int, float]])] == [
        True
    ] * 4
    assert not free_form(9, dict[str, list[int | str | None]])


def test_an_actor_needs_nothing_but_its_id() -> None:
    """What is not known of an actor is left out; new members come after those that existed, in a fixed order."""
    assert encode(ActorInfo(user_id="u")) == b'{"user_id":"u"}'
    everything = ActorInfo(
        user_id="bot-7", ip="192.0.2.1", auth_method=AuthMethod.OIDC, session_id="s", role="admin", tenant="acme",
        display_name="Bot", on_behalf_of="alice", kind=ActorKind.AGENT,
    )  # fmt: skip
    assert encode(everything) == (
        b'{"user_id":"bot-7","ip":"192.0.2.1","auth_method":"oidc","session_id":"s","role":"admin","tenant":"acme",'
        b'"display_name":"Bot","on_behalf_of":"alice","kind":"agent"}'
    )


@pytest.mark.parametrize("method", ["bearer_token", "api_key", "m_tls", "internal"])
def test_the_actor_of_an_older_record_is_read_and_written_as_it_was(method: str) -> None:
    """Records of before the optional members came stay typed, and encode to the same bytes."""
    line = (
        b'{"event_type":"auth.success","actor":{"user_id":"u","ip":"192.0.2.1","auth_method":"%b","session_id":"s"},'
        b'"method":"%b","path":"/"}' % (method.encode(), method.encode())
    )
    event = events.decode_event(line)
    assert isinstance(event, AuthSuccess)
    assert encode(event) == line


class Meeting(AuditEvent, tag="test.meeting"):
    """An event with a field of each kind."""

    at: datetime
    people: list[str] = msgspec.field(default_factory=list)
    rooms: dict[str, int] = msgspec.field(default_factory=dict)
    actor: ActorInfo | None = None
    method: AuthMethod | None = None
    share: float = 0.5
    open: bool = True
    floors: tuple[int, int] | None = None
    anything: object = None


NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"at": datetime(2026, 1, 1)}, "at"),  # noqa: DTZ001 - the point
        ({"at": "SECRET"}, "at"),
        ({"people": ["a", 1]}, "people[1]"),
        ({"people": "SECRET"}, "people"),
        ({"people": None}, "people"),
        ({"rooms": {"a": "SECRET"}}, "rooms[...]"),
        ({"rooms": [1]}, "rooms"),
        ({"actor": "SECRET"}, "actor"),
        ({"actor": ActorInfo(user_id=5)}, "actor.user_id"),  # type: ignore[arg-type]  # the point
        ({"method": "SECRET"}, "method"),
        ({"share": "0.5"}, "share"),
        ({"share": True}, "share"),
        ({"open": 1}, "open"),
        ({"open": None}, "open"),
        ({"floors": (1, "2")}, "floors[1]"),
        ({"floors": (1, 2, 3)}, "floors"),
        ({"reason": 5}, "reason"),
        ({"ip": None}, "ip"),
    ],
    ids=lambda given: str(given) if isinstance(given, str) else "",
)
def test_a_value_of_another_type_is_refused_when_the_event_is_made(members: dict[str, Any], field: str) -> None:
    """Or it would be recorded, and read back as another class; the error names the member and not the value."""
    with pytest.raises(InvalidEvent) as caught:
        if field in {"reason", "ip"}:
            AuthFailure(**{"reason": "r", "ip": "192.0.2.1", "path": "/", **members})
        else:
            Meeting(**{"at": NOON, **members})
    assert caught.value.field == field
    assert "SECRET" not in str(caught.value)


class Word(str):
    """A text of a class of its own."""

    __slots__ = ()


@pytest.mark.parametrize(
    "members",
    [
        {"people": ("a", "b")},
        {"people": [Word("a")]},
        {"rooms": types.MappingProxyType({"a": 1})},
        {"method": "api_key"},
        {"share": 1},
        {"share": float("nan")},
        {"floors": [1, 2]},
        {"actor": ActorInfo(user_id="u", ip=IPv6Address("::1"))},
        {"anything": datetime(2026, 1, 1)},  # noqa: DTZ001 - free-form
        {"anything": object()},
        {"at": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))},
    ],
)
def test_a_value_that_reads_back_as_its_type_is_taken(members: dict[str, Any]) -> None:
    """A tuple for a list, a text for an enumeration's member, an address; what is free-form is for `emit` to judge."""
    Meeting(**{"at": NOON, **members})


def test_annotations_that_can_t_be_resolved_are_not_checked() -> None:
    """Nothing is known of such a field, so nothing is refused."""
    cls = defevent("Open", [("a", "Missing"), ("b", int)], tag="my.open")
    assert cls(a=1, b="x").b == "x"
