"""The position of one log at one sink, in memory and in its file.

Syslog confirms nothing: there the stored position is that of `overlap_s` ago, and after a broken connection it is gone
back to.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

import msgspec

from audit_async.delivery.deliverable_record import DeliveredLog
from audit_async.delivery.position_file import DeliveredForm, Position, SetAside, SinkDirectory
from audit_async.forwarding.batches import Head

__all__ = ["StoredPosition"]

#: How often a position is stored that moves over records which are not wanted, in seconds.
_STORE_EVERY_S: Final = 1.0
#: What is kept to know which record was sent how long ago: no more often than this, in seconds.
_SENT_EVERY_S: Final = 0.25


class StoredPosition:
    """The position of one log, in memory and in its file.

    Args:
        directory: The sink's.
        log: The log.
        overlap_s: How long after it was sent something may still be lost.
        form: In which form records are delivered by now.
    """

    def __init__(
        self, directory: SinkDirectory, log: DeliveredLog, *, overlap_s: float, form: DeliveredForm | None = None
    ) -> None:
        self._directory: Final = directory
        self._form: Final = form
        self._overlap_s: Final = overlap_s
        self._sent: deque[tuple[float, Position]] = deque()  #: what may still be lost, oldest first
        self._loaded = False
        self._stored_at = 0.0
        self.position = Position(log_id=log.log_id, log=log.name)  #: up to where the receiver has everything
        self._newest = self.position  #: up to where everything was sent
        self._stored = self.position

    @property
    def sent(self) -> Head | None:
        """Up to where everything was sent."""
        return self._newest.head

    @property
    def is_of_another_form(self) -> bool:
        """Whether records were delivered in another form than by now, and `audit.delivered` has not said so."""
        position = self.position
        return position.is_unrecorded and position.form is not None and position.form != self._form

    @property
    def may_lose(self) -> bool:
        """Whether something was sent that may still be lost."""
        return bool(self._sent)

    def load(self) -> None:
        """Read the file, the first time."""
        if not self._loaded:
            found = self._directory.read(self.position.log_id)
            if found is not None:
                self.position = self._newest = self._stored = found
            self._loaded = True

    def move(self, head: Head, *, delivered: int, set_aside: int, of_itself: int = 0) -> None:
        """Everything up to `head` was sent, or is not wanted; `of_itself` of it says only what was delivered."""
        now = time.monotonic()
        self._newest = msgspec.structs.replace(
            self._newest,
            seq=head.seq,
            hash=head.hash,
            delivered=self._newest.delivered + delivered,
            set_aside=self._newest.set_aside + set_aside,
            recorded_delivered=self._newest.recorded_delivered + of_itself,
            form=self._form,
        )
        if not self._overlap_s:
            self.position = self._newest
        elif not self._sent or now - self._sent[-1][0] > _SENT_EVERY_S:
            self._sent.append((now, self._newest))
        else:
            self._sent[-1] = (self._sent[-1][0], self._newest)

    def change(self, **changes: object) -> None:
        """Change what the position says besides the record."""
        self.position = msgspec.structs.replace(self.position, **changes)
        self._newest = msgspec.structs.replace(self._newest, **changes)
        self._sent = deque((sent, msgspec.structs.replace(one, **changes)) for sent, one in self._sent)

    def go_back(self) -> None:
        """What was sent since the stored position may be lost."""
        self._sent.clear()
        self._newest = self.position

    def is_due(self) -> bool:
        """Whether the file should be written, of a position that has moved over nothing that was sent."""
        self._settle()
        return self.position != self._stored and time.monotonic() - self._stored_at >= _STORE_EVERY_S

    def due_in_s(self) -> float | None:
        """Return after how long the position has to be looked at, though nothing new is sent; None for never."""
        return _STORE_EVERY_S if self._sent or self.position != self._stored else None

    def _settle(self) -> None:
        limit = time.monotonic() - self._overlap_s - _SENT_EVERY_S
        while self._sent and self._sent[0][0] < limit:
            self.position = self._sent.popleft()[1]

    def set_aside(self, entries: list[SetAside]) -> None:
        """Note what the receiver refuses, durable on return: before the position passes it."""
        self._directory.set_aside(entries)

    def store(self, *, all_arrived: bool = False) -> None:
        """Write the position, durable on return; with `all_arrived` that of the newest record that was sent."""
        self._settle()
        if all_arrived:
            self.position = self._newest
            self._sent.clear()
        if self.position != self._stored and self._loaded:
            self._directory.write(self.position)
            self._stored, self._stored_at = self.position, time.monotonic()
