"""One way to record what an object-relational mapper changes, measured in a process of its own.

`python -m bench.orm_subject NAME DIRECTORY DATABASE SECONDS` writes one line of JSON: what an object costs, and which
operations are seen. The database is on PostgreSQL, and empty.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final, NamedTuple

from audit_async import ActorInfo, AuditConfig, Local
from audit_async.ambient import acting_as, set_audit
from audit_async.sync import SyncAuditLogger

#: Objects of one transaction.
_OBJECTS: Final = 20
_ALICE: Final = ActorInfo(user_id="alice")

Operations = dict[str, Callable[[], object]]


class Cost(NamedTuple):
    """What one object takes, in microseconds."""

    elapsed_us: float
    cpu_us: float  #: of the application's process alone


class Subject(NamedTuple):
    """A mapper with something that records."""

    create: Callable[[], object]  #: saves new objects in one transaction
    update: Callable[[], object]  #: changes those in another one
    delete: Callable[[], object]  #: deletes them
    operations: Operations  #: each of them changes or creates at least one row
    recorded: Callable[[], int]  #: how much is recorded so far


def measure(subject: Subject, seconds: float) -> dict[str, Cost]:
    """Return what an object costs when it is created, changed and deleted."""
    elapsed: dict[str, list[tuple[float, float]]] = {"create": [], "update": [], "delete": []}
    until = perf_counter() + seconds
    for turn in range(1_000_000):
        if turn > 3 and perf_counter() > until:
            break
        for name, call in (("create", subject.create), ("update", subject.update), ("delete", subject.delete)):
            cpu, began = process_time(), perf_counter()
            call()
            elapsed[name].append((perf_counter() - began, process_time() - cpu))
    return {name: Cost(*(1e6 * _middle(column) / _OBJECTS for column in zip(*taken, strict=True)))
            for name, taken in elapsed.items()}  # fmt: skip


def _middle(samples: Any) -> float:  # noqa: ANN401 - a column of numbers
    return float(sorted(samples)[len(samples) // 2])


def seen(subject: Subject) -> dict[str, bool]:
    """Return of each operation whether anything was recorded of it."""
    answers = {}
    for name, call in subject.operations.items():
        before = subject.recorded()
        call()
        answers[name] = subject.recorded() > before
    return answers


@contextmanager
def _log(directory: Path) -> Iterator[SyncAuditLogger]:
    with SyncAuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as audit, acting_as(_ALICE):
        set_audit(audit)
        yield audit


def _records(audit: SyncAuditLogger) -> int:
    audit.flush()
    return audit.stats().records


# -- SQLAlchemy ---------------------------------------------------------------------------------------------------


@contextmanager
def sqlalchemy(  # noqa: C901, PLR0915 - closures over the one class that it makes
    recorder: str, directory: Path, database: str
) -> Iterator[Subject]:
    """Sessions of SQLAlchemy: alone, with this library, or with SQLAlchemy-Continuum."""
    import sqlalchemy as sa  # noqa: PLC0415 - each process imports one mapper
    from sqlalchemy import orm  # noqa: PLC0415
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine  # noqa: PLC0415

    if recorder == "continuum":
        from sqlalchemy_continuum import make_versioned  # noqa: PLC0415

        make_versioned(user_cls=None)
    base: Any = orm.declarative_base()
    columns = {name: sa.Column(sa.String(50)) for name in ("a", "b", "c", "d")}
    key = sa.Column(sa.Integer, primary_key=True)
    item: Any = type("Item", (base,), {"__tablename__": "items", "__versioned__": {}, "id": key, **columns})
    orm.configure_mappers()
    url = database.replace("postgres:///", "postgresql+psycopg:///")
    engine = sa.create_engine(url)
    base.metadata.create_all(engine)
    sessions, asynchronous = orm.sessionmaker(engine), async_sessionmaker(create_async_engine(url))
    made: list[int] = []

    def create() -> None:
        with sessions.begin() as session:
            items = [item(a="a", b="b", c="c", d="d") for _ in range(_OBJECTS)]
            session.add_all(items)
            session.flush()
            made[:] = [one.id for one in items]

    def update() -> None:
        with sessions.begin() as session:
            for one in session.scalars(sa.select(item).where(item.id.in_(made))):
                one.a = f"{one.a}+"

    def delete() -> None:
        with sessions.begin() as session:
            for one in session.scalars(sa.select(item).where(item.id.in_(made))):
                session.delete(one)

    def execute(call: Callable[[Any], object]) -> Callable[[], None]:
        def run() -> None:
            with sessions.begin() as session:
                call(session)

        return run

    def in_asyncio() -> None:
        async def run() -> None:
            async with asynchronous.begin() as session:
                session.add(item(a="async"))

        asyncio.run(run())

    operations: Operations = {
        "a new object": execute(lambda session: session.add(item(a="x"))),
        "a new object of an asynchronous session": in_asyncio,
        "a new object in a Celery task": in_a_task(execute(lambda session: session.add(item(a="task")))),
        "bulk_save_objects": execute(lambda session: session.bulk_save_objects([item(a="x")])),
        "insert() of many rows": execute(lambda session: session.execute(sa.insert(item), [{"a": "x"}, {"a": "y"}])),
        "update() with criteria": execute(lambda s: s.execute(sa.update(item).where(item.a == "x").values(b="y"))),
        "delete() with criteria": execute(lambda session: session.execute(sa.delete(item).where(item.a == "y"))),
        "a Core statement on the connection": execute(
            lambda session: session.connection().execute(item.__table__.update().values(c="z"))
        ),
        "SQL as text": execute(lambda session: session.execute(sa.text("UPDATE items SET d = 'raw'"))),
    }
    if recorder == "continuum":
        with sessions() as counting:

            def recorded() -> int:
                counting.rollback()
                return int(counting.execute(sa.text("SELECT count(*) FROM items_version")).scalar() or 0)

            yield Subject(create, update, delete, operations, recorded)
    elif recorder == "nothing":
        yield Subject(create, update, delete, {}, int)
    else:
        from audit_async.integrations.sqlalchemy import audit_session  # noqa: PLC0415

        with _log(directory) as audit:
            audit_session(sessions, [item], relation="intent" if recorder == "intent" else "after")
            audit_session(asynchronous, [item], relation="intent" if recorder == "intent" else "after")
            yield Subject(create, update, delete, operations, lambda: _records(audit))


# -- Django -------------------------------------------------------------------------------------------------------


@contextmanager
def django(  # noqa: C901, PLR0915 - as above
    recorder: str, directory: Path, database: str
) -> Iterator[Subject]:
    """Models of Django: alone, with this library, django-auditlog or django-pghistory."""
    from urllib.parse import parse_qs, urlsplit  # noqa: PLC0415

    from django.conf import settings  # noqa: PLC0415

    package = directory / "app" / "shop"
    package.mkdir(parents=True)
    for name in ("__init__.py", "models.py"):
        (package / name).touch()
    sys.path.insert(0, str(package.parent))
    parts = urlsplit(database)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    apps = {
        "nothing": [],
        "after": ["audit_async.integrations.django"],
        "auditlog": ["auditlog"],
        "pghistory": ["pgtrigger", "pghistory"],
    }[recorder]
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", *apps, "shop"],
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": parts.path.strip("/"),
                               "HOST": query["host"], "PORT": query["port"], "USER": query["user"]}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", USE_TZ=True,
        AUDIT={"service_id": "shop", "mode": {"type": "disabled"}},
    )  # fmt: skip
    import django as framework  # noqa: PLC0415

    framework.setup()
    from django.core.management import call_command  # noqa: PLC0415
    from django.db import connection, models, transaction  # noqa: PLC0415

    meta = type("Meta", (), {"app_label": "shop"})
    texts = {name: models.CharField(max_length=50, default="") for name in ("a", "b", "c", "d")}
    item: Any = type("Item", (models.Model,), {"__module__": "shop.models", "Meta": meta, **texts})
    call_command("migrate", verbosity=0)
    objects = item.objects
    recorded: Callable[[], int] = int
    tables = [item]
    if recorder == "auditlog":
        from auditlog.models import LogEntry  # noqa: PLC0415
        from auditlog.registry import auditlog  # noqa: PLC0415

        auditlog.register(item)
        recorded = LogEntry.objects.count
    elif recorder == "pghistory":
        import pghistory  # noqa: PLC0415
        import pgtrigger  # noqa: PLC0415

        pghistory.track(pghistory.InsertEvent(), pghistory.UpdateEvent(), pghistory.DeleteEvent())(item)
        (event_model,) = pghistory.core.event_models(tracks_model=item)
        tables.append(event_model)
        recorded = event_model.objects.count
    with connection.schema_editor() as editor:
        for model in tables:
            editor.create_model(model)
    if recorder == "pghistory":
        pgtrigger.install()
    made: list[int] = []

    def create() -> None:
        with transaction.atomic():
            items = [item(a="a", b="b", c="c", d="d") for _ in range(_OBJECTS)]
            for one in items:
                one.save()
            made[:] = [one.pk for one in items]

    def update() -> None:
        with transaction.atomic():
            for one in objects.filter(pk__in=made):
                one.a = f"{one.a}+"
                one.save()

    def delete() -> None:
        with transaction.atomic():
            for one in objects.filter(pk__in=made):
                one.delete()

    def raw() -> None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE shop_item SET d = 'raw'")

    def bulk_update() -> None:
        one = objects.first()
        one.b = "bulk"
        objects.bulk_update([one], ["b"])

    operations: Operations = {
        "a new object": lambda: item(a="x").save(),
        "a new object in a Celery task": in_a_task(lambda: item(a="task").save()),
        "a new object in an asynchronous view": lambda: asyncio.run(item(a="x").asave()),
        "bulk_create": lambda: objects.bulk_create([item(a="x"), item(a="y")]),
        "bulk_update": bulk_update,
        "QuerySet.update": lambda: objects.filter(a="x").update(b="y"),
        "QuerySet.delete": lambda: objects.filter(a="y").delete(),
        "SQL as text": raw,
    }
    if recorder == "after":
        from audit_async.integrations.django import audit_model  # noqa: PLC0415

        audit_model()(item)
        with _log(directory) as audit:
            yield Subject(create, update, delete, operations, lambda: _records(audit))
    else:
        yield Subject(create, update, delete, operations if recorder != "nothing" else {}, recorded)


def in_a_task(call: Callable[[], object]) -> Callable[[], None]:
    """Return what makes a call in a task of Celery, in this process."""
    from celery import Celery  # noqa: PLC0415

    app = Celery("bench", broker="memory://")
    app.conf.task_always_eager = True

    def save() -> None:
        call()

    task = app.task(name="bench.save")(save)
    return lambda: task.delay().get()


def main() -> None:
    """Measure what the command line names."""
    name, directory, database, seconds = sys.argv[1:]
    mapper, recorder = name.split("/")
    with (sqlalchemy if mapper == "sqlalchemy" else django)(recorder, Path(directory), database) as subject:
        answers = seen(subject)
        costs = measure(subject, float(seconds))
    sys.stdout.write(json.dumps({"costs": costs, "seen": answers}) + "\n")


if __name__ == "__main__":
    main()
