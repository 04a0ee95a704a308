"""What the policy decides: which requests are recorded, how much of them, and which become security events."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async import ConfigError
from audit_async._redact.redactor import Redactor
from audit_async.integrations._http.http_redactor import SHORT_PATH, is_plain_path
from audit_async.integrations._http.path_traversal import climbs_out
from audit_async.integrations.asgi import AuditMiddleware, Level, Policy, Rule, Scope
from tests.integrations.asgi_client import Trail, answering, ask, body, hello, http_scope, open_trail
from tests.logs import ConfigFor
from tests.redact.secret_corpus import SECRETS

pytestmark = pytest.mark.anyio

SECRET = "correct-horse-battery-staple"
CARD = "4111111111111111"


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/health", ["/health", "/health/"], ["/healthy", "/a/health", "/health/live", "/"]),
        ("/", ["/", ""], ["/a"]),
        ("/static/**", ["/static", "/static/", "/static/a", "/static/a/b.css"], ["/statically", "/a/static/b"]),
        ("/users/*", ["/users/7", "/users/*"], ["/users", "/users/7/orders"]),
        ("/users/*/orders", ["/users/7/orders"], ["/users/7/8/orders", "/users/orders"]),
        ("/**/admin", ["/admin", "/a/admin", "/a/b/admin"], ["/a/admin/b", "/badmin"]),
        ("/**/a/**/b", ["/a/b", "/x/a/y/a/z/b"], ["/b/a", "/x/a/y"]),
        ("/v?/*.json", ["/v1/a.json"], ["/v10/a.json", "/v1/ajson", "/v1/a/b.json"]),
        ("/**", ["/", "/a", "/a/b"], []),
    ],
)
def test_a_glob_matches_whole_segments(pattern: str, matching: list[str], others: list[str]) -> None:
    """`*` stays within a segment, `**` takes any number of them, and nothing else is special."""
    policy = Policy([Rule(pattern, level="none")])
    assert [path for path in matching if policy.plan("GET", path).capture is not Level.NONE] == []
    assert [path for path in others if policy.plan("GET", path).capture is Level.NONE] == []


@given(
    st.lists(st.sampled_from(["a", "b", "ab"]), max_size=8),
    st.lists(st.sampled_from(["a", "b", "*", "**"]), max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_a_glob_matches_as_its_definition_says(path: list[str], pattern: list[str]) -> None:
    """The matcher agrees with the plain recursive definition, and with it for every pattern."""

    def matches(pattern: list[str], path: list[str]) -> bool:
        if not pattern:
            return not path
        if pattern[0] == "**":
            return matches(pattern[1:], path) or (bool(path) and matches(pattern, path[1:]))
        return bool(path) and pattern[0] in {"*", path[0]} and matches(pattern[1:], path[1:])

    policy = Policy([Rule("/" + "/".join(pattern), level="none")])
    matched = policy.plan("GET", "/" + "/".join(path)).capture is Level.NONE
    assert matched == matches(pattern, path)


def test_a_path_that_is_made_to_be_expensive_is_not() -> None:
    """Matching takes the product of both lengths at most; the naive way would not end within a lifetime."""
    policy = Policy([Rule("/" + "**/a*a*a*a*b/" * 8, level="none")])
    assert policy.plan("GET", "/" + "/".join(["a" * 60] * 1000)).capture is Level.METADATA


def test_made_up_paths_take_no_memory() -> None:
    """The policy remembers a bounded number of paths, and no long ones."""
    policy = Policy([Rule("/x", level="none")])
    for n in range(10_000):
        policy.plan("GET", f"/{n}")
    policy.plan("GET", "/" + "y" * 100_000)
    assert len(policy._plans) <= 2048
    assert max(len(path) for _, path in policy._plans) <= 256


async def levels(trail: Trail, policy: Policy, status: int, path: str = "/a", method: str = "GET") -> list[str]:
    """Return the types of the events of one request."""
    before = len(await trail.events())
    await ask(AuditMiddleware(answering(status), trail.audit, policy=policy), http_scope(path, method=method))
    return [event["event_type"] for event in (await trail.events())[before:]]


async def test_the_first_rule_that_matches_wins(config_for: ConfigFor) -> None:
    """Rules are asked in order, by path, method and status; what none matches has the default level."""
    policy = Policy(
        [
            Rule("/health", methods="GET", status=range(200, 300), level="none"),
            Rule("/health", level="metadata"),
            Rule(status=[404, 405], level="none"),
            Rule("/quiet/**", level="none"),
        ]
    )
    async with open_trail(config_for) as trail:
        assert await levels(trail, policy, 200, "/health") == []
        assert await levels(trail, policy, 503, "/health") == ["http.request"]
        assert await levels(trail, policy, 200, "/health", "POST") == ["http.request"]
        assert await levels(trail, policy, 404, "/health") == ["http.request"]
        assert await levels(trail, policy, 404, "/x") == []
        assert await levels(trail, policy, 200, "/quiet/x") == []
        assert await levels(trail, policy, 200, "/x") == ["http.request"]
        assert await levels(trail, Policy(default="none"), 200, "/x") == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rule("health", level="none"),
        lambda: Rule(level="everything"),  # type: ignore[arg-type]  # a wrong value on purpose
        lambda: Rule(level="none", status=99),
        lambda: Rule(level="none", status=range(500, 601)),
        lambda: Policy(max_body_bytes=-1),
        lambda: Policy(max_body_bytes=1 << 20),
        lambda: Policy(default="all"),  # type: ignore[arg-type]  # as above
        lambda: AuditMiddleware(hello, "audit"),  # type: ignore[arg-type]  # as above
    ],
)
def test_a_wrong_setting_says_which(make: Any) -> None:
    """Wrong values raise ConfigError, which names the field."""
    with pytest.raises(ConfigError) as raised:
        make()
    assert raised.value.field in {
        "rule.path",
        "rule.level",
        "rule.status",
        "policy.max_body_bytes",
        "policy.default",
        "audit",
    }


# Security events.


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, {"event_type": "auth.failure", "reason": "http_401", "ip": "198.51.100.7", "path": "/a"}),
        (
            403,
            {
                "event_type": "authz.denied",
                "actor": {"user_id": "anonymous", "ip": "198.51.100.7"},
                "resource": {"resource_type": "path", "resource_id": "/a"},
                "action": "GET",
                "reason": "http_403",
            },
        ),
        (
            429,
            {
                "event_type": "security.rate_limit_exceeded",
                "ip": "198.51.100.7",
                "endpoint": "/a",
                "limit": 100,
                "window_seconds": 60,
            },
        ),
    ],
)
async def test_refusals_become_security_events(config_for: ConfigFor, status: int, expected: dict[str, Any]) -> None:
    """401, 403 and 429 are one event of their own type, and its context has what the type has no member for."""
    headers = [("RateLimit-Limit", "100"), ("RateLimit-Policy", "100;w=60")]
    async with open_trail(config_for) as trail:
        app = AuditMiddleware(answering(status, headers), trail.audit)
        await ask(app, http_scope("/a", headers=[("User-Agent", "curl/8.5"), ("X-Request-ID", "r-1")]))
        (record,) = await trail.records()
        assert record["event"] == expected
        context = record["context"]
        assert (context["request_id"], context["http_status"], context["http_method"]) == ("r-1", status, "GET")
        assert (context["http_user_agent"], context["http_bytes_out"]) == ("curl/8.5", 0)
        assert "http_duration_ms" in context


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_rule_can_leave_security_events_to_the_handler(config_for: ConfigFor, status: int) -> None:
    """With `security=False` a refusal stays an http.request, for handlers that record it themselves."""
    async with open_trail(config_for) as trail:
        policy = Policy([Rule("/login", level="metadata", security=False)])
        assert await levels(trail, policy, status, "/login") == ["http.request"]


async def test_bodies_of_a_refusal_stand_beside_it(config_for: ConfigFor) -> None:
    """Where a rule asks for bodies, which a security event has no place for, the http.request is recorded as well."""
    async with open_trail(config_for) as trail:
        assert await levels(trail, Policy(default="request"), 403) == ["authz.denied", "http.request"]
        first, second = await trail.records()
        assert first["context"]["request_id"] == second["context"]["request_id"]


CLIMBING = [
    ("/static/../../etc/passwd", b"/static/../../etc/passwd"),
    ("/static/../x", b"/static/%2e%2e/x"),
    ("/static/../x", b"/static/..%2fx"),
    ("/static/%2e%2e/x", b"/static/%252e%252e/x"),
    ("/static/%252e%252e%252fx", b"/static/%25252e%25252e%25252fx"),
    ("/static\\..\\x", b"/static%5c..%5cx"),
    ("/..", b"/.."),
    ("/static/..;a=b/x", b"/static/..;a=b/x"),
    ("/static/..\x00/x", b"/static/..%00/x"),
    ("/static/\ufffd\ufffd\ufffd\ufffd/x", b"/static/%c0%ae%c0%ae/x"),
    ("/static/\ufffd\ufffd/x", b"/static/%C0%AF/x"),
    ("../x", b"../x"),
]
STAYING = [
    ("/releases/v1..v2", b"/releases/v1..v2"),
    ("/files/a...b", b"/files/a...b"),
    ("/files/...", b"/files/..."),
    ("/files/..hidden", b"/files/..hidden"),
    ("/files/x..", b"/files/x.."),
    ("/./a", b"/./a"),
    ("/search/100%", b"/search/100%25"),
    ("/%2", b"/%252"),
    ("/na\ufffdve", b"/na%efve"),
    ("/日本", "/日本".encode()),
]


@pytest.mark.parametrize(("path", "raw_path"), CLIMBING)
async def test_a_path_that_climbs_out_is_an_attack(config_for: ConfigFor, path: str, raw_path: bytes) -> None:
    """Whatever its disguise, its answer, and a policy that records nothing else, a climbing path is recorded as one."""
    async with open_trail(config_for) as trail:
        app = AuditMiddleware(answering(404), trail.audit, policy=Policy(default="none"))
        await ask(app, http_scope(path, raw_path=raw_path))
        (record,) = await trail.records()
        assert record["event"]["event_type"] == "security.path_traversal_attempt"
        assert record["context"]["http_status"] == 404


@pytest.mark.parametrize(("path", "raw_path"), STAYING)
def test_a_path_with_dots_is_no_attack(path: str, raw_path: bytes) -> None:
    """Dots within a name, and percent signs, are nothing special."""
    assert not climbs_out(path, raw_path)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["..", "...", "..;a", "%2e%2e", "token=abcdef", *(secret.text for secret in SECRETS)]),
            st.text("0123456789-", max_size=13),
            st.text("abZ09._-;=%", max_size=13),
        ),
        max_size=8,
    )
)
def test_what_is_recorded_unsearched_holds_nothing_to_find(segments: list[str]) -> None:
    """A path that is spared the searches neither climbs nor has a secret in it."""
    path = "/" + "/".join(segments)
    if is_plain_path(path) and len(path) < SHORT_PATH:
        assert not climbs_out(path, urllib.parse.quote(path).encode())
        assert Redactor().redact_text(path) == path


# Bodies.


def echo(content_type: str, chunk: int = 1 << 20) -> Any:
    """Return an application that reads the whole body and sends it back, in parts."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message["body"])
            more = message["more_body"]
        whole = b"".join(parts)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type.encode())]}
        )
        for start in range(0, len(whole), chunk):
            await send({"type": "http.response.body", "body": whole[start : start + chunk], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


async def recorded_bodies(
    trail: Trail, policy: Policy, data: bytes, content_type: str = "application/json", **headers: str
) -> dict[str, Any]:
    """Send a body, and return the event."""
    scope = http_scope("/a", method="POST", headers=[("Content-Type", content_type), *headers.items()])
    scope["query_string"] = b"page=2&token=" + SECRET.encode()
    incoming = [body(data[:10], more=True), body(data[10:])]
    exchanged = await ask(AuditMiddleware(echo(content_type, 100), trail.audit, policy=policy), scope, incoming)
    assert exchanged.body == data
    event: dict[str, Any] = (await trail.events())[-1]
    return event


async def test_levels_say_how_much_is_kept(config_for: ConfigFor) -> None:
    """Metadata has no headers and bodies, `request` those of the request, `request_response` those of both."""
    data = json.dumps({"user": "mallory", "password": SECRET}).encode()
    async with open_trail(config_for) as trail:
        assert "request_headers" not in await recorded_bodies(trail, Policy(), data)
        request = await recorded_bodies(trail, Policy(default="request"), data)
        both = await recorded_bodies(trail, Policy(default="request_response"), data)
        assert "response_body" not in request
        assert "response_headers" not in request
        assert json.loads("".join(request["request_body"]["text"])) == {
            "user": "mallory",
            "password": "[redacted:password]",
        }
        assert both["response_body"] == both["request_body"]
        assert "content-type: application/json" in both["response_headers"]
        assert json.loads(both["query"]) == {"page": "2", "token": "[redacted:token]"}
        assert SECRET.encode() not in trail.text()


async def test_secrets_in_headers_paths_and_agents_do_not_reach_the_disk(config_for: ConfigFor) -> None:
    """Credentials of headers are redacted, and so is what looks like a secret in a path or a user agent."""
    key = "ghp_" + "a1B2" * 9
    async with open_trail(config_for) as trail:
        headers = [
            ("Authorization", f"Bearer {SECRET}"),
            ("Cookie", f"session={SECRET}"),
            ("X-Api-Key", SECRET),
            ("User-Agent", f"bot/1.0 {key}"),
        ]
        app = AuditMiddleware(
            answering(401, [("Set-Cookie", f"s={SECRET}")]), trail.audit, policy=Policy(default="request_response")
        )
        await ask(app, http_scope(f"/hooks/{key}", headers=headers))
        assert len(await trail.events()) == 2
        assert SECRET.encode() not in trail.text()
        assert key.encode() not in trail.text()


async def test_no_secret_of_the_list_reaches_the_disk(config_for: ConfigFor) -> None:
    """200 real-looking secrets in headers, query and both bodies, JSON, form and text: none is in the trail."""
    async with open_trail(config_for, max_field_chars=64 * 1024, buffer_events=100_000) as trail:
        app = AuditMiddleware(echo("application/json"), trail.audit, policy=Policy(default="request_response"))
        forms = AuditMiddleware(
            echo("application/x-www-form-urlencoded"), trail.audit, policy=Policy(default="request_response")
        )
        for _, _, text, name in SECRETS:
            form = urllib.parse.urlencode({"page": 1, name: text}).encode()
            data = json.dumps({"a": [{name: text}], "said": json.dumps({name: text})}).encode()
            for target, content, kind in (
                (app, data, "application/json"),
                (forms, form, "application/x-www-form-urlencoded"),
            ):
                scope = http_scope("/a", method="POST", headers=[("Content-Type", kind)])
                scope["headers"].append((name.lower().encode(), text.encode("latin-1")))
                if name == "note":
                    scope["headers"].append((b"user-agent", b"client/1.0 " + text.encode("latin-1")))
                scope["query_string"] = form
                await ask(target, scope, [body(content)])
        events = await trail.events()
        assert len(events) == 2 * len(SECRETS) >= 400
        said = json.dumps(events, ensure_ascii=False)
        escaped = [
            (secret, json.dumps(secret)[1:-1], json.dumps(json.dumps(secret))[3:-3]) for _, secret, *_ in SECRETS
        ]
        assert [forms[0] for forms in escaped if any(form in said for form in forms)] == []


@pytest.mark.parametrize("cut_at", range(2, 60, 3))
async def test_a_cut_through_a_secret_leaves_none_of_it(config_for: ConfigFor, cut_at: int) -> None:
    """Wherever the limit cuts a body, what is kept holds no recognisable part of its secrets."""
    data = f'{{"card": "{CARD}", "password": "{SECRET}", "n": 1}}'.encode()
    async with open_trail(config_for) as trail:
        event = await recorded_bodies(trail, Policy(default="request_response", max_body_bytes=cut_at), data)
        assert event["request_body"]["truncated"] is True
        assert CARD[:8].encode() not in trail.text()
        assert SECRET[:6].encode() not in trail.text()


async def test_a_body_is_kept_to_its_limit_and_passes_whole(config_for: ConfigFor) -> None:
    """Of a large body the first 4 KiB are kept, its whole size is told, and the application gets all of it."""
    data = b"line of text\n" * 100_000
    async with open_trail(config_for) as trail:
        event = await recorded_bodies(trail, Policy(default="request_response"), data, "text/plain")
        for side in ("request_body", "response_body"):
            kept = "".join(event[side]["text"])
            assert (event[side]["bytes"], event[side]["truncated"]) == (len(data), True)
            assert 3900 <= len(kept) <= 4096
            assert data.startswith(kept.encode())
        assert "reduced" not in event


@pytest.mark.parametrize(
    ("content_type", "headers", "why"),
    [
        ("image/png", {}, "its content type is not listed in the policy"),
        ("", {}, "its content type is not listed in the policy"),
        ("application/json", {"Content-Encoding": "gzip"}, "it is encoded: gzip"),
    ],
)
async def test_a_body_that_is_not_kept_says_why(
    config_for: ConfigFor, content_type: str, headers: dict[str, str], why: str
) -> None:
    """Of a body of another type, or one that is packed, only the size is recorded."""
    async with open_trail(config_for) as trail:
        event = await recorded_bodies(trail, Policy(default="request"), b"\x89PNG" * 10, content_type, **headers)
        kept = event["request_body"]
        assert (kept["bytes"], kept["left_out"]) == (40, why)
        assert "text" not in kept


async def test_listed_types_are_the_policys(config_for: ConfigFor) -> None:
    """`body_types` replaces the list; a parameter such as the charset makes no difference."""
    async with open_trail(config_for) as trail:
        policy = Policy(default="request", body_types=["application/vnd.acme+*"])
        event = await recorded_bodies(trail, policy, b'{"a":1}', "application/vnd.acme+json; charset=utf-8")
        assert event["request_body"]["text"] == ['{"a":1}']
        event = await recorded_bodies(trail, policy, b'{"a":1}', "application/json")
        assert "left_out" in event["request_body"]


NASTY = "x\x1b[31m\u202e\x00\x85" * 500


@pytest.mark.parametrize("on_unsafe", ["escape", "reject"])
@pytest.mark.parametrize("status", [200, 401])
async def test_nothing_that_a_client_sends_keeps_its_request_out(
    config_for: ConfigFor, on_unsafe: str, status: int
) -> None:
    """Control characters and overlong texts in every place that a client writes: the request is recorded, harmless."""
    async with open_trail(config_for, on_unsafe=on_unsafe) as trail:
        app = AuditMiddleware(answering(status), trail.audit, policy=Policy(default="request"))
        raw = NASTY.encode("utf-8").decode("latin-1")
        headers = [("User-Agent", raw), ("Content-Type", f"text/{raw}"), ("Content-Encoding", raw), ("X", raw)]
        scope = http_scope(f"/{NASTY}", headers=headers, query_string=raw.encode("latin-1"))
        await ask(app, scope)
        assert app.unrecorded == 0
        assert [event["event_type"] for event in await trail.events()][-1] == "http.request"
        assert b"\x1b" not in trail.text()
        assert "\u202e".encode() not in trail.text()


@pytest.mark.parametrize("on_unsafe", ["escape", "reject"])
async def test_a_request_that_is_too_large_for_the_log_is_recorded_without_its_bulk(
    config_for: ConfigFor, on_unsafe: str
) -> None:
    """Where headers and bodies would make the event larger than the log takes, what happened is still recorded."""
    async with open_trail(config_for, on_unsafe=on_unsafe, max_event_bytes=4096) as trail:
        headers = [(f"X-{n}", "y" * 900) for n in range(50)]
        app = AuditMiddleware(hello, trail.audit, policy=Policy(default="request"))
        await ask(app, http_scope("/a", headers=headers))
        event = await trail.only()
        assert (event["path"], event["status"], app.unrecorded) == ("/a", 200, 0)
        assert ("note" in event) is (on_unsafe == "reject")
