"""The WSGI middleware: what is recorded of a request, and that nothing of it reaches the application."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from audit_async import (
    ActorInfo,
    AuditConfig,
    ConfigError,
    Disabled,
    audit_context,
    current_actor,
    get_audit,
    set_audit,
)
from audit_async.integrations.wsgi import AuditedApp, AuditMiddleware, Policy, Rule, actor_of
from audit_async.sync import SyncAuditLogger
from tests.integrations.wsgi_client import Answer, ask, environment, events_of, opened
from tests.logs import ConfigFor, Counted, log_directory
from tests.trails import read_events


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer `{}`."""
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return [b"{}"]


def answering(
    status: str, headers: list[tuple[str, str]] | None = None
) -> Callable[[dict[str, Any], Any], list[bytes]]:
    """Return an application that answers every request with this status, and no body."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, headers or [])
        return []

    return app


def test_a_request_is_one_event_with_what_was_seen(config_for: ConfigFor) -> None:
    """Method, path, status, sizes, address and user agent of an ordinary request are in its one event."""
    config = config_for()

    def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(3) + environ["wsgi.input"].readline()
        start_response("201 Created", [])
        return [body, b""]

    with opened(config) as audit:
        environ = environment("/orders/7", method="POST", body=b"abcde", HTTP_USER_AGENT="curl/8.5")
        answer = ask(AuditMiddleware(echo, audit), environ)
        assert (answer.status, answer.body) == ("201 Created", b"abcde")
    (record,) = events_of(config)
    event = record["event"]
    assert isinstance(event.pop("duration_ms"), int)
    assert event == {
        "event_type": "http.request",
        "method": "POST",
        "path": "/orders/7",
        "status": 201,
        "bytes_in": 5,
        "bytes_out": 5,
        "ip": "198.51.100.7",
        "user_agent": "curl/8.5",
    }
    assert answer.headers["X-Request-ID"] == record["context"]["request_id"]


def test_parts_pass_one_by_one(config_for: ConfigFor) -> None:
    """Nothing is asked for before the server wants it, and the answer is closed by its own `close`."""
    config = config_for()
    steps: list[str] = []

    class Stream:
        def __iter__(self) -> Iterator[bytes]:
            for number in range(3):
                steps.append(f"made {number}")
                yield b"x" * 10

        def close(self) -> None:
            steps.append("closed")

    def app(environ: dict[str, Any], start_response: Any) -> Stream:
        start_response("200 OK", [])
        return Stream()

    with opened(config) as audit:
        answer = Answer()
        result = AuditMiddleware(app, audit)(environment(), answer.start)
        assert steps == []
        for number, _ in enumerate(result):
            steps.append(f"sent {number}")
        result.close()  # type: ignore[attr-defined]
    assert steps == ["made 0", "sent 0", "made 1", "sent 1", "made 2", "sent 2", "closed"]
    (record,) = events_of(config)
    assert (record["event"]["bytes_out"], record["event"].get("outcome")) == (30, None)


def test_what_is_written_the_old_way_is_counted(config_for: ConfigFor) -> None:
    """`write()`, which `start_response` returns, sends as well."""
    config = config_for()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"abc")
        return [b"de"]

    with opened(config) as audit:
        assert ask(AuditMiddleware(app, audit), environment()).body == b"abcde"
    assert events_of(config)[0]["event"]["bytes_out"] == 5


def test_a_server_may_count_the_parts_of_a_list(config_for: ConfigFor) -> None:
    """`len` of an answer is that of the application's list; an iterator has none."""
    with opened(config_for()) as audit:
        result = AuditMiddleware(hello, audit)(environment(), Answer().start)
        assert len(result) == 1  # type: ignore[arg-type]
        list(result)

        def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b"x"

        result = AuditMiddleware(stream, audit)(environment(), Answer().start)
        assert not hasattr(result, "__len__")
        list(result)


def test_an_answer_of_known_length_is_recorded_with_its_last_byte(config_for: ConfigFor) -> None:
    """Test clients read one part and never close the answer."""
    config = config_for()
    with opened(config) as audit:
        next(iter(AuditMiddleware(hello, audit)(environment(), Answer().start)))
        audit.flush()
        (record,) = events_of(config)
    assert (record["event"]["status"], record["event"]["bytes_out"]) == (200, 2)


def test_an_exception_is_recorded_and_raised(config_for: ConfigFor) -> None:
    """Before the answer the client gets 500, also if an answer was begun of which nothing was sent."""
    config = config_for()

    def fail(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/begun":
            start_response("200 OK", [])
        raise KeyError("secret")

    with opened(config) as audit:
        for path in ("/", "/begun"):
            with pytest.raises(KeyError):
                ask(AuditMiddleware(fail, audit), environment(path))
    for record in events_of(config):
        event = record["event"]
        assert (event["status"], event["outcome"], event["error"]) == (500, "failed", "KeyError")
        assert "secret" not in str(record)


def test_an_exception_in_the_middle_keeps_the_status_that_was_sent(config_for: ConfigFor) -> None:
    """The client has the status; the record says that the application failed after it."""
    config = config_for()

    def fail(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise OSError("disk")

    with opened(config) as audit, pytest.raises(OSError, match="disk"):
        ask(AuditMiddleware(fail, audit), environment())
    event = events_of(config)[0]["event"]
    assert (event["status"], event["outcome"], event["error"], event["bytes_out"]) == (200, "failed", "OSError", 4)


def test_an_answer_that_is_taken_back_is_recorded_as_the_one_in_its_place(config_for: ConfigFor) -> None:
    """`start_response` with `exc_info` replaces what was begun before."""
    config = config_for()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        try:
            raise KeyError
        except KeyError as error:
            start_response("503 Unavailable", [], (KeyError, error, error.__traceback__))
        return [b"later"]

    with opened(config) as audit:
        assert ask(AuditMiddleware(app, audit), environment()).status == "503 Unavailable"
    assert events_of(config)[0]["event"]["status"] == 503


def test_an_answer_that_the_server_gives_up_is_cancelled(config_for: ConfigFor) -> None:
    """The client went away, mostly: the server closes the answer before its end."""
    config = config_for()
    closed = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"tick"
        finally:
            closed.append(True)

    with opened(config) as audit:
        ask(AuditMiddleware(app, audit), environment(), parts=2)
    event = events_of(config)[0]["event"]
    assert closed == [True]
    assert (event["status"], event["outcome"], event["bytes_out"]) == (200, "cancelled", 8)
    assert event["note"] == "the server ended the answer before its last byte"


def test_a_missing_answer_is_recorded(config_for: ConfigFor) -> None:
    """The application returns without an answer; every server makes a 500 of it."""
    config = config_for()
    with opened(config) as audit:
        ask(AuditMiddleware(lambda environ, start_response: [], audit), environment())
    event = events_of(config)[0]["event"]
    assert (event["status"], event["outcome"]) == (500, "no_response")


def test_an_answer_to_head_has_no_bytes(config_for: ConfigFor) -> None:
    """Whether the server asks for its body or not, and it is complete."""
    config = config_for()
    with opened(config) as audit:
        ask(AuditMiddleware(hello, audit), environment(method="HEAD"))
        AuditMiddleware(hello, audit)(environment(method="HEAD"), Answer().start).close()  # type: ignore[attr-defined]
    for record in events_of(config):
        assert (record["event"]["bytes_out"], record["event"].get("outcome")) == (0, None)


@pytest.mark.parametrize(
    ("status", "event_type"),
    [
        ("401 Unauthorized", "auth.failure"),
        ("403 Forbidden", "authz.denied"),
        ("429 Slow", "security.rate_limit_exceeded"),
    ],
)
def test_refusals_are_security_events(config_for: ConfigFor, status: str, event_type: str) -> None:
    """With the same types and context as under ASGI."""
    config = config_for()
    with opened(config) as audit:
        ask(AuditMiddleware(answering(status), audit), environment("/admin", HTTP_X_REQUEST_ID="abc"))
    (record,) = events_of(config)
    assert record["event"]["event_type"] == event_type
    assert (record["context"]["http_status"], record["context"]["request_id"]) == (int(status[:3]), "abc")


def test_a_path_that_climbs_is_an_incident_whatever_the_policy_says(config_for: ConfigFor) -> None:
    """Also if it is encoded twice; the raw path is `RAW_URI` of gunicorn, or `REQUEST_URI` of uWSGI."""
    config = config_for()
    with opened(config) as audit:
        quiet = AuditMiddleware(hello, audit, policy=Policy([Rule("/**", level="none")]))
        ask(quiet, environment("/static/x"))
        ask(quiet, environment("/static/../etc", RAW_URI="/static/%2e%2e/etc?x=1"))
        ask(quiet, environment("/static/%2e%2e/etc", REQUEST_URI="/static/%252e%252e/etc"))
    assert [record["event"]["event_type"] for record in events_of(config)] == ["security.path_traversal_attempt"] * 2


def test_paths_are_those_that_the_client_asked_for(config_for: ConfigFor) -> None:
    """Bytes become text again, the prefix is part of the path, and rules match without it."""
    config = config_for()
    with opened(config) as audit:
        app = AuditMiddleware(hello, audit, policy=Policy([Rule("/health", level="none")]))
        ask(app, environment("/größe".encode().decode("latin-1"), SCRIPT_NAME="/shop"))
        ask(app, environment("/health", SCRIPT_NAME="/shop"))
        ask(app, environment("", SCRIPT_NAME="/shop"))
    first, second = events_of(config)
    assert (first["event"]["path"], first["context"]["http_root_path"]) == ("/shop/größe", "/shop")
    assert second["event"]["path"] == "/shop"


def test_headers_and_bodies_if_the_policy_asks_for_them(config_for: ConfigFor) -> None:
    """Both sides, without their secrets, as under ASGI; a body that is not read is not recorded."""
    config = config_for()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        list(environ["wsgi.input"])
        start_response("200 OK", [("Content-Type", "application/json"), ("Set-Cookie", "s=1")])
        return [b'{"token":', b'"sesame"}']

    with opened(config) as audit:
        recorded = AuditMiddleware(app, audit, policy=Policy([Rule("/**", level="request_response")]))
        environ = environment(
            method="POST",
            body=b'{"user":"dana","password":"sesame"}',
            CONTENT_TYPE="application/json",
            QUERY_STRING="page=2&token=sesame",
            HTTP_AUTHORIZATION="Bearer sesame",
        )
        ask(recorded, environ)
    (record,) = events_of(config)
    event = record["event"]
    assert "sesame" not in str(record)
    assert "dana" in event["request_body"]["text"][0]
    assert event["response_body"]["bytes"] == 18
    assert any(header.startswith("content-type: application/json") for header in event["request_headers"])
    assert "page" in event["query"]


def test_inner_code_finds_log_actor_and_context(config_for: ConfigFor) -> None:
    """Also while the answer is streamed; nothing of it is left in the server's thread."""
    config = config_for()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ["REMOTE_USER"] = "dana"
        get_audit().emit(Counted(producer="call", n=0))
        start_response("200 OK", [])
        yield b"x"
        actor = current_actor()
        assert actor == actor_of(environ)
        assert actor is not None
        get_audit().emit(Counted(producer=actor.user_id, n=1))

    with opened(config) as audit, audit_context(deployment="blue"):
        ask(AuditMiddleware(app, audit), environment(HTTP_AUTHORIZATION="Basic ZGFuYTp4"))
        assert current_actor() is None
        with pytest.raises(ConfigError):
            get_audit()
    first, second, request = events_of(config)
    assert first["context"] == second["context"] == request["context"]
    assert first["context"]["deployment"] == "blue"
    assert second["event"]["producer"] == "dana"
    assert request["event"]["actor"] == {"user_id": "dana", "ip": "198.51.100.7", "auth_method": "basic"}


def test_a_trusted_proxy_names_the_client(config_for: ConfigFor) -> None:
    """And no other peer does."""
    config = config_for()
    with opened(config) as audit:
        app = AuditMiddleware(hello, audit, trusted_proxies=["10.0.0.0/8", "unix"])
        for peer in ("10.1.2.3", "198.51.100.7", ""):
            ask(app, environment(REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR="203.0.113.9"))
    assert [record["event"]["ip"] for record in events_of(config)] == ["203.0.113.9", "198.51.100.7", "203.0.113.9"]


def test_the_start_is_durable_before_the_application_is_asked(config_for: ConfigFor) -> None:
    """With `begin=True`, for a request that may kill its worker."""
    config = config_for()
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.extend(record["event"]["event_type"] for record in events_of(config))
        return hello(environ, start_response)

    with opened(config) as audit:
        ask(AuditMiddleware(app, audit, policy=Policy([Rule("/**", level="metadata", begin=True)])), environment())
    assert seen == ["http.request_started"]


# When the trail can't take a record.


def test_a_closed_log_breaks_no_request_by_default(config_for: ConfigFor) -> None:
    """The request is served, and the loss counted."""
    with opened(config_for()) as audit:
        app = AuditMiddleware(hello, audit)
    assert ask(app, environment()).body == b"{}"
    assert (app.unrecorded, audit.stats().dropped_by_type) == (1, {"http.request": 1})


def test_a_closed_log_refuses_requests_if_it_must(config_for: ConfigFor) -> None:
    """With `fail_closed` the application is not asked, and the client gets a 503."""
    asked: list[bool] = []

    def counted(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        asked.append(True)
        return hello(environ, start_response)

    with opened(config_for()) as audit:
        app = AuditMiddleware(counted, audit, fail_closed=True)
        assert ask(app, environment()).status == "200 OK"
    answer = ask(app, environment())
    assert (answer.status, answer.headers["Retry-After"], len(asked)) == ("503 Service Unavailable", "5", 1)
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert (app.refused, app.unrecorded) == (1, 0)


def test_a_request_that_was_let_in_gives_its_room_back(config_for: ConfigFor) -> None:
    """However it ends: otherwise the door would close after as many as the buffer has room for."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        if environ["PATH_INFO"] == "/fails":
            raise KeyError
        start_response("200 OK", [])
        yield b"x"
        yield b"y"

    def fail(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise KeyError

    with opened(config_for(buffer_events=100)) as audit:
        streaming, failing = (AuditMiddleware(each, audit, fail_closed=True) for each in (app, fail))
        for _ in range(100):
            ask(streaming, environment())
            ask(streaming, environment(), parts=1)
            with pytest.raises(KeyError):
                ask(failing, environment())
            audit.flush()
        assert (streaming.refused, failing.refused) == (0, 0)


@pytest.mark.parametrize("lazily", [False, True], ids=["called", "iterated"])
def test_an_answer_whose_record_is_impossible_is_withheld(config_for: ConfigFor, lazily: bool) -> None:
    """The client gets a 503 in its place, and nothing of the answer; the record says so."""
    config = config_for()

    def actor(environ: dict[str, Any]) -> ActorInfo:
        raise RuntimeError

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        return [b"secret"]

    def lazy(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield from app(environ, start_response)

    with opened(config) as audit:
        answer = ask(AuditMiddleware(lazy if lazily else app, audit, actor=actor, fail_closed=True), environment())
        head = environment(method="HEAD")
        assert ask(AuditMiddleware(app, audit, actor=actor, fail_closed=True), head).body == b""
    assert (answer.status, answer.headers["Content-Length"]) == ("503 Service Unavailable", str(len(answer.body)))
    assert b"secret" not in answer.body
    event = events_of(config)[0]["event"]
    assert (event["status"], event["bytes_out"]) == (503, len(answer.body))
    assert event["note"].startswith("the application's answer with status 200 was withheld")


def test_a_disabled_log_costs_nothing_and_refuses_nothing() -> None:
    """A development machine needs no other code."""
    with SyncAuditLogger(AuditConfig(mode=Disabled())) as audit:
        assert ask(AuditMiddleware(hello, audit, fail_closed=True), environment()).body == b"{}"


def test_many_threads_lose_nothing(config_for: ConfigFor) -> None:
    """One middleware serves all of a server's threads; each request has the actor that it came with."""
    config = config_for()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["REMOTE_USER"] = environ["PATH_INFO"][1:]
        return hello(environ, start_response)

    with opened(config) as audit:
        recorded = AuditMiddleware(app, audit, fail_closed=True)

        def serve(number: int) -> None:
            for count in range(100):
                ask(recorded, environment(f"/{number}-{count}"))

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    events = [record["event"] for record in events_of(config)]
    assert len({event["path"] for event in events}) == len(events) == 800
    assert all(event["path"] == f"/{event['actor']['user_id']}" for event in events)


# Making one.


def test_the_log_of_the_moment_is_found_at_each_request(config_for: ConfigFor) -> None:
    """A middleware without a log uses `get_audit()`; without one the error says what to do."""
    config = config_for()
    app = AuditMiddleware(hello)
    with pytest.raises(ConfigError, match="no audit log is set here"):
        ask(app, environment())
    with opened(config) as audit:
        set_audit(audit)
        ask(app, environment())
    assert len(events_of(config)) == 1


def test_an_application_with_a_log_of_its_own(config_for: ConfigFor) -> None:
    """`AuditedApp` opens the log at once."""
    config = config_for()
    app = AuditedApp(hello, config, policy=Policy([Rule("/health", level="none")]))
    ask(app, environment("/orders"))
    ask(app, environment("/health"))
    app.audit.close()
    assert [record["event"]["path"] for record in events_of(config)] == ["/orders"]
    assert read_events(log_directory(config))[-1]["event"]["event_type"] == "audit.log_closed"


@pytest.mark.parametrize(
    ("arguments", "settings", "why"),
    [
        ((None,), {}, "must be a WSGI application"),
        ((hello, "audit"), {}, "must be a SyncAuditLogger or a function"),
        ((hello,), {"polcy": None}, "did you mean"),
        ((hello,), {"fail_closed": 1}, "must be True or False"),
    ],
)
def test_mistakes_are_refused_at_the_start(arguments: Any, settings: Any, why: str) -> None:
    """And not at the first request."""
    with pytest.raises(ConfigError, match=why):
        AuditMiddleware(*arguments, **settings)


def test_the_input_reads_like_the_servers_own(config_for: ConfigFor) -> None:
    """Whatever way the application reads the body, its bytes are counted once."""
    config = config_for()
    body = b"one\ntwo\nthree\n"

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        given = environ["wsgi.input"]
        match environ["PATH_INFO"]:
            case "/read":
                assert given.read() == body
            case "/lines":
                assert given.readlines() == body.splitlines(keepends=True)
            case "/into":
                buffer = bytearray(5)
                assert (given.readinto(buffer), bytes(buffer)) == (5, body[:5])
                assert io.BytesIO(given.read()).read() == body[5:]
            case "/iterated":
                assert list(given) == body.splitlines(keepends=True)
        assert given.seekable()
        return hello(environ, start_response)

    paths = ("/read", "/lines", "/into", "/iterated")
    with opened(config) as audit:
        for path in paths:
            ask(AuditMiddleware(app, audit), environment(path, method="PUT", body=body))
    assert [record["event"]["bytes_in"] for record in events_of(config)] == [len(body)] * len(paths)
