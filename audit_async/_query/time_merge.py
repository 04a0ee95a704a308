"""Merging the records of several logs into one sequence by time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from heapq import heapify, heappop, heapreplace

from audit_async._query.segment_scan import Found


class Stream:
    """What was found in one log: the next record, and the rest. Owned by one merge."""

    def __init__(self, log_name: str, rest: Generator[Found | None, None, None]) -> None:
        self.log_name = log_name
        self.next: Found | None = None  #: found, and not yet taken
        self.taken: Found | None = None  #: taken last
        self.is_exhausted = False
        self._rest = rest

    def fill(self) -> Iterator[None]:
        """Find the next record, or the end; yields None whenever time has passed."""
        while self.next is None and not self.is_exhausted:
            try:
                self.next = next(self._rest)
            except StopIteration:
                self.is_exhausted = True
            else:
                if self.next is None:
                    yield None

    def take(self) -> Found:
        """Return the next record, which must have been found."""
        assert self.next is not None  # noqa: S101 - the caller has seen it
        self.taken, self.next = self.next, None
        return self.taken

    def close(self) -> None:
        """Close its files."""
        self._rest.close()


def merge(streams: Sequence[Stream], *, newest_first: bool = False) -> Generator[Found | None, None, None]:
    """Yield the records of the streams: of their next ones always the oldest, or the newest; and None as they do.

    Each stream's own order stays as it is, whatever its clock said. Of equal times the log whose name comes first is
    first; with `newest_first` it is last. A record costs a few comparisons, however many streams there are.
    """
    ranked = _Newest if newest_first else _Oldest
    try:
        waiting: list[_Oldest] = []
        for stream in streams:
            yield from stream.fill()
            if stream.next is not None:
                waiting.append(ranked(stream, stream.next))
        heapify(waiting)
        while waiting:
            stream = waiting[0].stream
            yield stream.take()
            yield from stream.fill()
            if stream.next is None:
                heappop(waiting)
            elif len(waiting) > 1:
                heapreplace(waiting, ranked(stream, stream.next))
    finally:
        for stream in streams:
            stream.close()


class _Oldest:
    """A stream whose next record was found, among others: the oldest comes first."""

    __slots__ = ("order", "stream")

    def __init__(self, stream: Stream, found: Found) -> None:
        self.stream = stream
        self.order = (found.timestamp, stream.log_name)

    def __lt__(self, other: _Oldest) -> bool:
        return self.order < other.order


class _Newest(_Oldest):
    """The same if the newest comes first."""

    __slots__ = ()

    def __lt__(self, other: _Oldest) -> bool:
        return other.order < self.order
