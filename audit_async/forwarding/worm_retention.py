"""Lengthening the time of what is stored, for a retention that was made longer since; nobody can shorten it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from msgspec import Struct

from audit_async._trail.log_files import Log
from audit_async.forwarding.sink_errors import SinkRefused
from audit_async.forwarding.worm_bucket import Bucket
from audit_async.forwarding.worm_objects import StoredLog

__all__ = ["LengthenedLog", "lengthen_log"]

#: A difference that is not worth a request.
_TOLERANCE: Final = timedelta(days=1)


class LengthenedLog(Struct, frozen=True, kw_only=True):
    """What became of one log."""

    log: str
    log_id: str
    lengthened: int  #: objects that are locked for longer now
    unchanged: int  #: objects that were locked for so long already


def lengthen_log(bucket: Bucket, log: Log, *, retention: timedelta) -> LengthenedLog:
    """Lock everything that is stored of a log until `retention` after it was stored.

    What is locked for longer stays so, and what was stored by somebody without a lock, or with a weaker one, gets it.

    Raises:
        SinkRefused: The bucket has nothing of the log, or the credentials may not.
        SinkUnavailable: The bucket can't be reached; calling again goes on.
    """
    stored = StoredLog(log.log_id, dict(bucket.listed(f"{log.log_id}/")))
    if not stored.versions:
        raise SinkRefused(f"{bucket.place} has nothing of the log {log.log_id}; push it first")
    lengthened = unchanged = 0
    for version in stored.versions:
        state = bucket.lock_state(version)
        wanted = state.stored.replace(microsecond=0) + retention
        until = state.retain_until if state.mode == "COMPLIANCE" else None
        if until is not None and until >= wanted - _TOLERANCE:
            unchanged += 1
        else:
            bucket.lock_until(version, wanted)
            lengthened += 1
    return LengthenedLog(log=log.name, log_id=log.log_id, lengthened=lengthened, unchanged=unchanged)
