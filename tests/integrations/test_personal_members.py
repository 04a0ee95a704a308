"""What integrations record of persons, in a log with the preset `gdpr`: no byte of the trail has it in the clear."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from celery import Celery
from sqlalchemy import insert, update
from sqlalchemy.orm import sessionmaker

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuditReader, Local, acting_as
from audit_async.config import Privacy
from audit_async.context import audit_context
from audit_async.integrations.asgi import AuditMiddleware, Policy
from audit_async.integrations.celery import audit_tasks
from audit_async.integrations.logging import AuditHandler
from audit_async.integrations.sqlalchemy import audit_session
from audit_async.integrations.wsgi import AuditMiddleware as WsgiMiddleware
from audit_async.sync import SyncAuditLogger
from tests.integrations.asgi_client import answering, ask, body, http_scope
from tests.integrations.orm_models import WATCHED, Order, sqlite_engine
from tests.integrations.wsgi_client import Application, environment
from tests.integrations.wsgi_client import ask as ask_wsgi
from tests.privacy.key_stores import make_store, open_store

ADDRESS = "198.51.100.7"  # of the clients that the tests have
ZOE = ActorInfo(user_id="zoe-user", ip="203.0.113.77", display_name="zoe-name")


def config_of(tmp_path: Path) -> AuditConfig:
    """Return the configuration of a log that seals; everything personal in these tests has `zoe-` in it."""
    make_store(tmp_path)
    privacy = Privacy(
        key_store=str(tmp_path / "keys"),
        master_key=f"file:{tmp_path / 'master.key'}",
        paths=("/users/{user}",),
        resources=("Order",),
    )
    mode = Local(tmp_path / "audit")
    return AuditConfig.preset("gdpr", mode=mode, service_id="shop", handle_signals=False, privacy=privacy)


@contextmanager
def nothing_in_the_clear(tmp_path: Path, *personal: str) -> Iterator[None]:
    """Fail if the trail that the block leaves has something personal in the clear, or not at all."""
    yield
    everything = b"".join(path.read_bytes() for path in (tmp_path / "audit").rglob("*") if path.is_file())
    assert b"zoe-" not in everything
    opened = anyio.run(opened_trail, tmp_path)
    for text in personal:
        assert text.encode() not in everything
        assert text in opened


async def opened_trail(tmp_path: Path) -> str:
    """Return all events and contexts, as a reader with the keys sees them."""
    store = open_store(tmp_path / "keys")
    try:
        reader = AuditReader(tmp_path / "audit", key_store=store)
        return json.dumps([record.to_dict() async for record in reader.query()], default=str)
    finally:
        store.close()


#: What is asked for: a person's path, as somebody who names herself in every part of the request.
HEADERS = [("user-agent", "zoe-agent"), ("x-person", "zoe-header"), ("content-type", "text/plain")]
OF_A_REQUEST = ("zoe-path", "zoe-agent", "zoe-user", ADDRESS)
OF_A_WHOLE_REQUEST = (*OF_A_REQUEST, "zoe-query", "zoe-header", "zoe-body", "zoe-answer")


@pytest.mark.parametrize("status", [200, 401, 403, 429])
def test_requests_of_asgi(tmp_path: Path, status: int) -> None:
    """Path, query, address, headers and bodies; also of a refused request, which is another event."""
    config = config_of(tmp_path)

    async def serve() -> None:
        async with AuditLogger(config) as audit:
            app = AuditMiddleware(
                answering(status, [("x-answer", "zoe-answer")]),
                audit=audit,
                policy=Policy(default="request_response"),
                actor=lambda _: "zoe-user",
            )
            scope = http_scope("/users/zoe-path", method="POST", headers=HEADERS, query_string=b"q=zoe-query")
            await ask(app, scope, [body(b"zoe-body")])

    with nothing_in_the_clear(
        tmp_path, *(OF_A_REQUEST if status != 200 else ("zoe-query", "zoe-header", "zoe-answer"))
    ):
        anyio.run(serve)


@pytest.mark.parametrize("status", [200, 403])
def test_requests_of_wsgi(tmp_path: Path, status: int) -> None:
    """The same, with the body of the request, which this application reads."""

    def application(environ: dict[str, object], start_response: object) -> list[bytes]:
        environ["wsgi.input"].read()  # type: ignore[attr-defined]
        start_response(f"{status} X", [("X-Answer", "zoe-answer")])  # type: ignore[operator]
        return [b""]

    with nothing_in_the_clear(tmp_path, *OF_A_WHOLE_REQUEST), SyncAuditLogger(config_of(tmp_path)) as audit:
        app: Application = WsgiMiddleware(
            application, audit=audit, policy=Policy(default="request_response"), actor=lambda _: "zoe-user"
        )
        environ = environment(
            "/users/zoe-path",
            method="POST",
            body=b"zoe-body",
            QUERY_STRING="q=zoe-query",
            CONTENT_TYPE="text/plain",
            HTTP_USER_AGENT="zoe-agent",
            HTTP_X_PERSON="zoe-header",
        )
        ask_wsgi(app, environ)


def test_runs_of_tasks(tmp_path: Path) -> None:
    """Who asked for it, the chosen arguments, and what is bound where it was asked for; never an exception's text."""
    app = Celery("personal", broker="memory://")
    app.conf.task_always_eager = True

    @app.task(name="personal.greet", shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def greet(email: str) -> None:
        raise ValueError(email)

    bound = {"user_id": "zoe-bound", "email": "zoe-email", "client_ip": "203.0.113.78"}
    with (
        nothing_in_the_clear(tmp_path, "zoe-user", "zoe-argument", "203.0.113.77", *bound.values()),
        SyncAuditLogger(config_of(tmp_path)) as audit,
    ):
        audited = audit_tasks(app, audit, arguments={"personal.greet": ("email",)})
        try:
            with acting_as(ZOE), audit_context(**bound), pytest.raises(ValueError, match="zoe"):
                greet.delay("zoe-argument").get()
        finally:
            audited.disconnect()


def test_changes_of_sessions(tmp_path: Path) -> None:
    """Values before and after, criteria and keys, of a mapped class that is a person's."""
    engine = sqlite_engine()
    sessions = sessionmaker(engine)
    with (
        nothing_in_the_clear(tmp_path, "zoe-user", "zoe-first", "zoe-second", "zoe-third", "zoe-fourth"),
        SyncAuditLogger(config_of(tmp_path)) as audit,
    ):
        audited = audit_session(sessions, WATCHED, audit=audit)
        with acting_as(ZOE):
            with sessions.begin() as session:
                session.add(Order(customer="zoe-first"))
            with sessions.begin() as session:
                session.get_one(Order, 1).customer = "zoe-second"
            with sessions.begin() as session:
                session.execute(update(Order).where(Order.customer == "zoe-second").values(customer="zoe-third"))
            with sessions.begin() as session:
                session.execute(insert(Order), [{"customer": "zoe-fourth", "version": 1}])
        audited.stop()
        engine.dispose()


def test_log_records(tmp_path: Path) -> None:
    """The message, its arguments, and what came with it; never an exception's text."""
    log = logging.Logger("personal", logging.DEBUG)  # noqa: LOG001 - not one that other tests have
    with (
        nothing_in_the_clear(tmp_path, "zoe-message", "zoe-argument", "zoe-extra"),
        SyncAuditLogger(config_of(tmp_path)) as audit,
    ):
        log.addHandler(AuditHandler(audit))
        try:
            raise ValueError("zoe-exception")
        except ValueError:
            log.exception("zoe-message %s", "zoe-argument", extra={"audit": True, "user": "zoe-extra"})
