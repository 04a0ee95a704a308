"""Merging the records of several logs into one sequence by time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

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
    first; with `newest_first` it is last.
    """
    pick = max if newest_first else min
    running = list(streams)
    try:
        while running:
            for stream in running:
                yield from stream.fill()
            running = [stream for stream in running if stream.next is not None]
            if len(running) == 1:
                yield running[0].take()
            elif running:
                yield pick(running, key=_order).take()
    finally:
        for stream in streams:
            stream.close()


def _order(stream: Stream) -> tuple[str, str]:
    assert stream.next is not None  # noqa: S101 - only those that have one are compared
    return stream.next.timestamp, stream.log_name
