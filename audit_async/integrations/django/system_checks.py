"""`manage.py check`: what is wrong with the settings of the trail, before anything is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.core import checks

from audit_async.errors import AuditError
from audit_async.integrations._http.settings import Settings
from audit_async.integrations.django import django_settings
from audit_async.integrations.django.registration import registered_models
from audit_async.integrations.django.request_actor import user_of

__all__ = ["register_checks"]

_MIDDLEWARE: Final = "audit_async.integrations.django.AuditMiddleware"


def register_checks() -> None:
    """Have Django ask `check_settings`; registering again is harmless."""
    checks.register(check_settings)


def check_settings(app_configs: Any = None, **_: object) -> list[Any]:  # noqa: ARG001 - Django is not typed
    """Return what is wrong with the settings, as Django's checks report it."""
    found: list[Any] = []
    for number, read in enumerate((_read_config, _read_middleware, _read_models, _read_methods, _read_commit), 1):
        try:
            read()
        except AuditError as error:
            found.append(checks.Error(str(error), id=f"audit_async.E{number:03}"))
    found += _warnings()
    return found


def _read_config() -> None:
    django_settings.log_config()


def _read_middleware() -> None:
    Settings(django_settings.middleware_settings(), default_actor=user_of)


def _read_models() -> None:
    for _model, _options in django_settings.models_to_register():
        pass


def _read_methods() -> None:
    django_settings.auth_methods()


def _read_commit() -> None:
    django_settings.commit_settings()


def _warnings() -> Iterator[Any]:
    for model, registration in registered_models().items():
        names = registration.check(model)
        if names:
            yield checks.Error(
                f"{model._meta.label} is registered with names that are no fields of it: {', '.join(names)}",
                hint="correct `fields` and `exclude` of register, @audit_model or AUDIT_MODELS",
                id="audit_async.E006",
            )
    listed = list(settings.MIDDLEWARE)
    if _MIDDLEWARE not in listed:
        yield checks.Warning(
            "AuditMiddleware is not in MIDDLEWARE, so requests are not recorded and the actor of a change is not known",
            hint=f"put {_MIDDLEWARE!r} first",
            id="audit_async.W001",
        )
    elif listed[0] != _MIDDLEWARE:
        yield checks.Warning(
            "AuditMiddleware is not the first of MIDDLEWARE, so what those before it answer is not recorded",
            hint=f"put {_MIDDLEWARE!r} first",
            id="audit_async.W002",
        )
