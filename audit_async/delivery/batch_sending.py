"""Sending one batch, and finding the records in it that the receiver refuses.

    refused: halve the batch until the records are known that the receiver refuses alone

A record counts as refused only if the receiver takes another one: of the same batch, or the last one it took, sent
again. Otherwise it is the receiver that is wrong, or its settings, and the trail waits.

What was taken before something failed is done: a receiver that fails now and then, or that takes a part of each batch,
gets on with every batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from audit_async.delivery.deliverable_record import EncodedRecord
from audit_async.delivery.delivery_sink import Outcome, SendResult
from audit_async.delivery.sink_gate import SinkGate

__all__ = ["BatchSending", "NotTaken"]

#: So many records refused alone, and none taken: it is asked whether the receiver takes anything at all.
_MOST_REFUSED_FIRST: Final = 16


class NotTaken(Exception):
    """The receiver did not take a batch; what it said is in the first argument."""

    @property
    def result(self) -> SendResult:
        """What the receiver said."""
        result: SendResult = self.args[0]
        return result


class BatchSending:
    """One batch on its way.

    Args:
        gate: The sink.
        records: The records, of one log and in order; at least one.
    """

    def __init__(self, gate: SinkGate, records: Sequence[EncodedRecord]) -> None:
        self._gate: Final = gate
        self._records: Final = records
        self.refused: Final[dict[int, str]] = {}  #: by their index, and why
        self._done = 0  # so many from the first on are taken or refused
        self._is_willing = False  # the receiver takes records now
        self._largest_taken = 0  # bytes that were taken together
        self._smallest_refused: int | None = None  # bytes that were too many

    def __repr__(self) -> str:
        return f"<BatchSending {len(self._records)} records, {self.settled} settled, {len(self.refused)} refused>"

    @property
    def settled(self) -> int:
        """How many records, from the first on, the receiver has or refuses."""
        return self._done if self._is_willing else 0

    async def run(self) -> None:
        """Send everything.

        Raises:
            NotTaken: The receiver does not take the records after the settled ones now.
        """
        try:
            await self._send()
        finally:
            self._gate.learn_size(self._largest_taken, self._smallest_refused)

    async def _send(self) -> None:
        waiting = deque(self._parts())
        while waiting:
            first, end = waiting.popleft()
            part = self._records[first:end]
            result = await self._gate.sink.send(part)
            if result.outcome is Outcome.REFUSED:
                if result.too_large:
                    size = _size_of(part)
                    self._smallest_refused = min(size, self._smallest_refused or size)
                if end - first > 1:
                    middle = (first + end) // 2
                    waiting.extendleft([(middle, end), (first, middle)])
                    continue
                self.refused[first] = result.reason
                self._done = end
            elif result.outcome is Outcome.ACCEPTED:
                self._accept(first, part, result)
            else:
                raise NotTaken(result)
            if len(self.refused) >= _MOST_REFUSED_FIRST or (self.refused and not waiting):
                await self._require_willing()

    def _parts(self) -> list[tuple[int, int]]:
        """Return the batch in parts of the size that the receiver is known to take."""
        most = self._gate.max_bytes
        parts: list[tuple[int, int]] = []
        first = size = 0
        for index, encoded in enumerate(self._records):
            if index > first and size + len(encoded.body) > most:
                parts.append((first, index))
                first, size = index, 0
            size += len(encoded.body)
        return [*parts, (first, len(self._records))]

    def _accept(self, first: int, part: Sequence[EncodedRecord], result: SendResult) -> None:
        """Note what the receiver took of a part.

        Raises:
            NotTaken: It asks to have some records again.
        """
        self.refused.update({first + index: reason for index, reason in result.refused.items()})
        taken = [index for index in range(len(part)) if index not in result.refused and index not in result.retry]
        if taken:
            self._gate.accepted(part[taken[-1]])
            self._is_willing = True
        if result.retry:
            # What was taken after it is sent once more with the rest: the receiver knows it by its key.
            self._done = first + min(result.retry)
            for index in [index for index in self.refused if index >= self._done]:
                del self.refused[index]
            raise NotTaken(SendResult(outcome=Outcome.RETRY, reason=result.reason, retry_after_s=result.retry_after_s))
        self._largest_taken = max(self._largest_taken, _size_of(part))
        self._done = first + len(part)

    async def _require_willing(self) -> None:
        """Return if the receiver takes records: one of this batch, or the one it took last, sent again.

        Raises:
            NotTaken: It does not, or it has taken none yet.
        """
        if self._is_willing:
            return
        last = self._gate.last_taken
        if last is not None:
            result = await self._gate.sink.send([last])
            if result.outcome is Outcome.ACCEPTED and not result.refused and not result.retry:
                self._gate.accepted(last)
                self._is_willing = True
                return
            if result.outcome not in {Outcome.ACCEPTED, Outcome.REFUSED}:
                raise NotTaken(result)
        self._smallest_refused = None  # its size is not the reason
        reason = (
            f"the receiver refuses each of {len(self.refused)} records from record {self._records[0].record.seq} on, "
            "and took none, so it may be the receiver or its settings that are wrong: "
            f"{next(iter(self.refused.values()))}"
        )
        raise NotTaken(SendResult(outcome=Outcome.REFUSED, reason=reason))


def _size_of(part: Sequence[EncodedRecord]) -> int:
    return sum(len(encoded.body) for encoded in part)
