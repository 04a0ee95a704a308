"""Cursors: where a page of a query ends, as an opaque text.

A cursor names, for each log, the sequence number that was reached, so it stays valid while the trail grows, rotates
and is archived; records that are deleted meanwhile are no longer given.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from audit_async._query.audit_query import AuditQuery, InvalidQuery

_VERSION: Final = 1


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a cursor says."""

    version: int
    question: str  #: a digest of the query, so that a cursor is not used with another one
    newest_first: bool
    #: By log: the last seq that was given, or with `newest_first` the first; of what lies beyond it nothing was.
    reached: dict[str, Annotated[int, msgspec.Meta(ge=-1)]]


def encode_cursor(query: AuditQuery, reached: Mapping[str, int]) -> str:
    """Return the cursor for having reached these sequence numbers."""
    cursor = Cursor(_VERSION, _digest(query), query.newest_first, dict(reached))
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def decode_cursor(cursor: str, query: AuditQuery) -> dict[str, int]:
    """Return what was reached; raises `InvalidQuery` for what is no cursor of this query."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        decoded = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=Cursor)
    except (AttributeError, ValueError, binascii.Error) as error:
        raise InvalidQuery("cursor", "is not one that a page ended with; begin again without one") from error
    if decoded.version != _VERSION:
        raise InvalidQuery("cursor", "is from another release; begin again without one")
    if decoded.question != _digest(query) or decoded.newest_first != query.newest_first:
        raise InvalidQuery("cursor", "belongs to another query; only its limit may change from page to page")
    return decoded.reached


def _digest(query: AuditQuery) -> str:
    asked = query.asked()
    asked.pop("limit", None)
    return sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()[:16]
