"""The settings of a Django project that concern the trail: read, checked, and explained if they are wrong.

`AUDIT` or `AUDIT_CONFIG` is the configuration of the log, `AUDIT_MODELS` what is recorded, `AUDIT_MIDDLEWARE` the
settings of the middleware, and `AUDIT_AUTH_METHODS` says what a log-in by a backend proves.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from audit_async.config import AuditConfig, Disabled, Local
from audit_async.config.tables import build
from audit_async.config.wording import unknown
from audit_async.errors import ConfigError
from audit_async.events import AuthMethod

__all__ = ["auth_method_of_backend", "commit_settings", "log_config", "middleware_settings", "models_to_register"]

_OPTIONS: Final = ("fields", "exclude", "before", "keys")


def log_config() -> AuditConfig:
    """Return the configuration of the log.

    Raises:
        ConfigError: There is none, or it is wrong; the error names the setting.
    """
    given = getattr(settings, "AUDIT", None)
    path = getattr(settings, "AUDIT_CONFIG", None)
    if given is not None and path is not None:
        raise ConfigError("AUDIT", "there is AUDIT_CONFIG, too; keep one of them")
    if given is None and path is None:
        raise ConfigError(
            "AUDIT",
            "the settings have neither AUDIT nor AUDIT_CONFIG. Give the log's settings, "
            'AUDIT = {"service_id": "shop", "mode": {"type": "local", "base_dir": BASE_DIR / "audit"}}, or the path of '
            "a TOML file, AUDIT_CONFIG",
        )
    if path is not None:
        if not isinstance(path, str | os.PathLike):
            raise ConfigError("AUDIT_CONFIG", f"must be the path of a TOML file, not a {type(path).__name__}")
        return AuditConfig.load(path)
    if isinstance(given, AuditConfig):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError("AUDIT", f"must be a dict of the log's settings or an AuditConfig, not a {_kind(given)}")
    config = build(AuditConfig, dict(given))
    if isinstance(config.mode, Local) and not os.path.isabs(config.mode.base_dir):
        raise ConfigError(
            "AUDIT",
            "mode.base_dir is relative, so a process that is started elsewhere would begin another chain; "
            'write BASE_DIR / "audit"',
        )
    return config


def is_disabled() -> bool:
    """Return whether the settings switch recording off."""
    return isinstance(log_config().mode, Disabled)


class CommitSettings(NamedTuple):
    """`AUDIT_COMMIT`: how records relate to the COMMIT of what they are about."""

    relation: str = "after"
    on_failure: str = "refuse"
    timeout_s: float = 5.0


@functools.cache
def commit_settings() -> CommitSettings:
    """Return `AUDIT_COMMIT`, checked. Each save asks, so the answer is kept until a test overrides the setting.

    Raises:
        ConfigError: It is no dict, or a value is not what the setting takes.
    """
    given = getattr(settings, "AUDIT_COMMIT", None)
    if given is None:
        return _AFTER
    if not isinstance(given, Mapping):
        raise ConfigError("AUDIT_COMMIT", f'must be a dict such as {{"relation": "intent"}}, not a {_kind(given)}')
    for name in given:
        if name not in CommitSettings._fields:
            raise ConfigError("AUDIT_COMMIT", unknown("setting", str(name), CommitSettings._fields))
    found = CommitSettings(**given)
    if found.relation not in {"after", "intent"}:
        raise ConfigError("AUDIT_COMMIT", "relation must be 'after' or 'intent'")
    if found.on_failure not in {"refuse", "record_loss"}:
        raise ConfigError("AUDIT_COMMIT", "on_failure must be 'refuse' or 'record_loss'")
    seconds: object = found.timeout_s  # which is not what the annotation promises, if the settings are wrong
    if not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
        raise ConfigError("AUDIT_COMMIT", "timeout_s must be a number of seconds, at most 3600")
    return found


_AFTER: Final = CommitSettings()


def _forget_commit_settings(setting: str, **_: object) -> None:
    if setting == "AUDIT_COMMIT":
        commit_settings.cache_clear()


setting_changed.connect(_forget_commit_settings, dispatch_uid="audit_async.commit_settings")


def middleware_settings() -> dict[str, Any]:
    """Return the keyword arguments of the middleware; `policy` and `actor` may be the dotted names of what to import.

    Raises:
        ConfigError: It is no dict, or a dotted name can't be imported.
    """
    given = getattr(settings, "AUDIT_MIDDLEWARE", {})
    if not isinstance(given, Mapping):
        raise ConfigError("AUDIT_MIDDLEWARE", f"must be a dict of the middleware's settings, not a {_kind(given)}")
    found = dict(given)
    for name in ("policy", "actor"):
        if isinstance(found.get(name), str):
            found[name] = _imported(f"AUDIT_MIDDLEWARE[{name!r}]", found[name])
    return found


def models_to_register() -> Iterator[tuple[type[Any], dict[str, Any]]]:
    """Yield the models of `AUDIT_MODELS` with the settings of `register`.

    Raises:
        ConfigError: A name is no model, or a setting is unknown.
    """
    given = getattr(settings, "AUDIT_MODELS", {})
    if isinstance(given, list | tuple):
        given = {label: {} for label in given}
    if not isinstance(given, Mapping):
        raise ConfigError(
            "AUDIT_MODELS",
            'must be a list of models, ["auth.User"], or a dict with their settings, '
            f'{{"auth.User": {{"exclude": ["last_login"]}}}}, not a {_kind(given)}',
        )
    for label, options in given.items():
        if not isinstance(label, str) or not isinstance(options, Mapping):
            raise ConfigError("AUDIT_MODELS", "each name is a text such as 'auth.User', and its settings are a dict")
        for name in options:
            if name not in _OPTIONS:
                raise ConfigError(f"AUDIT_MODELS[{label!r}]", unknown("setting of a model", name, _OPTIONS))
        try:
            model = apps.get_model(label, require_ready=False)
        except (LookupError, ValueError) as error:
            raise ConfigError("AUDIT_MODELS", f"there is no model {label!r}: {error}") from None
        yield model, dict(options)


def auth_method_of_backend(path: str) -> AuthMethod | None:
    """Return how a backend proves identities, as `AUDIT_AUTH_METHODS` says; None if it does not.

    Args:
        path: The dotted name of the backend's class.

    Raises:
        ConfigError: The setting is no dict, or names a method that there is not.
    """
    return auth_methods().get(path)


def auth_methods() -> dict[str, AuthMethod]:
    """Return `AUDIT_AUTH_METHODS`, checked; see `auth_method_of_backend`."""
    given = getattr(settings, "AUDIT_AUTH_METHODS", {})
    if not isinstance(given, Mapping):
        raise ConfigError(
            "AUDIT_AUTH_METHODS", f"must be a dict from a backend's name to a method, not a {_kind(given)}"
        )
    methods = {}
    for path, method in given.items():
        try:
            methods[str(path)] = AuthMethod(method)
        except ValueError:
            known = tuple(each.value for each in AuthMethod)
            raise ConfigError("AUDIT_AUTH_METHODS", unknown("method", str(method), known)) from None
    return methods


def _imported(setting: str, name: str) -> object:
    try:
        return import_string(name)
    except ImportError as error:
        raise ConfigError(setting, f"{name!r} can't be imported: {error}") from None


def _kind(value: object) -> str:
    return type(value).__name__
