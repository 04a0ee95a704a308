"""Where the members of an event go in an OCSF event: a rule for each kind of member.

A rule takes a value only if it has the form that the place in the schema has. What it does not take stays in
`unmapped`, so nothing of a record is lost, and a receiver that checks the schema refuses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, Protocol

import msgspec

from audit_async.delivery.siem_formats.ocsf_classes import SEVERITIES

__all__ = [
    "Activity",
    "Actor",
    "Address",
    "AuthProtocol",
    "HttpMethod",
    "MemberRule",
    "Number",
    "Resource",
    "Result",
    "SeverityText",
    "Status",
    "Text",
    "Texts",
    "valid_address",
]

#: An OCSF event in the making.
Ocsf = dict[str, Any]

_MAX_LONG: Final = 2**63
#: The schema's `ip_t`.
_MAX_ADDRESS: Final = 40


class MemberRule(Protocol):
    """Where a member of an event goes."""

    @property
    def target(self) -> str:
        """The place in the OCSF event, for the documentation."""

    def put(self, out: Ocsf, value: object) -> object:
        """Put a value in its place; return what did not fit there, None if all of it did."""


@lru_cache(maxsize=1024)
def _path(place: str) -> tuple[str, ...]:
    return tuple(place.split("."))


def _parent(out: Ocsf, path: tuple[str, ...]) -> Ocsf | None:
    """Return the object that the last name of a path is to be set in, made if it is not there; None if it is taken."""
    for name in path[:-1]:
        if name.endswith("[]"):
            items = out.setdefault(name[:-2], [{}])
            out = items[0]
        else:
            out = out.setdefault(name, {})
    return None if path[-1] in out else out


class _Placed(msgspec.Struct, frozen=True):
    """A rule with one place: names with dots between them, `[]` after a name whose first element is meant."""

    target: str

    def _set(self, out: Ocsf, value: object) -> object:
        path = _path(self.target)
        parent = _parent(out, path)
        if parent is None:
            return value
        parent[path[-1]] = value
        return None


class Text(_Placed, frozen=True):
    """A text."""

    def put(self, out: Ocsf, value: object) -> object:
        """Put a text in its place."""
        return self._set(out, value) if isinstance(value, str) else value


class Number(_Placed, frozen=True):
    """A whole number of 64 bits."""

    def put(self, out: Ocsf, value: object) -> object:
        """Put a number in its place."""
        if type(value) is not int or not -_MAX_LONG <= value < _MAX_LONG:
            return value
        return self._set(out, value)


class Texts(_Placed, frozen=True):
    """A list of texts, or one text as a list of it."""

    def put(self, out: Ocsf, value: object) -> object:
        """Put texts in their place."""
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return value
        return self._set(out, texts)


class Address(_Placed, frozen=True):
    """An IP address; anything else, such as a sealed text or the path of a socket, is not taken."""

    target: str = "src_endpoint.ip"

    def put(self, out: Ocsf, value: object) -> object:
        """Put an address in its place."""
        return self._set(out, value) if isinstance(value, str) and valid_address(value) else value


@lru_cache(maxsize=4096)
def valid_address(text: str) -> bool:
    """Return whether a text is an IP address as OCSF, ECS and CEF take it: without a zone."""
    if len(text) > _MAX_ADDRESS or "%" in text:
        return False
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class Actor(msgspec.Struct, frozen=True):
    """An `ActorInfo`: who it was, from where, in which session, and for which tenant.

    Args:
        user: Where the user goes: `actor.user`, or `user` in a class whose user is the one who acts.
        address: Where the address goes; empty if the class has no place for it.
    """

    user: str = "actor.user"
    address: str = "src_endpoint.ip"

    @property
    def target(self) -> str:
        """The places, for the documentation."""
        return ", ".join(filter(None, (self.user, self.address)))

    def put(self, out: Ocsf, value: object) -> object:
        """Put what is known of an actor in its places; return the rest."""
        if isinstance(value, str):  # the log's own events name their actor by a text
            return Text(f"{self.user}.uid").put(out, value)
        if not isinstance(value, dict):
            return value
        rest = dict(value)
        session = "session" if self.user == "user" else "actor.session"
        rules: Mapping[str, MemberRule] = {
            "user_id": Text(f"{self.user}.uid"),
            "display_name": Text(f"{self.user}.display_name"),
            "session_id": Text(f"{session}.uid"),
            "tenant": Text("metadata.tenant_uid"),
            **({"ip": Address(self.address)} if self.address else {}),
        }
        kind = _USER_KINDS.get(rest.get("kind", ""))
        if kind is not None and rest.get("user_id"):
            Number(f"{self.user}.type_id").put(out, kind)
            Text(f"{self.user}.type").put(out, rest.pop("kind"))
        for name, rule in rules.items():
            if name in rest and rule.put(out, rest[name]) is None:
                del rest[name]
        return rest or None


_USER_KINDS: Final[Mapping[object, int]] = {"user": 1, "system": 3, "service": 4, "agent": 99}


class Resource(msgspec.Struct, frozen=True):
    """A `ResourceInfo`: its type and id."""

    target: str = "resources[]"
    id_name: str = "uid"

    def put(self, out: Ocsf, value: object) -> object:
        """Put what is known of a resource in its place; return the rest."""
        if not isinstance(value, dict):
            return value
        rest = dict(value)
        rules = {
            "resource_type": Text(f"{self.target}.type"),
            "resource_id": Text(f"{self.target}.{self.id_name}"),
        }
        for name, rule in rules.items():
            if name in rest and rule.put(out, rest[name]) is None:
                del rest[name]
        return rest or None


class Status(msgspec.Struct, frozen=True):
    """A text that says how it ended, such as an `outcome`."""

    success: frozenset[str]
    failure: frozenset[str]

    @property
    def target(self) -> str:
        """The places, for the documentation."""
        return "status_id, status"

    def put(self, out: Ocsf, value: object) -> object:
        """Set the status, its name the text as it was recorded."""
        if not isinstance(value, str):
            return value
        out["status_id"] = 1 if value in self.success else 2 if value in self.failure else 99
        out["status"] = value
        return None


class Result(msgspec.Struct, frozen=True):
    """An `AuditResult`."""

    @property
    def target(self) -> str:
        """The places, for the documentation."""
        return "status_id, status, status_detail"

    def put(self, out: Ocsf, value: object) -> object:
        """Set the status, and why or what in detail."""
        if not isinstance(value, dict) or not isinstance(value.get("status"), str):
            return value
        rest = dict(value)
        status = rest.pop("status")
        out["status_id"] = _RESULTS.get(status, 99)
        out["status"] = status
        for name in ("reason", "details"):
            if isinstance(rest.get(name), str) and Text("status_detail").put(out, rest[name]) is None:
                del rest[name]
        return rest or None


_RESULTS: Final = {"success": 1, "failure": 2}


class SeverityText(msgspec.Struct, frozen=True):
    """A `severity`: one of the usual grades, or any other text."""

    @property
    def target(self) -> str:
        """The places, for the documentation."""
        return "severity_id, severity"

    def put(self, out: Ocsf, value: object) -> object:
        """Set the severity; the text itself stays, since several texts are one grade."""
        if not isinstance(value, str):
            return value
        number = _GRADES.get(value.lower(), 99)
        out["severity_id"] = number
        out["severity"] = SEVERITIES[number] if number != 99 else value
        return value


_GRADES: Final = {
    "debug": 1,
    "info": 1,
    "notice": 1,
    "low": 2,
    "warning": 3,
    "medium": 3,
    "high": 4,
    "error": 4,
    "critical": 5,
}


class Activity(msgspec.Struct, frozen=True):
    """A text that says which activity of the class it was, such as the `operation` of a change.

    Args:
        by_text: The number and name of the activity, by text.
    """

    by_text: tuple[tuple[str, int, str], ...]

    @property
    def target(self) -> str:
        """The places, for the documentation."""
        return "activity_id, activity_name"

    def put(self, out: Ocsf, value: object) -> object:
        """Set the activity; any other text is the name of activity 99. The text itself stays."""
        if not isinstance(value, str):
            return value
        number, name = next(((number, name) for text, number, name in self.by_text if text == value), (99, value))
        out["activity_id"], out["activity_name"] = number, name
        return value


class AuthProtocol(msgspec.Struct, frozen=True):
    """How somebody proved who it is."""

    @property
    def target(self) -> str:
        """The places, for the documentation."""
        return "auth_protocol_id, auth_protocol"

    def put(self, out: Ocsf, value: object) -> object:
        """Set the protocol, its name the text as it was recorded."""
        if not isinstance(value, str):
            return value
        out["auth_protocol_id"] = _PROTOCOLS.get(value, 99)
        out["auth_protocol"] = value
        return None


_PROTOCOLS: Final = {"oidc": 4, "saml": 5, "basic": 11}


class HttpMethod(msgspec.Struct, frozen=True):
    """The method of a request, and with `sets_activity` the activity."""

    sets_activity: bool = True

    @property
    def target(self) -> str:
        """The places, for the documentation."""
        return "http_request.http_method, activity_id"

    def put(self, out: Ocsf, value: object) -> object:
        """Set the method; one that the schema does not list is none of its own."""
        number = _METHODS.get(value) if isinstance(value, str) else None
        if number is None:
            return value
        if self.sets_activity:
            out["activity_id"], out["activity_name"] = number, str(value).capitalize()
        return Text("http_request.http_method").put(out, value)


_METHODS: Final = {
    "CONNECT": 1,
    "DELETE": 2,
    "GET": 3,
    "HEAD": 4,
    "OPTIONS": 5,
    "POST": 6,
    "PUT": 7,
    "TRACE": 8,
    "PATCH": 9,
}
