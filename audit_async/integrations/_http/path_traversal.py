"""Paths that climb out of the directory that they name: `/static/../../etc/passwd`, in whatever disguise.

No client of good will sends such a path: browsers and libraries resolve `..` before they ask. So every segment that is
`..` counts, even if the whole path would end up inside, since only the handler knows what it serves from.

Each step is one pass over the path by a built-in, and there are at most a handful of steps: the work is linear in the
path's length, whatever a client sends.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

__all__ = ["climbs_out"]

#: A proxy and a framework decode once each; what is encoded more often is not meant for any server.
_MAX_DECODINGS: Final = 4

#: Overlong UTF-8 of a dot or a slash, which a careless decoder takes for one; a careful one makes U+FFFD of it.
_OVERLONG: Final = re.compile(rb"%(?:c0%(?:ae|af|2e|2f)|e0%80%(?:ae|af)|c1%(?:9c|1c))", re.IGNORECASE)


def climbs_out(path: str, raw_path: bytes) -> bool:
    """Return whether the path, decoded as often as it is encoded, has a segment that climbs.

    Args:
        path: The path, decoded once.
        raw_path: The path as it came over the wire; empty if it is not known.
    """
    # Almost every path ends here.
    if ".." not in path and "%" not in path and "\ufffd" not in path:
        return False
    if _OVERLONG.search(raw_path):
        return True
    for _ in range(_MAX_DECODINGS):
        if _has_climbing_segment(path):
            return True
        decoded = unquote(path)
        if decoded == path:
            return False
        path = decoded
    return _has_climbing_segment(path)


def _has_climbing_segment(path: str) -> bool:
    """Return whether a segment is `..`, between slashes of either kind, with whatever some servers cut off after it.

    That is a path parameter (`..;x=1`) and all that follows a NUL.
    """
    if ".." not in path:
        return False
    segments = path.replace("\\", "/").split("/")
    return any(
        segment == ".." or segment.startswith(("..;", "..\0")) for segment in segments if segment.startswith("..")
    )
