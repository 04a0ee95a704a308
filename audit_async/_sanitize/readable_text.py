"""Recorded values as a person may safely see them, on a terminal and on a page: on one line, with nothing invisible."""

from __future__ import annotations

import json
import re
from typing import Final

import msgspec

from audit_async._sanitize.unsafe_text import UNSAFE, escape

__all__ = ["byte_size", "count_of", "json_line", "visible"]

_NOT_ONE_LINE: Final = re.compile(r"[\n\t]")


def visible(text: str) -> str:
    r"""Return `text` on one line, with all that is not printable as its visible escape: `\n`, `\x1b`, `\u202e`.

    Stricter than what is recorded: also line breaks, tabs, and format characters that recording leaves alone.
    """
    if text.isprintable() and UNSAFE.search(text) is None:  # some letters without a shape are printable
        return text
    one_line = _NOT_ONE_LINE.sub(lambda found: "\\n" if found[0] == "\n" else "\\t", escape(text))
    if one_line.isprintable():
        return one_line
    return "".join(character if character.isprintable() else _escaped(character) for character in one_line)


def _escaped(character: str) -> str:
    code_point = ord(character)
    return f"\\u{code_point:04x}" if code_point < 0x10000 else f"\\U{code_point:08x}"


def json_line(value: object) -> str:
    """Return a value as JSON in one line of ASCII: no control, bidirectional or invisible character is left in it."""
    plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_plain_text)
    return json.dumps(plain, ensure_ascii=True, separators=(",", ":"))


def _plain_text(value: object) -> str:
    """Return the text that an instance of a subclass of `str` is."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no plain data")


def byte_size(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    if count < 1000:
        return f"{count} B"
    size, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if size >= 999.5:
            size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if size < 10 else f"{size:.0f} {unit}"


def count_of(number: int, noun: str) -> str:
    """Return a number and what it is a number of: `1 record`, `2,000 records`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
