"""The pages in Chromium: each is complete, quiet, accessible, fits a phone, and can be used by keys alone."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from audit_async import AuditConfig, AuditLogger, Local
from audit_async.events import ActorInfo, AuthMethod, AuthSuccess
from audit_async.viewer import Person, TokenSignIn
from tests.processes import wait_until
from tests.viewer.browser.looking import Looking
from tests.viewer.browser.served import served
from tests.viewer.trail_to_view import make_trail

PAGES = {
    "/records": "matches",
    "/records?actor=mallory&type=auth.*&since=2026-11-22&until=2026-11-24&counts=yes": "auth.failure",
    "/records?actor=nobody-of-this-name": "No records match",
    "/records?status=many": "status",
    "/records/live": "Live",
    "/logs/accounts/00/records/2": "bob@new.example",
    "/logs/orders/00/records/0": "It is the first record",
    "/trail?actor=mallory": "mallory",
    "/trail?request_id=8f2c01aa93d4": "user.updated",
    "/logs": "orders/00",
    "/logs/accounts/00": "audit.example/accounts/00",
    "/logs/orders/00": "sealed",
    "/holds": "Case 4711",
    "/verification": "Verify now",
    "/help": "Search for text",
    "/logs/orders/00/records/999999": "No such record",
    "/nothing-here": "Not Found",
}
#: Pages whose status is an error, which the browser's console reports.
REFUSED = ("status=many", "999999", "nothing-here")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_complete_quiet_accessible_and_fits_a_phone(path: str, looking: Looking) -> None:
    """It says what it is for; nothing is in the console, axe finds no serious barrier, and 390 pixels are enough."""
    looking.open(path)
    assert PAGES[path].lower() in looking.text().lower()
    complaints = looking.complaints()
    if not any(part in path for part in REFUSED):
        assert complaints == []
    assert [one for one in complaints if "responded with a status of 4" not in one] == []
    assert looking.barriers() == []
    looking.resize(390, 844)
    assert looking.driver.execute_script("return document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("path", ["/records", "/logs/accounts/00/records/2", "/verification"])
def test_contrast_is_enough_in_the_dark(path: str, looking: Looking) -> None:
    """The switch changes the scheme for good, and text can be read in both."""
    looking.open(path)
    for _ in range(2):  # from automatic by light to dark
        looking.one("[data-theme-switch]").click()
    assert looking.driver.execute_script("return document.documentElement.dataset.theme") == "dark"
    looking.open(path)
    try:
        assert looking.driver.execute_script("return document.documentElement.dataset.theme") == "dark"
        assert looking.barriers() == []
    finally:
        looking.driver.execute_script("localStorage.clear()")


def test_a_search_is_narrowed_by_a_click_and_has_an_address(looking: Looking) -> None:
    """A name in the counts, a bar of the histogram and a chip each lead to an address that shows the same again."""
    looking.open("/records?service=orders")
    looking.follow(looking.one(".facet a[href*='actor=mallory']").click)
    assert set(looking.texts(".c-actor a")) == {"mallory"}
    looking.follow(partial(looking.one(".chart svg a").send_keys, Keys.ENTER))
    assert "since=" in looking.path
    assert "until=" in looking.path
    rows = looking.texts("tbody tr")
    assert rows
    looking.open(looking.path)
    assert looking.texts("tbody tr") == rows
    looking.follow(looking.one("[aria-label^='Remove the filter actor']").click)
    assert "actor" not in looking.path
    assert "since=" in looking.path


def test_pages_follow_each_other_without_a_gap(looking: Looking) -> None:
    """From the newest record to the first no record is left out, and none comes twice."""
    looking.open("/records?log=orders/00")
    seen: list[str] = []
    while True:
        seen += looking.texts(".seq")
        following = looking.all("a[rel=next]")
        if not following:
            break
        looking.follow(following[0].click)
    assert seen == [f"#{seq}" for seq in range(259, -1, -1)]


def test_keys_are_enough(looking: Looking) -> None:
    """Skip link, search, results, record, neighbour, other pages: nothing of it needs a mouse."""
    looking.open("/records")
    driver = looking.driver
    looking.one("body").send_keys(Keys.TAB)
    assert driver.switch_to.active_element.text == "Skip to content"
    looking.one("body").send_keys("/")
    field = driver.switch_to.active_element
    assert field.get_attribute("name") == "text"
    looking.follow(partial(field.send_keys, "bad_password", Keys.ENTER))
    assert "text=bad_password" in looking.path
    looking.one("body").send_keys("j")
    assert driver.switch_to.active_element.text == "auth.failure"
    assert driver.execute_script("return document.activeElement.matches(':focus-visible')")
    looking.follow(partial(driver.switch_to.active_element.send_keys, Keys.ENTER))
    assert "/records/" in looking.path
    before = looking.path
    for keys, path in (("k", "/records/"), ("gh", "/holds"), ("?", "/help")):
        looking.follow(partial(looking.one("body").send_keys, keys))
        assert path in looking.path
        assert looking.path != before


def test_times_are_local_if_wanted(looking: Looking) -> None:
    """The page has UTC; the switch shows the reader's own time, and keeps the exact one."""
    looking.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    try:
        looking.open("/logs/orders/00/records/0")
        shown = looking.one(".key-facts time")
        assert shown.text == "2026-11-22 12:00:00"
        looking.one("[data-times]").click()
        assert shown.text == "2026-11-22 17:30:00"
        assert (shown.get_attribute("datetime") or "").startswith("2026-11-22T12:00:00")
    finally:
        looking.driver.execute_script("localStorage.clear()")
        looking.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_records_come_while_one_looks(looking: Looking, base_dir: Path) -> None:
    """A record that a service writes now appears at the top, with nothing in the console; pausing ends it."""
    looking.open("/records/live?actor=late*")

    async def record(name: str) -> None:
        config = AuditConfig(mode=Local(base_dir), service_id="live", instance="00", handle_signals=False)
        async with AuditLogger(config) as audit:
            actor = ActorInfo(user_id=name)
            await audit.emit_durable(AuthSuccess(actor=actor, method=AuthMethod.PASSWORD, path="/login"))

    looking.wait("return document.querySelector('.live-state.on') !== null")

    def has_come() -> object:
        asyncio.run(record("late-<b>comer</b>"))  # again: what is written before the trail is followed does not come
        shows = "return document.querySelector('#rows').innerText.includes('late-<b>comer</b>')"
        return looking.driver.execute_script(shows)

    wait_until(has_come)
    looking.one("[data-pause]").click()
    assert "Paused" in looking.text()
    assert looking.complaints() == []


def test_who_has_signed_out_sees_nothing_any_more(looking: Looking, tmp_path: Path) -> None:
    """The link does not stay in the address; after signing out neither a page nor the way back shows anything."""
    asyncio.run(make_trail(tmp_path))
    tokens: list[str] = []
    with served(tmp_path, TokenSignIn(Person(name="olga", role="auditor"), tokens.append)) as root:
        own = Looking(looking.driver, root)
        own.open(f"/sign-in?token={tokens[0]}")
        assert own.path == "/records"
        assert "auth.success" in own.text()
        own.one(".who button").click()
        own.wait("return location.pathname === '/sign-in'")
        assert own.driver.get_cookies() == []
        own.driver.back()
        own.wait("return document.readyState === 'complete'")
        assert "auth.success" not in own.text()
        own.open("/records?actor=acme")
        assert own.path == "/sign-in?next=%2Frecords%3Factor%3Dacme"
        assert own.complaints() == []
        assert own.barriers() == []


def test_reading_needs_no_script(looking: Looking) -> None:
    """Counts, histogram, further pages and a record are there without any."""
    with looking.without_scripts():
        looking.driver.get(f"{looking.root}/records?log=orders/00")
        looking.one(".side a").click()
        assert "260 matches" in looking.one(".side").text
        assert looking.all(".chart svg a")
        looking.one("a[rel=next]").click()
        looking.one("td a.open").click()
        assert "Hash checked" in looking.text()
        assert "2026-11-22" in looking.one(".key-facts time").text


def test_a_verification_shows_its_report(looking: Looking) -> None:
    """It is started by a form, and ends with a verdict on each log and what was not compared."""
    looking.open("/verification")
    looking.one("main form button").click()
    looking.wait("return document.querySelector('.verdict') !== null")
    assert looking.one(".verdict b").text == "Valid"
    assert looking.one("main form button").is_enabled()
    assert {"accounts/00", "orders/00"} <= set(looking.texts("tbody th"))
    assert looking.complaints() == []
    assert looking.barriers() == []
