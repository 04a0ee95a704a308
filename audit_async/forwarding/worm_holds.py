"""Legal holds in a bucket: while one is in force, nothing of a log can be deleted there, whatever its time is.

S3 has one right for both, setting and ending a legal hold, so it belongs to credentials of their own, which neither
push nor delete. Who did it, and why, is stored next to the log, locked like its segments.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct

from audit_async._layout.hold_file import Hold
from audit_async._layout.holds_in_force import find_holds
from audit_async._trail.log_files import Log, read_identity
from audit_async.forwarding.sink_errors import SinkRefused
from audit_async.forwarding.worm_bucket import Bucket
from audit_async.forwarding.worm_objects import StoredLog, hold_key

__all__ = ["HeldLog", "hold_log", "release_log"]


class HeldLog(Struct, frozen=True, kw_only=True):
    """What became of one log."""

    log: str
    log_id: str
    holds: tuple[Hold, ...]  #: in force for the log, as its directory says
    changed: int  #: objects that were put on legal hold, or released
    unchanged: int  #: objects that were as they should be


class _Statement(Struct, frozen=True, kw_only=True):
    """The content of an object in `holds/`."""

    by: str
    reason: str
    holds: tuple[Hold, ...] = ()
    objects: int


def hold_log(bucket: Bucket, log: Log, *, retention: timedelta) -> HeldLog:
    """Put all objects of a log on legal hold if its directory says that a hold is in force; else do nothing.

    Run it again after each push, since what is stored later is not on hold by itself.

    Raises:
        LogCorrupted: It can't be said whether a hold is in force.
        SinkRefused: The bucket has nothing of the log, or the credentials may not.
        SinkUnavailable: The bucket can't be reached.
    """
    holds = find_holds(log.directory)
    log_id = read_identity(log.directory).log_id
    if not holds:
        return HeldLog(log=log.name, log_id=log_id, holds=(), changed=0, unchanged=0)
    changed, unchanged = _set_all(bucket, log_id, on=True)
    if changed:
        statement = _Statement(by=holds[0].set_by, reason=holds[0].reason, holds=holds, objects=changed)
        _state(bucket, log_id, statement, retention, is_set=True)
    return HeldLog(log=log.name, log_id=log_id, holds=holds, changed=changed, unchanged=unchanged)


def release_log(bucket: Bucket, log: Log, *, by: str, reason: str, retention: timedelta) -> HeldLog:
    """End the legal hold of all objects of a log.

    What was stored before `by` and `reason` were is never released by itself: a person asks for it, after the hold of
    the log was lifted. That person's statement is stored first.

    Raises:
        SinkRefused: A hold is in force for the log, the bucket has nothing of it, or the credentials may not.
        LogCorrupted: It can't be said whether a hold is in force.
        SinkUnavailable: The bucket can't be reached.
    """
    if holds := find_holds(log.directory):
        raise SinkRefused(
            f"{log.name}: a legal hold is in force since {holds[0].since}; lift it first, with: audit-async hold lift"
        )
    log_id = read_identity(log.directory).log_id
    there = _stored(bucket, log_id)
    _state(bucket, log_id, _Statement(by=by, reason=reason, objects=len(there.versions)), retention, is_set=False)
    changed, unchanged = _set_all(bucket, log_id, on=False)
    return HeldLog(log=log.name, log_id=log_id, holds=(), changed=changed, unchanged=unchanged)


def _stored(bucket: Bucket, log_id: str) -> StoredLog:
    stored = StoredLog(log_id, dict(bucket.listed(f"{log_id}/")))
    if not stored.versions:
        raise SinkRefused(f"{bucket.place} has nothing of the log {log_id}; push it first")
    return stored


def _set_all(bucket: Bucket, log_id: str, *, on: bool) -> tuple[int, int]:
    """Set or end the legal hold of each object; return how many were changed, and how many were so already."""
    changed = unchanged = 0
    for version in _stored(bucket, log_id).versions:
        if bucket.lock_state(version).legal_hold == on:
            unchanged += 1
        else:
            bucket.set_legal_hold(version, on=on)
            changed += 1
    return changed, unchanged


def _state(bucket: Bucket, log_id: str, statement: _Statement, retention: timedelta, *, is_set: bool) -> None:
    now = datetime.now(UTC)
    key = hold_key(log_id, f"{now:%Y%m%dT%H%M%S%fZ}", is_set=is_set)
    bucket.store(key, msgspec.json.encode(statement) + b"\n", retain_until=now.replace(microsecond=0) + retention)
