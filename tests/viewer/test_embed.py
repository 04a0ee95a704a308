"""Links for a frame of another site: one tenant's records, until they expire, and nothing else."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from audit_async import AuditConfig, AuditLogger, Local, audit_context
from audit_async.errors import ConfigError
from audit_async.viewer import EmbedLinks, Person, embed_link
from audit_async.viewer.scoped_reader import ScopedReader
from tests.logs import failure
from tests.viewer.trail_to_view import AUDITOR, HOST, accesses, browser_of, make_trail, viewed

pytestmark = pytest.mark.anyio

KEY = b"0123456789abcdef0123456789abcdef"
LINKS = EmbedLinks(KEY, origins=("https://app.example",))


def link(tenant: str = "acme", **changes: object) -> str:
    """Return a link of the application's."""
    return embed_link(HOST, **{"key": KEY, "tenant": tenant, "name": "customer 7"} | changes)  # type: ignore[arg-type]


async def test_a_link_shows_the_records_of_its_tenant_alone(tmp_path: Path) -> None:
    """Neither another's nor those without a tenant; who looked is recorded; only the named site may frame it."""
    await make_trail(tmp_path)
    async with viewed(tmp_path, embed=LINKS) as app, browser_of(app) as browser:
        answer = await browser.get(link())
        other = await browser.get(link("nobody-at-all"))
        plain = await browser.get("/sign-in")
    assert answer.status_code == 200
    assert answer.text.count(">auth.success<") == 2  # one in each service
    assert ">audit.log_opened<" not in answer.text
    assert ">auth.success<" not in other.text
    assert "frame-ancestors https://app.example" in answer.headers["content-security-policy"]
    assert "x-frame-options" not in answer.headers
    assert "frame-ancestors 'none'" in plain.headers["content-security-policy"]
    assert accesses(tmp_path)[0]["actor"] == "customer 7"
    assert accesses(tmp_path)[0]["query"]["embed"] is True


async def test_a_tenant_that_is_recorded_as_a_number_sees_its_records(tmp_path: Path) -> None:
    """Everywhere that a search finds them: on their own pages, and as they come."""
    config = AuditConfig(mode=Local(tmp_path), service_id="orders", handle_signals=False)
    async with AuditLogger(config) as audit:
        for tenant in (7, 77, True, None):
            with audit_context(tenant=tenant):
                audit.emit(failure())
    base = link("7").removesuffix("/records")
    async with viewed(tmp_path, embed=LINKS) as app, browser_of(app) as browser:
        assert (await browser.get(f"{base}/records")).text.count("/logs/orders/00/records/1") > 0
        answers = [await browser.get(f"{base}/logs/orders/00/records/{seq}") for seq in (1, 2, 3, 4)]
        assert [answer.status_code for answer in answers] == [200, 404, 404, 404]
        ada = Person(name="ada", role="reader", tenant="7")
        async with aclosing(ScopedReader(app._trail, ada).follow(last=5)) as records:
            with anyio.fail_after(60):
                assert (await anext(records)).seq == 1


def altered() -> dict[str, str]:
    """Return links that are no good, by what is wrong with them."""
    good = link()
    ticket = good.split("/")[4]
    payload, mac = ticket.split(".")
    forged = urlsafe_b64encode(b'["umbra","customer 7",9999999999]').rstrip(b"=").decode()
    return {
        "another_payload": good.replace(payload, forged),
        "another_key": embed_link(HOST, key=b"x" * 32, tenant="acme", name="customer 7"),
        "expired": link(valid_s=1, now=lambda: 1_000_000.0),
        "too_long": embed_link(HOST, key=KEY, tenant="acme", name="x", valid_s=86_400, now=lambda: 4_000_000_000.0),
        "no_mac": good.replace(f".{mac}", ""),
        "empty_mac": good.replace(mac, ""),
        "shorter_mac": good.replace(mac, mac[:-2]),
        "another_spelling": good.replace(mac, f"{mac}="),
        "not_ascii": good.replace(mac, "%C3%A9" + mac),
        "huge": good.replace(payload, "A" * 5000),
    }


@pytest.mark.parametrize("what", sorted(altered()))
async def test_a_link_that_is_expired_or_altered_is_refused(tmp_path: Path, what: str) -> None:
    """Whoever else is signed in with that browser."""
    await make_trail(tmp_path)
    async with viewed(tmp_path, embed=LINKS) as app, browser_of(app, AUDITOR) as browser:
        answer = await browser.get(altered()[what])
    assert answer.status_code in {403, 404}
    assert ">auth.success<" not in answer.text


async def test_a_link_asks_for_no_other_tenant(tmp_path: Path) -> None:
    """Nor does it lead to pages about the logs, nor is there anything to send."""
    await make_trail(tmp_path)
    base = link().removesuffix("/records")
    async with viewed(tmp_path, embed=LINKS) as app, browser_of(app) as browser:
        assert (await browser.get(f"{base}/records?context=tenant%3Dumbra")).text.count("umbra") == 0
        for path in ("/logs", "/verification", "/holds", "/../../records"):
            assert (await browser.get(base + path)).status_code in {401, 403, 404}
        assert (await browser.post(f"{base}/records")).status_code == 405


def test_a_link_that_cannot_be_meant_is_refused() -> None:
    """A short key, a tenant that is recorded otherwise than it is given, a life of a year."""
    with pytest.raises(ConfigError, match="32 random bytes"):
        embed_link(HOST, key=b"short", tenant="acme", name="x")
    with pytest.raises(ConfigError, match="tenant"):
        link("ac\x1bme")
    for url in ("https://[audit.example", "https://audit.example:port", "https://me:hunter2@audit.example", "audit"):
        with pytest.raises(ConfigError, match=r"such as https://audit\.example\.org") as caught:
            embed_link(url, key=KEY, tenant="acme", name="x")
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="valid_s"):
        link(valid_s=400 * 86_400)
    with pytest.raises(ConfigError, match="origins"):
        EmbedLinks(KEY, origins=("https://*.example/",))
