r"""Unsafe text, and its harmless form.

Unsafe are the code points with which a text can misrepresent itself on a terminal or in an editor: the C0 controls but
`\n` and `\t`, DEL, the C1 controls, lone surrogates, line and paragraph separators, and what is not seen: all of
Unicode's category Cf (format characters: bidirectional controls, zero-width characters, the soft hyphen, tags), and the
letters and symbols without a shape, U+115F, U+1160, U+2800, U+3164 and U+FFA0. Each becomes its visible escape in ASCII
characters: `\x1b`, `\u202e` or `\U000e0041`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["UNSAFE", "cut", "escape", "is_unsafe_json"]

# Egyptian format characters that are newer than the Unicode of some supported Python.
_NEWER: Final = "".join(chr(code) for code in range(0x13439, 0x13440) if unicodedata.category(chr(code)) == "Cf")

#: One unsafe code point in a text.
UNSAFE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029"
    r"\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    r"\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U00013438\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    rf"\U000e0000-\U000e007f{_NEWER}"
    r"\u115f\u1160\u2800\u3164\uffa0]"
)

# The same in JSON as msgspec encodes it: controls as escapes, all else as UTF-8. Each alternative begins with a byte,
# so that the search skips to those bytes; with a look-behind in front it took eight times as long.
_UNSAFE_IN_JSON: Final = re.compile(
    rb"\\[bfru]|\x7f|\xc2[\x80-\x9f\xad]|\xd8[\x80-\x85\x9c]|\xdb\x9d|\xdc\x8f"
    rb"|\xe1(?:\x85[\x9f\xa0]|\xa0\x8e)|\xe2(?:\x80[\x8b-\x8f\xa8-\xae]|\x81[\xa0-\xa4\xa6-\xaf]|\xa0\x80)"
    rb"|\xef(?:\xbb\xbf|\xbe\xa0|\xbf[\xb9-\xbb])"
    rb"|\xf0(?:\x91(?:\x82\xbd|\x83\x8d)|\x93\x90[\xb0-\xbf]|\x9b\xb2[\xa0-\xa3]|\x9d\x85[\xb3-\xba])|\xf3\xa0[\x80\x81]"
)

# Those whose first byte begins most characters of a script are looked for one by one: a search for a text skips those.
_UNSAFE_AMONG_MANY: Final = (b"\xe3\x85\xa4", b"\xe0\xa2\x90", b"\xe0\xa2\x91", b"\xe0\xa3\xa2")

_BEGUN_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-f]?|u[0-9a-f]{0,3}|U[0-9a-f]{0,7})?\Z")


def escape(text: str) -> str:
    """Return `text` with each unsafe code point as its visible escape; what holds none is returned as it is."""
    return UNSAFE.sub(_visible, text)


def is_unsafe_json(encoded: bytes) -> bool:
    """Return whether a text in JSON that msgspec encoded holds an unsafe code point."""
    # A text's own backslashes come in pairs; without them every backslash begins an escape.
    if _UNSAFE_IN_JSON.search(encoded.replace(rb"\\", b"__")) is not None:
        return True
    return not encoded.isascii() and any(unsafe in encoded for unsafe in _UNSAFE_AMONG_MANY)


def cut(escaped: str, max_chars: int) -> str:
    """Return the first `max_chars` characters of an escaped text, or a few less if an escape would be cut."""
    if len(escaped) <= max_chars:
        return escaped
    shown = escaped[:max_chars]
    return shown[:-_LONGEST_ESCAPE] + _BEGUN_ESCAPE.sub("", shown[-_LONGEST_ESCAPE:])


_LONGEST_ESCAPE: Final = len(r"\U00000000")


def _visible(unsafe: re.Match[str]) -> str:
    code_point = ord(unsafe[0])
    if code_point < 0x100:
        return f"\\x{code_point:02x}"
    return f"\\u{code_point:04x}" if code_point < 0x10000 else f"\\U{code_point:08x}"
