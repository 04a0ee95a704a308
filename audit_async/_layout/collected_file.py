"""Whose log a directory at a collector holds: the content of `collected.json`, written once, before `log.json`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from audit_async._layout.names import COLLECTED_FILE
from audit_async._layout.regular_files import read_bounded
from audit_async.errors import LogCorrupted


class Collected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A log as its tenant's collectors know it; the names are as the host has them, not escaped."""

    tenant: str
    host: str
    service: str
    instance: str
    log_id: str


def read_collected(directory: Path) -> Collected | None:
    """Return what `collected.json` in `directory` says, None if there is no such file: it is no collector's copy.

    Raises:
        LogCorrupted: The file can't be understood.
        OSError: The file can't be read.
    """
    try:
        content = read_bounded(directory / COLLECTED_FILE)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=Collected)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(COLLECTED_FILE, None, None, "the file is not what the collector writes") from error
