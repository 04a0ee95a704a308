"""Getting in: by the token that the terminal shows, by a proxy's header, by the application around the viewer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.viewer.trail_to_view import AUDITOR, browser_of, make_trail, viewed, viewed_by_token

pytestmark = pytest.mark.anyio


async def test_a_token_is_exchanged_once_and_does_not_stay_in_the_url(tmp_path: Path) -> None:
    """The link leads to a URL without the token; a second use is refused, and the next token is shown."""
    await make_trail(tmp_path)
    tokens: list[str] = []
    async with viewed_by_token(tmp_path, tokens) as app, browser_of(app) as browser, browser_of(app) as other:
        refused = await browser.get("/records?actor=alice")
        assert refused.status_code == 303
        assert refused.headers["location"] == "/sign-in?next=%2Frecords%3Factor%3Dalice"
        entered = await browser.get("/sign-in", params={"token": tokens[0], "next": "/records?actor=alice"})
        assert (entered.status_code, entered.headers["location"]) == (303, "/records?actor=alice")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert (await browser.get("/records")).status_code == 200

        again = await other.get("/sign-in", params={"token": tokens[0]})
        assert again.status_code == 403
        assert (await other.get("/records")).status_code == 303
        assert len(tokens) == 2
        assert (await other.post("/sign-in", data={"token": tokens[1]})).status_code == 303
        assert (await other.get("/records")).status_code == 200


async def test_signing_out_ends_the_session_and_is_not_offered_if_it_would_not(tmp_path: Path) -> None:
    """With a token the cookie is worth nothing afterwards; who an application signed in can't be signed out here."""
    await make_trail(tmp_path)
    tokens: list[str] = []
    async with viewed_by_token(tmp_path, tokens) as app, browser_of(app) as browser:
        await browser.get("/sign-in", params={"token": tokens[0]})
        cookies = dict(browser.cookies)
        page = (await browser.get("/records")).text
        assert "Sign out" in page
        token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
        gone = await browser.post("/sign-out", data={"csrf_token": token})
        assert gone.headers["location"] == "/sign-in"
        assert not browser.cookies
        browser.cookies.update(cookies)
        assert (await browser.get("/records")).status_code == 303
    async with viewed(tmp_path) as app, browser_of(app, AUDITOR) as browser:
        page = (await browser.get("/verification")).text
        assert "Sign out" not in page
        token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
        assert (await browser.post("/sign-out", data={"csrf_token": token})).status_code == 404
