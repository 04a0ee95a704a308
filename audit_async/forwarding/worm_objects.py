"""What the objects of a log are called in a bucket, and what the small ones say.

    <log_id>/log.json                        the log's own log.json
    <log_id>/segments/<file>                 a sealed segment: plain, compressed, or encrypted with age
    <log_id>/heads/<seq>-<digest>.json       the chain's head after a push, and the entries of what was pushed
    <log_id>/holds/<time>-set|released.json  who has put the log on legal hold, or ended that
    canary/<time>-<random>                   objects that the lock was tried on

The key of a segment depends on nothing but the log and the segment, so a push that is repeated finds what is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from audit_async._layout.collected_file import Collected
from audit_async._layout.manifest import SealedSegment
from audit_async._layout.names import COMPRESSED, ENCRYPTED, LOG_FILE, SegmentName, archived_segment
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.worm_bucket import Bucket, ObjectVersion, StoredKey

__all__ = [
    "CANARY",
    "HeadObject",
    "StoredLog",
    "StoredSegment",
    "head_key",
    "heads_of",
    "hold_key",
    "log_id_of",
    "segment_key",
]

CANARY: Final = "canary/"
_FORMAT_VERSION: Final = 1
_LOG_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: The forms of a segment, and what they add to its name.
_FORMS: Final = ("", COMPRESSED, ENCRYPTED)


class HeadObject(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of an object in `heads/`."""

    format_version: int
    log_id: str
    service_id: str
    instance: str
    collected: Collected | None = None  #: whose log it is at the collector that stored this; None at its host
    seq: int  #: of the last record that is in the bucket
    hash: str  #: of that record
    #: The manifest's entries of segments that no earlier head has, those that were deleted before any push included.
    entries: tuple[SealedSegment, ...] = ()
    checkpoint: str | None = None  #: the newest signed note of the log's tree

    @property
    def place(self) -> str:
        """The log's directory below a base directory, or below a collector's root."""
        if (of := self.collected) is None:
            return f"{self.service_id}/{self.instance}"
        return LogIdentity(
            tenant=of.tenant, service=of.service, host=of.host, instance=of.instance, log_id=of.log_id
        ).path()

    @classmethod
    def parse(cls, content: bytes) -> HeadObject:
        """Return what an object says; raises `ValueError` if it is none, or of a later format."""
        head = msgspec.json.decode(content, type=cls)
        if head.format_version != _FORMAT_VERSION:
            raise ValueError(f"it has format version {head.format_version}, and this release reads {_FORMAT_VERSION}")
        _ = head.place  # which raises for names that are none
        return head


def encode_head(
    *,
    log_id: str,
    service_id: str,
    instance: str,
    collected: Collected | None,
    entries: tuple[SealedSegment, ...],
    last: SealedSegment,
    checkpoint: str | None,
) -> bytes:
    """Return the content of a head object; the same push gives the same bytes."""
    head = HeadObject(
        format_version=_FORMAT_VERSION,
        log_id=log_id,
        service_id=service_id,
        instance=instance,
        collected=collected,
        seq=last.last_seq,
        hash=last.hash,
        entries=entries,
        checkpoint=checkpoint,
    )
    return msgspec.json.encode(head) + b"\n"


def log_id_of(key: str) -> str | None:
    """Return the log whose object a key is, None if it is that of none."""
    log_id, _, rest = key.partition("/")
    return log_id if rest and _LOG_ID.fullmatch(log_id) else None


def is_log_id(text: str) -> bool:
    """Return whether a text can be a log_id, and so a part of a key."""
    return _LOG_ID.fullmatch(text) is not None


def identity_key(log_id: str) -> str:
    """Return the key of a log's log.json."""
    return f"{log_id}/{LOG_FILE}"


def segment_key(log_id: str, file_name: str) -> str:
    """Return the key of a segment, by the name of its file in one of its forms."""
    return f"{log_id}/segments/{file_name}"


def head_key(log_id: str, seq: int, content: bytes) -> str:
    """Return the key of a head; other content has another key, so none hides another."""
    return f"{log_id}/heads/{seq:018d}-{sha256(content).hexdigest()[:16]}.json"


def hold_key(log_id: str, time: str, *, is_set: bool) -> str:
    """Return the key of a statement that the log was put on legal hold, or released."""
    return f"{log_id}/holds/{time}-{'set' if is_set else 'released'}.json"


class StoredSegment(NamedTuple):
    """A segment that is in the bucket."""

    segment: str  #: the name of the plain file
    file: str  #: the name of the file that is stored
    version: ObjectVersion  #: the first

    @property
    def is_encrypted(self) -> bool:
        """True if only an identity opens it."""
        return self.file.endswith(ENCRYPTED)

    @property
    def is_plain(self) -> bool:
        """True if it is not compressed."""
        return self.file == self.segment


class StoredLog:
    """The objects of one log in a bucket: the first version of each, and what is odd about them."""

    def __init__(self, log_id: str, keys: Mapping[str, StoredKey]) -> None:
        """Sort the keys of a log; `keys` are all that begin with its log_id."""
        self.log_id: Final = log_id
        self.findings: Final[list[str]] = []
        self.segments: Final[dict[str, StoredSegment]] = {}  #: by the name of the plain file, oldest first
        self.heads: Final[list[ObjectVersion]] = []  #: by their seq
        self.others: Final[list[ObjectVersion]] = []
        self.identity: ObjectVersion | None = None
        for key, there in sorted(keys.items()):
            self._judge(key, there)
            if there.first is not None:
                self._sort(key, there.first)

    @property
    def versions(self) -> list[ObjectVersion]:
        """All objects of the log, the first version of each."""
        identity = [self.identity] if self.identity is not None else []
        return [*identity, *(segment.version for segment in self.segments.values()), *self.heads, *self.others]

    def _judge(self, key: str, there: StoredKey) -> None:
        if there.first is None:
            self.findings.append(f"{key}: there is only a delete marker, and no object that it hides")
        elif there.delete_markers:
            self.findings.append(
                f"{key}: somebody has put a delete marker on it; the first version is there and is read"
            )
        if there.later:
            self.findings.append(
                f"{key}: somebody has stored {there.later} later version(s) of it; the first one is what counts"
            )

    def _sort(self, key: str, first: ObjectVersion) -> None:
        _, _, name = key.partition("/")
        kind, _, file = name.partition("/")
        if name == LOG_FILE:
            self.identity = first
        elif kind == "heads":
            self.heads.append(first)
        elif kind == "segments" and SegmentName.parse(segment := archived_segment(file) or file) is not None:
            self._add(StoredSegment(segment, file, first))
        else:
            if kind != "holds":
                self.findings.append(f"{key}: it is not an object that the library stores")
            self.others.append(first)

    def _add(self, found: StoredSegment) -> None:
        """Take a segment; if two forms of it are there, the one that was stored first is what counts."""
        known = self.segments.get(found.segment)
        if known is not None:
            self.findings.append(
                f"{found.segment}: it is there as {known.file} and as {found.file}; the older one counts"
            )
            if known.version.stored <= found.version.stored:
                return
        self.segments[found.segment] = found


def heads_of(bucket: Bucket, stored: StoredLog) -> list[HeadObject]:
    """Return what the heads of a log say, the one that was stored first first; what is none is added to the findings.

    A log grows, so genuine heads come in the order of their seq. One that somebody adds later comes last, whatever
    seq it has, and can't speak before those that were there.
    """
    heads = []
    for version in stored.heads:
        try:
            head = HeadObject.parse(bucket.read_small(version))
        except (ValueError, msgspec.MsgspecError, RecursionError):
            stored.findings.append(f"{version.key}: it is no head that the library has stored")
            continue
        if head.log_id != stored.log_id:
            stored.findings.append(f"{version.key}: it is the head of another log")
        else:
            heads.append((version.stored, head.seq, head))
    return [head for _, _, head in sorted(heads, key=lambda found: found[:2])]
