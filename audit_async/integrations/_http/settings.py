"""The settings that every web middleware takes, under the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypedDict, TypeVar

from audit_async.config import AuditConfig
from audit_async.config.wording import unknown
from audit_async.errors import ConfigError
from audit_async.events import ActorInfo
from audit_async.integrations._http.client_address import ForwardedHeader, TrustedProxies
from audit_async.integrations._http.request_policy import Policy, Rule
from audit_async.integrations._logger_source import shown
from audit_async.logger import AuditLogger

__all__ = ["ActorHook", "MiddlewareSettings", "Settings", "check_config"]

SourceT = TypeVar("SourceT")

#: Says who asked, once the application has answered: of an ASGI scope, or of a framework's own request.
ActorHook = Callable[[SourceT], ActorInfo | str | None]


class MiddlewareSettings(TypedDict, Generic[SourceT], total=False):
    """The keyword arguments of `AuditMiddleware`, `AuditPlugin` and `setup_audit`; see `AuditMiddleware`."""

    policy: Policy | None
    actor: ActorHook[SourceT] | None
    trusted_proxies: Iterable[str]
    forwarded_header: ForwardedHeader
    fail_closed: bool
    send_request_id: bool


class Settings(Generic[SourceT]):
    """Checked settings, with what was left out filled in. Never changed.

    Raises:
        ConfigError: A name is no setting, or a value is not what the setting takes.
    """

    def __init__(self, given: Mapping[str, object], default_actor: ActorHook[SourceT]) -> None:
        for name in given:
            if name not in MiddlewareSettings.__annotations__:
                raise ConfigError(name, unknown("setting of the audit middleware", name, _NAMES))
        self.policy: Final[Policy] = _policy(given.get("policy"))
        self.actor: Final[ActorHook[SourceT]] = _actor(given.get("actor"), default_actor)
        self.proxies: Final = TrustedProxies(
            given.get("trusted_proxies", ()),  # type: ignore[arg-type]  # TrustedProxies checks it
            header=given.get("forwarded_header", "x-forwarded-for"),  # type: ignore[arg-type]  # as above
        )
        self.fail_closed: Final = _flag(given, "fail_closed", default=False)
        self.send_request_id: Final = _flag(given, "send_request_id", default=True)


_NAMES: Final = tuple(MiddlewareSettings.__annotations__)


def _policy(value: object) -> Policy:
    if value is None:
        return Policy()
    if isinstance(value, Policy):
        return value
    if isinstance(value, Rule) or (isinstance(value, list | tuple) and all(isinstance(each, Rule) for each in value)):
        raise ConfigError("policy", "must be a Policy; put the rules into one: Policy([Rule(...), ...])")
    raise ConfigError("policy", f"must be a Policy such as Policy([Rule(...)]), not {shown(value)}")


def _actor(value: object, default: ActorHook[SourceT]) -> ActorHook[SourceT]:
    if value is None:
        return default
    if callable(value) and not isinstance(value, type):
        return value  # what it returns is checked at each request
    raise ConfigError("actor", f"must be a function that says who asked, not {shown(value)}")


def _flag(given: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(name, f"must be True or False, not {shown(value)}")
    return value


def check_config(config: object, used_by: str) -> AuditConfig:
    """Return `config`; raise `ConfigError` if it is something else than an `AuditConfig`.

    Args:
        config: What was given as the configuration of the log that an integration opens.
        used_by: The function or class that it was given to, for the message.
    """
    if isinstance(config, AuditConfig):
        return config
    if isinstance(config, AuditLogger):
        raise ConfigError("config", f"{used_by} opens the logger itself: give it the AuditConfig, not an AuditLogger")
    raise ConfigError("config", f"{used_by} takes an AuditConfig, not {shown(config)}")
