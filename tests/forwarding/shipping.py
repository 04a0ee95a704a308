"""A forwarder in small: it ships a log that never ends to an engine, and compares what the engine has with it."""

from __future__ import annotations

from hashlib import sha256

import anyio

from audit_async.forwarding import Batch, Head, HeadMoved, LogIdentity, Sink, SinkUnavailable
from tests.forwarding.logs_to_ship import a_batch

_RECORDS = 40
_TEXT = "x" * 2000


class Shipping:
    """Ships a log that never ends, as a forwarder does: the position is the engine's head, and nothing else."""

    def __init__(self, sink: Sink, log: LogIdentity) -> None:
        self.sink = sink
        self.log = log
        self.sent: list[Batch] = []
        self.acknowledged: Head | None = None
        self.unavailable = 0
        self.last_error = ""
        self.recognised = 0

    async def run(self) -> None:
        """Go on until cancelled; a crash of the server is a pause."""
        head = None
        while True:
            batch = a_batch(head, _RECORDS, text=_TEXT)
            if not self.sent or self.sent[-1] != batch:
                self.sent.append(batch)
            try:
                await self.sink.append(self.log, batch, after=head)
            except HeadMoved as moved:
                # The answer to an earlier try was lost. Any other head would be a record lost, or one of somebody else.
                assert moved.actual == batch.head, (moved.actual, batch.head)  # noqa: PT017 - the two are compared
                self.recognised += 1
            except SinkUnavailable as error:
                self.unavailable += 1
                self.last_error = str(error)
                await anyio.sleep(0.05)
                continue
            head = self.acknowledged = batch.head

    async def wait_for(self, more: int) -> None:
        """Wait until so many more batches were acknowledged."""
        goal = (self.acknowledged.seq if self.acknowledged else -1) + more * _RECORDS
        with anyio.move_on_after(120):
            while self.acknowledged is None or self.acknowledged.seq < goal:
                await anyio.sleep(0.01)
            return
        raise AssertionError(f"no progress after {self.acknowledged}: {self.last_error}")

    async def check(self, sink: Sink) -> None:
        """Compare what the engine has with what was sent: all that was acknowledged, nothing twice, the same bytes."""
        assert self.acknowledged is not None
        stored = [batch async for batch in sink.read(self.log, None)]
        assert await sink.head(self.log) == stored[-1].head
        assert stored[-1].last_seq >= self.acknowledged.seq
        sent = sha256(b"".join(batch.lines for batch in self.sent[: len(stored)])).hexdigest()
        assert sha256(b"".join(batch.lines for batch in stored)).hexdigest() == sent
        seqs = [(batch.first_seq, batch.last_seq) for batch in stored]
        assert seqs == [(n * _RECORDS, n * _RECORDS + _RECORDS - 1) for n in range(len(stored))]
