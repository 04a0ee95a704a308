"""Comparing `hold.json` with the legal holds that the chain records: it is a cache, so nobody lifts a hold by it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from audit_async._layout.chain_holds import MOST_STATED_CHARS, SEALED_TEXT, ChainHolds
from audit_async._layout.hold_file import Hold, read_hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._layout.names import HOLD_FILE
from audit_async._trail.log_files import why_unreadable
from audit_async._verify.findings import Observation, Observations
from audit_async._verify.segment_verdict import LifecycleRecord
from audit_async.errors import LogCorrupted


def read_holds(chain: ChainHolds, records: Iterable[LifecycleRecord]) -> None:
    """Add what records state of holds to what those before them state."""
    for record in records:
        event = {"event_type": record.type} | record.event
        chain.read(msgspec.json.encode({"timestamp": record.timestamp, "event": event}))


def check_hold(directory: Path, chain: ChainHolds, observed: Observations) -> None:
    """Compare the file with what the end of the chain states, and add what differs."""
    try:
        stated = read_hold(directory)
    except LogCorrupted as error:
        observed.add(Observation.HOLD_BAD, segment=HOLD_FILE, reason=error.reason)
        return
    except OSError as error:
        observed.add(Observation.UNREADABLE, segment=HOLD_FILE, reason=why_unreadable(error))
        return
    if stated is not None and stated.id in chain.in_force:
        if not _agree(stated, chain.in_force[stated.id]):
            observed.add(Observation.HOLD_CHANGED, segment=HOLD_FILE)
    elif chain.in_force and _is_still_in_force(directory, chain.in_force):
        what = Observation.HOLD_MISSING if stated is None else Observation.HOLD_REPLACED
        observed.add(what, segment=HOLD_FILE, since=min(hold.since for hold in chain.in_force.values()))
    elif stated is not None and chain.has_lifted(stated):
        observed.add(Observation.HOLD_LIFTED)
    elif stated is not None:
        observed.add(Observation.HOLD_UNRECORDED)


def _is_still_in_force(directory: Path, holds: Iterable[str]) -> bool:
    """Return whether the chain still has one of the holds: a running writer may have lifted it since it was read."""
    with suppress(LogCorrupted, OSError):
        return not {hold.id for hold in find_holds(directory)}.isdisjoint(holds)
    return True


def _agree(stated: Hold, recorded: Hold) -> bool:
    """Return whether the file states what the chain records; a record may be cut and made harmless."""
    texts = [(stated.reason, recorded.reason), (stated.set_by, recorded.set_by)]
    if stated.id:  # releases without ids recorded no time
        texts.append((stated.since, recorded.since))
    return all(
        mine[:MOST_STATED_CHARS] == theirs[:MOST_STATED_CHARS]
        or theirs == SEALED_TEXT
        or not (mine.isascii() and mine.isprintable())
        for mine, theirs in texts
    )
