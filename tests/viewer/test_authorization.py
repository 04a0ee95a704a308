"""Every route by every role, and what nobody may do."""

from __future__ import annotations

from pathlib import Path

import httpx2 as httpx
import pytest
from starlette.routing import Mount, Route

from audit_async.reader import AuditQuery
from audit_async.viewer import (
    EmbedLinks,
    NotPermitted,
    Person,
    ProxySignIn,
    Roles,
    Viewer,
    ViewLimits,
    embed_link,
    viewer,
)
from audit_async.viewer.downloads import download_routes
from audit_async.viewer.pages import page_routes
from audit_async.viewer.permissions import ROUTE_PERMISSIONS
from audit_async.viewer.request_limits import RateLimit
from audit_async.viewer.scoped_reader import ScopedReader
from tests.trails import read_events
from tests.viewer.trail_to_view import (
    AUDITOR,
    HOST,
    OF_ACME,
    OF_ORDERS,
    OPERATOR,
    PEOPLE,
    browser_of,
    make_trail,
    viewed,
)

pytestmark = pytest.mark.anyio

KEY = b"0123456789abcdef0123456789abcdef"
ALL = {"auditor", "operator", "reader", "tenant"}
OF_RECORDS = ALL - {"operator"}
OF_LOGS = ALL - {"tenant"}
OF_CHECKS = {"auditor", "operator"}
#: Who may use a route, by its name: written down once more, so that a change in one place is seen.
ALLOWED = {
    "home": ALL,
    "help": ALL,
    "records": OF_RECORDS,
    "record_counts": OF_RECORDS,
    "live": OF_RECORDS,
    "stream": OF_RECORDS,
    "record": OF_RECORDS,
    "audit_id": OF_RECORDS,
    "trail": OF_RECORDS,
    "download": OF_RECORDS,
    "proof": OF_RECORDS,
    "logs": OF_LOGS,
    "log": OF_LOGS,
    "holds": OF_LOGS,
    "verification": OF_CHECKS,
    "start_verification": OF_CHECKS,
}
ROUTES = {route.name: route for route in [*download_routes(), *page_routes()]}
WHO = {"auditor": AUDITOR, "operator": OPERATOR, "reader": OF_ORDERS, "tenant": OF_ACME}
#: Endless, so they are asked only by whom they refuse.
ENDLESS = {"stream"}


def path_of(route: Route) -> str:
    """Return a path that the route answers."""
    filled = {
        "{log:path}": "billing/00",
        "{seq:int}": "1",
        "{audit_id}": "0123456789abcdef-1",
        "{format}": "ndjson",
    }
    path = route.path
    for parameter, value in filled.items():
        path = path.replace(parameter, value)
    assert "{" not in path, f"say here what {path} is asked with"
    return path


def test_every_route_has_a_permission_and_none_writes() -> None:
    """Only signing in, signing out and starting a verification are sent, and they change nothing of the trail."""
    assert {name: ROUTES[name].methods for name in ROUTES if ROUTES[name].methods - {"GET", "HEAD"}} in (  # type: ignore[operator]
        {},
        {"start_verification": {"POST"}},
    )
    assert set(ROUTES) <= set(ROUTE_PERMISSIONS)
    assert set(ROUTE_PERMISSIONS) == set(ALLOWED)


async def test_the_whole_application_has_no_other_routes(tmp_path: Path) -> None:
    """Pages and downloads, signing in and out, static files; and to embed the same without anything that is sent."""
    app = viewed(tmp_path, embed=EmbedLinks(KEY, origins=["https://app.example"]))
    routes = app._app.routes
    posts = {route.path for route in routes if isinstance(route, Route) and "POST" in (route.methods or ())}
    assert posts <= {"/sign-in", "/sign-out", "/verification"}
    (embedded,) = [route for route in routes if isinstance(route, Mount) and route.name == "embed"]
    assert all("POST" not in (getattr(route, "methods", None) or ()) for route in embedded.routes)


@pytest.mark.parametrize("who", sorted(WHO))
async def test_each_role_gets_to_its_pages_and_no_others(tmp_path: Path, who: str) -> None:
    """A refusal is recorded; another service's records are not there for a reader of one."""
    await make_trail(tmp_path)
    refused = set()
    async with viewed(tmp_path) as app, browser_of(app, WHO[who]) as browser:
        for name, route in ROUTES.items():
            if "POST" in (route.methods or ()) or (name in ENDLESS and who in ALLOWED[name]):
                continue
            answer = await browser.get(path_of(route))
            if who in ALLOWED[name]:
                assert answer.status_code in {200, 302, 303, 307, 404, 409}, (name, answer.status_code, answer.text)
            else:
                assert answer.status_code == 403, (name, answer.status_code)
                refused.add(name)
            if who in {"reader", "tenant", "operator"}:
                assert "billing-umbra" not in answer.text, name
    recorded = [record["event"] for record in read_events(tmp_path / "audit-view")]
    denied = [event for event in recorded if event["event_type"] == "authz.denied"]
    assert {event["resource"]["resource_id"] for event in denied} == refused
    assert {event["actor"]["user_id"] for event in denied} <= {WHO[who].name}


async def test_a_page_that_forgot_to_ask_shows_no_records_all_the_same(tmp_path: Path) -> None:
    """The reader itself refuses whoever sees none, and a download to whoever has none."""
    await make_trail(tmp_path)
    app = viewed(tmp_path)
    async with app:
        reader = ScopedReader(app._trail, OPERATOR)
        with pytest.raises(NotPermitted):
            await reader.page(AuditQuery())
        with pytest.raises(NotPermitted):
            await reader.record(1, log="orders/00")
        with pytest.raises(NotPermitted):
            await anext(reader.follow(last=1))
        with pytest.raises(NotPermitted):
            async with reader.exporting("ndjson", AuditQuery()):
                pass
        with pytest.raises(NotPermitted):
            ScopedReader(app._trail, OF_ACME).logs()


async def test_nobody_gets_in_without_signing_in(tmp_path: Path) -> None:
    """No route but the static files and the sign-in answers; nor does anybody without a role."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, user="eve") as browser:
        for name, route in ROUTES.items():
            answer = await browser.request("POST" if "POST" in (route.methods or ()) else "GET", path_of(route))
            assert answer.status_code == 401, name
            assert ">auth.success<" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../pyproject.toml",
        "/static/%2e%2e/%2e%2e/pyproject.toml",
        "/static/..%2f..%2fpyproject.toml",
        "/static//etc/passwd",
        "/static/%00",
        "/logs/../../../etc/passwd",
        "/logs/..%2f..%2fetc/records/1/proof",
        "/logs/%2fetc%2fpasswd/records/1/proof",
        "/download/..%2fcsv",
        "/download/exe",
    ],
)
async def test_no_path_leads_out_of_the_trail(tmp_path: Path, path: str) -> None:
    """It is not found, or refused, for an auditor as well."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        answer = await browser.get(path)
    assert answer.status_code in {400, 404, 405}
    assert "root:" not in answer.text
    assert "[project]" not in answer.text


async def test_another_service_is_not_found_by_naming_it(tmp_path: Path) -> None:
    """Its log, its records, its proofs, and the log of who looks."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, OF_ORDERS) as browser:
        for path in (
            "/download/ndjson?service=billing",
            "/download/ndjson?log=billing/00",
            "/download/csv?service=audit-view",
            "/logs/billing/00/records/1/proof",
        ):
            answer = await browser.get(path)
            assert answer.status_code in {400, 404}, path
            assert "billing-" not in answer.text


async def test_a_tenant_downloads_its_own_records_alone(tmp_path: Path) -> None:
    """Asked for another tenant's it is refused; a record of another is not found by its number."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, OF_ACME) as browser:
        own = await browser.get("/download/ndjson")
        assert own.status_code == 200
        assert [line.count("acme") > 0 for line in own.text.splitlines()] == [True, True]
        assert (await browser.get("/download/ndjson", params={"context": "tenant=umbra"})).status_code == 403
        assert (await browser.get("/logs/orders/00/records/2/proof")).status_code == 404
        bundle = await browser.get("/download/bundle")
        assert bundle.status_code == 409  # selective evidence needs a log that signs; the chain is others', too


def by_proxy(base_dir: Path) -> Viewer:
    """Return a viewer behind a proxy at 127.0.0.1."""
    roles = base_dir / "roles.toml"
    roles.write_text('[people.olga]\nrole = "auditor"\n[groups.support]\nrole = "reader"\ntenant = "acme"\n')
    sign_in = ProxySignIn("X-User", peers=["127.0.0.0/8"], groups_header="X-Groups")
    return viewer(base_dir, sign_in=sign_in, roles=Roles.from_file(roles), public_url="https://audit.example")


@pytest.mark.parametrize(
    ("headers", "peer", "status"),
    [
        ([("x-user", "olga")], "127.0.0.1", 200),
        ([("x-user", "sam"), ("x-groups", "sales, support")], "127.0.0.1", 200),
        ([("x-user", "sam"), ("x-groups", "sales")], "127.0.0.1", 401),
        ([("x-user", "olga")], "192.0.2.7", 401),
        ([("x-user", "olga"), ("x-user", "eve")], "127.0.0.1", 401),
        ([("x-user", "ol\x7fga")], "127.0.0.1", 401),
        ([], "127.0.0.1", 401),
    ],
    ids=["person", "group", "no-role", "not-the-proxy", "two-names", "control-character", "no-name"],
)
async def test_a_header_counts_from_the_proxy_alone(
    tmp_path: Path, headers: list[tuple[str, str]], peer: str, status: int
) -> None:
    """And only if it is one name, which has a role."""
    await make_trail(tmp_path)
    async with by_proxy(tmp_path) as app:
        transport = httpx.ASGITransport(app=app, client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="https://audit.example") as browser:
            answer = await browser.get("/records", headers=headers)
    assert answer.status_code == status
    assert answer.headers["strict-transport-security"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/records", {"host": "attacker.example"}, 400),
        ("GET", "/records", {"host": "127.0.0.1.attacker.example"}, 400),
        ("GET", "/records", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ("GET", "/records", {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        (
            "GET",
            "/records",
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
            403,
        ),
        (
            "GET",
            "/records",
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
            200,
        ),
        ("POST", "/sign-out", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ("POST", "/sign-out", {"origin": "https://attacker.example"}, 403),
        ("POST", "/sign-out", {}, 403),
        ("DELETE", "/records", {}, 405),
        ("PUT", "/records", {}, 405),
        ("OPTIONS", "/records", {"origin": "https://attacker.example"}, 405),
        ("GET", "/records?text=" + "a" * 9000, {}, 414),
    ],
)
async def test_what_no_page_of_the_viewer_sends_is_refused(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Other hosts, other sites, other methods, forms without their token, URLs without end."""
    await make_trail(tmp_path)
    app = viewed(tmp_path, hosts=["127.0.0.1"])
    async with app, browser_of(app, AUDITOR) as browser:
        answer = await browser.request(method, path, headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_requests_without_end_are_slowed_in_bounded_memory(tmp_path: Path) -> None:
    """After a burst an address is answered 429, with when to come again."""
    await make_trail(tmp_path)
    async with viewed(tmp_path, limits=ViewLimits(requests_per_s=2)) as app, browser_of(app, AUDITOR) as browser:
        statuses = [(await browser.get("/sign-in")).status_code for _ in range(8)]
        assert statuses[0] in {200, 303}
        assert 429 in statuses
        assert int((await browser.get("/sign-in")).headers["retry-after"]) >= 1
    limit = RateLimit(1, 5, most=100)
    for number in range(1000):
        limit.take(f"192.0.2.{number}")
    assert len(limit) == 100


@pytest.mark.parametrize("person", PEOPLE.values(), ids=PEOPLE)
async def test_a_link_to_embed_is_not_stronger_for_who_is_signed_in(tmp_path: Path, person: Person) -> None:
    """Whoever opens it sees its tenant's records."""
    await make_trail(tmp_path)
    links = EmbedLinks(KEY, origins=["https://app.example"])
    async with viewed(tmp_path, embed=links) as app, browser_of(app, person) as browser:
        answer = await browser.get(embed_link(HOST, key=KEY, tenant="umbra", name="x"))
    assert answer.text.count(">auth.success<") == 2
