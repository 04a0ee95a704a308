"""The member `context` of a record: what is bound for a task, made harmless as an event is.

A binding is flat and short, so this is a loop and no walk. What can't be shortened enough gives way to its size and
hash, so that an event is never lost because of its context.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

from audit_async._redact.redactor import Redactor
from audit_async._sanitize.plain_json import encode_plain
from audit_async._sanitize.reductions import Reductions
from audit_async._sanitize.slow_path import OnUnsafe
from audit_async._sanitize.unsafe_text import UNSAFE, cut, escape
from audit_async.context import ContextValue
from audit_async.errors import InvalidEvent

__all__ = ["IDS", "context_member", "is_generated_id"]

_MAX_LISTED: Final = 8

# What most services bind: ids of requests and spans, as they are generated. Such a text needs no look for secrets and
# no escape: hex digits and hyphens alone, and no 13 to 19 decimal digits, which may be a card's.
IDS: Final = ("request_id", "trace_id", "span_id")
is_generated_id: Final = re.compile(
    r"[0-9a-f]{32}|(?![0-9]{16})[0-9a-f]{16}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
).fullmatch

# How long a text may still be if `max_field_chars` leaves too much.
_SHORTER: Final = (256, 64, 16)


def context_member(
    values: Mapping[str, ContextValue],
    *,
    redactor: Redactor,
    on_unsafe: OnUnsafe,
    max_field_chars: int,
    max_bytes: int,
    seal: Callable[[dict[str, object], Reductions], object] | None = None,
) -> bytes:
    """Return `,"context":{…}`, to be appended to an encoded event: at most `max_bytes` bytes (at least 200).

    `seal` seals what is personal in the harmless values, and in the list of what was cut of them.

    Raises `InvalidEvent`, which names the binding, if `on_unsafe` is "reject" and a text would have to be changed or
    the whole is too large.
    """
    redacted = redactor.redact(dict(values))
    assert isinstance(redacted, dict)  # noqa: S101 - as it was given
    if on_unsafe == "reject":
        for name, value in redacted.items():
            if isinstance(value, str) and (len(value) > max_field_chars or UNSAFE.search(value)):
                raise InvalidEvent(
                    "context",
                    name,
                    f"is longer than max_field_chars = {max_field_chars}, or holds a control, bidirectional or "
                    "invisible character; bind another text",
                )
    for max_chars in (max_field_chars, *(shorter for shorter in _SHORTER if shorter < max_field_chars)):
        member = b',"context":' + _encoded(redacted, max_chars, seal)
        if len(member) <= max_bytes:
            return member
        if on_unsafe == "reject":
            raise InvalidEvent("context", "", f"has {len(member)} bytes, more than {max_bytes}; bind less")
    escaped = {name: escape(value) if isinstance(value, str) else value for name, value in redacted.items()}
    if seal is not None:
        seal(escaped, Reductions(0))
    whole = encode_plain(escaped)
    reductions = Reductions(1)
    reductions.add("*", "bytes", len(whole), sha256(whole).hexdigest())
    return b',"context":' + encode_plain({"reduced": reductions.listed()})


def _encoded(
    values: Mapping[str, object], max_chars: int, seal: Callable[[dict[str, object], Reductions], object] | None
) -> bytes:
    reductions = Reductions(_MAX_LISTED, salt=b"" if seal is None else os.urandom(16))
    shown: dict[str, object] = {}
    for name, value in values.items():
        if not isinstance(value, str):
            shown[name] = value
            continue
        text = escape(value[:max_chars])
        if len(value) > max_chars or len(text) > max_chars:
            digest = sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
            reductions.add(name, "chars", len(value), digest)
            text = cut(text, max_chars)
        shown[name] = text
    if seal is not None:
        seal(shown, reductions)
    listed = reductions.listed()
    return encode_plain({"reduced": listed, **shown} if listed else shown)
