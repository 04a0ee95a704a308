"""What each role sees, and that it is recorded before it is shown."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from audit_async.config import RetentionPolicy
from audit_async.reader import AuditQuery
from audit_async.viewer import Person, ViewLimits
from audit_async.viewer.request_limits import SearchSlots, SearchTookTooLong, TooManySearches
from audit_async.viewer.scoped_reader import Asked, ScopedReader
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


async def test_new_records_are_seen_as_they_come(tmp_path: Path) -> None:
    """Those of the own tenant; that somebody watches is durable before the first, and how many were seen at the end."""
    await make_trail(tmp_path)
    app = viewed(tmp_path)
    async with app:
        reader = ScopedReader(app._trail, OF_ACME)
        with anyio.fail_after(60):
            async with aclosing(reader.follow(last=1)) as records:
                first = await anext(records)
                assert [access.get("records") for access in accesses(tmp_path)] == [None]
                await make_trail(tmp_path)
                others = [await anext(records) for _ in range(2)]
    assert {record.context["tenant"] for record in (first, *others)} == {"acme"}
    assert [access.get("records") for access in accesses(tmp_path)] == [None, 3]


async def test_a_search_ends_at_its_time_limit_and_the_others_go_on(tmp_path: Path) -> None:
    """One without end, in a thread that yields as a scan does, is ended with 503; the loop serves others meanwhile."""
    await make_trail(tmp_path)

    def endless(_: Asked) -> Generator[None, None, None]:
        while True:
            time.sleep(0.001)
            yield None

    app = viewed(tmp_path, limits=ViewLimits(search_s=4, searches=2))  # enough for the page, however busy
    async with app, browser_of(app, AUDITOR) as browser, anyio.create_task_group() as tasks:
        reader, ended = ScopedReader(app._trail, OF_ORDERS), []

        async def search() -> None:
            with pytest.raises(SearchTookTooLong):
                await reader.blocking(endless, AuditQuery())
            ended.append(True)

        tasks.start_soon(search)
        await anyio.lowlevel.checkpoint()
        assert (await browser.get("/records")).status_code == 200
    assert ended == [True]
    assert {access["actor"] for access in accesses(tmp_path)} == {"olga", "rita"}


async def test_one_person_does_not_take_all_places() -> None:
    """Nor does anybody wait for ever for one."""
    slots = SearchSlots(2, of_one=1, waiting_s=0.01)
    async with slots.one("rita"), slots.one("olga"):
        for person in ("rita", "omar"):
            with pytest.raises(TooManySearches):
                async with slots.one(person):
                    pass
    async with slots.one("rita"):
        pass


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


async def test_what_retention_will_do_is_shown_if_the_policy_is_known(tmp_path: Path) -> None:
    """Without one it is said that nobody gave it."""
    await make_trail(tmp_path)
    for policy, text in ((None, "was given no retention policy"), (RetentionPolicy(), "Nothing is due")):
        async with viewed(tmp_path, retention=policy) as app, browser_of(app, OPERATOR) as browser:
            answer = await browser.get("/holds")
        assert answer.status_code == 200
        assert text in answer.text
        assert answer.headers["referrer-policy"] == "same-origin"
