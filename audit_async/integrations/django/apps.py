"""The application that a project lists in `INSTALLED_APPS`: what is watched, from the moment that all models exist."""

from __future__ import annotations

from django.apps import AppConfig, apps

from audit_async.ambient import set_audit
from audit_async.errors import ConfigError

__all__ = ["AuditAppConfig"]


class AuditAppConfig(AppConfig):
    """Watches what the settings name. Opens no log: the first event does, or the middleware as the server starts."""

    name = "audit_async.integrations.django"
    label = "audit_async"
    verbose_name = "Audit trail"

    def ready(self) -> None:
        """Begin to watch."""
        from audit_async.integrations.django import registration, system_checks  # noqa: PLC0415 - see below
        from audit_async.integrations.django.bulk_changes import watch_bulk_changes  # noqa: PLC0415 - as above
        from audit_async.integrations.django.django_settings import models_to_register  # noqa: PLC0415 - as above
        from audit_async.integrations.django.model_changes import prepare_model, watch_relations  # noqa: PLC0415
        from audit_async.integrations.django.pending_records import watch_commits  # noqa: PLC0415 - as above
        from audit_async.integrations.django.process_log import open_log  # noqa: PLC0415 - as above

        system_checks.register_checks()
        try:
            for model, options in models_to_register():
                registration.register(model, **options)
        except ConfigError:
            pass  # `manage.py check` reports it, as every command and server does before it begins
        for model in registration.registered_models():
            prepare_model(model)
        registration.on_registration.append(prepare_model)
        watch_commits()
        watch_bulk_changes()
        watch_relations()
        if apps.is_installed("django.contrib.auth"):
            from audit_async.integrations.django.auth_signals import (  # noqa: PLC0415 - an application
                watch_log_ins,
                watch_passwords,
            )

            watch_log_ins()
            watch_passwords()
        if apps.is_installed("django.contrib.admin"):
            from audit_async.integrations.django.admin_log import watch_admin  # noqa: PLC0415 - as above

            watch_admin()
        before = set_audit(open_log)
        if before is not None:  # the application's own choice, made before
            set_audit(before)
