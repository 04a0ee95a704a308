"""A sink in front of another one that fails as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from audit_async.forwarding import Batch, Head, LogIdentity, Sink, SinkError


class FailingSink:
    """Fails before or after a call reaches the sink; `before` and `after` map a call's name to its next errors."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.before: dict[str, list[SinkError]] = {}
        self.after: dict[str, list[SinkError]] = {}
        self.check: Callable[[Batch], None] = lambda _batch: None  #: raises what a batch is refused with
        self.appended: list[Batch] = []

    def _fail(self, errors: dict[str, list[SinkError]], name: str) -> None:
        if errors.get(name):
            raise errors[name].pop(0)

    async def head(self, log: LogIdentity) -> Head | None:
        """Return the head."""
        self._fail(self.before, "head")
        return await self.sink.head(log)

    async def append(self, log: LogIdentity, batch: Batch, *, after: Head | None, resume: bytes | None = None) -> None:
        """Store a batch."""
        self._fail(self.before, "append")
        self.check(batch)
        await self.sink.append(log, batch, after=after, resume=resume)
        self.appended.append(batch)
        self._fail(self.after, "append")

    async def describe(self, log: LogIdentity, document: bytes) -> None:
        """Store log.json."""
        self._fail(self.before, "describe")
        await self.sink.describe(log, document)

    async def description(self, log: LogIdentity) -> bytes | None:
        """Return log.json."""
        return await self.sink.description(log)

    def read(self, log: LogIdentity, after: Head | None) -> AsyncIterator[Batch]:
        """Yield batches."""
        return self.sink.read(log, after)

    async def logs(self) -> list[LogIdentity]:
        """Return the logs."""
        return await self.sink.logs()

    async def confirm(self, log: LogIdentity, confirmation: bytes) -> None:
        """Store a confirmation."""
        await self.sink.confirm(log, confirmation)

    async def confirmation(self, log: LogIdentity) -> bytes | None:
        """Return the confirmation."""
        self._fail(self.before, "confirmation")
        return await self.sink.confirmation(log)

    async def aclose(self) -> None:
        """Close the sink."""
        await self.sink.aclose()
