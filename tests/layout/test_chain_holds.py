"""Holds as records state them: whatever the pieces the chain is read in, the same holds are in force."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from audit_async._layout.chain_holds import ChainHolds, own_event
from audit_async._layout.hold_file import Hold

IDS = ("", "a", "b")


def record(number: int, event: dict[str, object]) -> bytes:
    """Return a record as far as holds are concerned; time goes with its number."""
    text = json.dumps({"event_type": event.pop("event_type"), **event}, separators=(",", ":"))
    return f'{{"seq":{number},"timestamp":"{time_of(number)}","event":{text}}}\n'.encode()


def time_of(number: int) -> str:
    """Return the timestamp of the record with this number."""
    return f"2026-11-28T00:{number // 60:02d}:{number % 60:02d}.000000Z"


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[bytes], set[str]]:
    """Draw records as a writer would make them, and the ids of the holds that are then in force."""
    held: dict[str, str] = {}
    lines: list[bytes] = []
    for number in range(draw(st.integers(1, 20))):
        event: dict[str, object]
        kind = draw(st.sampled_from(["set", "lift", "sealed", "opened", "other"]))
        hold_id = draw(st.sampled_from(IDS))
        named = {"hold_id": hold_id} if hold_id else {}
        if kind == "set":
            held.setdefault(hold_id, time_of(number))
            event = {"event_type": "audit.hold_set", "reason": "r", "set_by": "s", **named, "since": held[hold_id]}
        elif kind == "lift":
            held.pop(hold_id, None)
            event = {"event_type": "audit.hold_lifted", "reason": "r", "lifted_by": "s", **named}
        elif kind == "other":
            event = {"event_type": "auth.failure", "reason": "r"}
        else:
            stated = [{"reason": "r", "set_by": "s", "since": since} | ({"id": key} if key else {})
                      for key, since in held.items()]  # fmt: skip
            event = {"event_type": f"audit.{'segment_sealed' if kind == 'sealed' else 'log_opened'}", "holds": stated}
        lines.append(record(number, event))
    return lines, set(held)


@given(histories(), st.lists(st.integers(0, 20)))
def test_pieces_read_backwards_say_what_the_whole_says(history: tuple[list[bytes], set[str]], cuts: list[int]) -> None:
    """Reading back from the end, piece by piece, until one states all holds gives those that are in force."""
    lines, held = history
    edges = sorted({0, len(lines), *(min(cut, len(lines)) for cut in cuts)})
    holds = ChainHolds()
    for begin, end in reversed(list(itertools.pairwise(edges))):
        piece = ChainHolds()
        for line in lines[begin:end]:
            piece.read(line)
        holds.extend_back(piece)
        if holds.is_complete:
            break
    assert set(holds.in_force) == held
    assert not set(holds.lifted) & held


def test_a_statement_that_was_cut_is_none() -> None:
    """A record whose holds were too large to be recorded whole states nothing, so the reader goes on."""
    holds = ChainHolds()
    holds.read(record(0, {"event_type": "audit.log_opened", "holds": {"bytes": 70_000, "sha256": "0" * 64}}))
    assert not holds.is_complete


def test_a_hold_without_an_id_that_came_after_the_lifting_is_in_force() -> None:
    """Only what was set before a lifting without an id is lifted by it: an older release may have set another since."""
    holds = ChainHolds()
    holds.read(record(10, {"event_type": "audit.hold_lifted", "reason": "r", "lifted_by": "s"}))
    assert holds.has_lifted(Hold(reason="r", set_by="s", since=time_of(9)))
    assert not holds.has_lifted(Hold(reason="r", set_by="s", since=time_of(11)))
    assert not holds.has_lifted(Hold(reason="r", set_by="s", since=time_of(9), id="a"))


def test_the_librarys_own_events_are_known_by_their_place() -> None:
    """The type is read where the format has it, in the record's own event, and nowhere else."""
    assert own_event(record(0, {"event_type": "audit.hold_set"})) == b"hold_set"
    assert own_event(record(0, {"event_type": "auth.failure", "event": {"event_type": "audit.hold_set"}})) is None
    assert own_event(b"") is None
