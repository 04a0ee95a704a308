"""Finding a line by bisection: whatever the lines' lengths, the wanted one begins between the two places."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from audit_async._trail.line_search import bisect_lines, line_from, size_of

_LINES = st.lists(st.integers(0, 60), min_size=1, max_size=60)


@given(_LINES, st.integers(0, 60), st.integers(1, 80))
def test_the_wanted_line_begins_between_the_places(paddings: list[int], number: int, near: int) -> None:
    """The lower place is a line's beginning at or before the wanted line, the upper one is after its beginning."""
    lines = [b"%06d %s\n" % (n, b"x" * padding) for n, padding in enumerate(paddings)]
    content = b"".join(lines)
    steps = 0

    def is_past(opening: bytes) -> bool:
        nonlocal steps
        steps += 1
        return int(opening[:6]) > number

    places = bisect_lines(io.BytesIO(content), len(content), is_past, near=near, opening_bytes=6)
    assert places is not None
    low, high = places
    begin = sum(map(len, lines[: min(number, len(lines) - 1)]))
    assert low <= begin < max(high, low + 1)
    assert low == 0 or content[low - 1 : low] == b"\n"
    assert steps <= len(content).bit_length()


def test_a_line_that_can_not_be_judged_ends_the_search() -> None:
    """Then nothing is claimed, and the caller reads all of it."""
    content = b"x\n" * 100
    assert bisect_lines(io.BytesIO(content), len(content), lambda _: None, near=1, opening_bytes=1) is None


def test_the_beginning_of_a_line_is_found_at_and_before_it() -> None:
    """An offset that is one is kept; the file's position is there."""
    file = io.BytesIO(b"abc\ndef\ng")
    assert [line_from(file, at) for at in range(1, 10)] == [4, 4, 4, 4, 8, 8, 8, 8, 9]
    assert size_of(file) == 9
