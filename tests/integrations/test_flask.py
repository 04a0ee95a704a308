"""Flask: route, actor and log of each request, and a real server under load."""

from __future__ import annotations

import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import flask
import flask_login  # type: ignore[import-untyped]
import pytest

from audit_async import ActorInfo, ConfigError, get_audit, set_audit
from audit_async.integrations.flask import Policy, Rule, actor_of_request, setup_audit
from audit_async.sync import SyncAuditLogger
from tests.integrations.servers import Visitors, serving
from tests.integrations.wsgi_client import events_of
from tests.logs import ConfigFor, Counted
from tests.trails import check_trail, logs_below, read_events


class User:
    """A user as Flask-Login has them."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.id = name


def application() -> flask.Flask:
    """Return an application with a log-in of its own."""
    app = flask.Flask("shop")

    @app.before_request
    def log_in() -> None:
        name = flask.request.headers.get("X-User")
        if name:
            flask.g.user = User(name)

    @app.get("/orders/<int:order_id>")
    def order(order_id: int) -> dict[str, int]:
        get_audit().emit(Counted(producer=actor_of_request().user_id, n=order_id))
        return {"order": order_id}

    @app.get("/stream")
    def stream() -> flask.Response:
        def parts() -> Iterator[str]:
            yield flask.g.user.id
            yield "!"

        return flask.Response(flask.stream_with_context(parts()))

    @app.get("/fails")
    def fails() -> str:
        raise KeyError("secret")

    return app


def closed(audit: SyncAuditLogger | None) -> None:
    """Close the log of an application, as the end of its process would."""
    assert audit is not None
    audit.close()


def test_a_request_is_recorded_with_its_route_and_actor(config_for: ConfigFor) -> None:
    """Two lines; the same actor is in the application's own events, whose context has the request's id."""
    config = config_for()
    app = application()
    audit = setup_audit(app, config)
    client = app.test_client()
    assert client.get("/orders/17?x=1", headers={"X-User": "dana"}).json == {"order": 17}
    assert client.get("/orders/18").status_code == 200
    assert client.get("/nowhere").status_code == 404
    assert client.get("/stream", headers={"X-User": "erin"}).text == "erin!"
    closed(audit)
    own, first, anonymous, second, missing, streamed = events_of(config)
    assert (own["event"]["producer"], anonymous["event"]["producer"]) == ("dana", "anonymous")
    assert own["context"] == first["context"]
    event = first["event"]
    assert (event["route"], event["path"], event["status"]) == ("/orders/<int:order_id>", "/orders/17", 200)
    assert event["actor"] == {"user_id": "dana", "ip": "127.0.0.1"}
    assert "actor" not in second["event"]
    assert (missing["event"]["status"], missing["event"].get("route")) == (404, None)
    assert (streamed["event"]["actor"]["user_id"], streamed["event"]["bytes_out"]) == ("erin", 5)


def test_the_user_of_flask_login_is_the_actor(config_for: ConfigFor) -> None:
    """Once the view, or its `login_required`, has looked at who it is; of a refused request nobody is known."""
    config, app = config_for(), flask.Flask("shop")
    app.secret_key = "of this test"
    manager = flask_login.LoginManager(app)

    class Member(flask_login.UserMixin):  # type: ignore[misc]  # without types
        def __init__(self, id_: str) -> None:
            self.id = id_

    manager.user_loader(Member)

    @app.post("/log-in/<name>")
    def log_in(name: str) -> str:
        flask_login.login_user(Member(name))
        return "in"

    @app.get("/account")
    @flask_login.login_required  # type: ignore[untyped-decorator]  # without types
    def account() -> str:
        return "yours"

    audit = setup_audit(app, config)
    client = app.test_client()
    assert client.get("/account").status_code == 401
    client.post("/log-in/dana")
    assert client.get("/account").text == "yours"
    closed(audit)
    requests = [record["event"] for record in events_of(config) if record["event"]["event_type"] == "http.request"]
    assert [(event["status"], event.get("actor", {}).get("user_id")) for event in requests] == [
        (200, "dana"), (200, "dana"),
    ]  # fmt: skip
    [refused] = [record["event"] for record in events_of(config) if record["event"]["event_type"] == "auth.failure"]
    assert "attempted_user" not in refused


def test_a_view_that_raises_is_a_500(config_for: ConfigFor) -> None:
    """Flask answers it; in its testing mode the exception comes through, and is recorded."""
    config = config_for()
    app = application()
    audit = setup_audit(app, config)
    assert app.test_client().get("/fails").status_code == 500
    app.testing = True
    with pytest.raises(KeyError):
        app.test_client().get("/fails")
    closed(audit)
    assert [record["event"]["status"] for record in events_of(config)] == [500, 500]
    assert "secret" not in str(events_of(config))


def test_an_actor_hook_sees_flasks_request(config_for: ConfigFor) -> None:
    """Inside its context; what it raises breaks no request and is counted."""
    config = config_for()
    app = application()

    def who(request: flask.Request) -> ActorInfo | None:
        if request.path == "/orders/18":
            raise RuntimeError
        return ActorInfo(user_id=request.headers["X-Service"], session_id=flask.session.get("id"))

    audit = setup_audit(app, config, actor=who, policy=Policy([Rule("/health", level="none")]))
    client = app.test_client()
    client.get("/nowhere", headers={"X-Service": "cron"})
    with client:
        client.get("/nowhere", headers={"X-Service": "in a block"})
    client.get("/orders/18", headers={"X-Service": "cron"})
    assert audit is not None
    assert audit.stats().dropped_by_type == {"http.request": 1}
    closed(audit)
    first, second, third = events_of(config)
    assert first["event"]["actor"]["user_id"] == "cron"
    assert second["event"]["actor"]["user_id"] == "in a block"
    assert third["event"]["note"] == "actor unknown: the hook raised RuntimeError"


def test_the_first_log_is_that_of_the_process(config_for: ConfigFor) -> None:
    """Commands and threads find it without a request; a second application does not take its place."""
    first = setup_audit(application(), config_for())
    assert get_audit() is first
    second = setup_audit(application(), config_for(service_id="other"))
    assert get_audit() is first
    closed(first)
    closed(second)


def test_a_log_of_somebody_else(config_for: ConfigFor) -> None:
    """Given a log, nothing is opened or closed; given none, it is the log of the moment."""
    config = config_for()
    given, ambient = application(), application()
    with SyncAuditLogger(config) as audit:
        assert setup_audit(given, audit) is audit
        assert setup_audit(ambient) is None
        given.test_client().get("/orders/1")
        set_audit(audit)
        ambient.test_client().get("/orders/2")
    assert [r["event"]["path"] for r in events_of(config) if "path" in r["event"]] == ["/orders/1", "/orders/2"]


def test_mistakes_are_refused(config_for: ConfigFor) -> None:
    """Before anything is opened or wrapped."""
    app = application()
    with pytest.raises(ConfigError, match=r"takes a flask\.Flask"):
        setup_audit(config_for())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes an AuditConfig"):
        setup_audit(app, "audit")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be a function that says who asked"):
        setup_audit(app, config_for(), actor="dana")  # type: ignore[arg-type]
    assert not list(Path(config_for().mode.base_dir).glob("*"))  # type: ignore[union-attr]
    audit = setup_audit(app, config_for())
    with pytest.raises(ConfigError, match="was called for this application before"):
        setup_audit(app)
    closed(audit)


SERVED = """
    from pathlib import Path
    import flask
    from audit_async import AuditConfig, Local, get_audit
    from audit_async.config import Batched
    from audit_async.events import AuthFailure
    from audit_async.integrations.flask import setup_audit

    waits = Batched(size=1000, interval=30.0)
    app = flask.Flask("shop")
    setup_audit(app, AuditConfig(mode=Local(Path("audit")), service_id="shop", flush_mode=waits), fail_closed=True)

    @app.get("/<int:client>/<int:number>")
    def serve(client, number):
        get_audit().emit(AuthFailure(reason="bad_password", ip="192.0.2.1", path=flask.request.path))
        return "ok"
"""

SERVERS = {
    "sync": ["--worker-class", "sync"],
    "gthread": ["--worker-class", "gthread", "--threads", "4"],
    "gthread-preload": ["--worker-class", "gthread", "--threads", "4", "--preload"],
}


@pytest.mark.parametrize("server", SERVERS)
def test_every_answered_request_is_recorded_once_under_gunicorn(tmp_path: Path, server: str) -> None:
    """SIGTERM under load: the application's events and the records of the requests are all there, each once."""
    (tmp_path / "app.py").write_text(textwrap.dedent(SERVED))
    command = ["gunicorn", "app:app", "--bind", "127.0.0.1:0", "--workers", "2", *SERVERS[server]]
    with serving(tmp_path, command) as served, Visitors(served.address, threads=4, path=path_of) as visitors:
        visitors.wait_for(200, served)
        assert served.stop(signal.SIGTERM) == 0, served.said()
    assert_recorded_once(tmp_path / "audit", visitors.answered)
    for directory in logs_below(tmp_path / "audit"):
        assert read_events(directory)[-1]["event"]["event_type"] == "audit.log_closed"


def path_of(number: int) -> str:
    """Return the path of a request to the application above."""
    return f"/{number % 4}/{number}"


def assert_recorded_once(trail: Path, answered: list[int]) -> None:
    """Assert that each answered request has the application's event and its own, and no request has two of a type."""
    check_trail(trail)
    events = [record["event"] for record in read_events(trail)]
    for event_type in ("auth.failure", "http.request"):
        paths = [event["path"] for event in events if event["event_type"] == event_type]
        assert set(map(path_of, answered)) <= set(paths)
        assert len(paths) == len(set(paths))


def test_the_example_names_who_bought_what(tmp_path: Path) -> None:
    """`examples/flask_shop.py` under gunicorn: refusals, sales and readiness, and who it was, from domain code."""
    command = ["gunicorn", "examples.flask_shop:app", "--bind", "127.0.0.1:0", "--workers", "2", "--preload"]
    environment = {"AUDIT_DIR": str(tmp_path / "audit"), "SHOP_KEYS": "k-1:dana,k-2:erin"}
    with serving(tmp_path, command, environment=environment) as server:
        with server.asking() as client:
            assert client.get("/articles/apple").status_code == 401
            dana = {"X-API-Key": "k-1"}
            assert client.get("/articles/apple", headers=dana).json() == {"article": "apple", "number": 3}
            assert client.post("/articles/apple/sale?number=2", headers=dana).status_code == 200
            assert client.post("/articles/pear/sale", headers={"X-API-Key": "k-2"}).status_code == 409
            assert client.get("/ready").json() == {"audit": "ok"}
        assert server.stop(signal.SIGTERM) == 0, server.said()
    check_trail(tmp_path / "audit")
    records = [r for r in read_events(tmp_path / "audit") if not r["event"]["event_type"].startswith("audit.")]
    seen = {(r["event"]["event_type"], (r["event"].get("actor") or {}).get("user_id")) for r in records}
    assert seen == {
        ("auth.failure", None),
        ("resource.read", "dana"),
        ("shop.sold", "dana"),
        ("shop.sale_refused", "erin"),
        ("http.request", "dana"),
        ("http.request", "erin"),
    }
    (sold,) = [r["event"] for r in records if r["event"]["event_type"] == "shop.sold"]
    assert sold["arguments"] == {"article": "apple", "number": 2}
