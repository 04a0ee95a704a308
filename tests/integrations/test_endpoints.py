"""Readiness and metrics answer at their path, however they are mounted, and a log needs no life span."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from litestar import Litestar, asgi
from litestar.testing import TestClient as LitestarClient
from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from audit_async import AuditConfig, AuditLogger, Disabled
from audit_async.integrations.asgi import ASGIApp, AuditedApp, AuditMiddleware, Scope, actor_of, logger_of_scope
from audit_async.integrations.health import ReadinessEndpoint
from audit_async.integrations.prometheus import AuditCollector, MetricsEndpoint
from audit_async.integrations.starlette import audit_lifespan
from tests.integrations.asgi_client import JSON_ANSWER, ask, http_scope
from tests.integrations.servers import serving
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import check_trail, read_events

ADD: list[Callable[[Starlette, str, ASGIApp], None]] = [
    lambda app, path, endpoint: app.mount(path, endpoint),
    lambda app, path, endpoint: app.add_route(path, endpoint),  # type: ignore[arg-type]  # Starlette takes it
]


@pytest.mark.parametrize("add", ADD, ids=["mount", "route"])
@pytest.mark.parametrize("app_class", [Starlette, FastAPI])
def test_readiness_answers_at_its_path(config_for: ConfigFor, app_class: type[Starlette], add: Any) -> None:
    """As a mount and as a route, with a slash at the end and without: 200, and 503 once the log is closed."""
    app = app_class(lifespan=audit_lifespan(config_for()))
    other = AuditLogger(config_for(service_id="other"))
    add(app, "/ready", ReadinessEndpoint(lambda: app.state.audit))
    add(app, "/unready", ReadinessEndpoint(other))
    with TestClient(app, follow_redirects=False) as client:
        for method in ("GET", "HEAD"):
            assert client.request(method, "/ready").status_code == 200
            assert client.request(method, "/unready").status_code == 503
        if "mount" in str(app.routes[-1]).lower():
            assert (client.get("/ready/").status_code, client.get("/unready/").status_code) == (200, 503)
        assert client.get("/ready").json() == {"status": "ok"}


@pytest.mark.parametrize("make", [MetricsEndpoint, make_asgi_app])
@pytest.mark.parametrize("app_class", [Starlette, FastAPI])
def test_metrics_answer_at_their_path(config_for: ConfigFor, app_class: type[Starlette], make: Any) -> None:
    """So do metrics, our own endpoint and that of prometheus_client."""
    app = app_class(lifespan=audit_lifespan(config_for()))
    registry = CollectorRegistry()
    registry.register(AuditCollector(lambda: getattr(app.state, "audit", None)))
    app.mount("/metrics", make(registry))
    with TestClient(app, follow_redirects=False) as client:
        for path in ("/metrics", "/metrics/"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert 'audit_async_healthy{log_instance="00",service_id="orders"} 1.0' in answer.text


def test_a_mount_without_our_life_span_is_served_as_well(config_for: ConfigFor) -> None:
    """The middleware alone is enough: it meets the application at its life span, or with the first request."""
    audit = AuditLogger(AuditConfig(mode=Disabled(), service_id="orders"))
    app = Starlette()
    app.add_middleware(AuditMiddleware, audit=audit)
    app.mount("/ready", ReadinessEndpoint(audit))
    client = TestClient(app, follow_redirects=False)
    assert [client.get("/ready").status_code for _ in range(2)] == [200, 200]


def test_litestar_mounts_the_endpoint(config_for: ConfigFor) -> None:
    """Litestar takes the endpoint as a mounted ASGI application."""
    endpoint = ReadinessEndpoint(AuditLogger(AuditConfig(mode=Disabled(), service_id="orders")))
    app = Litestar([asgi("/ready", is_mount=True, copy_scope=True)(endpoint)])
    with LitestarClient(app) as client:
        for path in ("/ready", "/ready/"):
            assert client.get(path, follow_redirects=False).status_code == 200


def test_metrics_have_the_form_that_is_asked_for() -> None:
    """OpenMetrics for who asks for it, the plain text format for all others."""
    client = TestClient(MetricsEndpoint(CollectorRegistry()))
    assert client.get("/", headers={"accept": "application/openmetrics-text"}).text == "# EOF\n"
    assert client.get("/").headers["content-type"].startswith("text/plain")
    assert client.post("/").status_code == 405


# A log without a life span.


async def no_life_span(scope: Scope, receive: Any, send: Any) -> None:
    """Be an application that knows no life span, as Django's is."""
    if scope["type"] != "http":
        raise ValueError(f"can only handle HTTP connections, not {scope['type']}.")
    logger_of_scope(scope).emit(Counted(producer=actor_of(scope).user_id, n=1))
    await send({"type": "http.response.start", "status": 200, "headers": JSON_ANSWER})
    await send({"type": "http.response.body", "body": b"{}"})


def types(config: AuditConfig) -> list[str]:
    """Return the types of a log's records, after a check of the chain."""
    check_trail(log_directory(config))
    return [record["event"]["event_type"] for record in read_events(log_directory(config))]


WHOLE = ["audit.log_opened", "test.counted", "http.request", "audit.log_closed"]


def test_an_application_without_a_life_span_has_a_log(config_for: ConfigFor) -> None:
    """The wrapper lives the life span for an application that raises at it."""
    with TestClient(AuditedApp(no_life_span, config_for())) as client:
        assert client.get("/").status_code == 200
    assert types(config_for()) == WHOLE


def test_an_application_with_a_life_span_lives_it_within_the_log(config_for: ConfigFor) -> None:
    """The application's own start and end are within the log's life, and may record."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            scope["state"]["audit"].emit(Counted(producer="start", n=1))
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            scope["state"]["audit"].emit(Counted(producer="end", n=1))
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await no_life_span(scope, receive, send)

    with TestClient(AuditedApp(app, config_for())) as client:
        assert client.get("/").status_code == 200
    assert types(config_for()) == [WHOLE[0], "test.counted", "test.counted", "http.request", "test.counted", WHOLE[3]]


def test_a_log_that_cannot_be_opened_stops_the_start(config_for: ConfigFor, tmp_path: Path) -> None:
    """The server is told that the start failed, and why."""
    (tmp_path / "audit").write_text("a file in the way")
    with pytest.raises(Exception, match="audit"), TestClient(AuditedApp(no_life_span, config_for())):
        pass


@pytest.mark.anyio
async def test_the_first_request_opens_the_log_of_a_server_without_a_life_span(config_for: ConfigFor) -> None:
    """Requests that come at once open one log, once."""
    app = AuditedApp(no_life_span, config_for())
    assert "not open yet" in repr(app)
    for _ in range(3):
        assert (await ask(app, http_scope())).status == 200
    scope = http_scope()
    await ask(app, scope)
    await logger_of_scope(scope).aclose()
    assert types(config_for()) == [WHOLE[0], *["test.counted", "http.request"] * 4, WHOLE[3]]


SERVICE = """
from audit_async import AuditConfig, Local
from audit_async.integrations.asgi import AuditedApp
from tests.integrations.test_endpoints import no_life_span

app = AuditedApp(no_life_span, AuditConfig(mode=Local("audit"), service_id="orders"))
"""


@pytest.mark.parametrize("lifespan", ["on", "auto", "off"])
def test_a_real_server_with_and_without_a_life_span(tmp_path: Path, lifespan: str) -> None:
    """Under uvicorn everything is in the log after SIGTERM; it is closed in order unless the life span is off."""
    (tmp_path / "service.py").write_text(SERVICE)
    command = ["uvicorn", "service:app", "--port", "0", "--lifespan", lifespan]
    with serving(tmp_path, command, starts=0 if lifespan == "off" else 1) as server:
        with server.asking() as client:
            assert client.get("/").status_code == 200
        server.stop(signal.SIGTERM)
    kinds = [record["event"]["event_type"] for record in read_events(tmp_path / "audit/orders/00")]
    assert kinds == (WHOLE[:-1] if lifespan == "off" else WHOLE)


def test_routes_of_other_mounts_stay_as_they_are(config_for: ConfigFor) -> None:
    """Only mounts of a single endpoint get an exact path; an application that is mounted keeps Starlette's redirect."""
    app = Starlette(routes=[Mount("/shop", Starlette(routes=[Route("/", lambda request: None)]))])
    app.router.lifespan_context = audit_lifespan(config_for())
    with TestClient(app, follow_redirects=False) as client:
        assert client.get("/shop").status_code == 307
