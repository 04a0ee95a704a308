"""Signing in at an OpenID Connect provider, a real one on this machine, and each answer that is not to be believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2 as httpx
import pytest
from joserfc.jwk import ECKey

from audit_async.errors import ConfigError
from audit_async.viewer import OidcSignIn, Roles, Viewer, viewer
from tests.trails import read_events
from tests.viewer.oidc_provider import CLIENT, SECRET, Provider, running_provider
from tests.viewer.trail_to_view import HOST, browser_of, make_trail

pytestmark = pytest.mark.anyio


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Run a provider."""
    with running_provider() as running:
        yield running


def viewed_by_oidc(base_dir: Path, provider: Provider, **given: Any) -> Viewer:
    """Return a viewer that knows olga, by her address."""
    roles = base_dir / "roles.toml"
    roles.write_text('[people."olga@example.org"]\nrole = "auditor"\n')
    sign_in = OidcSignIn(provider.issuer, CLIENT, client_secret=SECRET, public_url=HOST, **given)
    return viewer(base_dir, sign_in=sign_in, roles=Roles.from_file(roles), public_url=HOST)


async def at_provider(browser: httpx.AsyncClient, path: str = "/sign-in/oidc") -> str:
    """Begin to sign in, be signed in by the provider; return where it sends the browser, below the viewer."""
    begun = await browser.get(path)
    assert begun.status_code == 303
    async with httpx.AsyncClient(timeout=60) as outside:
        answer = await outside.get(begun.headers["location"])
    assert answer.status_code == 302
    return answer.headers["location"].removeprefix(HOST)


async def test_a_person_signs_in_at_the_provider(tmp_path: Path, provider: Provider) -> None:
    """With PKCE, state and nonce; the session cookie is strict, and the page leads on to the one that was asked for."""
    await make_trail(tmp_path)
    async with viewed_by_oidc(tmp_path, provider) as app, browser_of(app) as browser:
        begun = await browser.get("/sign-in/oidc")
        asked = dict(parse_qsl(urlsplit(begun.headers["location"]).query))
        assert asked["code_challenge_method"] == "S256"
        assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 43
        back = await at_provider(browser, "/sign-in/oidc?next=/records%3Factor%3Dalice")
        entered = await browser.get(back)
        assert entered.status_code == 200
        assert 'content="0;url=/records?actor=alice"' in entered.text
        assert "SameSite=strict" in next(
            cookie for cookie in entered.headers.get_list("set-cookie") if cookie.startswith("audit_view=")
        )
        assert (await browser.get("/records")).status_code == 200
        assert (await browser.get(back)).status_code == 403  # once
    assert provider.refused == []
    (success,) = [
        record["event"]
        for record in read_events(tmp_path / "audit-view")
        if record["event"]["event_type"] == "auth.success"
    ]
    assert (success["actor"]["user_id"], success["method"]) == ("olga@example.org", "oidc")


def says(**claims: Any) -> Callable[[Provider], None]:
    """Return what makes a provider say something else."""
    return lambda provider: provider.claims.update(claims)


def signs_with_another_key(provider: Provider) -> None:
    """Sign with a key that the provider does not publish."""
    provider.sign_with = ECKey.generate_key("P-256", {"kid": "1"})


def signs_with_its_public_key(provider: Provider) -> None:
    """Sign with HMAC, the public key as the secret."""
    provider.signs_with_public_key = True


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (says(nonce="another"), "wrong_nonce"),
        (says(nonce=None), "wrong_nonce"),
        (says(aud="another"), "another_audience"),
        (says(aud=[CLIENT, "another"]), "another_audience"),
        (says(azp="another"), "another_audience"),
        (says(iss="https://another.example"), "another_issuer"),
        (says(exp=int(time.time()) - 3600), "bad_token"),
        (says(exp=None), "bad_token"),
        (says(email_verified=False), "unverified_email"),
        (says(email_verified=None), "unverified_email"),
        (says(email=None), "no_name"),
        (says(email="eve@example.org"), "no_role"),
        (signs_with_another_key, "bad_token"),
        (signs_with_its_public_key, "bad_token"),
    ],
)
async def test_an_answer_that_is_not_to_be_believed_is_refused(
    tmp_path: Path, provider: Provider, wrong: Callable[[Provider], None], reason: str
) -> None:
    """It is recorded as a failed sign-in, with the reason; nobody is let in."""
    await make_trail(tmp_path)
    wrong(provider)
    async with viewed_by_oidc(tmp_path, provider) as app, browser_of(app) as browser:
        refused = await browser.get(await at_provider(browser))
        assert refused.status_code == 403
        assert (await browser.get("/records")).status_code == 303
    events = [record["event"] for record in read_events(tmp_path / "audit-view")]
    assert [event["reason"] for event in events if event["event_type"] == "auth.failure"] == [reason]


async def test_a_sign_in_is_finished_by_the_browser_that_began_it(tmp_path: Path, provider: Provider) -> None:
    """Another browser's answer, a state that nobody gave, another provider's name and a refusal let nobody in."""
    await make_trail(tmp_path)
    async with (
        viewed_by_oidc(tmp_path, provider) as app,
        browser_of(app) as browser,
        browser_of(app) as other,
    ):
        assert (await other.get(await at_provider(browser))).status_code == 403
        assert (await browser.get("/sign-in/oidc/callback?code=x&state=y")).status_code == 403
        back = await at_provider(browser)
        assert (await browser.get(back.replace("iss=http", "iss=https"))).status_code == 403
        state = dict(parse_qsl(urlsplit(await at_provider(browser)).query))["state"]
        denied = await browser.get("/sign-in/oidc/callback", params={"error": "access_denied", "state": state})
        assert denied.status_code == 403
        for client in (browser, other):
            assert (await client.get("/records")).status_code == 303


def test_a_provider_that_is_not_reached_safely_is_refused() -> None:
    """Without TLS anybody on the way could say who somebody is."""
    for issuer in ("http://login.example.org", "ftp://login.example.org", "https://me:hunter2@login.example.org", "",
                   "http://me:hunter2@127.0.0.1", "https://login.example.org?key=hunter2"):  # fmt: skip
        with pytest.raises(ConfigError, match="https") as caught:
            OidcSignIn(issuer, CLIENT, public_url=HOST)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("discovery", "said"),
    [
        ({"issuer": "https://another.example"}, "calls itself otherwise"),
        ({"token_endpoint": "http://provider.example/token"}, "https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "https"),
        ({"jwks_uri": None}, "can&#39;t be read"),
    ],
)
async def test_a_provider_that_says_something_else_of_itself_is_not_used(
    tmp_path: Path, provider: Provider, discovery: dict[str, Any], said: str
) -> None:
    """No browser is sent to it, and the page says why."""
    await make_trail(tmp_path)
    provider.discovery = discovery
    async with viewed_by_oidc(tmp_path, provider) as app, browser_of(app) as browser:
        answer = await browser.get("/sign-in/oidc")
    assert (answer.status_code, "location" in answer.headers) == (503, False)
    assert said in answer.text


async def test_a_provider_that_changes_its_keys_is_asked_for_them_again(tmp_path: Path, provider: Provider) -> None:
    """But not for each token that they don't fit: half a minute later."""
    await make_trail(tmp_path)
    now = [0.0]
    async with viewed_by_oidc(tmp_path, provider, now=lambda: now[0]) as app:
        found = []
        for seconds in (0.0, 29.0, 31.0):
            now[0] = seconds
            async with browser_of(app) as browser:
                found.append((await browser.get(await at_provider(browser))).status_code)
            provider.key = provider.sign_with = ECKey.generate_key("P-256", {"kid": "1", "use": "sig", "alg": "ES256"})
    assert found == [200, 403, 200]
