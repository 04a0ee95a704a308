"""What was verified of a log before, and what of it need not be read again.

A later verification reads what is new: from the last record that was verified on, and each sealed segment whose file
is not the one that was read then. Whether it is the same file its stamp says: inode, size, and the times of the last
change of content and of status (https://man7.org/linux/man-pages/man7/inode.7.html). No program sets the latter, but
whoever sets the clock or writes to the device below the file system can make a change that keeps the stamp. Only
reading everything finds that, and so everything is read again from time to time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG
from typing import Final

import msgspec

from audit_async._chain import Head
from audit_async._layout.hold_file import Hold
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import ARCHIVE, CHECKSUM, COMPRESSED, ENCRYPTED
from audit_async._verify.repeated_ids import IdRun
from audit_async.status import Position

#: A full pass is made at least this often, unless the caller says otherwise.
FULL_EVERY: Final = timedelta(days=7)
#: The newest openings whose audit_ids are remembered from one verification to the next.
_MOST_RUNS: Final = 100
#: The members of the manifest's entries that never change once a segment is sealed.
_LASTING: Final = (
    "segment", "first_seq", "last_seq", "first_timestamp", "last_timestamp", "records", "bytes", "sha256", "prev_hash",
    "hash",
)  # fmt: skip


class LifeSoFar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the log's own records have stated up to the last one that was verified."""

    open_since: int | None = None  #: where the session begins that had not ended
    deleted_through: int = -1  #: the last record whose deletion by retention the chain has recorded
    holds: tuple[Hold, ...] = ()  #: in force
    holds_lifted: dict[str, str] = {}  #: their ids, and when
    id_runs: tuple[IdRun, ...] = ()  #: the audit_ids of the newest openings


class VerifiedLog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A log as far as it was verified, with nothing found."""

    log_id: str
    head: Position  #: the last record that was verified
    prev_hash: str  #: of that record
    segment: str  #: that holds it
    offset: int  #: the byte at which it begins there
    verified_at: str  #: RFC 3339, UTC
    full_at: str  #: when everything was read
    entries: int  #: of the manifest
    entries_sha256: str  #: of what never changes in them
    stamps: tuple[str, ...]  #: of the file of each of these segments; empty if there was none
    life: LifeSoFar = LifeSoFar()

    @property
    def before_head(self) -> Head:
        """The chain's head before the last record that was verified."""
        return Head(self.head.seq - 1, self.prev_hash.encode())

    def has_entries(self, entries: Sequence[SealedSegment]) -> bool:
        """Return whether a manifest begins with the entries that were verified."""
        return len(entries) >= self.entries and digest_of(entries[: self.entries]) == self.entries_sha256


@dataclass
class Verified:
    """What was verified before, by the log's name; a verification puts in what it has verified."""

    logs: dict[str, VerifiedLog] = field(default_factory=dict)
    full: bool = False  #: read everything, whatever was verified before
    full_every: timedelta = FULL_EVERY
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def why_full(self, log: VerifiedLog, expected: Position | None) -> str | None:
        """Return why everything is to be read, though much was verified before; None if it is not."""
        last = datetime.fromisoformat(log.full_at)
        if self.full:
            return "it was asked for"
        if expected is not None and expected.seq < log.head.seq:
            return "the expected head is older than what was verified before"
        if self.now < last:
            return f"the clock is before the last time that everything was, {log.full_at}"
        if self.now - last >= self.full_every:
            return f"the last time that everything was, {log.full_at}, is longer ago than {self.full_every}"
        return None


def digest_of(entries: Iterable[SealedSegment]) -> str:
    """Return a digest of what never changes in the manifest's entries."""
    digest = sha256()
    for entry in entries:
        digest.update(msgspec.json.encode([getattr(entry, name) for name in _LASTING]) + b"\n")
    return digest.hexdigest()


def stamps_of(directory: Path, entries: Sequence[SealedSegment]) -> tuple[str, ...]:
    """Return a stamp of the files that each segment is in; empty if it is not there, or can't be looked at."""
    live = _files_in(directory, {entry.segment for entry in entries if entry.state in {"live", "damaged"}})
    archived = _files_in(directory / ARCHIVE, {entry.segment for entry in entries if entry.state == "archived"})
    return tuple([_stamp(live.get(entry.segment) or archived.get(entry.segment, {})) for entry in entries])


def _files_in(directory: Path, segments: set[str]) -> dict[str, dict[str, str]]:
    """Return what identifies the files of segments in a directory, by the segment and by what its name ends with."""
    found: dict[str, dict[str, str]] = {}
    if not segments:
        return found
    with suppress(OSError), os.scandir(directory) as files:
        for file in files:
            at = file.name.find(_SEGMENT_END) + len(_SEGMENT_END)
            segment, ending = file.name[:at], file.name[at:]
            if segment not in segments or ending not in _ENDINGS:
                continue
            with suppress(OSError):
                status = file.stat(follow_symlinks=False)
                if S_ISREG(status.st_mode):
                    identity = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                    found.setdefault(segment, {})[ending] = " ".join(map(str, identity))
    return found


def _stamp(files: Mapping[str, str]) -> str:
    """Return a stamp of the files; empty if the checksum file alone is there, or nothing."""
    if not files.keys() - {CHECKSUM}:
        return ""
    return sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]


_SEGMENT_END: Final = ".audit"
_ENDINGS: Final = frozenset({"", CHECKSUM, COMPRESSED, ENCRYPTED})


def newest_runs(runs: Sequence[IdRun]) -> tuple[IdRun, ...]:
    """Return of the openings' audit_ids what is remembered."""
    return tuple([run.shortened() for run in runs[-_MOST_RUNS:]])
