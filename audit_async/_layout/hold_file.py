"""A legal hold as `hold.json` states it: while it is in force nothing is archived or deleted.

Reading only; `_store` places and lifts holds.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from audit_async._layout.names import HOLD_FILE
from audit_async._layout.regular_files import read_bounded
from audit_async.errors import LogCorrupted


class Hold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A legal hold: while it is in force nothing is archived or deleted."""

    reason: str
    set_by: str
    since: str  #: RFC 3339, UTC
    id: str = ""  #: 16 hex digits; only a record that names it lifts the hold. Empty if an older release set it


def read_hold(directory: Path) -> Hold | None:
    """Return the hold that `hold.json` in `directory` states, None if there is no such file; needs no lock.

    Raises:
        LogCorrupted: The file can't be understood. That is no permission to delete: an unreadable hold is a hold.
        OSError: The file can't be read, which is no permission either.
    """
    try:
        content = read_bounded(directory / HOLD_FILE)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=Hold)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(HOLD_FILE, None, None, "the file is not what the library writes") from error
