"""Changes that are recorded before COMMIT: durable before it, joined with its outcome, true whenever a process dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit_async import AuditConfig, Local, set_audit
from audit_async.sync import SyncAuditLogger
from audit_async.testing import AuditTrail
from tests.forwarding.postgres_server import PostgresServer, programs
from tests.integrations.django_site.databases import fresh_databases
from tests.trails import check_trail, read_events

# After the project is set up, which the import above does.
from django.db import DatabaseError, IntegrityError, connection, transaction  # isort: skip
from django.test import override_settings  # isort: skip
from audit_async.integrations.django.commit_intents import IntentNotDurable  # isort: skip
from tests.integrations.django_site.models import Customer, Order  # isort: skip

SITE = "tests.integrations.django_site"
INTENT = {"relation": "intent"}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    if programs() is None:
        pytest.skip("there is no PostgreSQL here")
    made = PostgresServer.made()
    made.start()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for databases that others are copied from."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def trail(tmp_path: Path, templates: Path, server: PostgresServer) -> Iterator[AuditTrail]:
    """The log of the project, with the intents asked for."""
    with (
        AuditTrail(tmp_path / "audit") as trail,
        fresh_databases(tmp_path, templates, server),
        override_settings(AUDIT_COMMIT=INTENT),
    ):
        before = set_audit(trail.audit)
        try:
            yield trail
        finally:
            set_audit(before)


def types_of(trail: AuditTrail) -> list[str]:
    """Return the types of what was recorded since the last call, without their common parts."""
    records = trail.records()
    trail.clear()
    return [record.event.event_type for record in records]


def test_the_intent_is_durable_before_commit(trail: AuditTrail) -> None:
    """Each change, then the intent, then COMMIT, then the outcome, all with the same id; and nothing twice."""
    seen_at_commit: list[int] = []
    original = connection._commit

    def commit() -> None:
        seen_at_commit.append(len(trail.records()))
        original()

    connection._commit = commit
    try:
        with transaction.atomic():
            customer = Customer.objects.create(name="A")
            Customer.objects.filter(name="A").update(country="BE")
    finally:
        del connection._commit
    assert seen_at_commit == [3]
    records = trail.records()
    assert types_of(trail) == [
        "resource.change_intended",
        "resource.bulk_change_intended",
        "transaction.intended",
        "transaction.ended",
    ]
    events: list[Any] = [record.event for record in records]
    assert len({event.transaction_id for event in events}) == 1
    assert (events[2].changes, events[2].xid.isdecimal(), events[3].outcome) == (2, True, "committed")
    assert "postgresql://" in events[2].database
    customer.name = "B"
    customer.save()  # outside a transaction of the application's own
    assert types_of(trail) == ["resource.change_intended", "transaction.intended", "transaction.ended"]


def test_what_is_rolled_back_was_never_intended(trail: AuditTrail) -> None:
    """Nothing is recorded of it, nor of a savepoint in a transaction that commits."""
    with pytest.raises(KeyError), transaction.atomic():
        Customer.objects.create(name="A")
        raise KeyError
    with transaction.atomic():
        Customer.objects.create(name="B")
        with pytest.raises(KeyError), transaction.atomic():
            Customer.objects.create(name="C")
            raise KeyError
    assert types_of(trail) == ["resource.change_intended", "transaction.intended", "transaction.ended"]


def test_a_commit_that_is_refused(trail: AuditTrail) -> None:
    """PostgreSQL checks a foreign key at COMMIT: the outcome is that it was rolled back."""
    with pytest.raises(IntegrityError), transaction.atomic():
        Order.objects.create(customer_id=4711)
    (ended,) = [record.event for record in trail.records() if record.event.event_type == "transaction.ended"]
    assert (getattr(ended, "outcome", None), getattr(ended, "reason", None)) == ("rolled_back", "IntegrityError")


@pytest.mark.parametrize("on_failure", ["refuse", "record_loss"])
def test_what_cannot_be_recorded_is_not_committed(trail: AuditTrail, on_failure: str) -> None:
    """Unless the settings prefer the loss of the record."""
    before = set_audit(SyncAuditLogger(AuditConfig(mode=Local("/nonexistent"), service_id="closed")))
    try:
        with override_settings(AUDIT_COMMIT={**INTENT, "on_failure": on_failure}):
            if on_failure == "refuse":
                with pytest.raises(IntentNotDurable) as refused, transaction.atomic():
                    Customer.objects.create(name="A")
                assert isinstance(refused.value, DatabaseError)
            else:
                Customer.objects.create(name="A")
    finally:
        set_audit(before)
    assert Customer.objects.count() == (on_failure == "record_loss")
    Customer.objects.create(name="next")  # the connection still works
    assert types_of(trail)[-1] == "transaction.ended"


SET_UP = """
from tests.integrations.django_site import databases
from tests.integrations.django_site.models import Customer
"""

PROGRAM = """
import os, signal, sys
from tests.integrations.django_site import databases
from django.db import connection, transaction
from tests.integrations.django_site.models import Customer

connection.ensure_connection()
original, when = connection._commit, sys.argv[1]

def commit():
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    original()
    os.kill(os.getpid(), signal.SIGKILL)

connection._commit = commit
with transaction.atomic():
    Customer.objects.create(name="killed")
"""


@pytest.mark.parametrize(("when", "outcome"), [("before", "rolled_back"), ("after", "committed")])
def test_a_process_is_killed_around_commit(tmp_path: Path, server: PostgresServer, when: str, outcome: str) -> None:
    """Kill -9: the trail has an intent without an outcome, which the command finds out, and the database agrees."""
    environment = os.environ | {
        "SITE_DIRECTORY": str(tmp_path),
        "SITE_POSTGRES": f"{server.directory}:{server.port}",
        "SITE_COMMIT": json.dumps(INTENT),
        "DJANGO_SETTINGS_MODULE": f"{SITE}.site_settings",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    with server.database("shop"):
        assert run("-m", "django", "migrate", "--run-syncdb", "--verbosity", "0").returncode == 0
        killed = run("-c", PROGRAM, when)
        assert killed.returncode == -9, killed.stderr
        events = [record["event"] for record in read_events(tmp_path / "audit")]
        assert [e["event_type"] for e in events[-2:]] == ["resource.change_intended", "transaction.intended"]
        resolved = run("-m", "django", "audit_resolve")
        assert f"1 {outcome.replace('_', ' ')}" in resolved.stdout, resolved.stderr
        again = run("-m", "django", "audit_resolve")
        assert again.stdout == "0 committed, 0 rolled back, 0 unresolved\n", again.stderr
        found = run("-c", f"{SET_UP}print(Customer.objects.count())")
        assert found.stdout == ("1\n" if outcome == "committed" else "0\n"), found.stderr
    check_trail(tmp_path / "audit")
    ended = [record["event"] for record in read_events(tmp_path / "audit")]
    (event,) = [event for event in ended if event["event_type"] == "transaction.ended"]
    assert (event["outcome"], event["found_by"]) == (outcome, "pg_xact_status")
    assert event["transaction_id"] == events[-1]["transaction_id"]
