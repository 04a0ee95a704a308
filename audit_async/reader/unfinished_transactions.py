"""Transactions that were intended, and of which no record says what became of them.

Two readings, both in linear time. The first looks at intents and outcomes alone, and keeps the ids of what is open
at that moment: what was under way at the same time, and what is never finished, but not all that ever was. The second
is an ordinary query for the intents, of which those are yielded that have stayed open.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import msgspec

from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async.events import GenericEvent, Record, TransactionEnded, TransactionIntended

__all__ = ["require_no_types", "unfinished_intents"]

_INTENDED: Final = "transaction.intended"
_ENDED: Final = "transaction.ended"

#: A function that yields the records that a query wants.
Ask = Callable[[AuditQuery], AsyncGenerator[Record, None]]


def require_no_types(query: AuditQuery) -> None:
    """Raise `InvalidQuery` if the query asks for types of events, since all it can find has one type."""
    if query.event_types:
        raise InvalidQuery("event_types", f"means nothing here: what is unfinished is a {_INTENDED}; leave it out")


async def unfinished_intents(query: AuditQuery, *, ask_all: Ask, ask: Ask) -> AsyncGenerator[Record, None]:
    """Yield the intents that the query wants and that are unfinished.

    Args:
        query: Which ones.
        ask_all: Answers the first reading.
        ask: Answers the second one, which is the one that somebody has asked for.
    """
    still_open = await _open_ids(ask_all, query)
    left = query.limit
    wanted = msgspec.structs.replace(query, event_types=(_INTENDED,), limit=None)
    async with aclosing(ask(wanted)) as records:
        async for record in records:
            if _transaction_id(record) in still_open:
                yield record
                if left is not None:
                    left -= 1
                    if left == 0:
                        return


async def _open_ids(ask_all: Ask, query: AuditQuery) -> set[str]:
    """Return the ids of the transactions that have no outcome, or `unknown`, in the order of time."""
    still_open: set[str] = set()
    ended_before: set[str] = set()  # by a host whose clock is behind, or an intent that is no longer in the trail
    both = AuditQuery(event_types=(_INTENDED, _ENDED), start=query.start)
    async with aclosing(ask_all(both)) as records:
        async for record in records:
            transaction_id = _transaction_id(record)
            if not transaction_id:
                continue
            if record.event.event_type == _INTENDED:
                if transaction_id in ended_before:
                    ended_before.discard(transaction_id)
                else:
                    still_open.add(transaction_id)
            elif _is_known(record):
                if transaction_id in still_open:
                    still_open.discard(transaction_id)
                else:
                    ended_before.add(transaction_id)
    return still_open


def _transaction_id(record: Record) -> str:
    event = record.event
    if isinstance(event, TransactionIntended | TransactionEnded):
        return event.transaction_id
    return str(event.fields.get("transaction_id", "")) if isinstance(event, GenericEvent) else ""


def _is_known(record: Record) -> bool:
    event = record.event
    outcome = event.fields.get("outcome") if isinstance(event, GenericEvent) else getattr(event, "outcome", None)
    return outcome in {"committed", "rolled_back"}
