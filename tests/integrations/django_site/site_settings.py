"""The settings of the test project; a test of a real server gives its place by the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

BASE_DIR = Path(os.environ.get("SITE_DIRECTORY", "/nonexistent"))
SECRET_KEY = "not-secret"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.integrations.django_site.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "audit_async.integrations.django",
    "tests.integrations.django_site",
]
MIDDLEWARE = [
    "audit_async.integrations.django.AuditMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
AUDIT_MODELS = {"auth.User": {"exclude": ["last_login"]}}
AUDIT_AUTH_METHODS = {"django.contrib.auth.backends.ModelBackend": "password"}
AUDIT: dict[str, Any] = {
    "service_id": "shop",
    "mode": {"type": "local", "base_dir": str(BASE_DIR / "audit")},
    "flush_mode": {"type": "batched", "size": 5000, "interval": 60.0},
}
if "SITE_PRIVACY" in os.environ:
    AUDIT["privacy"] = json.loads(os.environ["SITE_PRIVACY"])
AUDIT_COMMIT = json.loads(os.environ.get("SITE_COMMIT", "null"))
_SQLITE = {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"timeout": 30}}
DATABASES: dict[str, dict[str, Any]] = {
    "default": {**_SQLITE, "NAME": str(BASE_DIR / "shop.sqlite3")},
    "other": {**_SQLITE, "NAME": str(BASE_DIR / "other.sqlite3")},
}
if "SITE_POSTGRES" in os.environ:
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "shop",
        "USER": "postgres",
        "HOST": os.environ["SITE_POSTGRES"].rpartition(":")[0],
        "PORT": os.environ["SITE_POSTGRES"].rpartition(":")[2],
    }
