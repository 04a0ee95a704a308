"""Django: requests, log-ins, and what is done to models, one by one and in bulk, after COMMIT, with who did it.

    INSTALLED_APPS = ["audit_async.integrations.django"]
    MIDDLEWARE = ["audit_async.integrations.django.AuditMiddleware"]
    AUDIT = {"service_id": "shop", "mode": {"type": "local", "base_dir": "/srv/shop/audit"}}

The settings name the models to record, `AUDIT_MODELS`, or their classes are decorated with `audit_model()`.
Everything is imported from this package; its modules are implementation details:

| module | subject |
| --- | --- |
| `apps` | what is watched once all models exist |
| `django_settings`, `system_checks` | the project's settings, and what `manage.py check` says of them |
| `process_log` | the log of each process |
| `django_middleware`, `request_actor` | requests, and who acts |
| `registration` | which models are recorded |
| `model_changes`, `field_values` | one object that is saved, and its relations |
| `bulk_changes`, `criteria` | statements about many objects, and deletions |
| `pending_records`, `commit_intents` | waiting for COMMIT, or recorded before it |
| `auth_signals`, `admin_log` | log-ins, and what the admin reports |
| `asgi_application` | the life span of an ASGI server |
"""

from typing import TYPE_CHECKING, Final

from audit_async._first_use import Needed, imported_at_first_use

if TYPE_CHECKING:
    from audit_async.integrations._http.request_policy import Level, Policy, Rule
    from audit_async.integrations.django.asgi_application import get_asgi_application
    from audit_async.integrations.django.commit_intents import IntentNotDurable
    from audit_async.integrations.django.django_middleware import AuditMiddleware
    from audit_async.integrations.django.registration import audit_model, register, unregister
    from audit_async.integrations.django.request_actor import actor_of

__all__ = [
    "AuditMiddleware",
    "IntentNotDurable",
    "Level",
    "Policy",
    "Rule",
    "actor_of",
    "audit_model",
    "get_asgi_application",
    "register",
    "unregister",
]

# Imported when it is first asked for: a module of models is imported before Django can give what the middleware needs.
_HOMES: Final = {
    "audit_async.integrations._http.request_policy": ("Level", "Policy", "Rule"),
    "audit_async.integrations.django.asgi_application": ("get_asgi_application",),
    "audit_async.integrations.django.commit_intents": ("IntentNotDurable",),
    "audit_async.integrations.django.django_middleware": ("AuditMiddleware",),
    "audit_async.integrations.django.registration": ("audit_model", "register", "unregister"),
    "audit_async.integrations.django.request_actor": ("actor_of",),
}

if not TYPE_CHECKING:  # or a type checker would believe in every name
    _NEEDED: Final = (Needed("django", "django"), Needed("asgiref", "django"))
    __getattr__, __dir__ = imported_at_first_use(__name__, _HOMES, *_NEEDED)
