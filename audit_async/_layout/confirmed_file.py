"""What collectors have confirmed of a log, as `confirmed.json` states it: retention with `hold_unshipped` waits for it.

The forwarder verifies each signature, and that the record is in the log, before it writes the file. Whoever can write
it can also delete the segments themselves, so it bears no signature of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from audit_async._layout.bucket_receipts import heads_in_buckets, place_of
from audit_async._layout.names import CONFIRMED_FILE
from audit_async._layout.regular_files import read_bounded
from audit_async.errors import LogCorrupted

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class ConfirmedCopy(msgspec.Struct, frozen=True, kw_only=True):
    """A collector has the log up to a record, or says that a bucket has."""

    collector: str  #: or the bucket, such as `s3://audit-worm`; one place, whoever names it
    seq: int
    hash: str = ""  #: 64 hex digits; it is the hash of that record here. None for a bucket that a collector speaks for
    copies: int  #: in how many places the collector vouches for
    expires_at: datetime


class Confirmed(msgspec.Struct, frozen=True, kw_only=True):
    """What collectors have confirmed of one log."""

    log_id: str
    confirmed: tuple[ConfirmedCopy, ...]

    def up_to(self, copies: int, *, now: datetime) -> int | None:
        """Return the last record that is confirmed in at least so many places at a moment, None if there is none."""
        one = copied_up_to((one for one in self.confirmed if one.expires_at > now), copies)
        return None if one is None else one.seq


def copied_up_to(places: Iterable[ConfirmedCopy], copies: int) -> ConfirmedCopy | None:
    """Return the place up to whose record there are at least so many copies, None if there are fewer of everything.

    What several name, such as a bucket that the host and a collector push to, is one place, and has what any of them
    says.
    """
    found: dict[str, int] = {}
    for one in sorted(places, key=lambda one: -one.seq):
        found.setdefault(one.collector, one.copies)
        if sum(found.values()) >= copies:
            return one
    return None


def encode_confirmed(confirmed: Confirmed) -> bytes:
    """Return the content of `confirmed.json`."""
    return msgspec.json.encode(confirmed) + b"\n"


def confirmed_seq(directory: Path, log_id: str, *, copies: int, now: datetime) -> int:
    """Return up to which record a log is confirmed in at least so many places; -1 if that is not certain of any.

    Places are those that collectors vouch for, and each bucket that has all segments up to there, locked; one that a
    collector and the log's own receipts name counts once. A file that is missing, damaged, unreadable or of another log
    confirms nothing.
    """
    stated: tuple[ConfirmedCopy, ...] = ()
    with suppress(LogCorrupted, OSError):
        confirmed = read_confirmed(directory)
        if confirmed is not None and confirmed.log_id == log_id:
            stated = confirmed.confirmed
    with suppress(LogCorrupted, OSError):
        stated += tuple(
            ConfirmedCopy(collector=place_of(name), seq=head.seq, hash=head.hash.decode(), copies=1, expires_at=_NEVER)
            for name, head in heads_in_buckets(directory, log_id, now=now).items()
        )
    seq = Confirmed(log_id=log_id, confirmed=stated).up_to(copies, now=now)
    return -1 if seq is None else seq


def read_confirmed(directory: Path) -> Confirmed | None:
    """Return what `confirmed.json` in `directory` states, None if there is no such file; needs no lock.

    Raises:
        LogCorrupted: The file can't be understood, which confirms nothing.
        OSError: The file can't be read.
    """
    try:
        content = read_bounded(directory / CONFIRMED_FILE)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=Confirmed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupted(CONFIRMED_FILE, None, None, "the file is not what the forwarder writes") from error
