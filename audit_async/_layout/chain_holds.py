"""Legal holds as the chain states them.

A hold is in force if `hold.json` or the chain says so, and only an `audit.hold_lifted` that names its id ends it:
removing a file must not lift a hold. `audit.log_opened` and `audit.segment_sealed` repeat the holds in force, so a
reader that begins at the end of a log needs to go back only as far as the newest of these.

In a log that seals, the reason and the name are sealed in the chain; `hold.json` has them in the clear for as long as
the hold is in force.

Records of releases that knew no ids are understood: their one hold has the empty id.
"""

from __future__ import annotations

from typing import Final

import msgspec

from audit_async._layout.hold_file import Hold

_EVENT_MEMBER: Final = b',"event":'
_OWN_TYPE: Final = b'{"event_type":"audit.'
#: Every record of the library's own holds this; one of a caller's only if its text says so, and not as its event.
OWN_EVENT: Final = _EVENT_MEMBER + _OWN_TYPE
#: The longest reason and name that a repeated hold has; longer ones are cut, so that the record stays small.
MOST_STATED_CHARS: Final = 200
#: What is shown of a text that is sealed in the chain, if `hold.json` does not have it.
SEALED_TEXT: Final = "[sealed]"


class ChainHolds:
    """What one piece of the chain says of holds: `read` its records oldest first, `extend_back` by the piece before."""

    __slots__ = ("in_force", "is_complete", "lifted")

    def __init__(self) -> None:
        self.in_force: dict[str, Hold] = {}  #: set or stated in the piece, and not lifted after that; by id
        self.lifted: dict[str, str] = {}  #: lifted in the piece, and not set again after that: id to time, RFC 3339
        self.is_complete = False  #: some record states all holds in force, so nothing before the piece can add one

    def read(self, line: bytes) -> None:
        """Take what a record says; one that says nothing of holds changes nothing. The line was checked before."""
        if (kind := own_event(line)) not in _KINDS:
            return
        try:
            record = _decode(line)
        except msgspec.MsgspecError:  # a statement that was too large to be recorded whole
            return
        event = record.event
        if kind == b"hold_set":
            since = event.since or record.timestamp
            self._set(Hold(id=event.hold_id, reason=event.reason, set_by=event.set_by, since=since))
        elif kind == b"hold_lifted":
            self.in_force.pop(event.hold_id, None)
            self.lifted[event.hold_id] = record.timestamp
        elif event.holds is not None:
            self.is_complete = True
            for hold in event.holds:
                self._set(hold)

    def extend_back(self, older: ChainHolds) -> None:
        """Add what the piece of the chain before this one says; this one, being later, prevails."""
        for hold_id, hold in older.in_force.items():
            if hold_id not in self.lifted:
                self.in_force.setdefault(hold_id, hold)
        for hold_id, time in older.lifted.items():
            if hold_id not in self.in_force:
                self.lifted.setdefault(hold_id, time)
        self.is_complete = older.is_complete

    def has_lifted(self, hold: Hold) -> bool:
        """Return whether the chain has lifted this hold; one without an id only if it was set before the lifting."""
        time = self.lifted.get(hold.id)
        return time is not None and (bool(hold.id) or hold.since <= time)

    def sealed(self) -> frozenset[str]:
        """Return the ids of the holds whose reason and name are sealed in the chain; before `add_stated` opens them."""
        return frozenset(id_ for id_, hold in self.in_force.items() if SEALED_TEXT in {hold.reason, hold.set_by})

    def _set(self, hold: Hold) -> None:
        self.lifted.pop(hold.id, None)
        self.in_force.setdefault(hold.id, _without_sealed(hold))

    def add_stated(self, hold: Hold) -> None:
        """Add the hold that `hold.json` states unless it was lifted; what is sealed in the chain is legible there."""
        if self.has_lifted(hold):
            return
        recorded = self.in_force.setdefault(hold.id, hold)
        if SEALED_TEXT in {recorded.reason, recorded.set_by}:
            self.in_force[hold.id] = hold


def _without_sealed(hold: Hold) -> Hold:
    if not (hold.reason.startswith(_SEALED) or hold.set_by.startswith(_SEALED)):
        return hold
    return msgspec.structs.replace(hold, reason=_shown(hold.reason), set_by=_shown(hold.set_by))


def _shown(text: str) -> str:
    return SEALED_TEXT if text.startswith(_SEALED) else text


def own_event(line: bytes) -> bytes | None:
    """Return what follows `audit.` in the type of a record of the library's own; None for any other record.

    In JSON no quote of a text is left unescaped, and before the first `,"event":` of a line there are only members that
    the store checks, so no text can pass for such a type.
    """
    at = line.find(_EVENT_MEMBER) + len(_EVENT_MEMBER)
    if not line.startswith(_OWN_TYPE, at):
        return None
    at += len(_OWN_TYPE)
    return line[at : line.find(b'"', at)]


class _Event(msgspec.Struct):
    """The members of the four kinds of events that say something of holds."""

    hold_id: str = ""
    reason: str = ""
    set_by: str = ""
    since: str = ""
    holds: list[Hold] | None = None


class _Record(msgspec.Struct):
    timestamp: str
    event: _Event


#: How a sealed text begins.
_SEALED: Final = "sealed:1:"
_KINDS: Final = frozenset({b"hold_set", b"hold_lifted", b"log_opened", b"segment_sealed"})
_decode: Final = msgspec.json.Decoder(_Record).decode
