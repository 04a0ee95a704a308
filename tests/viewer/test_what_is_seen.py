"""What each role sees, and that it is recorded before it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async.viewer import Person
from tests.viewer.trail_to_view import (
    AUDITOR,
    OF_ACME,
    OF_ORDERS,
    OPERATOR,
    accesses,
    browser_of,
    make_trail,
    viewed,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("person", "services", "status"),
    [(AUDITOR, {"orders", "billing"}, 200), (OF_ORDERS, {"orders"}, 200), (OPERATOR, set(), 403)],
    ids=["auditor", "reader", "operator"],
)
async def test_a_role_sees_the_records_of_its_services(
    tmp_path: Path, person: Person, services: set[str], status: int
) -> None:
    """And none of others."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, person) as browser:
        answer = await browser.get("/records")
    assert answer.status_code == status
    assert {service for service in ("orders", "billing") if f"{service}/00" in answer.text} == services


async def test_who_looked_is_durable_before_anything_is_shown(tmp_path: Path) -> None:
    """The record says who, in which role, what was asked, and how many records were shown."""
    await make_trail(tmp_path)
    async with viewed(tmp_path) as app, browser_of(app, OF_ACME) as browser:
        answer = await browser.get("/records")
        assert answer.status_code == 200
        (access,) = accesses(tmp_path)
    assert access["actor"] == "ada"
    assert access["records"] == 2
    assert access["query"]["context"] == {"tenant": "acme"}
    assert access["query"]["viewer"] == "reader"


async def test_nothing_is_shown_if_it_cannot_be_recorded(tmp_path: Path) -> None:
    """The log of who looks can't be opened: the page is refused, and says nothing of the trail."""
    await make_trail(tmp_path)
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    app = viewed(tmp_path, access_log=nowhere)
    async with browser_of(app, AUDITOR) as browser:
        answer = await browser.get("/records")
    assert answer.status_code == 503
    assert "orders" not in answer.text
