"""What was cut or taken out of an event: the list that is recorded with it, never longer than a fixed bound.

A member is named by its path: `.name` for a field or an identifier-like key, `[3]` for a place in a list, `{3}` for the
place of any other key in its mapping, then `@key` for the key itself. So a path is short ASCII, it is unambiguous,
and it holds no text of the event but keys that look like names.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple

from audit_async.events import Reduced

__all__ = ["IN_LIST", "Path", "Reductions", "render"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_MAX_PATH: Final = 200
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


#: What a member of a list has for a key.
IN_LIST: Final = object()


class Path(NamedTuple):
    """The way to a member: made for each member that is walked over, and rendered for the few that are named."""

    above: Path | None
    position: int
    key: object  #: a field's name or a mapping's key; `IN_LIST` in a list


def render(path: Path | None, suffix: str = "") -> str:
    """Return the path as text, at most 200 characters: of a longer one the beginning and a hash."""
    steps = [suffix]
    while path is not None:
        steps.append(_step(path))
        path = path.above
    text = "".join(reversed(steps)).removeprefix(".")
    if len(text) <= _MAX_PATH:
        return text
    return f"{text[: _MAX_PATH - 17]}~{sha256(text.encode()).hexdigest()[:16]}"


def _step(path: Path) -> str:
    if path.key is IN_LIST:
        return f"[{path.position}]"
    # A subclass of str may do anything when it is looked at.
    if type(path.key) is str and _NAME.fullmatch(path.key):
        return f".{path.key}"
    return f"{{{path.position}}}"


class Reductions:
    """The members that were cut or taken out, by path; beyond `max_listed` of them only their number and a hash."""

    def __init__(self, max_listed: int, *, salt: bytes = b"") -> None:
        self._max_listed = max_listed
        self._listed: dict[str, dict[str, Any]] = {}
        self._more = 0
        self._digests = sha256(salt)  # with a salt nobody finds a personal text again by the digest of the rest

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The entries that are listed, by path."""
        return self._listed

    def add(self, path: str, unit: Literal["chars", "bytes"], size: int, digest: str) -> None:
        """Note that a member was reduced. A member that is listed already keeps its first entry: the original's."""
        if path in self._listed:
            return
        if len(self._listed) < self._max_listed:
            self._listed[path] = {unit: size, "sha256": digest}
        else:
            self._more += 1
            self._digests.update(bytes.fromhex(digest))

    def adopt(self, earlier: object) -> bool:
        """Take over the list of an event that was recorded before; return False if it is no such list."""
        if not isinstance(earlier, dict):
            return False
        for path, reduced in earlier.items():
            if not (
                type(path) is str
                and path.isascii()
                and path.isprintable()
                and len(path) <= _MAX_PATH
                and type(reduced) is Reduced
                and type(reduced.sha256) is str
                and _DIGEST.fullmatch(reduced.sha256)
            ):
                return False
            sizes = {"chars": reduced.chars, "bytes": reduced.bytes, "count": reduced.count}
            given = {unit: size for unit, size in sizes.items() if size is not None}
            if not all(type(size) is int and 0 <= size < 2**63 for size in given.values()):
                return False
            if len(self._listed) < self._max_listed and path != "*":
                self._listed[path] = {**given, "sha256": reduced.sha256}
            else:
                self._more += given.get("count", 1)
                self._digests.update(bytes.fromhex(reduced.sha256))
        return True

    def listed(self) -> dict[str, dict[str, Any]]:
        """Return the entries as they are recorded; that of the unlisted rest is under `*`."""
        if not self._more:
            return dict(self._listed)
        return {**self._listed, "*": {"count": self._more, "sha256": self._digests.hexdigest()}}
