"""A legal hold as `hold.json` states it: while it is in force nothing is archived or deleted.

Reading only; `_store` places and lifts holds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from audit_async._layout.names import HOLD_FILE
from audit_async.errors import LogCorrupted

if sys.version_info >= (3, 14):
    pass
else:
    pass
from audit_async._layout.archive_reading import open_binary


class Hold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A legal hold: while it is in force nothing is archived or deleted."""

    reason: str
    set_by: str
    since: str  #: RFC 3339, UTC


def read_hold(directory: Path) -> Hold | None:
    """Return the hold that is in force for the log in `directory`, None for none; needs no lock.

    Raises `LogCorrupted` for a file that can't be understood: nobody may take that for permission to delete.
    """
    try:
        with open_binary(directory / HOLD_FILE) as file:
            content = file.read()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=Hold)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LogCorrupted(HOLD_FILE, None, None, "the file is not what the library writes") from error
