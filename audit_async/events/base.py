"""What every event is made of: the base class, its shared parts, and the one encoder.

An event is a frozen value. Its type is the `event_type` in the record, taken from the class's `tag`; its members
are recorded in the order in which the class declares them, and what has its default is left out. What an
event may hold is decided here and in the classes; whether a class is fit to be recorded, in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from types import MethodType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, cast, dataclass_transform
from uuid import UUID

import msgspec

from audit_async.errors import InvalidEvent
from audit_async.events.class_rules import check_definition, check_fields
from audit_async.events.field_types import check_fields_precisely, learn_quick_check, quick_checks
from audit_async.events.personal import Personal

__all__ = [
    "ActorInfo",
    "ActorKind",
    "AuditEvent",
    "AuditResult",
    "AuthMethod",
    "Failure",
    "IPAddress",
    "PartialSuccess",
    "Reduced",
    "ResourceInfo",
    "Severity",
    "Success",
    "definitions",
    "encode",
    "pydantic_dump",
    "require_aware",
]

if TYPE_CHECKING:
    #: An address as text or as an object of `ipaddress`; a decoded event always has text.
    IPAddress = str | IPv4Address | IPv6Address
else:
    # What msgspec's decoder sees: in JSON an address is text, and a union of three texts can't be decoded.
    IPAddress = str


class Reduced(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is left of a member that was too large to be recorded: its size, and a hash to know it again by.

    Exactly one size is given. `chars`: the member was a text longer than `max_field_chars` and was cut; `sha256` is
    that of the whole text in UTF-8 (a lone surrogate as its three bytes). `bytes`: it was taken out; `sha256` is that
    of what would have been recorded, a text as its UTF-8, anything else as its JSON. `count`: this many more
    members were reduced than are listed; `sha256` is that of their own digests, one after the other.
    """

    chars: int | None = None
    bytes: int | None = None
    count: int | None = None
    sha256: str


class _EventMeta(msgspec.StructMeta):
    """Makes every event keyword-only, which msgspec does not inherit, and checks each class when it is defined."""

    def __new__(  # what msgspec's own takes, and whether it is a base for others
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        abstract: bool = False,
        **config: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if not abstract:
            check_fields(name, namespace)
        config.setdefault("kw_only", True)
        cls = super().__new__(mcs, name, bases, namespace, **config)
        check_definition(cls, abstract=abstract)
        _EventMeta.definitions += 1
        return cls

    #: How many classes were ever defined, so that a decoder knows when there is a new one.
    definitions = 0


# For type checkers, what the metaclass and msgspec do at run time.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class AuditEvent(
    msgspec.Struct, metaclass=_EventMeta, abstract=True, frozen=True, omit_defaults=True, tag_field="event_type"
):
    """The base of every event; a service's own events are subclasses, each with a tag of its own.

        class InvoicePaid(AuditEvent, tag="billing.invoice_paid"):
            critical: ClassVar[bool] = True     # if it matters; False is the default
            actor: ActorInfo
            invoice_id: str
            cents: int

    A tag is the type's name in every record: a category and what happened, in lower case, joined by dots; `audit.` is
    the log's own category. A base that several events share, and that is never emitted itself, has no tag:

        class BillingEvent(AuditEvent, abstract=True):
            actor: ActorInfo

        class InvoiceSent(BillingEvent, tag="billing.invoice_sent"):
            invoice_id: str

    A subclass with a `__post_init__` of its own calls this one's first.

    Args:
        occurred_at: When it happened, if that is not when it is emitted; aware.
        reduced: Filled in by the library alone: by the path of a member, what was cut or taken out.

    Raises:
        InvalidEvent: If a class is defined with a tag that is missing, malformed, reserved or another class's, or with
            `critical` as a field; if an event is made with a value of another type than the class declares, or with a
            datetime that has no time zone. The error names the member, never the value. A list or mapping that is
            changed afterwards is not checked again.
    """

    #: Whether the event is made durable at once in hybrid mode, and refused last when the buffer is full.
    critical: ClassVar[bool] = False
    #: The version of the class, raised with each change of its members; see `events.catalogue`. It is not recorded.
    event_version: ClassVar[int] = 1

    occurred_at: datetime | None = None
    reduced: dict[str, Reduced] | None = None

    def __post_init__(self) -> None:
        if self.occurred_at is not None:
            require_aware(self, "occurred_at")
        # Here and not in `emit`, whose price is promised. Nearly all events pass the quick check, 0.3 to 0.5 us.
        is_right = quick_checks.get(self.__class__) or learn_quick_check(self.__class__)
        if not is_right(self):
            check_fields_precisely(self, encode)

    @property
    def event_type(self) -> str:
        """The type's name as it is recorded."""
        return cast("str", type(self).__struct_config__.tag)


def definitions() -> int:
    """Return how many event classes were ever defined in this process."""
    return _EventMeta.definitions


def require_aware(event: AuditEvent, field: str) -> None:
    """Raise `InvalidEvent` if `field` of `event` is a datetime without a time zone."""
    value: object = getattr(event, field)
    if isinstance(value, datetime) and value.utcoffset() is None:
        reason = "is a datetime without a time zone; give it one, as datetime.now(UTC) does"
        raise InvalidEvent(event.event_type, field, reason)


class AuthMethod(StrEnum):
    """How an actor proved its identity. If that is not known, leave `auth_method` out; never guess it."""

    BEARER_TOKEN = "bearer_token"  # noqa: S105 - the name of a method, not a secret
    API_KEY = "api_key"
    M_TLS = "m_tls"  #: the older spelling of `MTLS`; records hold either
    INTERNAL = "internal"  #: the service itself, or a component that it trusts
    PASSWORD = "password"  # noqa: S105 - the name of a method, not a secret
    SESSION = "session"
    BASIC = "basic"
    OIDC = "oidc"
    SAML = "saml"
    MFA = "mfa"
    MTLS = "mtls"
    NONE = "none"  #: it is known that nothing was proved


class ActorKind(StrEnum):
    """What an actor is."""

    USER = "user"
    SERVICE = "service"
    AGENT = "agent"  #: a program that decides by itself, such as a language model with tools
    SYSTEM = "system"


class Severity(StrEnum):
    """The usual grades of a `severity`; the field takes any other text as well."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class ActorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who did it, from which address, and how the identity was proved.

    Only `user_id` is required; what is not known is left out of the record.

    Args:
        user_id: The actor's identifier, the same one in every event of the service.
        ip: The address that the actor came from.
        auth_method: How the identity was proved.
        session_id: The identifier of the actor's session; never a session's secret.
        role: The role in which the actor acted.
        tenant: The organisation on whose data or account the actor acted.
        display_name: A name for people who read the trail.
        on_behalf_of: The `user_id` of the person for whom a service or an agent acted.
        kind: Whether it is a user, a service, an agent, or the system itself.
    """

    user_id: Annotated[str, Personal("user_id", account_kind="kind")]
    ip: Annotated[IPAddress | None, Personal("user_id")] = None
    auth_method: AuthMethod | None = None
    session_id: Annotated[str | None, Personal("user_id")] = None
    # After the members that existed before: the order in the record of those does not change.
    role: str | None = None
    tenant: str | None = None
    display_name: Annotated[str | None, Personal("user_id")] = None
    on_behalf_of: Annotated[str | None, Personal("on_behalf_of")] = None
    kind: ActorKind | None = None


class ResourceInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What it was done to."""

    resource_type: str
    resource_id: Annotated[str, Personal("resource_id", when="resource")]
    parent_id: str | None = None


class Success(msgspec.Struct, frozen=True, tag_field="status", tag="success"):
    """It was done."""


class Failure(msgspec.Struct, frozen=True, tag_field="status", tag="failure"):
    """It was not done, and why."""

    reason: str


class PartialSuccess(msgspec.Struct, frozen=True, tag_field="status", tag="partial_success"):
    """Some of it was done; the details say what."""

    details: str


#: How something ended; in the record an object whose `status` says which it is.
AuditResult = Success | Failure | PartialSuccess


def pydantic_dump(value: object) -> Callable[[], object] | None:
    """Return what makes plain data of a pydantic model, None if it is none; pydantic itself is not needed."""
    cls = type(value)
    dump = getattr(cls, "model_dump", None)
    if dump is None or not hasattr(cls, "__pydantic_validator__"):
        return None
    return cast("Callable[[], object]", MethodType(dump, value))


#: What is text in JSON as msgspec writes it.
TIMES_AND_NUMBERS: Final = (datetime, date, time, timedelta, UUID, Decimal)


def of_standard_library(value: datetime | date | time | timedelta | UUID | Decimal) -> object:
    """Return a value without a class of its own, such as those of pendulum and loguru, which msgspec does not know."""
    if type(value) in TIMES_AND_NUMBERS:
        return value
    if isinstance(value, datetime):  # a kind of date, so it comes first
        return datetime.combine(datetime.date(value), datetime.timetz(value))
    if isinstance(value, date):
        return date.fromordinal(date.toordinal(value))
    if isinstance(value, time):
        return time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)
    if isinstance(value, timedelta):
        return timedelta(value.days, value.seconds, value.microseconds)
    return UUID(int=value.int) if isinstance(value, UUID) else Decimal(value)


def _encode_foreign(value: object) -> object:
    """Turn what msgspec does not know into what it does, for the few types that events may hold besides its own."""
    if isinstance(value, TIMES_AND_NUMBERS):
        return of_standard_library(value)
    if isinstance(value, IPv4Address | IPv6Address | IPv4Network | IPv6Network | IPv4Interface | IPv6Interface):
        return str(value)
    if isinstance(value, PurePath) or hasattr(type(value), "get_secret_value"):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    dump = pydantic_dump(value)
    if dump is not None:
        return dump()
    raise TypeError(f"JSON has no place for a {type(value).__name__}")


#: Encode one event to JSON, its type first, without checking that it is harmless. Raises whatever the event's own
#: objects raise. A bound method of one shared encoder: 170 ns for an AuthFailure; a function around it costs 50 more.
encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder(enc_hook=_encode_foreign).encode
