"""Which log it is, of which host and tenant, outside of the host."""

from __future__ import annotations

import unicodedata
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from audit_async.errors import ConfigError

__all__ = ["LogIdentity", "escaped"]

_LONGEST: Final = 128


class LogIdentity(Struct, frozen=True, kw_only=True):
    """A log as engines and collectors know it.

    Args:
        tenant: whose logs they are; a tenant sees only its own.
        service: the log's `service_id`.
        host: the machine.
        instance: the log's slot on that machine.
        log_id: what `log.json` says; unlike the rest it never comes again.

    Raises:
        ConfigError: a part is empty, longer than 128 characters, or has a control character or a slash.
    """

    tenant: str
    service: str
    host: str
    instance: str
    log_id: str

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _check(name, getattr(self, name))

    def __str__(self) -> str:
        return self.path()

    def subject(self) -> str:
        """Return `<tenant>.<service>.<host>.<instance>.<log_id>`, each part one token of a NATS subject."""
        return ".".join(map(escaped, (self.tenant, self.service, self.host, self.instance, self.log_id)))

    def path(self) -> str:
        """Return `<tenant>/<host>/<service>/<instance>.<log_id>`, the log's directory below a collector's root."""
        log = f"{escaped(self.instance)}.{escaped(self.log_id)}"
        return "/".join((escaped(self.tenant), escaped(self.host), escaped(self.service), log))


def _check(name: str, value: object) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise ConfigError(name, f"give a text of 1 to {_LONGEST} characters")
    if "/" in value or any(unicodedata.category(character) in {"Cc", "Cf", "Cs"} for character in value):
        raise ConfigError(name, f"{value!a} has a slash, a control character or an invisible one")


def escaped(part: str) -> str:
    """Return a part in letters, digits, `_`, `-` and `%`; different parts stay different."""
    return quote(part, safe="").replace(".", "%2E").replace("~", "%7E")
