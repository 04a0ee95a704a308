"""Framing and chaining: encoded events in, whole lines out, each linked to the one before.

The framer is the only place that gives out sequence numbers. It has one owner, the writer task; it does no I/O and
keeps nothing of a batch but the chain's head.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from time import gmtime, strftime

import msgspec

from audit_async._chain.record_format import Head


class Entry(msgspec.Struct, gc=False, eq=False):
    """An encoded event on its way into the chain; `Framer.frame` gives it its place.

    Not tracked by the garbage collector (it is no part of a cycle), so a burst of events starts no collection.
    """

    number: int  #: the counter in its audit_id
    time_ns: int  #: when it was emitted, nanoseconds since 1970
    event: bytes  #: the encoded event, harmless, a JSON object; emptied once it is framed
    seq: int = -1  #: its place in the chain; -1 until it is framed
    hash: str = ""  #: the hash of its record; empty until it is framed


class Batch:
    """Consecutive framed records on their way to the disk; only `Framer.frame` adds to it."""

    __slots__ = ("dates", "event_bytes", "first_seq", "head", "lines", "size")

    def __init__(self, after: Head) -> None:
        self.first_seq = after.seq + 1  #: sequence number of `lines[0]`
        self.lines: list[bytes] = []  #: whole records, each with its `\n`, in order
        #: (index into `lines`, UTC date as YYYY-MM-DD) of the first line, and of each line whose date is not the
        #: date of the line before it
        self.dates: list[tuple[int, str]] = []
        self.size = 0  #: bytes of all lines
        self.event_bytes = 0  #: bytes of the encoded events in them
        self.head = after  #: the chain's head after the last line


class Framer:
    """Gives entries their place in the chain and makes lines of them. Owned by the writer task."""

    def __init__(self, after: Head, *, audit_prefix: str, service_id: str) -> None:
        """Continue the chain after `after`; `audit_prefix` is this opening's 16 random hex digits.

        `service_id` must need no escaping in JSON (the configuration sees to that).
        """
        self._head = after
        # What `%` makes a record of, but for what `_begin_second` knows; neither name has a "%" in it.
        self._up_to_time = f'{{"seq":%d,"audit_id":"{audit_prefix}-%x","timestamp":"'
        self._behind_time = f'%06dZ","service_id":"{service_id}","event":%b,"prev_hash":"%b"}}'
        self._second_ns = _NO_SECOND
        self._date = ""  # that second's
        self._record = b""  # for times within that second

    @property
    def head(self) -> Head:
        """The chain's head: the last record framed, which may not be on the disk yet."""
        return self._head

    def frame(self, entries: Iterable[Entry], batch: Batch) -> None:
        """Append a record for each entry to `batch`, in their order; each entry learns its seq and hash.

        `batch` must have been begun at this framer's head, and only this method may have added to it.
        """
        # The hot loop of the writer: about 1.25 us a record, two fifths of it SHA-256 (bench breakdown). One `%` makes
        # all that is hashed, 350 ns less than an f-string, its encoding and a join. Nothing in it may raise half-way:
        # an entry without a line would be a hole in the chain.
        seq, previous = self._head.seq, self._head.hash
        lines, dates = batch.lines, batch.dates
        append, framed = lines.append, len(lines)
        record, second_ns = self._record, self._second_ns
        event_bytes = 0
        if not lines:
            dates[:] = ((0, self._date),)  # of its first entry, unless that begins another second
        for entry in entries:
            seq += 1
            since_second_ns = entry.time_ns - second_ns
            if not 0 <= since_second_ns < 1_000_000_000:
                second_ns = self._begin_second(entry.time_ns, seq - batch.first_seq, dates)
                record = self._record
                since_second_ns = entry.time_ns - second_ns
            event = entry.event
            hashed = record % (seq, entry.number, since_second_ns // 1000, event, previous)
            previous_hex = sha256(hashed).hexdigest()
            previous = previous_hex.encode()
            append(b'%b,"hash":"%b"}\n' % (hashed[:-1], previous))
            event_bytes += len(event)
            entry.seq = seq
            entry.hash = previous_hex
            entry.event = b""
        self._second_ns = second_ns
        self._head = batch.head = Head(seq, previous)
        batch.size += sum(map(len, lines[framed:] if framed else lines))
        batch.event_bytes += event_bytes

    def _begin_second(self, time_ns: int, index: int, dates: list[tuple[int, str]]) -> int:
        """Format the second that `time_ns` lies in; record its date if it is new. Return the second in ns."""
        seconds = time_ns // 1_000_000_000
        up_to_second = strftime("%Y-%m-%dT%H:%M:%S.", gmtime(seconds))
        self._record = f"{self._up_to_time}{up_to_second}{self._behind_time}".encode()
        date = self._date = up_to_second[:10]
        if index == 0:
            dates[:] = ((0, date),)
        elif dates[-1][1] != date:
            dates.append((index, date))
        return seconds * 1_000_000_000


# Later than every time, so that no time lies in it and the next entry formats its own second.
_NO_SECOND = 1 << 80
