"""Transactions whose intent is recorded and whose outcome is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuditQuery, AuditReader, Local
from audit_async._query.audit_query import InvalidQuery
from audit_async.events import TransactionEnded, TransactionIntended
from audit_async.reader import unfinished_transactions
from tests.logs import failure

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Only asyncio: the log lives on its loop."""
    return "asyncio"


def intended(number: int, actor: str = "alice") -> TransactionIntended:
    """Return an intent."""
    return TransactionIntended(actor=ActorInfo(user_id=actor), transaction_id=f"{number:032x}", changes=1)


def ended(number: int, outcome: str) -> TransactionEnded:
    """Return an outcome."""
    return TransactionEnded(transaction_id=f"{number:032x}", outcome=outcome)  # type: ignore[arg-type]


async def leave(directory: Path) -> None:
    """Leave intents with every kind of end, in two logs of a service."""
    async with AuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as first:
        for number in (1, 2, 3, 4, 5):
            first.emit(intended(number, "bob" if number == 4 else "alice"))
            first.emit(failure())
        first.emit(ended(1, "committed"))
        first.emit(ended(2, "rolled_back"))
        first.emit(ended(3, "unknown"))
        await first.flush()
        async with AuditLogger(AuditConfig(mode=Local(directory), service_id="shop")) as second:
            second.emit(ended(5, "unknown"))
            second.emit(ended(5, "committed"))
            second.emit(ended(99, "committed"))  # of an intent that is no longer there


async def found(directory: Path, query: AuditQuery = AuditQuery()) -> list[int]:  # noqa: B008 - frozen
    """Return the numbers of what is unfinished."""
    return [int(record.event.transaction_id, 16) async for record in AuditReader(directory).unfinished(query)]  # type: ignore[attr-defined]


async def test_what_has_no_known_outcome_is_unfinished(tmp_path: Path) -> None:
    """Also what is unknown; an outcome in another log counts, and one without an intent is nothing."""
    await leave(tmp_path)
    assert await found(tmp_path) == [3, 4]


async def test_a_query_narrows_it(tmp_path: Path) -> None:
    """By actor, order and number, but not by types."""
    await leave(tmp_path)
    assert await found(tmp_path, AuditQuery(actor="bob")) == [4]
    assert await found(tmp_path, AuditQuery(newest_first=True)) == [4, 3]
    assert await found(tmp_path, AuditQuery(newest_first=True, limit=1)) == [4]
    with pytest.raises(InvalidQuery, match="event_types"):
        AuditReader(tmp_path).unfinished(AuditQuery(event_types=("auth.failure",)))


async def test_what_is_under_way_at_one_time_is_all_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand finished transactions need no more memory than one."""
    async with AuditLogger(AuditConfig(mode=Local(tmp_path), service_id="shop")) as log:
        for number in range(1000):
            log.emit(intended(number))
            log.emit(ended(number, "committed"))
    most = 0

    class Counted(set[str]):
        """A set that remembers how large it was."""

        def add(self, element: str) -> None:
            nonlocal most
            super().add(element)
            most = max(most, len(self))

    monkeypatch.setattr(unfinished_transactions, "set", Counted, raising=False)
    assert await found(tmp_path) == []
    assert most == 1
