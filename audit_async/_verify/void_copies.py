"""What stands behind a segment's records: copies of later records, left by a failed fsync, or something else.

See design.md, "a failed fsync": such lines are void, and the next opening puts them aside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from audit_async._chain import BadRecord, Head, check_record
from audit_async._store.recovery import is_copy, torn_by_crash
from audit_async._trail.log_files import DAMAGED_ARCHIVE, LONGEST_LINE, SegmentFile, open_segment
from audit_async.errors import LogCorrupted


def are_void_copies(
    segment: SegmentFile, at: int, head: Head, following: Sequence[SegmentFile], ends: Mapping[str, int]
) -> bool:
    """Return whether the bytes of `segment` from `at` are those of the segments that follow.

    As at the opening of a log (`store.recovery`): zeros may stand in blocks that were never written, and what the
    last of those segments lost in a crash may still be here; then it goes on as the chain would behind `head`, the
    chain's own. `ends` are the bytes of unsealed segments behind which there are void copies, too. Raises `OSError`.
    """
    with open_segment(segment) as copies:
        size = os.fstat(copies.fileno()).st_size
        copies.seek(at)
        for other in following:
            if other.sealed is not None and other.sealed.state != "live":
                return False
            try:
                with open_segment(other) as file:
                    length = ends.get(other.name, os.fstat(file.fileno()).st_size)
                    if other.sealed is not None:
                        length = other.sealed.bytes
                    if not is_copy(copies, file, length):
                        return False
            except (LogCorrupted, *DAMAGED_ARCHIVE):
                return False
            if copies.tell() >= size:
                return True
        while copies.tell() < size:
            begin = copies.tell()
            try:
                head = check_record(copies.readline(LONGEST_LINE), head).head
            except BadRecord:
                return torn_by_crash(copies, begin) is not None
        return True
