"""Log-ins, log-outs and refused log-ins, as `django.contrib.auth` signals them; and passwords that are changed.

How an identity was proved is recorded only if `AUDIT_AUTH_METHODS` says what a log-in by the backend proves: Django
says which backend it was, and `login()` may name one that was never asked.
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.http import HttpRequest as DjangoRequest

from audit_async.events import AuthFailure, AuthMethod, SessionEnded, SessionStarted
from audit_async.integrations._http.incidents import UNKNOWN_ADDRESS
from audit_async.integrations.django.django_settings import auth_method_of_backend
from audit_async.integrations.django.process_log import lose_event, record_event
from audit_async.integrations.django.request_actor import actor_for_user, address_of, name_of_user

__all__ = ["watch_log_ins"]

#: Of a path that a request was made to, for a log-in without a request: a command, a task.
_NO_PATH: Final = ""


def watch_log_ins() -> None:
    """Record log-ins, log-outs and refused log-ins from now on."""
    user_logged_in.connect(_logged_in, dispatch_uid="audit_async.logged_in")
    user_logged_out.connect(_logged_out, dispatch_uid="audit_async.logged_out")
    user_login_failed.connect(_login_failed, dispatch_uid="audit_async.login_failed")


def _logged_in(request: DjangoRequest, user: Any, **_: object) -> None:
    try:
        record_event(SessionStarted(actor=actor_for_user(user, request), method=_method_of(request)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not break the log-in
        lose_event("session.started", error)


def _logged_out(request: DjangoRequest, user: Any, **_: object) -> None:
    if user is None or name_of_user(user) is None:  # nobody was logged in, so no session of anybody ends
        return
    try:
        record_event(SessionEnded(actor=actor_for_user(user, request), method=_method_of(request)))
    except Exception as error:  # noqa: BLE001 - as above
        lose_event("session.ended", error)


def _login_failed(credentials: dict[str, Any], request: DjangoRequest | None = None, **_: object) -> None:
    try:
        name_field = get_user_model().USERNAME_FIELD
        given = credentials.get(name_field, credentials.get("username"))
        record_event(
            AuthFailure(
                attempted_user=None if given is None else str(given),
                reason="refused by every authentication backend",
                ip=address_of(request) or UNKNOWN_ADDRESS,
                path=_NO_PATH if request is None else request.path,
            )
        )
    except Exception as error:  # noqa: BLE001 - as above
        lose_event("auth.failure", error)


def _method_of(request: DjangoRequest) -> AuthMethod | None:
    """Return how the session's backend proves identities, as the settings say."""
    session = getattr(request, "session", None)
    loaded = getattr(session, "_session_cache", None)  # asking the session itself may load it
    backend = loaded.get("_auth_user_backend") if isinstance(loaded, dict) else None
    return None if backend is None else auth_method_of_backend(str(backend))
