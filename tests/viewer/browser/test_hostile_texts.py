"""What a record, a name or an address holds is text on every page, and nothing else."""

from __future__ import annotations

import pytest

from tests.viewer.browser.hostile_texts import HOSTILE_TEXTS, INVISIBLE
from tests.viewer.browser.looking import Looking, quoted

LOG = "/logs/orders/00"
PARAMETERS = (
    "text",
    "actor",
    "resource",
    "path",
    "outcome",
    "context",
    "field",
    "service",
    "log",
    "type",
    "ip",
    "since",
)
ADDRESSES = [
    "/records?" + "&".join(f"{name}={quoted(text)}" for name, text in zip(PARAMETERS, some, strict=True))
    for some in (HOSTILE_TEXTS[at : at + 12] for at in range(0, 60, 12))
]


def test_there_are_sixty_texts() -> None:
    """Each is put into every member, and into a parameter of an address."""
    assert len(set(HOSTILE_TEXTS)) == 60


@pytest.mark.parametrize(
    "path",
    ["/records", f"{LOG}/records/0", f"{LOG}/records/20", f"{LOG}/records/43", LOG, "/logs", "/holds", "/records/live",
     f"/trail?actor={quoted(HOSTILE_TEXTS[3])}", f"/trail?resource={quoted(HOSTILE_TEXTS[43])}", *ADDRESSES,
     f"/audit-ids/{quoted(HOSTILE_TEXTS[2])}", f"/logs/{quoted(HOSTILE_TEXTS[0])}/records/1"],
)  # fmt: skip
def test_nothing_of_it_runs_hides_or_loads(path: str, hostile: Looking) -> None:
    """No script ran, no element came of it, the policy was never asked, and no character is invisible."""
    hostile.open(path)
    assert hostile.driver.execute_script("return window.hit") is None
    assert [one for one in hostile.complaints() if "responded with a status of 4" not in one] == []
    foreign = "main img, main script, main iframe, main object, main embed, main style, main base, main link, main meta"
    assert hostile.all(f"{foreign}, main textarea, main [style], main [onerror], main [onload], main [onfocus]") == []
    assert len(hostile.all("h1")) == 1
    assert len(hostile.all("script")) == 2
    links = "[...document.querySelectorAll('a[href], form, link, script')]"
    address = "new URL(e.action || e.src || e.getAttribute('href'), location).href"
    urls = hostile.driver.execute_script(f"return {links}.map((e) => {address})")
    assert [url for url in urls if not url.startswith(hostile.root)] == []
    text = hostile.driver.execute_script("return document.documentElement.outerHTML")
    assert [character for character in INVISIBLE if character in text] == []


@pytest.mark.parametrize("path", ["/records", f"{LOG}/records/58", f"{LOG}/records/59"])
def test_a_name_without_end_widens_no_page(path: str, hostile: Looking) -> None:
    """Neither a heading nor a table, at a desk or on a phone."""
    hostile.open(path)
    wide = "return [...document.querySelectorAll('h1, h1 *, .diff')].map((e) => e.getBoundingClientRect().right)"
    try:
        for width in (1440, 390):
            hostile.resize(width)
            assert hostile.driver.execute_script("return document.documentElement.scrollWidth") <= width
            assert max(hostile.driver.execute_script(wide)) <= width
    finally:
        hostile.resize(1440)


def test_all_of_it_can_be_read(hostile: Looking) -> None:
    """Each text is shown, in its harmless form."""
    hostile.open(f"{LOG}/records/0")
    text = hostile.one("main").get_attribute("textContent") or ""
    for one in HOSTILE_TEXTS:
        if one.isprintable() and not any(character in one for character in INVISIBLE):
            assert one in text
    assert "\\u202eevil" in text
    hostile.resize(390, 844)
    assert hostile.driver.execute_script("return document.documentElement.scrollWidth") <= 390
    hostile.resize(1440)
