"""Receipts, and the acknowledgement they wait for: "everything up to sequence number N is durable".

A receipt is at once the event's entry on its way into the chain and the caller's claim on it: one object an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any, Final, Literal, Protocol

from audit_async._chain import GENESIS_HASH, Entry
from audit_async._writer.home_loop import HomeLoop
from audit_async.errors import ConfigError, WriteFailed
from audit_async.status import Position


class Replication(Protocol):
    """What ships the log to an engine, and so knows how far that has it; in the log's loop."""

    async def wait(self, seq: int, *, by: Literal["engine", "collector"]) -> None:
        """Return once the engine has a record, or a collector has confirmed it."""
        ...


class Acknowledgements:
    """How far the chain is durable, and who waits for it. Owned by the loop's thread; other threads only read."""

    def __init__(self, home: HomeLoop, audit_prefix: str, durable_seq: int) -> None:
        self.audit_prefix = audit_prefix  #: what every audit_id of this opening begins with
        self.durable_seq = durable_seq  #: everything up to here is on stable storage
        self.failure: WriteFailed | None = None  #: why nothing more will be acknowledged
        self.replication: Replication | None = None  #: set once, before there is a receipt
        #: Called, in the loop's thread, with each receipt that somebody begins to wait for; set before there is one,
        #: and only if the flush mode lets records wait for company. None again as the writer ends, which a kept receipt
        #: would keep in memory.
        self.awaited: Callable[[Receipt], object] | None = None
        self._home = home
        self._loop = home.loop
        self._waiting: list[tuple[Receipt, asyncio.Future[None]]] = []

    def acknowledgement(self, receipt: Receipt) -> asyncio.Future[None] | None:
        """Return what is done once `receipt` is durable, or can't be any more; None if that is so already.

        For a coroutine of the log's own loop, and not a coroutine itself: of a thousand that wait each would cost two
        more frames (bench latency). None on another loop, too: `wait_elsewhere` waits there.
        """
        if self.failure is not None or asyncio._get_running_loop() is not self._loop:  # noqa: SLF001 - as in HomeLoop
            return None
        acknowledged: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((receipt, acknowledged))
        if self.awaited is not None:
            self.awaited(receipt)
        return acknowledged

    async def wait_elsewhere(self, receipt: Receipt) -> None:
        """Wait for `receipt` on an event loop that is not the log's; returns at once on that.

        Raises `LogClosed` if the log's loop is closed or doesn't run, or ends meanwhile.
        """
        if not self._home.is_here:
            await self._home.call(lambda: self._wait_in_loop(receipt))

    async def _wait_in_loop(self, receipt: Receipt) -> None:
        if not receipt.is_durable and (acknowledged := self.acknowledgement(receipt)) is not None:
            await acknowledged

    def wait_blocking(self, receipt: Receipt, timeout_s: float | None) -> None:
        """Block this thread until `receipt` is durable, or can't be any more; raises as `HomeLoop.call_and_block`."""
        self._home.call_and_block(lambda: self._wait_in_loop(receipt), timeout_s)

    async def wait_replicated(self, seq: int, by: Literal["engine", "collector"]) -> None:
        """Wait, on any event loop, until a record is elsewhere."""
        if self._home.is_here:
            await self._wait_replicated(seq, by)
        else:
            await self._home.call(lambda: self._wait_replicated(seq, by))

    def block_until_replicated(self, seq: int, by: Literal["engine", "collector"], timeout_s: float | None) -> None:
        """Block this thread until a record is elsewhere; raises as `HomeLoop.call_and_block`."""
        self._home.call_and_block(lambda: self._wait_replicated(seq, by), timeout_s)

    async def _wait_replicated(self, seq: int, by: Literal["engine", "collector"]) -> None:
        if self.replication is None:
            raise ConfigError("forward", "is left out, so this process does not know whether its records are elsewhere")
        await self.replication.wait(seq, by=by)

    def advance(self, durable_seq: int) -> None:
        """Acknowledge everything up to `durable_seq` and wake those who waited for it."""
        self.durable_seq = durable_seq
        if self._waiting:
            # What is left here was emitted during the sync and is covered by the next, so a waiting receipt is looked
            # at two or three times.
            still_waiting = []
            for waiting in self._waiting:
                # `is_durable` without its calls, of which a thousand waiting tasks would cost two each (bench latency).
                if -1 < waiting[0].seq <= durable_seq:
                    if not waiting[1].done():  # as in `_wake`
                        waiting[1].set_result(None)
                else:
                    still_waiting.append(waiting)
            self._waiting = still_waiting

    def drained(self, durable_seq: int) -> None:
        """Note what became durable when the loop runs no more; no task is woken, since none can wait."""
        self.durable_seq = durable_seq
        self.awaited = None
        self._waiting.clear()

    def fail(self, failure: WriteFailed) -> None:
        """Wake everyone who still waits, with `failure`; nothing more will be acknowledged."""
        self.failure = failure
        self.awaited = None
        waiting, self._waiting = self._waiting, []
        for _, acknowledged in waiting:
            _wake(acknowledged)


def _wake(acknowledged: asyncio.Future[None]) -> None:
    if not acknowledged.done():  # it is, if the task that waited was cancelled
        acknowledged.set_result(None)


class Receipt(Entry, gc=False, eq=False):
    """The answer of `emit`: the event's identity now, its place in the chain once it has one.

    A receipt may be dropped at once; keep it to wait for durability or to read `audit_id`.
    """

    _acknowledgements: Acknowledgements | None = None

    def __repr__(self) -> str:
        place = "waiting" if self.seq < 0 else f"seq={self.seq}"
        return f"<Receipt {self.audit_id or 'of nothing'} {place}{' durable' if self.is_durable else ''}>"

    @property
    def audit_id(self) -> str:
        """The record's `audit_id`, unique for ever; known before the record is on the disk."""
        return f"{self._of.audit_prefix}-{self.number:x}"

    @property
    def is_durable(self) -> bool:
        """True once the record and all before it are on stable storage."""
        return -1 < self.seq <= self._of.durable_seq

    async def durable(self) -> Position:
        """Wait until the record and all before it are on stable storage; return its place in the chain.

        The flush mode decides when that is (`emit_durable` and `flush` make it now). May be awaited on any event
        loop, more than once, and cancelled without harm to the record.

        Returns:
            The record's sequence number and hash.

        Raises:
            WriteFailed: The log has stopped before the record became durable.
            LogClosed: The event loop that the log was started on doesn't run, so the answer would never come.
        """
        of = self._acknowledgements
        assert of is not None  # noqa: S101 - as in `_of`, without its call
        if not -1 < self.seq <= of.durable_seq:  # as in `advance`
            acknowledged = of.acknowledgement(self)
            if acknowledged is not None:
                await acknowledged
            else:
                await of.wait_elsewhere(self)
            if not -1 < self.seq <= of.durable_seq:
                raise self._lost()
        return Position(self.seq, self.hash)

    def wait(self, timeout_s: float | None = None) -> Position:
        """Block until the record and all before it are on stable storage; return its place in the chain.

        For threads that run no event loop, such as those of synchronous code with a `SyncAuditLogger`. The flush mode
        decides when that is. May be called from any thread, and more than once.

        Args:
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Returns:
            The record's sequence number and hash.

        Raises:
            TimeoutError: It is not durable yet; it stays recorded.
            WriteFailed: The log has stopped before the record became durable.
            LogClosed: The event loop that the log was started on doesn't run, so the answer would never come.
            RuntimeError: This thread runs an event loop, which would stand still: await the receipt there.
        """
        of = self._of
        if not self.is_durable:
            of.wait_blocking(self, timeout_s)
            if not self.is_durable:
                raise self._lost()
        return Position(self.seq, self.hash)

    async def replicated(
        self, *, by: Literal["collector", "engine"] = "collector", timeout_s: float | None = None
    ) -> Position:
        """Wait until the record and all before it are outside of this host; return its place in the chain.

        Needs `AuditConfig(forward=Forward(...))`. May be awaited on any event loop. A cancellation or a timeout changes
        nothing: the record is shipped as soon as it can be.

        Args:
            by: `collector`: a collector whose key is known has it, checked, on its own disk, and has signed that.
                `engine`: the engine has it, which is a second copy and no evidence.
            timeout_s: How many seconds to wait at most; None for as long as it takes.

        Returns:
            The record's sequence number and hash.

        Raises:
            TimeoutError: It is not there yet.
            SinkRefused: The log is refused by the engine or a collector; see `audit_async.forwarding`.
            WriteFailed: The log has stopped before the record became durable here.
            LogClosed: The log was closed before the record was there, or its event loop doesn't run.
            ConfigError: The log is not shipped by this process, or no collector's key is known.
        """
        async with asyncio.timeout(timeout_s):
            position = await self.durable()
            await self._of.wait_replicated(position.seq, by)
        return position

    def wait_replicated(
        self, timeout_s: float | None = None, *, by: Literal["collector", "engine"] = "collector"
    ) -> Position:
        """Block until the record and all before it are outside of this host: `replicated` for threads without a loop.

        Args:
            timeout_s: As for `replicated`.
            by: As for `replicated`.

        Returns:
            The record's sequence number and hash.

        Raises:
            RuntimeError: This thread runs an event loop, which would stand still: await `replicated` there.
            TimeoutError, SinkRefused, WriteFailed, LogClosed, ConfigError: As `replicated` does.
        """
        began = monotonic()
        position = self.wait(timeout_s)
        left_s = None if timeout_s is None else max(0.0, timeout_s - (monotonic() - began))
        self._of.block_until_replicated(position.seq, by, left_s)
        return position

    def _lost(self) -> WriteFailed:
        failure = self._of.failure
        error = WriteFailed(f"the record {self.audit_id} is not known to be durable: {failure}")
        error.__cause__ = failure
        return error

    def __await__(self) -> Generator[Any, None, Position]:
        """Wait as `durable()` does: `position = await audit.emit(event)`."""
        return self.durable().__await__()

    @property
    def _of(self) -> Acknowledgements:
        assert self._acknowledgements is not None  # noqa: S101 - none is made without
        return self._acknowledgements


#: What a disabled logger answers if a position is asked for.
NOWHERE: Final = Position(-1, GENESIS_HASH.decode())


class _NothingRecorded(Receipt, gc=False, eq=False):
    """A disabled logger's receipt: it waits for nothing, and does not claim that anything is on a disk."""

    @property
    def audit_id(self) -> str:
        """Empty: there is no record."""
        return ""

    @property
    def is_durable(self) -> bool:
        """Always False: there is no record."""
        return False

    async def durable(self) -> Position:
        """Return at once, with the position -1."""
        return NOWHERE

    def wait(self, timeout_s: float | None = None) -> Position:  # noqa: ARG002 - there is nothing to wait for
        """Return at once, with the position -1."""
        return NOWHERE

    async def replicated(
        self,
        *,
        by: Literal["collector", "engine"] = "collector",  # noqa: ARG002 - likewise
        timeout_s: float | None = None,  # noqa: ARG002 - likewise
    ) -> Position:
        """Return at once, with the position -1."""
        return NOWHERE

    def wait_replicated(
        self,
        timeout_s: float | None = None,  # noqa: ARG002 - likewise
        *,
        by: Literal["collector", "engine"] = "collector",  # noqa: ARG002 - likewise
    ) -> Position:
        """Return at once, with the position -1."""
        return NOWHERE


NOTHING_RECORDED: Final = _NothingRecorded(0, 0, b"")
