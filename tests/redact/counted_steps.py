"""Counting the work of a text instead of its time: the steps of regular expressions, and the lines of Python.

`re` doesn't tell how often it compares a character, so its patterns are walked here as it walks them: from left to
right, with backtracking, and each comparison is counted. Bounds of repetitions are lowered to `MAX_BOUND`, so that what
grows without a bound shows in short texts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from re import _constants as sre  # type: ignore[attr-defined]  # there is no public way to a pattern's parts
from re import _parser as parser  # type: ignore[attr-defined]
from types import FrameType, ModuleType
from typing import Any

import pytest

MAX_BOUND = 8

_Next = Callable[[int, dict[int, tuple[int, int]]], int]  # where a match ends, -1 for none


class CountedPattern:
    """A compiled pattern that counts the steps of each call, and answers as the pattern itself."""

    steps = 0

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self.pattern = pattern.pattern
        self._items = list(parser.parse(pattern.pattern, pattern.flags))
        self._ignore_case = bool(pattern.flags & re.IGNORECASE)
        self._dot_all = bool(pattern.flags & re.DOTALL)
        self._multiline = bool(pattern.flags & re.MULTILINE)
        self._sets: dict[int, dict[str, bool]] = {}
        self._text = ""
        self._end = 0

    # The calls that the package makes.

    def search(self, text: str, pos: int = 0, endpos: int = sys.maxsize) -> re.Match[str] | None:
        """Return the first match from `pos` on."""
        self._count(text, pos, endpos, once=True)
        return self._pattern.search(text, pos, endpos)

    def match(self, text: str, pos: int = 0, endpos: int = sys.maxsize) -> re.Match[str] | None:
        """Return a match at `pos`."""
        self._count_at(text, pos, endpos)
        return self._pattern.match(text, pos, endpos)

    def fullmatch(self, text: str, pos: int = 0, endpos: int = sys.maxsize) -> re.Match[str] | None:
        """Return a match of all."""
        self._count_at(text, pos, endpos)
        return self._pattern.fullmatch(text, pos, endpos)

    def finditer(self, text: str, pos: int = 0, endpos: int = sys.maxsize) -> Iterator[re.Match[str]]:
        """Return all matches."""
        self._count(text, pos, endpos, once=False)
        return self._pattern.finditer(text, pos, endpos)

    def sub(self, replacement: Any, text: str) -> str:
        """Return the text with each match replaced."""
        self._count(text, 0, sys.maxsize, once=False)
        return self._pattern.sub(replacement, text)

    # The walk.

    def _count_at(self, text: str, pos: int, endpos: int) -> int:
        self._text, self._end = text, min(endpos, len(text))
        return self._walk(self._items, 0, pos, {}, lambda end, _: end)

    def _count(self, text: str, pos: int, endpos: int, *, once: bool) -> None:
        at, end = pos, min(endpos, len(text))
        while at <= end:
            CountedPattern.steps += 1
            found = self._count_at(text, at, end)
            if found >= 0 and once:
                return
            at = max(found, at + 1)

    def _walk(self, items: Any, index: int, pos: int, groups: dict[int, tuple[int, int]], then: _Next) -> int:
        while index < len(items):
            operation, value = items[index]
            index += 1
            if operation in {sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN}:
                CountedPattern.steps += 1
                if pos >= self._end or not self._is_one(operation, value, self._text[pos]):
                    return -1
                pos += 1
            elif operation is sre.AT:
                if not self._is_at(value, pos):
                    return -1
            elif operation in {sre.ASSERT, sre.ASSERT_NOT}:
                direction, inside = value
                start = pos if direction > 0 else pos - inside.getwidth()[0]
                found = -1 if start < 0 else self._walk(list(inside), 0, start, dict(groups), lambda end, _: end)
                if (found >= 0) is (operation is sre.ASSERT_NOT):
                    return -1
            elif operation is sre.GROUPREF:
                begin, end = groups.get(value, (0, 0))
                CountedPattern.steps += end - begin
                if not self._text.startswith(self._text[begin:end], pos):
                    return -1
                pos += end - begin
            else:
                return self._compound(operation, value, items, index, pos, groups, then)
        return then(pos, groups)

    def _compound(  # noqa: PLR0917 - the state of a walk
        self,
        operation: Any,
        value: Any,
        items: Any,
        index: int,
        pos: int,
        groups: dict[int, tuple[int, int]],
        then: _Next,
    ) -> int:
        def rest(end: int, found: dict[int, tuple[int, int]]) -> int:
            return self._walk(items, index, end, found, then)

        if operation is sre.SUBPATTERN:
            group, _, _, inside = value

            def closed(end: int, found: dict[int, tuple[int, int]]) -> int:
                return rest(end, {**found, group: (pos, end)} if group is not None else found)

            return self._walk(list(inside), 0, pos, groups, closed)
        if operation is sre.BRANCH:
            for alternative in value[1]:
                if alternative and alternative[0][0] is sre.LITERAL and not self._begins_with(alternative[0][1], pos):
                    continue  # as re does, before it begins the alternative
                found = self._walk(list(alternative), 0, pos, groups, rest)
                if found >= 0:
                    return found
            return -1
        if operation is sre.ATOMIC_GROUP:
            found = self._walk(list(value), 0, pos, groups, lambda end, _: end)
            return rest(found, groups) if found >= 0 else -1
        low, high, inside = value
        low = min(low, MAX_BOUND)
        high = high if high is sre.MAXREPEAT else min(high, MAX_BOUND)
        if operation is sre.MIN_REPEAT:
            raise NotImplementedError("lazy repetitions are not used")
        ends = [pos]
        while high is sre.MAXREPEAT or len(ends) <= high:
            end = self._walk(list(inside), 0, ends[-1], groups, lambda end, _: end)
            if end < 0 or end == ends[-1]:
                break
            ends.append(end)
        if operation is sre.POSSESSIVE_REPEAT:
            return rest(ends[-1], groups) if len(ends) > low else -1
        for end in reversed(ends[low:]):
            CountedPattern.steps += 1
            found = rest(end, groups)
            if found >= 0:
                return found
        return -1

    def _begins_with(self, code: int, pos: int) -> bool:
        return pos < self._end and self._is_one(sre.LITERAL, code, self._text[pos])

    def _is_at(self, where: Any, pos: int) -> bool:
        if where is sre.AT_END_STRING:
            return pos == len(self._text)
        if where in {sre.AT_BEGINNING, sre.AT_BEGINNING_STRING}:
            return pos == 0 or (self._multiline and self._text[pos - 1] == "\n")
        raise NotImplementedError(where)

    def _is_one(self, operation: Any, value: Any, character: str) -> bool:
        if operation is sre.ANY:
            return self._dot_all or character != "\n"
        if operation is sre.IN:
            known = self._sets.setdefault(id(value), {})
            if character not in known:
                known[character] = self._is_in(value, character)
            return known[character]
        same = chr(value) == character or (self._ignore_case and chr(value).lower() == character.lower())
        return same is (operation is sre.LITERAL)

    def _is_in(self, members: Any, character: str) -> bool:
        negated = bool(members) and members[0][0] is sre.NEGATE
        shapes = {character, character.lower()[0], character.upper()[0]} if self._ignore_case else {character}
        for kind, value in members:
            for shape in shapes:
                if (
                    (kind is sre.LITERAL and ord(shape) == value)
                    or (kind is sre.RANGE and value[0] <= ord(shape[0]) <= value[1])
                    or (kind is sre.CATEGORY and _CATEGORIES[value](shape))
                ):
                    return not negated
        return negated


_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda shape: not shape.isspace(),
    sre.CATEGORY_DIGIT: str.isdecimal,
    sre.CATEGORY_NOT_DIGIT: lambda shape: not shape.isdecimal(),
    sre.CATEGORY_WORD: lambda shape: shape.isalnum() or shape == "_",
    sre.CATEGORY_NOT_WORD: lambda shape: not (shape.isalnum() or shape == "_"),
}


def count_patterns(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> list[str]:
    """Replace the patterns in modules by ones that count; return their names."""
    replaced = []
    for module in modules:
        for name, value in list(vars(module).items()):
            if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
                monkeypatch.setattr(module, name, CountedPattern(value))
                replaced.append(f"{module.__name__}.{name}")
    return replaced


def steps_of(call: Callable[[], object]) -> int:
    """Return the steps of regular expressions that a call takes."""
    CountedPattern.steps = 0
    call()
    return CountedPattern.steps


def lines_of(call: Callable[[], object], *within: str) -> int:
    """Return how many lines of Python a call runs in files whose path contains one of `within`."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if event == "call" and not any(part in frame.f_code.co_filename for part in within):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
