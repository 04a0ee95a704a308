"""Void copies as the verifier sees them: the files that follow a segment, opened for the one check of `_layout`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from audit_async._chain import Head
from audit_async._layout import crash_traces
from audit_async._trail.log_files import DAMAGED_ARCHIVE, SegmentFile, open_segment
from audit_async.errors import LogCorrupted


def are_void_copies(
    segment: SegmentFile, at: int, head: Head, following: Sequence[SegmentFile], ends: Mapping[str, int]
) -> bool:
    """Return whether the bytes of `segment` from `at` are those of the segments that follow.

    `head` is the chain's own, after the last of them. `ends` are the bytes of records in unsealed segments that have
    void copies at their own end. Raises `OSError`.
    """
    with open_segment(segment) as copies:
        try:
            return crash_traces.are_void_copies(copies, at, _followers(following, ends), head)
        except (LogCorrupted, *DAMAGED_ARCHIVE):
            return False


def _followers(following: Sequence[SegmentFile], ends: Mapping[str, int]) -> Iterator[crash_traces.Follower]:
    for other in following:
        if other.sealed is None:
            length = ends.get(other.name)
            if length is None:
                length = (other.log.directory / other.name).stat(follow_symlinks=False).st_size
            yield crash_traces.Follower(partial(open_segment, other), length)
        elif other.sealed.state == "live":
            yield crash_traces.Follower(partial(open_segment, other), other.sealed.bytes)
        else:
            yield crash_traces.Follower(None, 0)


def zeros_from(segment: SegmentFile, at: int) -> int:
    """Return how many zero bytes a segment has from `at` on; 0 if it has any other byte there. Raises `OSError`."""
    count = 0
    with open_segment(segment) as file:
        file.seek(at)
        while chunk := file.read(_CHUNK_BYTES):
            if chunk.strip(b"\0"):
                return 0
            count += len(chunk)
    return count


_CHUNK_BYTES: Final = 1 << 20
