"""Requests to a Django project, by its test clients: who asked, what was answered, and who changed what."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from audit_async import AuditConfig, Local, set_audit
from audit_async.sync import SyncAuditLogger
from audit_async.testing import AuditTrail
from tests.integrations.django_site import site_settings
from tests.integrations.django_site.databases import fresh_databases
from tests.trails import read_events

# After the project is set up, which the import above does.
from audit_async.integrations.django import Policy, Rule  # isort: skip
from django.contrib.auth.forms import AdminPasswordChangeForm, PasswordChangeForm, SetPasswordForm  # isort: skip
from django.contrib.auth.models import User  # isort: skip
from django.contrib.contenttypes.models import ContentType  # isort: skip
from django.core.exceptions import ImproperlyConfigured  # isort: skip
from django.core.management import call_command  # isort: skip
from django.core.management.base import SystemCheckError  # isort: skip
from django.db import connection  # isort: skip
from django.test import AsyncClient, Client, override_settings  # isort: skip
from django.test.utils import CaptureQueriesContext  # isort: skip
from tests.integrations.django_site.models import Order, Unseen  # isort: skip

Events = Callable[[], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for databases that others are copied from."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def events(tmp_path: Path, templates: Path) -> Iterator[Events]:
    """Return a function that returns what was recorded since its last call."""
    with AuditTrail(tmp_path / "audit") as trail, fresh_databases(tmp_path, templates, None):
        before = set_audit(trail.audit)
        seen = 0

        def read() -> list[dict[str, Any]]:
            nonlocal seen
            trail.records()
            records = read_events(tmp_path / "audit")
            new, seen = records[seen:], len(records)
            return [
                {**each["event"], "context": each.get("context", {})}
                for each in new
                if not each["event"]["event_type"].startswith("audit.")
            ]

        try:
            yield read
        finally:
            set_audit(before)


def of_type(events: list[dict[str, Any]], event_type: str) -> list[dict[str, Any]]:
    """Return the events of a type."""
    return [event for event in events if event["event_type"] == event_type]


def alice(**more: Any) -> Any:
    """Make a user."""
    return User.objects.create_user("alice", password="wonderland-7", **more)


def test_a_request_is_recorded(events: Events) -> None:
    """Path, route, status, sizes, address, and an id that the answer names."""
    response = Client(raise_request_exception=False).get("/plain/?q=1", headers={"x-request-id": "abc-1"})
    (event,) = events()
    assert response.headers["X-Request-ID"] == "abc-1"
    assert event["context"] == {"request_id": "abc-1"}
    shown = {name: event[name] for name in ("event_type", "method", "path", "route", "status", "bytes_out", "ip")}
    assert shown == {
        "event_type": "http.request",
        "method": "GET",
        "path": "/plain/",
        "route": "/plain/",
        "status": 200,
        "bytes_out": 2,
        "ip": "127.0.0.1",
    }
    assert "actor" not in event


def test_failures_streams_and_bodies(events: Events) -> None:
    """The class of what a view raised, never its text; a stream's length; what was read of a body."""
    client = Client(raise_request_exception=False)
    assert client.get("/broken/").status_code == 500
    assert client.get("/rolled-back/").status_code == 500
    assert client.get("/nowhere/").status_code == 404
    assert b"".join(client.get("/stream/").streaming_content) == b"onetwo"
    assert client.post("/echo/", b'{"a": 1}', content_type="application/json").content == b'{"a": 1}'
    seen = events()
    assert [(event["status"], event.get("error"), event["bytes_in"], event["bytes_out"] > 0) for event in seen] == [
        (500, "ValueError", 0, True),
        (500, "RuntimeError", 0, True),
        (404, None, 0, True),
        (200, None, 0, True),
        (200, None, 8, True),
    ]
    assert seen[3]["bytes_out"] == 6
    assert "secret" not in json.dumps(seen)


@override_settings(AUDIT_MIDDLEWARE={"policy": "tests.integrations.django_site.policies.WITH_BODIES"})
def test_bodies_are_kept_by_the_policy(events: Events) -> None:
    """And redacted as everywhere; what no rule wants is not recorded."""
    client = Client()
    client.post("/echo/", json.dumps({"password": "hunter2", "a": 1}), content_type="application/json")
    client.get("/plain/")
    (event,) = events()
    assert event["request_body"]["text"] == ['{"password":"[redacted:password]","a":1}']
    assert event["response_body"]["text"] == event["request_body"]["text"]


@pytest.mark.parametrize("path", ["/login/", "/login-async/"])
def test_log_ins_and_log_outs(events: Events, path: str) -> None:
    """How the identity was proved is what the settings say of the backend; a refusal names who was tried."""
    alice()
    events()
    client = Client()
    client.post(path, {"username": "alice", "password": "wrong-secret"})
    client.post(path, {"username": "alice", "password": "wonderland-7"})
    client.post("/logout/")
    client.post("/logout/")
    seen = [event for event in events() if not event["event_type"].startswith(("http.", "resource.", "security."))]
    assert [event["event_type"] for event in seen] == ["auth.failure", "session.started", "session.ended"]
    failure, started, ended = seen
    assert (failure["attempted_user"], failure["ip"], failure["path"]) == ("alice", "127.0.0.1", path)
    assert (started["actor"], started["method"]) == ({"user_id": "alice", "ip": "127.0.0.1"}, "password")
    assert (ended["actor"]["user_id"], ended["method"]) == ("alice", "password")
    assert "wrong-secret" not in json.dumps(seen)


@pytest.mark.parametrize("rules", [[], [{"path": "/api/**", "level": "none"}]])
def test_a_log_in_that_an_api_answers_with_401_failed_once(events: Events, rules: list[dict[str, Any]]) -> None:
    """The record that says who was tried is the only `auth.failure`; a 401 without a try is one as well.

    If the policy records nothing there, the failed log-in is all that is recorded.
    """
    alice()
    events()
    with override_settings(AUDIT_MIDDLEWARE={"policy": Policy([Rule(**rule) for rule in rules])}):
        client = Client()
        client.post("/api/", {"username": "alice", "password": "wrong-secret"})
        client.post("/api/")
    seen = [event for event in events() if event["event_type"].startswith(("auth.", "http."))]
    expected = [("auth.failure", "alice"), ("http.request", None), ("auth.failure", None)]
    assert [(event["event_type"], event.get("attempted_user")) for event in seen] == expected[: 1 if rules else 3]


@override_settings(AUDIT_AUTH_METHODS={})
def test_how_somebody_logged_in_is_never_guessed(events: Events) -> None:
    """Django does not say it."""
    Client().force_login(alice())
    (started,) = of_type(events(), "session.started")
    assert "method" not in started


@pytest.mark.parametrize("path", ["/sync/7", "/async/7"])
def test_who_changed_it(events: Events, path: str) -> None:
    """The session's user, in `def` and `async def` views, with the request's id; the request's record says the same."""
    user = alice()
    client = Client()
    client.force_login(user)
    events()
    assert client.get(path).status_code == 200
    made, asked = events()
    assert (made["event_type"], asked["event_type"]) == ("resource.created", "http.request")
    assert made["actor"] == {"user_id": "alice", "ip": "127.0.0.1", "auth_method": "session"}
    assert asked["actor"] == made["actor"]
    assert made["context"] == asked["context"]
    Client().get(path)
    (made,) = of_type(events(), "resource.created")
    assert made["actor"] == {"user_id": "anonymous", "ip": "127.0.0.1"}


@pytest.mark.parametrize("path", ["/sync/7", "/async/7", "/plain/"])
def test_an_asynchronous_server_sees_the_same(events: Events, path: str) -> None:
    """By Django's ASGI handler, whose middleware is asynchronous all the way."""
    user = alice()
    client = AsyncClient()

    async def ask() -> int:
        await client.aforce_login(user)
        return int((await client.get(path)).status_code)

    assert async_to_sync(ask)() == 200
    seen = events()
    if path != "/plain/":
        made = of_type(seen, "resource.created")[-1]
        assert made["actor"]["user_id"] == "alice"
    assert of_type(seen, "http.request")[0]["status"] == 200


def test_a_request_that_asks_for_no_user_costs_no_query(events: Events) -> None:
    """So its record names nobody."""
    client = Client()
    client.force_login(alice())
    events()
    with CaptureQueriesContext(connection) as queries:
        client.get("/plain/")
    assert len(queries) == 0
    (asked,) = events()
    assert "actor" not in asked


def test_what_is_done_in_the_admin(events: Events) -> None:
    """With values for registered models, by the admin's own log for others; and "delete selected" object by object."""
    admin = alice(is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(admin)
    ContentType.objects.get_for_model(Unseen)
    orders = [Order.objects.create(note=str(n)) for n in range(2)]
    events()
    assert client.post("/admin/django_site/unseen/add/", {"name": "n"}).status_code == 302
    unseen = Unseen.objects.get()
    assert client.post(f"/admin/django_site/unseen/{unseen.pk}/change/", {"name": "m"}).status_code == 302
    changed = [event for event in events() if event["event_type"].startswith("resource.")]
    assert [(event["event_type"], event["resource"]["resource_type"]) for event in changed] == [
        ("resource.created", "django_site.Unseen"),
        ("resource.updated", "django_site.Unseen"),
    ]
    assert changed[1]["changes"] == {"Name": {}}
    assert changed[1]["actor"]["user_id"] == "alice"
    selected = {"action": "delete_selected", "_selected_action": [order.pk for order in orders], "post": "yes"}
    assert client.post("/admin/django_site/order/", selected).status_code == 302
    deleted = of_type(events(), "resource.deleted")
    assert {event["resource"]["resource_id"] for event in deleted} == {str(order.pk) for order in orders}
    assert {event["actor"]["user_id"] for event in deleted} == {"alice"}


def test_a_password_is_no_value(events: Events) -> None:
    """That it was changed is recorded, of it nothing; and whether the old one was asked for, if a form did."""
    user = alice()
    user.set_password("another-secret")
    user.save()
    seen = events()
    (updated,) = of_type(seen, "resource.updated")
    assert set(updated["changes"]) == {"password"}
    assert of_type(seen, "user.updated")[0]["changes"] == {"password": {}}
    assert "md5$" not in json.dumps(seen)
    new = {"new_password1": "third-secret-3", "new_password2": "third-secret-3"}
    forms = [
        PasswordChangeForm(user, {"old_password": "another-secret", **new}),
        SetPasswordForm(user, new),
        AdminPasswordChangeForm(user, {"password1": "fourth-secret", "password2": "fourth-secret"}),
    ]
    for form in forms:
        assert form.is_valid(), form.errors
        form.save()
    kinds = [event["event_type"] for event in events() if event["event_type"].startswith("user.")]
    assert kinds == ["user.password_changed", "user.password_reset", "user.password_reset"]


def test_a_hash_that_is_renewed_is_no_new_password(events: Events) -> None:
    """Django stores another hash at a log-in if the settings name another hasher."""
    alice()
    events()
    hashers = ["django.contrib.auth.hashers.PBKDF2PasswordHasher", *site_settings.PASSWORD_HASHERS]
    with override_settings(PASSWORD_HASHERS=hashers):
        Client().post("/login/", {"username": "alice", "password": "wonderland-7"})
    seen = [event["event_type"] for event in events() if not event["event_type"].startswith("http.")]
    assert sorted(seen) == ["resource.updated", "session.started"]


def test_the_admin_log_of_many_objects(events: Events) -> None:
    """Django writes its entries in one statement, and sends no signal."""
    admin = alice(is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(admin)
    unseen = [Unseen.objects.create(name=str(n)) for n in range(3)]
    events()
    selected = {"action": "delete_selected", "_selected_action": [each.pk for each in unseen], "post": "yes"}
    assert client.post("/admin/django_site/unseen/", selected).status_code == 302
    deleted = of_type(events(), "resource.deleted")
    assert {event["resource"]["resource_id"] for event in deleted} == {str(each.pk) for each in unseen}


@override_settings(
    AUDIT_MIDDLEWARE={"fail_closed": True, "policy": "tests.integrations.django_site.policies.WITH_STARTS"}
)
def test_starts_are_recorded_and_nothing_is_served_unrecorded(events: Events) -> None:
    """`Rule(begin=True)` and `fail_closed`, in both kinds of server."""
    assert Client().get("/plain/").status_code == 200

    async def ask() -> int:
        return int((await AsyncClient().get("/plain/")).status_code)

    assert async_to_sync(ask)() == 200
    assert [event["event_type"] for event in events()] == ["http.request_started", "http.request"] * 2
    closed = SyncAuditLogger(AuditConfig(mode=Local("/nonexistent"), service_id="closed"))
    client = Client()
    client.get("/plain/")
    before = set_audit(closed)
    try:
        response = client.get("/plain/")
    finally:
        set_audit(before)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"AUDIT": None}, "neither AUDIT nor AUDIT_CONFIG"),
        ({"AUDIT": {"service_id": "shop"}}, "mode"),
        ({"AUDIT": {"service_id": "s", "mode": {"type": "local", "base_dir": "audit"}}}, "BASE_DIR"),
        ({"AUDIT": None, "AUDIT_CONFIG": "/nowhere/audit.toml"}, "/nowhere/audit.toml"),
        ({"AUDIT_CONFIG": "both.toml"}, "keep one of them"),
        ({"AUDIT_MODELS": ["auth.Usr"]}, "auth.Usr"),
        ({"AUDIT_MODELS": {"auth.User": {"excluded": []}}}, "exclude"),
        ({"AUDIT_MIDDLEWARE": {"polizy": 1}}, "policy"),
        ({"AUDIT_MIDDLEWARE": {"actor": "no.such.hook"}}, "no.such.hook"),
        ({"AUDIT_COMMIT": {"relation": "intend"}}, "'after' or 'intent'"),
        ({"AUDIT_AUTH_METHODS": {"a.Backend": "pasword"}}, "password"),
    ],
)
def test_wrong_settings_are_reported_by_the_checks(settings: dict[str, Any], message: str) -> None:
    """`manage.py check`, which runs before every command and server, says which setting it is and what to do."""
    with override_settings(**settings), pytest.raises(SystemCheckError) as failure:
        call_command("check")
    assert message in str(failure.value)


def test_a_server_does_not_start_without_its_log(events: Events) -> None:
    """What opening the log raises stops the middleware from being loaded."""
    set_audit(None)
    with pytest.raises(ImproperlyConfigured, match="audit"):
        Client().get("/plain/")


@pytest.mark.parametrize(("arguments", "shown"), [(["verify"], "valid"), (["query", "--json"], '"http.request"')])
def test_the_trail_is_read_by_manage_py(events: Events, tmp_path: Path, arguments: list[str], shown: str) -> None:
    """`manage.py audit` runs a command of `audit-async` on the project's own trail, and passes its options on."""
    Client().get("/plain/")
    events()
    shutil.move(tmp_path / "audit" / "test", tmp_path / "audit" / "shop")  # the fixture's log, by the project's name
    settings = "tests.integrations.django_site.site_settings"
    environment = os.environ | {"SITE_DIRECTORY": str(tmp_path), "DJANGO_SETTINGS_MODULE": settings}
    command = [sys.executable, "-m", "django", "audit", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert shown in ended.stdout, ended.stderr
    assert ended.returncode == 0
    refused = subprocess.run(
        [*command, "--no-such-option"], capture_output=True, env=environment, timeout=60, check=False
    )
    assert refused.returncode == 2
