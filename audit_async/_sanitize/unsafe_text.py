r"""Unsafe text, and its harmless form.

Unsafe are the code points with which a text can lie about itself on a terminal or in an editor: the C0 controls but
`\n` and `\t`, DEL, the C1 controls, lone surrogates, U+061C, U+200B, U+200E, U+200F, U+2028 to U+202E, U+2060,
U+2066 to U+2069 and U+FEFF. Each becomes its visible escape in ASCII characters, `\x1b` or `\u202e`.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["UNSAFE", "cut", "escape", "is_unsafe_json"]

#: One unsafe code point in a text.
UNSAFE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
    r"\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]"
)

# The same in JSON as msgspec encodes it: controls as escapes, all else as UTF-8. Each alternative begins with a byte,
# so that the search skips to those bytes; with a look-behind in front it took eight times as long.
_UNSAFE_IN_JSON: Final = re.compile(
    rb"\\[bfru]|\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8b\x8e\x8f\xa8-\xae]|\xe2\x81[\xa0\xa6-\xa9]|\xef\xbb\xbf"
)

_BEGUN_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-f]?|u[0-9a-f]{0,3})?\Z")


def escape(text: str) -> str:
    """Return `text` with each unsafe code point as its visible escape; what holds none is returned as it is."""
    return UNSAFE.sub(_visible, text)


def is_unsafe_json(encoded: bytes) -> bool:
    """True where a text in JSON that msgspec encoded holds an unsafe code point."""
    # A text's own backslashes stand in pairs; without them every backslash begins an escape.
    return _UNSAFE_IN_JSON.search(encoded.replace(rb"\\", b"__")) is not None


def cut(escaped: str, max_chars: int) -> str:
    """Return the first `max_chars` characters of an escaped text, or a few less where an escape would be cut."""
    if len(escaped) <= max_chars:
        return escaped
    return _BEGUN_ESCAPE.sub("", escaped[:max_chars])


def _visible(unsafe: re.Match[str]) -> str:
    code_point = ord(unsafe[0])
    return f"\\x{code_point:02x}" if code_point < 0x100 else f"\\u{code_point:04x}"
