"""Finding a place in a file of lines without reading all of it: the beginning of a line, or a line by bisection."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from audit_async._trail.log_files import LONGEST_LINE


def size_of(file: BinaryIO) -> int:
    """Return how many bytes a file has by now, and leave its position at the end."""
    return file.seek(0, os.SEEK_END)


def line_from(file: BinaryIO, offset: int) -> int:
    """Return where the first line at or after `offset` (not 0) begins, and leave the file's position there."""
    file.seek(offset - 1)
    file.readline(LONGEST_LINE)
    return file.tell()


def bisect_lines(
    file: BinaryIO, size: int, is_past: Callable[[bytes], bool | None], *, near: int, opening_bytes: int
) -> tuple[int, int] | None:
    """Return two places in ascending lines, at most `near` bytes apart, between which the wanted line begins.

    The lower place is the beginning of a line; the upper one is anywhere. None if a line on the way can't be judged.

    Args:
        file: A seekable file.
        size: Its bytes that are searched.
        is_past: Says of a line's first bytes whether the line is after the wanted one, None if it can't say.
        near: Closer than this, reading on is cheaper than another step.
        opening_bytes: How many of a line's bytes `is_past` needs.
    """
    low, high = 0, size
    while high - low > near:
        middle = (low + high) // 2
        begin = line_from(file, middle)
        if begin >= high:
            high = middle
            continue
        past = is_past(file.read(opening_bytes))
        if past is None:
            return None
        low, high = (low, middle) if past else (begin, high)
    return low, high
