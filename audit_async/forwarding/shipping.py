"""Shipping one log to an engine: the engine's head is the position, and the local chain decides whether to go on.

In order, at the start, once a minute, and after whatever went wrong:

1. what collectors have confirmed, signed, which the log must have   shows an engine and a host that were both set back
2. the engine's head, which the log must have                        a log that was rewritten, cut or cloned is refused
3. the records after it, each append on the condition of that head   stored once, whoever else ships the same log

Nothing is remembered but what the engine and the collectors say, so a forwarder may be killed at any moment, and two of
them may ship the same log.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final, Literal

import anyio
import anyio.to_thread
from msgspec import Struct

from audit_async._layout.names import LOG_FILE
from audit_async._layout.regular_files import read_bounded
from audit_async._trail.log_files import read_identity
from audit_async.errors import AuditError, LogClosed
from audit_async.forwarding.batches import MAX_BATCH_BYTES, Batch, Head
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.log_tail import LogDiffers, LogTail
from audit_async.forwarding.sink import HearsHosts, Sink
from audit_async.forwarding.sink_errors import HeadMoved, RecordTooLarge, SinkFull, SinkRefused, SinkUnavailable
from audit_async.forwarding.trusted_collectors import TrustedCollectors

__all__ = ["FindingKind", "LogShipping", "ShippingFinding", "ShippingState", "ShippingStatus"]

_logger: Final = logging.getLogger("audit_async")

#: Waits while the engine does not answer, in seconds: doubled from the first to the last, each shortened by chance.
_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 60.0
#: How long a log that was refused waits, in seconds, before it is looked at again: a person has to act.
_REFUSED_RETRY_S: Final = 60.0
#: How often the engine's head and the collectors' confirmations are asked for, in seconds.
_LOOK_EVERY_S: Final = 60.0
#: The same for the confirmations while somebody waits for one.
_LOOK_SOON_S: Final = 0.5
#: How often an idle log's head is repeated, in seconds: it shows that its host is there, and does not expire.
_REPEAT_EVERY_S: Final = 3600.0
#: Waits of a log that has nothing new, in seconds: doubled from the first to the last, or further if there are many.
_FIRST_WAIT_S: Final = 0.02
_LAST_WAIT_S: Final = 0.25

#: - `fork`: the engine or a collector has another record in the place of a local one
#: - `cut`: the local log ends before a record that the engine or a collector has
#: - `engine_went_back`: the engine has fewer records than a collector, or than it had; the missing ones are sent again
#: - `engine_lost_log`: the engine had the log and does not have it any more; it is sent again
#: - `engine_refused`: the engine takes nothing of the log until a person has acted
#: - `record_too_large`: the engine does not take a record of this size; nothing after it is shipped
#: - `unreadable`: the next records are deleted, encrypted or damaged, or can't be read
FindingKind = Literal[
    "fork", "cut", "engine_went_back", "engine_lost_log", "engine_refused", "record_too_large", "unreadable"
]


class ShippingState(Enum):
    """What happens to a log's records at the moment."""

    STARTING = "starting"
    SHIPPING = "shipping"
    CAUGHT_UP = "caught up"
    UNAVAILABLE = "engine unavailable"
    FULL = "engine full"
    REFUSED = "refused"
    REPLACED = "replaced"  #: another log is in the directory


_ENDS: Final = frozenset({ShippingState.CAUGHT_UP, ShippingState.REPLACED})


class ShippingFinding(Struct, frozen=True, kw_only=True):
    """Something about a log that a person has to know."""

    kind: FindingKind
    log: LogIdentity
    engine: Head | None  #: what the engine, or a collector, has
    reason: str


class ShippingStatus(Struct, frozen=True, kw_only=True):
    """How far a log is shipped; replaced, never changed."""

    log: LogIdentity
    state: ShippingState = ShippingState.STARTING
    acknowledged_seq: int = -1  #: the last record here that is durable
    engine: Head | None = None  #: the engine's head, which may be that of another history
    shipped: Head | None = None  #: the last record of this log that the engine has
    confirmed: Head | None = None  #: the last record that a collector has confirmed
    problem: str | None = None  #: why it is not shipped, or what is worth knowing
    finding: ShippingFinding | None = None  #: why it is refused

    @property
    def lag_records(self) -> int:
        """How many durable records the engine does not have, as far as is known."""
        return max(0, self.acknowledged_seq - (-1 if self.shipped is None else self.shipped.seq))


class _LookAgain(Exception):
    """The engine's head is not the one that was expected."""


class LogShipping:
    """Ships one log. For one task at a time; the status may be read from anywhere.

    Args:
        directory: The log's directory.
        log: What the log is called outside of the host.
        sink: The engine.
        collector_keys: The verifier keys of the collectors that are trusted; without any, confirmations are not asked
            for. Needs the extra `tlog`.
        report: Called with each finding, once until it changes.
        longest_wait_s: Returns how long the log may wait at most, in seconds, before it is looked at again.
    """

    def __init__(
        self,
        directory: Path,
        log: LogIdentity,
        sink: Sink,
        *,
        collector_keys: Sequence[str] = (),
        report: Callable[[ShippingFinding], object] | None = None,
        longest_wait_s: Callable[[], float] = lambda: _LAST_WAIT_S,
    ) -> None:
        self.status = ShippingStatus(log=log)
        self._directory: Final = directory
        self._log: Final = log
        self._sink: Final = sink
        self._collectors: Final = TrustedCollectors(directory, log, sink, collector_keys)
        self._report: Final = report
        self._longest_wait_s: Final = longest_wait_s
        self._tail: LogTail | None = None
        self._described = False
        self._resume: bytes | None = None  # what the next append needs if the engine does not have the log
        self._single_until = -1  # up to here each record is sent alone: the engine refused a batch for its size
        self._retry_s = _FIRST_RETRY_S
        self._look_at = 0.0  # when the head and the confirmations are asked for again; monotonic
        self._repeat_at = time.monotonic() + _REPEAT_EVERY_S
        self._reported: ShippingFinding | None = None
        self._ended = False
        self._soon = 0  # how many wait for a confirmation
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        status = self.status
        shipped = -1 if status.shipped is None else status.shipped.seq
        return f"<LogShipping {self._log} {status.state.value} shipped={shipped} of {status.acknowledged_seq}>"

    async def run(self) -> None:
        """Ship what becomes durable until cancelled, or until another log is in the directory."""
        try:
            while self.status.state is not ShippingState.REPLACED:
                await self._pause(await self._attempt(once=False))
        finally:
            self._ended = True
            self._changed.set()
            self._close_tail()

    async def run_once(self) -> ShippingStatus:
        """Ship what is durable by now, and return how that ended; what fails is not tried again."""
        try:
            while not await self._attempt(once=True) and self.status.state not in _ENDS:
                pass
        finally:
            self._close_tail()
        return self.status

    async def look(self) -> ShippingStatus:
        """Compare the log with the engine and the collectors; nothing is stored anywhere."""
        try:
            await self._try(self._position)
            if self.status.state is ShippingState.STARTING and not self.status.lag_records:
                self._set(state=ShippingState.CAUGHT_UP)
        finally:
            self._close_tail()
        return self.status

    async def wait(self, seq: int, *, by: Literal["engine", "collector"]) -> None:
        """Return once the engine has a record, or a collector has confirmed it.

        Raises:
            SinkRefused: The log is refused, so a person has to act first.
            LogClosed: It is not shipped any more.
        """
        self._soon += by == "collector"
        try:
            while True:
                at = self.status.shipped if by == "engine" else self.status.confirmed
                if at is not None and at.seq >= seq:
                    return
                if self._ended:
                    raise LogClosed(f"{self._log} is not shipped any more, and record {seq} was not by then")
                if self.status.state is ShippingState.REFUSED:
                    raise SinkRefused(f"record {seq} is not shipped: {self.status.problem}")
                await self._changed.wait()
        finally:
            self._soon -= by == "collector"

    # -- what is tried, and what follows from an error ---------------------------------------------------------------

    async def _attempt(self, *, once: bool) -> float:
        """Position the log, and ship until something happens; return how long to wait then."""

        async def ship() -> None:
            await self._position()
            await self._ship(once=once)

        return await self._try(ship)

    async def _try(self, call: Callable[[], object]) -> float:
        """Make a call; set the state by how it ends, and return how long to wait before the next."""
        try:
            await call()  # type: ignore[misc]  # a coroutine function
        except _LookAgain:
            return 0.0
        except SinkUnavailable as error:
            return self._wait_for_engine(ShippingState.UNAVAILABLE, error)
        except SinkFull as error:
            return self._wait_for_engine(ShippingState.FULL, error)
        except LogDiffers as error:
            return self._refuse(error.kind, error)
        except SinkRefused as error:
            return self._refuse("engine_refused", error)
        except RecordTooLarge as error:
            return self._refuse("record_too_large", error)
        except (AuditError, OSError) as error:
            return self._refuse("unreadable", error)
        except Exception as error:
            _logger.exception("%s: an unexpected error; it is tried again", self._log)
            return self._wait_for_engine(ShippingState.UNAVAILABLE, error)
        return 0.0

    def _wait_for_engine(self, state: ShippingState, error: Exception) -> float:
        self._close_tail()
        if self.status.state is not state:
            _logger.warning("%s: %s: %s", self._log, state.value, error)
        self._set(state=state, problem=str(error))
        wait_s = self._retry_s * random.uniform(0.5, 1.0)  # noqa: S311 - so that hosts don't all come back at once
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
        return wait_s

    def _refuse(self, kind: FindingKind, error: Exception) -> float:
        self._close_tail()
        finding = ShippingFinding(kind=kind, log=self._log, engine=self.status.engine, reason=str(error))
        self._set(state=ShippingState.REFUSED, problem=finding.reason, finding=finding)
        self._found(finding)
        return _REFUSED_RETRY_S

    def _found(self, finding: ShippingFinding) -> None:
        if finding == self._reported:
            return
        self._reported = finding
        _logger.error("%s: %s: %s", self._log, finding.kind.replace("_", " "), finding.reason)
        if self._report is not None:
            self._report(finding)

    async def _pause(self, seconds: float) -> None:
        if seconds:
            await anyio.sleep(seconds)

    def _set(self, **changes: object) -> None:
        values = {name: getattr(self.status, name) for name in ShippingStatus.__struct_fields__} | changes
        self.status = ShippingStatus(**values)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _close_tail(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    # -- where to go on ----------------------------------------------------------------------------------------------

    async def _position(self) -> None:
        """Ask the collectors and the engine for what they have, compare it with the log, and go to the place after."""
        self._close_tail()
        if await anyio.to_thread.run_sync(lambda: read_identity(self._directory).log_id) != self._log.log_id:
            self._set(state=ShippingState.REPLACED, problem="another log is in its directory")
            raise _LookAgain
        confirmed = await self._ask_collectors()
        head = await self._sink.head(self._log)
        self._retry_s = _FIRST_RETRY_S
        before = self.status.shipped
        at, self._resume = head, None
        if confirmed is not None and (head is None or confirmed.seq > head.seq):
            if head is None:
                at = confirmed
            self._report_loss(head, confirmed, "a collector has confirmed")
        elif before is not None and (head is None or head.seq < before.seq):
            self._report_loss(head, before, "it had")
        if head is None and confirmed is not None:
            self._resume = await self._sink.confirmation(self._log)
        tail = await anyio.to_thread.run_sync(lambda: LogTail(self._directory))
        self._tail = tail
        self._set(engine=head, shipped=None)
        await anyio.to_thread.run_sync(tail.seek, at)
        self._set(shipped=head, acknowledged_seq=await anyio.to_thread.run_sync(tail.acknowledged_seq))
        self._look_at = time.monotonic() + _LOOK_EVERY_S

    def _report_loss(self, head: Head | None, other: Head, who: str) -> None:
        kind: FindingKind = "engine_lost_log" if head is None else "engine_went_back"
        has = "no record of the log" if head is None else f"the log up to record {head.seq}"
        reason = f"the engine has {has}, and {who} record {other.seq}; it was set back; what is missing is sent again"
        self._found(ShippingFinding(kind=kind, log=self._log, engine=head, reason=reason))

    async def _ask_collectors(self) -> Head | None:
        """Return the newest record that a known collector has confirmed, which the log has; None if none has.

        Raises:
            LogDiffers: The log does not have it: the log was rewritten or set back, whatever the engine says.
        """
        confirmed, problem = await self._collectors.ask()
        if problem is not None:
            self._set(problem=problem)
        if confirmed is not None:
            self._set(confirmed=confirmed)
        return confirmed

    # -- shipping ----------------------------------------------------------------------------------------------------

    async def _ship(self, *, once: bool) -> None:
        """Ship what is acknowledged; return when it is time to look at the head again, or with `once` at the end."""
        tail = self._tail
        assert tail is not None  # noqa: S101 - _position has made it
        wait_s = _FIRST_WAIT_S
        while once or time.monotonic() < self._look_at:
            tail.max_batch_bytes = 1 if self._single_until > _seq(tail.at) else MAX_BATCH_BYTES
            after = tail.at
            batch = await anyio.to_thread.run_sync(tail.read)
            if batch is not None:
                self._set(state=ShippingState.SHIPPING, problem=None, finding=None)
                await self._append(batch, after)
                self._set(engine=batch.head, shipped=batch.head, acknowledged_seq=max(tail.known_seq, batch.last_seq))
                wait_s = _FIRST_WAIT_S
                continue
            self._set(state=ShippingState.CAUGHT_UP, finding=None, acknowledged_seq=tail.known_seq)
            if once:
                return
            await self._while_idle(after)
            await anyio.sleep(wait_s)
            wait_s = min(2 * wait_s, self._longest_wait_s())

    async def _append(self, batch: Batch, after: Head | None) -> None:
        if not self._described:
            document = await anyio.to_thread.run_sync(read_bounded, self._directory / LOG_FILE)
            await self._sink.describe(self._log, document)
            self._described = True
        try:
            await self._sink.append(self._log, batch, after=after, resume=self._resume)
        except HeadMoved as moved:
            # An answer that was lost, or another forwarder; anything else shows when it is compared with the log.
            if moved.actual != batch.head:
                raise _LookAgain from None
        except RecordTooLarge as error:
            if batch.first_seq < batch.last_seq:
                self._single_until = batch.last_seq
                raise _LookAgain from None
            raise RecordTooLarge(
                f"record {batch.first_seq} has {len(batch.lines):,} bytes, more than the engine takes: {error}. "
                "Nothing after it is shipped; raise the engine's limit, or lower max_event_bytes below it"
            ) from None
        self._resume = None
        self._retry_s = _FIRST_RETRY_S

    async def _while_idle(self, head: Head | None) -> None:
        """Repeat the head now and then, and look for confirmations that somebody waits for."""
        now = time.monotonic()
        if head is not None and now >= self._repeat_at and isinstance(self._sink, HearsHosts):
            self._repeat_at = now + _REPEAT_EVERY_S
            try:
                await self._sink.repeat_head(self._log)
            except HeadMoved:
                raise _LookAgain from None
        if self._soon and self._look_at - now < _LOOK_EVERY_S - _LOOK_SOON_S:
            await self._ask_collectors()
            self._look_at = now + _LOOK_EVERY_S


def _seq(head: Head | None) -> int:
    return -1 if head is None else head.seq
