"""Many texts as one pattern: a tree of their characters.

As a list of alternatives `re` tries one text after the other at each place; in a tree it compares the next character
with those that any of the texts has there. For a hundred texts that is ten to a hundred times as fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["tree_pattern"]

_Tree = dict[str, "_Tree | list[str]"]
_END = ""


def tree_pattern(texts: Iterable[tuple[str, str]]) -> str:
    """Return a pattern for any of the texts, each followed by a pattern of its own, which may be empty.

    Of texts that begin alike the longer one is tried first.
    """
    tree: _Tree = {}
    for text, tail in texts:
        node = tree
        for character in text:
            below = node.setdefault(character, {})
            assert isinstance(below, dict)  # noqa: S101 - only the empty text leads to a list
            node = below
        tails = node.setdefault(_END, [])
        assert isinstance(tails, list)  # noqa: S101 - as before
        tails.append(tail)
    return _pattern_of(tree)


def _pattern_of(tree: _Tree) -> str:
    below = [(character, node) for character, node in tree.items() if isinstance(node, dict)]
    branches = [re.escape(character) + _pattern_of(node) for character, node in below]
    tails = tree.get(_END, [])
    branches += tails if isinstance(tails, list) else []
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
