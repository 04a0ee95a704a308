"""Whose log a directory holds: the content of `log.json`, written once when the log is created."""

from __future__ import annotations

import msgspec


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of log.json, written once when a log is made."""

    format_version: int
    log_id: str  #: 32 hex digits drawn from the OS's randomness
    service_id: str
    created: str  #: RFC 3339, UTC, microseconds, `Z`
    instance: str = ""  #: the directory's name when the log was made; empty if an older release made it
