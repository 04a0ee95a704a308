"""The names of a log directory: its files and subdirectories, and what a segment's file name says.

It opens nothing.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from audit_async._durable import whole_files

LOG_FILE: Final = "log.json"
LOCK_FILE: Final = "lock"
MANIFEST_FILE: Final = "manifest.json"
HOLD_FILE: Final = "hold.json"
#: What collectors have confirmed of the log, as the forwarder has verified it; a cache, renewed by it.
CONFIRMED_FILE: Final = "confirmed.json"
#: What is known to be in a bucket that locks it: a file for each bucket.
BUCKET_RECEIPTS: Final = "bucket-*.json"
#: In a log's directory at a collector: whose log it is. Nothing but the collector writes records there.
COLLECTED_FILE: Final = "collected.json"
#: In the root of a collector: below it are <tenant>/<host>/<service>/<instance>.<log_id>/.
COLLECTOR_FILE: Final = "collector.json"
#: Locked, shared, by a backup that is being taken; retention waits for it.
BACKUP_LOCK: Final = "backup.lock"
TORN: Final = "torn"
ARCHIVE: Final = "archive"
#: What a checksum file adds to its segment's name.
CHECKSUM: Final = ".sha256"
#: What compression adds to a segment's name.
COMPRESSED: Final = ".zst"
#: What it adds if the compressed segment is encrypted with age as well.
ENCRYPTED: Final = ".zst.age"
#: The readers' index, a cache: a directory with a file for each sealed segment, deleted with it. And what an earlier
#: release kept instead.
INDEX: Final = "index"
INDEX_ENDING: Final = ".index"
OLD_INDEX_FILE: Final = "index.sqlite3"
UNFINISHED: Final = whole_files.UNFINISHED

_SEGMENT: Final = re.compile(r"([0-9]{12,18})-([0-9]{4}-[0-9]{2}-[0-9]{2})\.audit", re.ASCII)
CONFIGURABLE_NAME: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: A directory at a collector: a name in which every other byte is escaped, or two of them with a dot between.
COLLECTED_NAME: Final = re.compile(r"[A-Za-z0-9_%-]+(\.[A-Za-z0-9_%-]+)?", re.ASCII)


def archived_segment(name: str) -> str | None:
    """Return the segment whose archive a file name in `archive/` is; None if it is that of none."""
    for ending in (ENCRYPTED, COMPRESSED):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return None


class SegmentName(NamedTuple):
    """What a segment's file name says."""

    first_seq: int
    date: str  #: UTC date of its first record, YYYY-MM-DD

    def __str__(self) -> str:
        return f"{self.first_seq:012d}-{self.date}.audit"

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """Return what `name` says, None if it is not exactly the name that the store gives a segment."""
        match = _SEGMENT.fullmatch(name)
        if match is None:
            return None
        parsed = cls(int(match[1]), match[2])
        return parsed if str(parsed) == name else None
