"""Log-ins, log-outs and refused log-ins, as `django.contrib.auth` signals them; and passwords that are changed.

How an identity was proved is recorded only if `AUDIT_AUTH_METHODS` says what a log-in by the backend proves: Django
says which backend it was, and `login()` may name one that was never asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from django.contrib.auth import forms, get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models.signals import post_save
from django.http import HttpRequest as DjangoRequest

from audit_async.events import (
    AuthFailure,
    AuthMethod,
    Change,
    PasswordChanged,
    PasswordReset,
    SessionEnded,
    SessionStarted,
    UserUpdated,
)
from audit_async.integrations._http.incidents import UNKNOWN_ADDRESS
from audit_async.integrations.django.django_settings import auth_method_of_backend
from audit_async.integrations.django.pending_records import record_after_commit
from audit_async.integrations.django.process_log import lose_event, record_event
from audit_async.integrations.django.request_actor import (
    acting_now,
    actor_for_user,
    address_of,
    name_of_user,
    refusal_is_recorded,
)

__all__ = ["watch_log_ins", "watch_passwords"]

#: What the form that is being saved says of a new password; none if code sets it.
_password_event: Final[ContextVar[type[PasswordChanged | PasswordReset] | None]] = ContextVar(
    "audit_django_password", default=None
)

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
        failure = AuthFailure(
            attempted_user=None if given is None else str(given),
            reason="refused by every authentication backend",
            ip=address_of(request) or UNKNOWN_ADDRESS,
            path=_NO_PATH if request is None else request.path,
        )
        if record_event(failure):
            refusal_is_recorded(request)
    except Exception as error:  # noqa: BLE001 - as above
        lose_event("auth.failure", error)


def _method_of(request: DjangoRequest) -> AuthMethod | None:
    """Return how the session's backend proves identities, as the settings say."""
    session = getattr(request, "session", None)
    loaded = getattr(session, "_session_cache", None)  # asking the session itself may load it
    backend = loaded.get("_auth_user_backend") if isinstance(loaded, dict) else None
    return None if backend is None else auth_method_of_backend(str(backend))


# Passwords.


def watch_passwords() -> None:
    """Record that passwords were changed or reset from now on; done once.

    Only the form that asks for the old password proves that somebody knew it. Of a password that code has set it is
    recorded that it was changed, and no more. A hash that Django renews at a log-in is no new password.
    """
    if getattr(forms.SetPasswordForm.save, "is_audited", False):
        return
    # All originals first: the form that asks for the old password inherits the method of the one that does not.
    saves: list[tuple[Any, Callable[..., Any], type[PasswordChanged | PasswordReset]]] = [
        (forms.PasswordChangeForm, forms.PasswordChangeForm.save, PasswordChanged),
        (forms.SetPasswordForm, forms.SetPasswordForm.save, PasswordReset),
        (forms.AdminPasswordChangeForm, forms.AdminPasswordChangeForm.save, PasswordReset),
    ]
    for form, original, event in saves:
        form.save = _saying(original, event)
    post_save.connect(_user_saved, sender=get_user_model(), dispatch_uid="audit_async.passwords")


def _saying(original: Callable[..., Any], event: type[PasswordChanged | PasswordReset]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _password_event.set(event)
        try:
            return original(self, *args, **kwargs)
        finally:
            _password_event.reset(token)

    save.is_audited = True  # type: ignore[attr-defined]  # a mark for the next call
    return save


def _user_saved(instance: Any, created: bool, using: str, **_: object) -> None:
    # Django keeps the password that was set until the user is saved, and drops it if it only renews the hash.
    if created or getattr(instance, "_password", None) is None:
        return
    event = _password_event.get()
    try:
        subject = name_of_user(instance) or str(instance.pk)
        if event is None:
            changed = UserUpdated(actor=acting_now(), subject=subject, changes={"password": Change()})
            record_after_commit(changed, using)
        else:
            record_after_commit(event(actor=acting_now(), subject=subject), using)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not break the change of the password
        lose_event("user.updated", error)
