"""Paths that climb out of where they may point: `/static/../../etc/passwd`, in whatever disguise.

No client of good will sends such a path: browsers and libraries resolve `..` before they ask. So every segment that is
`..` counts, also where the whole would end up inside, since nobody but the handler knows what it serves from.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

__all__ = ["climbs_out"]

#: A proxy and a framework decode once each; who encodes more often is not meant to be understood by anybody.
_MAX_DECODINGS: Final = 4

#: `..` as a whole segment, between slashes of either kind, with the parameters that some servers cut off (`..;x=1`).
_CLIMBING_SEGMENT: Final = re.compile(r"(?:^|[/\\])\.\.(?:;[^/\\]*)?(?:[/\\\x00]|$)")

#: Overlong UTF-8 of a dot or a slash, which a careless decoder takes for one; a careful one makes U+FFFD of it.
_OVERLONG: Final = re.compile(rb"%(?:c0%(?:ae|af|2e|2f)|e0%80%(?:ae|af)|c1%(?:9c|1c))", re.IGNORECASE)


def climbs_out(path: str, raw_path: bytes) -> bool:
    """True where the path, decoded as often as it is encoded, has a segment that climbs.

    `path` is decoded once already, `raw_path` is what came over the wire (empty where it is not known).
    """
    # Almost every path ends here.
    if ".." not in path and "%" not in path and "\ufffd" not in path:
        return False
    if _OVERLONG.search(raw_path):
        return True
    for _ in range(_MAX_DECODINGS):
        if _CLIMBING_SEGMENT.search(path):
            return True
        decoded = unquote(path)
        if decoded == path:
            return False
        path = decoded
    return _CLIMBING_SEGMENT.search(path) is not None
