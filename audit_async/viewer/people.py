"""Who looks at a trail in the browser, and what a role allows."""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

import msgspec

from audit_async._sanitize.unsafe_text import escape
from audit_async.errors import AuditError, ConfigError

__all__ = ["NotPermitted", "Permission", "Person", "Role", "SignedIn"]

#: `reader`: the records of some services, or of one tenant. `auditor`: everything, and who has looked at it.
#: `operator`: the state of the logs, and no record.
Role = Literal["reader", "auditor", "operator"]

#: What a route needs.
Permission = Literal["see_records", "see_logs", "verify", "download", "see_access_log"]

_OF_ROLE: Final[dict[Role, frozenset[Permission]]] = {
    "reader": frozenset({"see_records", "see_logs", "download"}),
    "auditor": frozenset(get_args(Permission)),
    "operator": frozenset({"see_logs", "verify"}),
}
#: A tenant shares its logs with others, so it sees records and nothing of the logs themselves.
_OF_TENANT: Final[frozenset[Permission]] = frozenset({"see_records", "download"})

_LONGEST_NAME: Final = 200
#: As services can be called.
_SERVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


class NotPermitted(AuditError):
    """The person may not do this; the message says what it takes."""


class SignedIn(msgspec.Struct, frozen=True):
    """What a sign-in has shown: a name, and the groups that its source knows."""

    name: str
    groups: tuple[str, ...] = ()


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Who is looking, and what they may see.

    Args:
        name: What an auditor will read in `audit.log_accessed`.
        role: What the person may do.
        services: For a reader: only the logs of these services.
        tenant: For a reader: only records that are labelled with this tenant.
        is_embed: The person looks through an embed link.

    Raises:
        ConfigError: A name is empty, too long or holds control characters; a reader has neither services nor a
            tenant, or another role has one of them.
    """

    name: str
    role: Role
    services: frozenset[str] | None = None
    tenant: str | None = None
    is_embed: bool = False

    def __post_init__(self) -> None:
        require_plain("name", self.name)
        if self.role not in get_args(Role):
            raise ConfigError("role", f"is not one of {', '.join(get_args(Role))}")
        if self.tenant is not None:
            require_plain("tenant", self.tenant)
        for service in self.services if self.services is not None else ():
            if not _SERVICE.fullmatch(service):
                raise ConfigError("services", "has a name that no service has: letters, digits, dots, - and _")
        is_limited = self.services is not None or self.tenant is not None
        if self.role == "reader" and (not is_limited or self.services == frozenset()):
            raise ConfigError("role", "a reader needs services or a tenant; who sees everything is an auditor")
        if self.role != "reader" and is_limited:
            raise ConfigError("role", f"{self.role} is for all logs; only a reader has services or a tenant")

    @property
    def slot(self) -> str:
        """Whose searches are counted together; what an application calls a customer may be another person's name."""
        return f"tenant {self.tenant} {self.name}" if self.tenant is not None else self.name

    def may(self, permission: Permission) -> bool:
        """Return whether the person's role has a permission."""
        return permission in (_OF_TENANT if self.tenant is not None else _OF_ROLE[self.role])

    def require(self, permission: Permission) -> None:
        """Raise `NotPermitted` unless the person's role has a permission."""
        if not self.may(permission):
            whose = f"a {self.role} of a tenant" if self.tenant is not None else f"the role {self.role}"
            raise NotPermitted(f"{whose} does not have the permission {permission}")


def require_plain(field: str, text: object) -> None:
    """Raise `ConfigError` unless a text is recorded exactly as it is given, so that it means one thing only."""
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST_NAME or escape(text) != text:
        raise ConfigError(field, f"must be a text of 1 to {_LONGEST_NAME} characters without control characters")
