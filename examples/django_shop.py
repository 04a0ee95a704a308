"""A Django project in one file: who logged in, who placed orders, and who cancelled them all at once.

$ python -m examples.django_shop                            # makes ./shop.sqlite3, with the user alice
$ python -m gunicorn examples.django_shop:application       # the trail is in ./audit
$ audit-async query ./audit
"""

from __future__ import annotations

import os
from pathlib import Path

import django
from django.conf import settings

BASE_DIR = Path.cwd()

settings.configure(
    SECRET_KEY=os.environ.get("SHOP_SECRET_KEY", "for an example only"),
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "shop.sqlite3"}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "audit_async.integrations.django",
    ],
    MIDDLEWARE=[
        "audit_async.integrations.django.AuditMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    AUDIT={"service_id": "shop", "mode": {"type": "local", "base_dir": str(BASE_DIR / "audit")}},
    AUDIT_MODELS={"auth.User": {"exclude": ["last_login"]}},
    AUDIT_AUTH_METHODS={"django.contrib.auth.backends.ModelBackend": "password"},
)
django.setup()

# Models and what needs them can be imported once Django is set up.
from django.contrib.auth import authenticate, login
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from audit_async.integrations.django import audit_model


@audit_model()
class Order(models.Model):
    """What somebody ordered."""

    item = models.CharField(max_length=80)
    status = models.CharField(max_length=10, default="open")

    class Meta:
        """There is no application of its own in one file."""

        app_label = "shop"


def log_in(request: HttpRequest) -> HttpResponse:
    """Log in; a refusal is recorded as well."""
    user = authenticate(request, username=request.POST["user"], password=request.POST["password"])
    if user is None:
        return HttpResponse(status=400)
    login(request, user)
    return HttpResponse("welcome\n")


def order(request: HttpRequest) -> HttpResponse:
    """Order something."""
    if not request.user.is_authenticated:
        return HttpResponse(status=403)
    return JsonResponse({"order": Order.objects.create(item=request.POST["item"]).pk})


def cancel_open(request: HttpRequest) -> HttpResponse:
    """Cancel all open orders in one statement."""
    if not request.user.is_authenticated:
        return HttpResponse(status=403)
    with transaction.atomic():
        cancelled = Order.objects.filter(status="open").update(status="cancelled")
    return JsonResponse({"cancelled": cancelled})


urlpatterns = [path("login", log_in), path("orders", order), path("orders/cancel-open", cancel_open)]


def make_database(passwords: dict[str, str]) -> None:
    """Make the tables, and the users."""
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        editor.create_model(Order)
    for name, password in passwords.items():
        User.objects.create_user(name, password=password)


if __name__ == "__main__":
    make_database({"alice": os.environ.get("SHOP_PASSWORD", "wonderland-7")})
else:
    application = get_wsgi_application()
