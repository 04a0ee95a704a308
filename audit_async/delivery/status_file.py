"""`status.json` in the state directory: what the deliverer does at the moment, for commands and for monitoring."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from audit_async._layout.regular_files import read_bounded
from audit_async.delivery.delivery_status import DeliveryStatus
from audit_async.delivery.position_file import replace_durably
from audit_async.errors import LogCorrupted

__all__ = ["StatusFile", "read_status_file", "write_status"]

_NAME: Final = "status.json"
_MOST_BYTES: Final = 64 << 20


class StatusFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the deliverer wrote last.

    Args:
        updated_at: When, in seconds since 1970.
        running: Whether it was running then; not whether it is.
        statuses: How far each sink had each log.
    """

    updated_at: float
    running: bool
    statuses: list[DeliveryStatus]


def write_status(state_dir: Path, statuses: list[DeliveryStatus], *, running: bool, now: float) -> None:
    """Replace the file; raises `OSError`."""
    content = msgspec.json.encode(StatusFile(updated_at=now, running=running, statuses=statuses))
    replace_durably(state_dir / _NAME, content + b"\n")


def read_status_file(state_dir: Path) -> StatusFile | None:
    """Return what the deliverer wrote last; None if nothing that can be read."""
    try:
        return msgspec.json.decode(read_bounded(state_dir / _NAME, max_bytes=_MOST_BYTES), type=StatusFile)
    except (OSError, LogCorrupted, msgspec.MsgspecError):
        return None
