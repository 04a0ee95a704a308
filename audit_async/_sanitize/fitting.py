"""Fitting an event into `max_event_bytes`: its largest members give way to their size and hash, until it fits.

What is taken out is the smallest member that is large enough by itself, so a large list in a mapping costs the list and
not the mapping; if none is, the largest, and so on. It always ends: in the last resort only the type is left.
"""

from __future__ import annotations

from collections.abc import Container
from hashlib import sha256
from typing import Any, Final, NamedTuple

from audit_async._sanitize.plain_json import encode_plain
from audit_async._sanitize.reductions import IN_LIST, Path, Reductions, render
from audit_async.errors import InvalidEvent

__all__ = ["fit", "with_reductions"]

# A member smaller than its entry in the list of what was reduced would make the event larger.
_ENTRY_BYTES: Final = 320
_MAX_TAKEN_OUT: Final = 16


def with_reductions(data: dict[str, Any], reductions: Reductions) -> bytes:
    """Encode an event's plain data, with what was reduced after its type."""
    listed = reductions.listed()
    if not listed:
        return encode_plain(data)
    return encode_plain({"event_type": data["event_type"], "reduced": listed, **data})


def fit(
    data: dict[str, Any], reductions: Reductions, fixed: Container[int], *, reject: bool, max_event_bytes: int
) -> bytes:
    """Encode an event in at most `max_event_bytes` bytes; `data` is changed if something has to be taken out.

    `fixed` holds the ids of mappings that are not taken out, only what is in them. Raises `InvalidEvent`, which names
    the largest member, if it is too large and `reject` is set. An event of 128 characters of type always fits in
    1024 bytes.
    """
    encoded = whole = with_reductions(data, reductions)
    for _ in range(_MAX_TAKEN_OUT):
        excess = len(encoded) - max_event_bytes
        if excess <= 0:
            return encoded
        found = _member_to_take_out(data, fixed, excess)
        if reject:
            reason = f"the event has {len(encoded)} bytes, more than max_event_bytes = {max_event_bytes}; shorten this"
            raise InvalidEvent(data["event_type"], render(found.path) if found else "", reason)
        if found is None:
            break
        _take_out(found, reductions)
        encoded = with_reductions(data, reductions)
    if len(encoded) <= max_event_bytes:
        return encoded
    return _skeleton(data, whole, max_event_bytes)


class _Member(NamedTuple):
    """A text, list or mapping that could be taken out of its container."""

    size: int  #: about how many bytes that saves
    above: dict[str, Any] | list[Any]
    place: str | int
    path: Path


def _member_to_take_out(data: dict[str, Any], fixed: Container[int], excess: int) -> _Member | None:
    members = [member for member in _members(data, fixed) if member.size > _ENTRY_BYTES]
    enough = [member for member in members if member.size >= excess + _ENTRY_BYTES]
    if enough:
        return min(enough, key=_size)
    return max(members, key=_size, default=None)


def _size(member: _Member) -> int:
    return member.size


def _members(data: dict[str, Any], fixed: Container[int]) -> list[_Member]:
    """Return all members that could be taken out, each with the size of what is in it."""
    # Every container with its place; each comes after the one that holds it.
    containers: list[tuple[Any, Any, str | int, Path | None]] = [(data, None, "", None)]
    members: list[_Member] = []
    sizes: dict[int, int] = {}
    for container, _, _, path in containers:
        size = 2
        is_list = isinstance(container, list)
        items = enumerate(container) if is_list else container.items()
        for position, (place, value) in enumerate(items):
            size += 1 if is_list else len(encode_plain(place)) + 2
            if isinstance(value, dict | list):
                containers.append((value, container, place, Path(path, position, IN_LIST if is_list else place)))
            elif isinstance(value, str):
                text_size = len(encode_plain(value))
                size += text_size
                if text_size > _ENTRY_BYTES:
                    here = Path(path, position, IN_LIST if is_list else place)
                    members.append(_Member(text_size, container, place, here))
            else:
                size += len(encode_plain(value))
        sizes[id(container)] = size
    for container, above, place, path in reversed(containers):
        if path is None:
            continue
        size = sizes[id(container)]
        sizes[id(above)] += size
        if id(container) not in fixed:
            members.append(_Member(size, above, place, path))
    return members


def _take_out(member: _Member, reductions: Reductions) -> None:
    above: Any = member.above
    value = above[member.place]
    removed = value.encode() if isinstance(value, str) else encode_plain(value)
    reductions.add(render(member.path), "bytes", len(removed), sha256(removed).hexdigest())
    above[member.place] = type(value)()


def _skeleton(data: dict[str, Any], whole: bytes, max_event_bytes: int) -> bytes:
    """Return what is left of an event that doesn't fit: its members, all emptied, or not even those."""
    reductions = Reductions(1)
    reductions.add("*", "bytes", len(whole), sha256(whole).hexdigest())
    emptied = {name: type(value)() if isinstance(value, str | list | dict) else value for name, value in data.items()}
    emptied["event_type"] = data["event_type"]
    encoded = with_reductions(emptied, reductions)
    if len(encoded) <= max_event_bytes:
        return encoded
    return with_reductions({"event_type": data["event_type"]}, reductions)
