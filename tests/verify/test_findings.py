"""The one table of findings and notes: everything in it is used, and nothing is worded elsewhere."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import audit_async
from audit_async._verify import findings
from audit_async._verify.findings import (
    MOST_FINDINGS,
    MOST_NOTES,
    FindingKind,
    NoteKind,
    Observation,
    Observations,
    Severity,
)

ROOM = Path(audit_async.__file__).parent / "_verify"


def calls_in(room: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call in the room's modules, but for the table's own."""
    for path in sorted(room.glob("*.py")):
        if path.name != "findings.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield path.name, node


def test_each_entry_is_used_and_nothing_is_worded_elsewhere() -> None:
    """A reader who looks for a finding, or adds one, needs one file."""
    used = {
        node.attr
        for path in ROOM.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Observation"
    }
    assert used == set(Observation.__members__)
    worded = [name for name, call in calls_in(ROOM) if isinstance(call.func, ast.Name) and call.func.id in _SHAPES]
    assert worded == []


_SHAPES = {"Finding", "Note", "Unreadable"}


@pytest.mark.parametrize("what", Observation)
def test_an_entry_fits_its_severity(what: Observation) -> None:
    """Its kind is one of those that are documented for findings or for notes."""
    kinds = {
        Severity.FINDING: get_args(FindingKind),
        Severity.NOTE: get_args(NoteKind),
        Severity.UNREADABLE: (None,),
    }
    assert what.value.kind in kinds[what.severity]
    assert sum(other.value == what.value for other in Observation) == 1
    names = [name for _, name, _, _ in string.Formatter().parse(what.value.text) if name is not None]
    assert "" not in names


def test_what_is_more_than_a_reader_can_use_is_counted() -> None:
    """A thousand findings and a hundred notes of a kind are kept, also of what several workers bring."""
    total = Observations(log="orders/00")
    for _ in range(3):
        part = Observations(log="orders/00")
        for n in range(700):
            part.add(Observation.BAD_RECORD, segment="s", line=n + 1, seq=n, reason="r")
            part.add(Observation.UNCLEAN_END, seq=n)
        travelled = msgspec.json.decode(msgspec.json.encode(part), type=Observations)
        assert travelled == part
        total.merge(travelled)
    whole = total.complete()
    assert (whole.found, len(whole.findings)) == (2100, MOST_FINDINGS)
    assert sum(note.kind == "unclean_end" for note in whole.notes) == MOST_NOTES
    more = {note.text for note in whole.notes if note.kind == "more"}
    assert more == {
        "2000 more notes of the kind 'unclean_end' were counted and not kept",
        "1100 more findings were counted and not kept",
    }


def test_the_kinds_are_documented_next_to_the_table() -> None:
    """A program that handles them by kind finds each of them described."""
    source = Path(findings.__file__).read_text(encoding="utf-8")
    before, _, _ = source.partition("class Severity")
    for kind in (*get_args(FindingKind), *get_args(NoteKind)):
        assert before.count(f"`{kind}`") == 1, kind
