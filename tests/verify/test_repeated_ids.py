"""Finding an audit_id that was given twice, whatever the order, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async._verify.repeated_ids import AuditIds, IdRun

PREFIX = "5f0c1e9b7a3d2c48"
numbers = st.lists(st.integers(0, 40), min_size=1, max_size=40)


def run_of(seen: list[int]) -> tuple[IdRun, bool]:
    """Take note of numbers; return the run, and whether one came twice."""
    run = IdRun(PREFIX, seen[0], seen[0])
    twice = False
    for number in seen[1:]:
        twice |= not run.add(number)
    return run, twice


def text_of(numbers: Iterable[int]) -> str:
    """Return the audit_ids with these numbers, as a walk gives them."""
    return "".join(f"{PREFIX}-{number:x}\n" for number in numbers)


@given(numbers)
def test_a_number_that_comes_twice_is_found_and_no_other(seen: list[int]) -> None:
    """In any order, with any gaps."""
    assert run_of(seen)[1] == (len(set(seen)) < len(seen))


@given(numbers, numbers)
def test_two_parts_of_one_opening_are_merged(first: list[int], second: list[int]) -> None:
    """What is in both is found, and what is in either is known to the next."""
    run, later = run_of(first)[0], run_of(second)[0]
    both = set(first) & set(second)
    twice = run.merge(later)
    assert (twice is None) == (not both)
    assert twice is None or twice in both
    assert {number for number in range(50) if not run.add(number)} == set(first) | set(second)


@given(st.lists(numbers, min_size=1, max_size=4))
def test_records_are_looked_at_in_any_portions(portions: list[list[int]]) -> None:
    """The quick way for numbers in order, and the slow one, agree."""
    ids = AuditIds()
    seen: set[int] = set()
    for portion in portions:
        twice = False
        for number in portion:
            twice |= number in seen
            seen.add(number)
        assert (ids.add(text_of(portion), len(portion)) is not None) == twice


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), min_size=1), min_size=1, max_size=4))
def test_each_opening_has_a_run_of_its_own_in_any_portions(portions: list[list[tuple[str, int]]]) -> None:
    """What is taken at once and what is taken one by one make the same runs."""
    ids = AuditIds()
    runs: list[IdRun] = []
    for portion in portions:
        for letter, number in portion:
            prefix = letter * 16
            if not runs or runs[-1].prefix != prefix:
                runs.append(IdRun(prefix, number, number))
            else:
                runs[-1].add(number)
        ids.add("".join(f"{letter * 16}-{number:x}\n" for letter, number in portion), len(portion))
    assert ids.runs == runs


def test_the_first_records_of_a_segment_are_taken_at_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one they took a tenth of what a small segment takes; those of the next opening are no different."""

    def refuse(_run: IdRun, number: int) -> bool:
        raise AssertionError(f"{number} was taken by itself")

    monkeypatch.setattr(IdRun, "add", refuse)
    ids = AuditIds()
    assert ids.add(text_of(range(70, 170)), 100) is None
    assert ids.add(text_of(range(100)).replace(PREFIX, "0" * 16), 100) is None
    assert ids.runs == [IdRun(PREFIX, 70, 169), IdRun("0" * 16, 0, 99)]
    with pytest.raises(AssertionError, match="by itself"):  # the control
        ids.add(text_of([5, 7, 6]), 3)


def test_memory_is_bounded_by_the_gaps_and_these_by_a_limit() -> None:
    """A million numbers in order leave nothing behind; endless gaps are forgotten, without a false finding."""
    ids = AuditIds()
    for begin in range(0, 1_000_000, 100_000):
        assert ids.add(text_of(range(begin, begin + 100_000)), 100_000) is None
    assert ids.runs == [IdRun(PREFIX, 0, 999_999)]
    run = IdRun(PREFIX, 0, 0)
    assert all(run.add(number) for number in range(2, 60_000, 2))
    assert len(run.missing) == 10_000
    assert all(run.add(number) for number in range(1, 60_000, 2))
    assert not run.add(59_998)
