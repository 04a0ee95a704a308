"""The slow path of `emit`: from an event whose encoded bytes may hold something unsafe to bytes that don't.

Most events that come here are harmless: a name with an accent, a line break, a long list. They are searched once, as
bytes, and returned untouched. Only if something is found is the event walked over and encoded again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from math import isfinite
from typing import Any, Final, Literal, cast

import msgspec

from audit_async._sanitize.fitting import fit
from audit_async._sanitize.plain_json import MAX_DEPTH, PlainWalk, decode_plain, encode_plain
from audit_async._sanitize.reductions import Reductions
from audit_async._sanitize.unsafe_text import is_unsafe_json
from audit_async.errors import InvalidEvent
from audit_async.events import AuditEvent, describe

__all__ = ["OnUnsafe", "Seal", "holds_plain_values", "make_harmless"]

#: What is done with unsafe text: recorded in a harmless form, or refused.
OnUnsafe = Literal["escape", "reject"]

#: Seals what is personal in an event's plain data, and in the list of what was cut of it; called before it is fitted.
Seal = Callable[[dict[str, Any], Reductions | None], object]

# At most this many entries, of 330 bytes each, list what was reduced; and at most a third of the event.
_MAX_LISTED: Final = 32
_BYTES_A_LISTED_ENTRY: Final = 1024

_ONLY_TEXTS: Final = frozenset({str})

# An integer that may be outside 64 bits, where a value begins.
_LONG_NUMBER: Final = re.compile(rb"[:,\[]-?[0-9]{19}")
# A search for that costs 5 ns a byte; that there are nowhere 19 digits in a row is seen in 0.5.
_DIGITS_AS_ZEROS: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))
_LONG_ZEROS: Final = b"0" * 19


def make_harmless(
    event: AuditEvent,
    encoded: bytes | None,
    *,
    on_unsafe: OnUnsafe,
    max_field_chars: int,
    max_event_bytes: int,
    seal: Seal | None = None,
) -> bytes:
    """Return the JSON to be recorded for an event: one object on one line, its type first, with no unsafe text.

    `encoded` is what `encode(event)` returned, None if it raised; it is returned as it is if nothing is found in it.
    No text is longer than `max_field_chars` characters (at least 64), the whole never longer than `max_event_bytes`
    bytes (at least 1024).

    With `seal` what is personal is sealed after it was made harmless, and before the event is cut to its size.

    Raises `InvalidEvent`, which names the field and the reason and never the text: for what JSON can't hold, for data
    that contains itself, if a value's own code raises, and with `on_unsafe="reject"` for all that would have to be
    changed.
    """
    kind = describe(type(event))
    if (
        encoded is not None
        and len(encoded) <= max_event_bytes
        and _nothing_found(encoded, free_form=kind.free_form, max_field_chars=max_field_chars)
    ):
        if seal is None:
            return encoded
        plain = decode_plain(encoded)
        seal(plain, None)
        sealed = encode_plain(plain)
        if len(sealed) <= max_event_bytes:
            return sealed
        # The walk knows which mappings must stay; what was sealed here is never recorded, its keys' count is too high.
    reject = on_unsafe == "reject"
    salt = b"" if seal is None else os.urandom(16)
    reductions = Reductions(min(_MAX_LISTED, max_event_bytes // _BYTES_A_LISTED_ENTRY), salt=salt)
    walk = PlainWalk(kind.tag, reductions, reject=reject, max_field_chars=max_field_chars)
    data = walk.event(event, kind.tag)
    if seal is not None:
        seal(data, reductions)
    try:
        return fit(data, reductions, walk.fixed, reject=reject, max_event_bytes=max_event_bytes)
    except RecursionError:
        pass  # the caller's own stack is all but used up
    raise InvalidEvent(kind.tag, "", "nests too deep for the stack that is left here; emit it from a shallower call")


def holds_plain_values(event: AuditEvent) -> bool:
    """Return whether an event's values surely encode to what they are: 1 to 2 us for a small free-form event.

    Not so: NaN and infinities, which msgspec writes as null; integers outside 64 bits, which few readers take; keys
    that are no text and may become equal; and `msgspec.Raw`, whose bytes would get into the line unread.
    """
    # Level by level, not by recursion, which takes twice as long.
    level: Iterable[object] = msgspec.structs.astuple(event)
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            cls = type(value)
            if cls is str or cls is bool or value is None or value is msgspec.UNSET:
                continue
            if cls is dict:
                members = cast("dict[object, object]", value)
                if not _ONLY_TEXTS.issuperset(map(type, members)):
                    return False
                below += members.values()
            elif cls is list:
                below += cast("list[object]", value)
            elif isinstance(value, msgspec.Struct):
                below += msgspec.structs.astuple(value)
            elif not _is_plain(value, cls):
                return False
        if not below:
            return True
        level = below
    return False


def _is_plain(value: object, cls: type) -> bool:
    if cls is int:
        return -(1 << 63) <= cast("int", value) < 1 << 64
    if cls is float:
        return isfinite(cast("float", value))
    return isinstance(value, datetime | IPv4Address | IPv6Address | StrEnum)


def _nothing_found(encoded: bytes, *, free_form: bool, max_field_chars: int) -> bool:
    """Return whether encoded JSON surely holds nothing that has to be changed; a false alarm costs only time."""
    # Large events are mostly ASCII without a backslash, which can't hold anything unsafe: looking for that first, and
    # for digits in the next line, makes 4 KiB cost 9 us and not 38 (python -m bench event_size).
    plain = encoded.isascii() and b"\\" not in encoded and b"\x7f" not in encoded
    if (not plain and is_unsafe_json(encoded)) or (free_form and b"null" in encoded):
        return False
    if _LONG_ZEROS in encoded.translate(_DIGITS_AS_ZEROS) and _LONG_NUMBER.search(encoded):
        return False
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH:
        return False
    if len(encoded) <= max_field_chars:
        return True
    # Every text lies between two quotes that are not its own. Read a backslash before a closing quote wrongly, and
    # two texts become one longer one: never a shorter.
    texts = encoded.split(b'"') if plain else encoded.decode().replace('\\"', "__").split('"')
    return max(map(len, texts)) <= max_field_chars
