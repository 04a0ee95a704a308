"""The legal holds in force in the order of the chain, for the records that repeat them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from audit_async._layout.chain_holds import MOST_STATED_CHARS, SEALED_TEXT
from audit_async._layout.hold_file import Hold
from audit_async.events import AuditHoldLifted, AuditHoldSet
from audit_async.events.lifecycle import HoldInForce


class StatedHolds:
    """What the chain says of holds once all that was emitted so far is in it. Owned by the loop's thread.

    `set_by` and `lifted_by` are called in the same step of the loop that emits the event they return, so a record that
    repeats the holds (`stated`) can neither leave out one that was set before it nor repeat one that was lifted.
    """

    def __init__(self, holds: Iterable[Hold], *, closed: Collection[str] = ()) -> None:
        """Begin with what the chain says.

        Args:
            holds: The holds in force, with the texts of `hold.json`.
            closed: The ids of those whose texts the chain has sealed, if this session can't seal them again: what it
                repeats in the clear could be erased no more.
        """
        self._holds = {hold.id: _without_texts(hold) if hold.id in closed else hold for hold in holds}

    def stated(self) -> list[HoldInForce]:
        """Return all holds in force, for `audit.log_opened` and `audit.segment_sealed`."""
        return [
            HoldInForce(
                id=hold.id,
                reason=hold.reason[:MOST_STATED_CHARS],
                set_by=hold.set_by[:MOST_STATED_CHARS],
                since=hold.since,
            )
            for hold in self._holds.values()
        ]

    def set_by(self, hold: Hold, *, reason: str, set_by: str) -> AuditHoldSet:
        """Return the record that somebody asked for a hold, which is the one in force if there was one before."""
        self._holds.setdefault(hold.id, hold)
        return AuditHoldSet(reason=reason, set_by=set_by, hold_id=hold.id or None, since=hold.since)

    def lifted_by(self, hold: Hold, *, reason: str, lifted_by: str) -> AuditHoldLifted:
        """Return the record that ends a hold."""
        self._holds.pop(hold.id, None)
        return AuditHoldLifted(reason=reason, lifted_by=lifted_by, hold_id=hold.id or None)


def _without_texts(hold: Hold) -> Hold:
    return msgspec.structs.replace(hold, reason=SEALED_TEXT, set_by=SEALED_TEXT)
