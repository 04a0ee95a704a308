"""What is asked about a segment, and the answer: plain data, which travels between processes as JSON."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

import msgspec

from audit_async._chain import Head
from audit_async._layout.age_files import Identities
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import SegmentName
from audit_async._trail.log_files import Log, SegmentFile
from audit_async._verify.findings import Observations
from audit_async._verify.repeated_ids import IdRun


class IdentityTexts(msgspec.Struct, frozen=True):
    """The identities for encrypted archives, as they travel to another process; no representation shows them."""

    texts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<IdentityTexts {len(self.texts)}>"

    def parsed(self) -> Identities | None:
        """Return the identities; None if there are none."""
        return Identities(self.texts) if self.texts else None


class SegmentTask(msgspec.Struct, frozen=True, kw_only=True):
    """A segment, or a part of one, that is to be checked."""

    log: str  #: `orders/00`
    directory: str
    service_id: str  #: of log.json, which every record must have; empty if that is not known
    segment: str
    sealed: SealedSegment | None
    after: tuple[int, str] | None  #: the chain's head before its first line; None if that is not known
    begin: int = 0  #: lines that begin at or after this byte
    end: int | None = None  #: and before this one
    until_seq: int | None = None  #: lines at or past the first seq of the next file are void copies
    is_last: bool = False  #: a crash may have torn its end
    watched: tuple[int, ...] = ()  #: sequence numbers whose hashes are asked for
    identities: IdentityTexts = IdentityTexts()
    resumes: bool = False  #: its first line was verified before, so that it does not count

    @property
    def is_part(self) -> bool:
        """True if this is not a whole segment, so that nothing can be said of its boundaries."""
        return self.begin > 0 or (self.end is not None and self.sealed is not None and self.end < self.sealed.bytes)

    @property
    def file(self) -> SegmentFile:
        """The segment as `_trail` knows it."""
        name = SegmentName.parse(self.segment)
        assert name is not None  # noqa: S101 - only such files are checked
        log = _log_in(self.directory)
        if (identities := self.identities.parsed()) is not None:
            log = dataclasses.replace(log, identities=identities)
        return SegmentFile(log, self.segment, name.first_seq, name.date, self.sealed)


@lru_cache(maxsize=8)
def _log_in(directory: str) -> Log:
    """Return the log in a directory; for each of its segments, a tenth of what checking a small one takes."""
    path = Path(directory)
    return Log(path, path.parent.name, path.name, "")


class RecordPlace(msgspec.Struct, frozen=True):
    """The place of the first or the last record that was read."""

    seq: int
    prev_hash: str
    hash: str
    timestamp: str

    @property
    def head(self) -> Head:
        """The chain's head after this record."""
        return Head(self.seq, self.hash.encode())


class LifecycleRecord(msgspec.Struct, frozen=True):
    """A record of the log's own life: an `audit.*` event."""

    seq: int
    timestamp: str
    type: str
    event: dict[str, object]

    def number(self, member: str) -> int:
        """Return a member that is a number; 0 if it is none."""
        value = self.event.get(member)
        return value if isinstance(value, int) else 0


class Extent(msgspec.Struct, kw_only=True):
    """What was read."""

    first: RecordPlace | None = None
    last: RecordPlace | None = None
    last_offset: int = 0  #: the byte at which that record begins, in the uncompressed file
    lines: int = 0
    records: int = 0  #: that hold
    bytes: int = 0
    sha256: str = ""  #: of these bytes
    archive_sha256: str = ""  #: of the compressed file, if there is one
    is_cut_short: bool = False  #: more bytes come after these
    converted: bool = False  #: lines end in CR LF; all of this is as it was before


class Facts(msgspec.Struct, kw_only=True):
    """What the records state, as far as the judgement of the whole log needs it."""

    id_runs: list[IdRun] = []
    lifecycle: list[LifecycleRecord] = []
    more_lifecycle: int = 0  #: that were not kept
    clock_went_back: bool = False
    hashes: dict[int, str] = {}  #: of the sequence numbers that are watched


class SegmentEnd(msgspec.Struct, kw_only=True):
    """What comes after the segment's records."""

    torn_at: int | None = None  #: where what a crash has torn begins
    torn_reason: str = ""  #: and how
    void_at: int | None = None  #: where void copies begin


class SegmentVerdict(msgspec.Struct, kw_only=True):
    """The answer to a task."""

    observed: Observations
    is_missing: bool = False  #: the file is not there
    is_closed: bool = False  #: it is encrypted, and no identity opens it
    extent: Extent = msgspec.field(default_factory=Extent)
    facts: Facts = msgspec.field(default_factory=Facts)
    end: SegmentEnd = msgspec.field(default_factory=SegmentEnd)

    @property
    def is_sound(self) -> bool:
        """True if all of it was read and nothing was found in it."""
        return not (self.is_missing or self.is_closed or self.observed.found or self.observed.unreadable)
