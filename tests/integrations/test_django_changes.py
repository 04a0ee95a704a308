"""What is done to models of a Django project, one by one and in bulk: in the trail once it is committed, and only then.

Each test runs on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from audit_async import set_audit
from audit_async.ambient import acting_as
from audit_async.events import ActorInfo
from audit_async.testing import AuditTrail
from tests.forwarding.postgres_server import PostgresServer, programs
from tests.integrations.django_site.databases import fresh_databases
from tests.trails import read_events

# After the project is set up, which the import above does.
from django.core.management import call_command  # isort: skip
from django.db import IntegrityError, connections, models, transaction  # isort: skip
from django.db.models import F, Q  # isort: skip
from django.test import TestCase  # isort: skip
from tests.integrations.django_site.models import (  # isort: skip
    Counter,
    Customer,
    GiftOrder,
    Invoice,
    Line,
    Order,
    OrderProxy,
    Tag,
    Unseen,
)


Recorded = Callable[[], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer | None]:
    """A PostgreSQL server, None if this machine has none."""
    if programs() is None:
        yield None
        return
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


@pytest.fixture(params=["sqlite", "postgresql"])
def recorded(
    request: pytest.FixtureRequest, tmp_path: Path, templates: Path, server: PostgresServer | None
) -> Iterator[Recorded]:
    """Return a function that returns the events since it was asked before, on a database with empty tables."""
    on_server = request.param == "postgresql"
    if on_server and server is None:
        pytest.skip("there is no PostgreSQL here")
    with AuditTrail(tmp_path / "audit") as trail, fresh_databases(tmp_path, templates, server if on_server else None):
        before = set_audit(trail.audit)
        try:
            yield reader_of(trail, tmp_path / "audit")
        finally:
            set_audit(before)


def reader_of(trail: AuditTrail, directory: Path) -> Recorded:
    """Return a function that returns the events since its last call, as they are in the trail, without the actor."""
    seen = 0

    def read() -> list[dict[str, Any]]:
        nonlocal seen
        trail.records()  # which makes durable what was emitted
        records = read_events(directory)
        new, seen = records[seen:], len(records)
        events: list[dict[str, Any]] = [each["event"] for each in new]
        for event in events:
            event.pop("actor", None)
        return [event for event in events if not event["event_type"].startswith("audit.")]

    return read


def resource(label: str, key: object) -> dict[str, str]:
    """Return a resource as it is recorded."""
    return {"resource_type": f"django_site.{label}", "resource_id": str(key)}


def changes(event: dict[str, Any]) -> dict[str, Any]:
    """Return the changes of an event as pairs; what is not known is a question mark."""
    return {
        name: (change.get("before", "?"), change.get("after", "?")) for name, change in event.get("changes", {}).items()
    }


def test_an_object_is_created_changed_and_deleted(recorded: Recorded) -> None:
    """With the values before and after, as they are stored, and nothing of what stays as it was."""
    customer = Customer.objects.create(name="Ann")
    order = Order.objects.create(customer=customer, amount="1.50", data={"a": [1]}, api_key="sk-live-12345678")
    created = recorded()
    assert [(event["event_type"], event["resource"]) for event in created] == [
        ("resource.created", resource("Customer", customer.pk)),
        ("resource.created", resource("Order", order.pk)),
    ]
    made = changes(created[1])
    assert made["customer"] == (None, customer.pk)
    assert made["status"] == (None, "open")
    assert made["data"] == (None, {"a": [1]})
    assert "sk-live" not in json.dumps(created)
    assert "created" not in made
    order = Order.objects.get()
    order.status, order.stock = Order.Status.PAID, "0"
    order.data["a"].append(2)
    order.save()
    order.save()
    (updated,) = recorded()
    assert updated["event_type"] == "resource.updated"
    assert changes(updated) == {"status": ("open", "paid"), "data": ({"a": [1]}, {"a": [1, 2]})}
    order.delete()
    (deleted,) = recorded()
    assert deleted["event_type"] == "resource.deleted"
    assert changes(deleted)["status"] == ("paid", None)
    Unseen.objects.create(name="x").delete()
    assert recorded() == []


def test_what_is_not_known_is_left_out(recorded: Recorded) -> None:
    """Deferred fields, rows that were never read, `update_fields`, and what the database computes."""
    key = Order.objects.create(stock=5, note="old").pk
    recorded()
    order = Order.objects.only("status").get()
    order.note = "new"
    order.save()
    assert [changes(event) for event in recorded()] == [{"note": ("?", "new")}]
    order = Order.objects.get()
    order.note, order.stock = "unsaved", 6
    order.save(update_fields=["stock"])
    assert [changes(event) for event in recorded()] == [{"stock": (5, 6)}]
    order.stock = F("stock") + 1
    order.save(update_fields=["stock"])
    (event,) = recorded()
    assert changes(event)["stock"] in {(6, "?"), (6, 7)}  # Django 6 reads it back where it can
    order.refresh_from_db()
    assert recorded() == []
    order.stock = 8
    order.save()
    assert [changes(event) for event in recorded()] == [{"stock": (7, 8)}]
    customer = Customer(pk=77, name="B")
    customer.save()
    Customer(pk=77, name="C").save()
    assert [event["event_type"] for event in recorded()] == ["resource.created", "resource.updated"]
    assert Order.objects.get().pk == key


def test_a_copy_of_an_object_is_a_new_one(recorded: Recorded) -> None:
    """Django's way to copy a row; and an object that went through a cache is known as it was."""
    order = Order.objects.create(note="a")
    recorded()
    order.pk = order.id = None
    order._state.adding = True
    order.save()
    assert [event["event_type"] for event in recorded()] == ["resource.created"]
    again = pickle.loads(pickle.dumps(order))  # noqa: S301 - our own
    again.note = "b"
    again.save()
    assert [changes(event) for event in recorded()] == [{"note": ("a", "b")}]


def test_nothing_of_a_rolled_back_transaction_is_recorded(recorded: Recorded) -> None:
    """Whole transactions, savepoints within them, and what is saved after a rollback is compared with what holds."""
    order = Order.objects.create(note="first")
    recorded()
    with transaction.atomic():
        order.note = "kept"
        order.save()
        try:
            with transaction.atomic():
                order.note = "lost"
                order.save()
                Order.objects.update(stock=9)
                Order.objects.create()
                raise KeyError
        except KeyError:
            pass
        assert recorded() == []
        order.note = "last"
        order.save()
    assert [changes(event) for event in recorded()] == [{"note": ("first", "kept")}, {"note": ("kept", "last")}]
    with pytest.raises(KeyError), transaction.atomic():
        order.note = "lost"
        order.save()
        order.delete()
        raise KeyError
    assert recorded() == []
    order = Order.objects.get()
    with pytest.raises(KeyError), transaction.atomic():
        order.note = "lost"
        order.save()
        raise KeyError
    order.note = "found"
    order.save()
    assert [changes(event) for event in recorded()] == [{"note": ("last", "found")}]


def test_a_callback_that_raises_keeps_no_record_back(recorded: Recorded) -> None:
    """Django calls none of the later callbacks of a transaction then; the changes are committed all the same."""

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        transaction.on_commit(fail)
        Order.objects.create()
    assert [event["event_type"] for event in recorded()] == ["resource.created"]


def test_a_receiver_that_raises_keeps_no_record_back(recorded: Recorded) -> None:
    """Outside a transaction the row is there, whatever the application's own receiver does."""

    def fail(**_: object) -> None:
        raise ZeroDivisionError

    models.signals.post_save.connect(fail, sender=Customer)
    try:
        with pytest.raises(ZeroDivisionError):
            Customer.objects.create(name="Ann")
    finally:
        models.signals.post_save.disconnect(fail, sender=Customer)
    assert Customer.objects.count() == 1
    assert [event["event_type"] for event in recorded()] == ["resource.created"]


def test_each_database_has_its_own_transactions(recorded: Recorded) -> None:
    """What one commits is recorded though the other rolls back."""
    with transaction.atomic(using="other"):
        Order.objects.using("other").create(note="other")
        with pytest.raises(KeyError), transaction.atomic():
            Order.objects.create(note="default")
            raise KeyError
    assert [changes(event)["note"][1] for event in recorded()] == ["other"]


def test_transactions_managed_by_hand(recorded: Recorded) -> None:
    """`set_autocommit(False)`: recorded at `commit`, dropped at `rollback`."""
    transaction.set_autocommit(False)
    try:
        Order.objects.create(note="a")
        assert recorded() == []
        transaction.commit()
        assert len(recorded()) == 1
        Order.objects.create(note="b")
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert recorded() == []
    assert Order.objects.count() == 1


def test_updates_of_many(recorded: Recorded) -> None:
    """By every manager, by relations and by methods of its own: criteria with values apart, what was set, how many."""
    customer = Customer.objects.create(name="Ann", country="DE")
    Order.objects.bulk_create([Order(customer=customer, note=f"n{n}", api_key="k") for n in range(3)])
    recorded()
    Order.objects.filter(Q(customer__country="DE") & ~Q(note="n0"), stock__lt=5).update(
        status="paid", stock=F("stock") + 1
    )
    (event,) = recorded()
    assert event == {
        "event_type": "resource.bulk_changed",
        "resource_type": "django_site.Order",
        "operation": "update",
        "criteria": "customer__country = :customer__country AND NOT (note = :note) AND stock < :stock",
        "parameters": {"customer__country": "DE", "note": "n0", "stock": 5},
        "values": {"status": "paid", "stock": {"computed_by": "database"}},
        "rows": 2,
    }
    assert Order.open_orders.update(note="x") == 1
    assert customer.orders.update(note="y") == 3
    assert Order._base_manager.update(note="z") == 3
    assert models.QuerySet(Order).filter(note="z").update(note="w") == 3
    assert OrderProxy.objects.filter(api_key="k").update(note="v") == 3
    assert customer.orders.cancel() == 3
    events = recorded()
    assert [event["rows"] for event in events] == [1, 3, 3, 3, 3, 3]
    assert {event["resource_type"] for event in events} == {"django_site.Order"}
    assert "criteria" not in events[2]
    assert events[4]["parameters"] == {"api_key": "[redacted:api_key]"}
    assert Order.objects.filter(note="nobody").update(note="x") == 0
    customer.orders.clear()
    (cleared,) = recorded()
    assert (cleared["values"], cleared["rows"]) == ({"customer": None}, 3)
    customer.orders.add(*Order.objects.all())
    (added,) = recorded()
    assert (added["values"], added["rows"]) == ({"customer": customer.pk}, 3)


def test_criteria_of_every_kind_are_readable(recorded: Recorded) -> None:
    """Subqueries, expressions, transforms, relations and nothing at all; values never in the text."""
    order = Order.objects.create(note="secret-note", customer=Customer.objects.create(name="Ann"))
    recorded()
    for condition in (
        Q(customer__in=Customer.objects.filter(name="Ann")),
        Q(stock__lte=F("stock") + 3),
        Q(note__startswith="secret", customer__name__in=["Ann", "Bob"]),
        Q(created__year__gt=1999) | Q(customer__isnull=True),
        Q(models.Exists(Customer.objects.filter(pk=models.OuterRef("customer"), name="Ann"))),
    ):
        assert Order.objects.filter(condition).update(stock=1) == 1
    assert Order.objects.none().update(stock=2) == 0
    texts = [event["criteria"] for event in recorded()]
    assert len(texts) == 5
    assert "note STARTSWITH :note" in texts[2]
    assert "customer__name IN :customer__name" in texts[2]
    assert "created__year > :created__year OR customer IS NULL" in texts[3]
    assert all("secret" not in text and "Ann" not in text and "could not be read" not in text for text in texts)
    assert Order.objects.get().pk == order.pk


def test_what_waits_in_a_test_case_of_django(recorded: Recorded) -> None:
    """`captureOnCommitCallbacks`, as Django's `TestCase` has it, records; and the commit does not do so again."""
    with transaction.atomic():
        with TestCase.captureOnCommitCallbacks(execute=True):
            Customer.objects.create(name="A")
        assert len(recorded()) == 1
    assert recorded() == []


def test_keys_of_a_statement_if_they_are_asked_for(recorded: Recorded) -> None:
    """`keys=True` names the rows, in several records if they are many."""
    order = Order.objects.create()
    lines = Line.objects.bulk_create([Line(order=order, text=str(n)) for n in range(700)])
    created = recorded()[1:]
    assert [event["rows"] for event in created] == [500, 200]
    assert [key for event in created for key in event["resource_ids"]] == [str(line.pk) for line in lines]
    Line.objects.filter(text="7").update(text="seven")
    (event,) = recorded()
    assert event["resource_ids"] == [str(lines[7].pk)]
    Line.objects.filter(pk__in=[line.pk for line in lines[:2]]).delete()
    (event,) = recorded()
    assert (event["operation"], event["rows"], len(event["resource_ids"])) == ("delete", 2, 2)


def test_many_are_created_and_changed_by_their_objects(recorded: Recorded) -> None:
    """`bulk_create` with its conflicts, and `bulk_update`: one record each, with keys and values if they are known."""
    customers = Customer.objects.bulk_create([Customer(name="A"), Customer(name="B")])
    (event,) = recorded()
    keys = [str(customer.pk) for customer in customers]
    assert event["resource_ids"] == keys
    assert event["values"]["name"] == dict(zip(keys, "AB", strict=True))
    Customer.objects.bulk_create([Customer(pk=customers[0].pk, name="C")], ignore_conflicts=True)
    Customer.objects.bulk_create(
        [Customer(pk=customers[0].pk, name="D")], update_conflicts=True, unique_fields=["id"], update_fields=["name"]
    )
    ignored, updated = recorded()
    assert "rows" not in ignored
    assert "no conflict" in ignored["criteria"]
    assert "name" in updated["criteria"]
    for customer in customers:
        customer.country = "BE"
    assert Customer.objects.bulk_update(customers, ["country"]) == 2
    (event,) = recorded()
    assert event["values"] == {"country": dict.fromkeys(keys, "BE")}
    assert (event["rows"], event["resource_ids"]) == (2, keys)
    customers[0].country = "FR"
    customers[0].save()
    assert [changes(event) for event in recorded()] == [{"country": ("BE", "FR")}]


def test_get_or_create_and_its_like(recorded: Recorded) -> None:
    """Recorded if they do something, and as what they do; the `async` ones as well."""
    Customer.objects.get_or_create(name="A")
    Customer.objects.get_or_create(name="A")
    Customer.objects.update_or_create(name="A", defaults={"country": "BE"})
    assert [event["event_type"] for event in recorded()] == ["resource.created", "resource.updated"]

    async def asynchronous() -> None:
        customer = await Customer.objects.acreate(name="B")
        customer.country = "FR"
        await customer.asave()
        await Customer.objects.filter(name="B").aupdate(country="LU")
        await Customer.objects.abulk_create([Customer(name="C")])
        await customer.arefresh_from_db()
        await customer.adelete()

    async_to_sync(asynchronous)()
    assert [event["event_type"].partition(".")[2] for event in recorded()] == [
        "created",
        "updated",
        "bulk_changed",
        "bulk_changed",
        "deleted",
    ]


def test_deletions_take_what_depends_on_them(recorded: Recorded) -> None:
    """Cascades and `SET_NULL`: each object that Django loads, and each statement."""
    customer, other = Customer.objects.create(name="Ann"), Customer.objects.create(name="Bob")
    order = Order.objects.create(customer=customer)
    Line.objects.create(order=order, text="a")
    invoice = Invoice.objects.create(order=order, number="1")
    recorded()
    Customer.objects.filter(name__in=["Ann", "Bob"]).delete()
    events = recorded()
    deleted = [event["resource"] for event in events if event["event_type"] == "resource.deleted"]
    expected = [resource("Customer", customer.pk), resource("Customer", other.pk), resource("Order", order.pk)]
    assert sorted(deleted, key=str) == sorted(expected, key=str)
    bulk = {(event["resource_type"], event["operation"]): event for event in events if "operation" in event}
    assert bulk["django_site.Line", "delete"]["rows"] == 1
    assert bulk["django_site.Invoice", "update"]["values"] == {"order": None}
    invoice.refresh_from_db()
    assert invoice.order_id is None
    Line.objects.all().delete()
    assert recorded() == []


def test_an_object_that_is_gone_already_is_not_deleted_again(recorded: Recorded) -> None:
    """Of a row that somebody else has deleted nothing is recorded."""
    one, two = Customer.objects.create(name="A"), Customer.objects.get()
    one.delete()
    recorded()
    two.delete()
    assert recorded() == []


def test_inheritance_and_proxies(recorded: Recorded) -> None:
    """A child has one record with all fields; a proxy is the model whose table it is."""
    gift = GiftOrder.objects.create(note="a")
    (event,) = recorded()
    assert event["resource"] == resource("GiftOrder", gift.pk)
    assert changes(event)["note"] == (None, "a")
    assert changes(event)["wrapping"] == (None, "paper")
    gift = GiftOrder.objects.get()
    gift.note, gift.wrapping = "b", "foil"
    gift.save()
    assert [changes(event) for event in recorded()] == [{"note": ("a", "b"), "wrapping": ("paper", "foil")}]
    proxy = OrderProxy.objects.get()
    proxy.note = "c"
    proxy.save()
    (event,) = recorded()
    assert event["resource"]["resource_type"] == "django_site.Order"
    GiftOrder.objects.update(note="d", wrapping="none")
    (event,) = recorded()
    assert event["values"] == {"note": "d", "wrapping": "none"}
    gift.refresh_from_db()
    gift.delete()
    deleted = recorded()
    assert {event["resource"]["resource_type"] for event in deleted} == {"django_site.GiftOrder", "django_site.Order"}


def test_many_to_many(recorded: Recorded) -> None:
    """What was really added and removed, from either end."""
    order = Order.objects.create()
    tags = Tag.objects.bulk_create([Tag(name=str(n)) for n in range(4)])
    keys = [tag.pk for tag in tags]
    recorded()
    order.tags.add(tags[0], tags[1])
    order.tags.add(tags[1], tags[2])
    order.tags.remove(tags[0], tags[3])
    tags[3].order_set.add(order)
    order.tags.set([tags[3]])
    order.tags.clear()
    order.tags.clear()
    events = recorded()
    assert {event["resource"]["resource_id"] for event in events} == {str(order.pk)}
    assert [changes(event) for event in events] == [
        {"tags.added": ("?", keys[:2])},
        {"tags.added": ("?", keys[2:3])},
        {"tags.removed": (keys[:1], "?")},
        {"tags.added": ("?", keys[3:])},
        {"tags.removed": (keys[1:3], "?")},
        {"tags.removed": (keys[3:], "?")},
    ]


def test_the_database_can_be_asked_for_the_values_before(recorded: Recorded) -> None:
    """`before="database"`: what another process has written meanwhile is seen."""
    counter = Counter.objects.create(value=1)
    Counter.objects.update(value=5)
    recorded()
    counter.value = 2
    counter.save()
    assert [changes(event) for event in recorded()] == [{"value": (5, 2)}]
    with transaction.atomic():
        counter.value = 3
        counter.save()
    assert [changes(event) for event in recorded()] == [{"value": (2, 3)}]


def test_fixtures(recorded: Recorded, tmp_path: Path) -> None:
    """`loaddata` writes rows as they are, and they are recorded."""
    fixture = tmp_path / "customers.json"
    fixture.write_text(
        json.dumps([{"model": "django_site.customer", "pk": 5, "fields": {"name": "F", "country": "DK"}}])
    )
    call_command("loaddata", str(fixture), verbosity=0)
    call_command("loaddata", str(fixture), verbosity=0)
    created, *again = recorded()
    assert (created["event_type"], created["resource"]) == ("resource.created", resource("Customer", 5))
    assert [changes(event) for event in again] == [{"name": ("?", "F"), "country": ("?", "DK")}]


def test_what_fails_is_not_recorded(recorded: Recorded) -> None:
    """An error of the database, alone and in a transaction."""
    Customer.objects.create(pk=1, name="A")
    recorded()
    with pytest.raises(IntegrityError):
        Customer.objects.create(pk=1, name="B")
    with pytest.raises(IntegrityError):
        Customer.objects.bulk_create([Customer(pk=2, name="C"), Customer(pk=1, name="D")])
    assert recorded() == []
    assert Customer.objects.count() == 1


def test_who_did_it_outside_a_request(recorded: Recorded, tmp_path: Path) -> None:
    """Whoever a command says it acts as, also for what is committed later; otherwise it is not known."""
    with acting_as(ActorInfo(user_id="import-job")), transaction.atomic():
        Customer.objects.create(name="A")
    Customer.objects.create(name="B")
    recorded()
    lines = [
        json.loads(line)
        for segment in (tmp_path / "audit").rglob("*.audit")
        for line in segment.read_bytes().splitlines()
    ]
    actors = [each["event"]["actor"]["user_id"] for each in lines if each["event"]["event_type"] == "resource.created"]
    assert actors == ["import-job", "unknown"]
    assert connections["default"].run_on_commit == []
