"""`AuditLogger`: everything that can be recorded and asked for, and what each call promises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from threading import current_thread, get_ident, main_thread
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Final, NoReturn, Self

from audit_async._layout.hold_file import Hold
from audit_async._writer import signals
from audit_async._writer.buffer import RECORD_OVERHEAD, State
from audit_async._writer.encoder import BACKSLASH, DEL, LOOKED_INTO
from audit_async._writer.erasure_report import ErasureReport
from audit_async._writer.intake import Intake
from audit_async._writer.receipts import NOTHING_RECORDED, NOWHERE, Receipt
from audit_async._writer.session import Session
from audit_async._writer.upkeep import RetentionReport
from audit_async.config import AuditConfig, Disabled
from audit_async.context import bound_here
from audit_async.errors import ConfigError, LogClosed, WriteFailed
from audit_async.events import AuditEvent, AuditExported, AuditLogAccessed
from audit_async.events.base import encode
from audit_async.logger.config_mistakes import what_to_pass
from audit_async.logger.erasure_calls import ErasureCalls
from audit_async.logger.log_reports import health_of, stats_of
from audit_async.logger.open_session import checkpoints_of, erasures_of, on_its_loop, upkeep_of
from audit_async.status import (
    CommitObserver,
    Condition,
    Health,
    HealthStatus,
    LoggerStats,
    Measurements,
    Position,
)

__all__ = ["AuditLogger"]

if TYPE_CHECKING:  # they need the extra `tlog`
    from audit_async.logger.forwarding_task import ForwardingTask
    from audit_async.tlog.checkpoint import SignedCheckpoint
    from audit_async.tlog.proof import TlogProof

_log = logging.getLogger("audit_async")


class AuditLogger(ErasureCalls):
    """One audit log, open for writing: `async with AuditLogger(config) as audit: audit.emit(event)`.

    A logger is opened once, on the event loop that it will live on, and closed once. `emit` may be called from any
    thread; the methods that are awaited, on any of asyncio's loops, as long as the log's own runs. What is promised,
    and when, depends on the flush mode: see `audit_async.config`. A logger that is never closed gives a
    `ResourceWarning`, and is drained as its loop or the interpreter ends.

    Args:
        config: All settings; `AuditConfig(mode=Disabled())` records nothing and costs next to nothing.

    Raises:
        ConfigError: `config` is no `AuditConfig`.
    """

    def __init__(self, config: AuditConfig) -> None:
        if not isinstance(config, AuditConfig):
            raise ConfigError("config", what_to_pass(config))
        self.config: Final = config
        self._disabled: Final = isinstance(config.mode, Disabled)
        self._intake: Final = Intake(config)
        self._condition: Final = Condition(HealthStatus.DISABLED if self._disabled else HealthStatus.NOT_STARTED)
        self._measurements: Final = Measurements()
        self._session: Session | None = None
        self._forwarding: ForwardingTask | None = None
        self._starting = False
        # What `emit` looks at for every event, one look-up away instead of three.
        self._buffer: Final = self._intake.buffer
        self._inbox: Final = self._buffer.inbox.entries
        self._encoder: Final = self._intake.encoder
        self._kinds: Final = self._encoder.kinds
        self._plain_cost: Final = self._encoder.plain_bytes + RECORD_OVERHEAD

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, or copied: the log is open in this process and once."""
        raise TypeError(
            f"a {type(self).__name__} can't be pickled or copied, since its log belongs to one object of one process; "
            "give the other process config, which can be pickled, and open a logger there"
        )

    def __repr__(self) -> str:
        if not hasattr(self, "_session"):  # its configuration was refused
            return "<AuditLogger>"
        if self._disabled:
            return "<AuditLogger disabled>"
        name = f"{self.config.service_id}/{self.config.instance or '*'}"
        status, waiting = self._condition.status.value, self._buffer.held_events
        if self._session is None:
            return f"<AuditLogger {name} {status}>"
        name = f"{self.config.service_id}/{self._session.store.directory.name}"
        head, durable = self._session.writer.head_seq, self._session.acknowledgements.durable_seq
        return f"<AuditLogger {name} {status} head={head} durable={durable} waiting={waiting}>"

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            session.warn_unless_closed()

    # Recording.

    def emit(self, event: AuditEvent) -> Receipt:
        """Take `event` into the trail. Never waits, never blocks; from any thread, sync or async code.

        The event is encoded before this returns, so what is changed in it afterwards changes nothing. On return it
        is in the process's memory, in order, and will be written unless the process dies first; the receipt says
        when it is durable. Events of one thread keep their order, and what was emitted before in time, as far as
        threads can tell, comes before in the chain.

        Text that could mislead a reader is recorded in a harmless form, or refused, as `on_unsafe` says.

        Args:
            event: An event of `audit_async.events`, or of a class of your own.

        Returns:
            The event's receipt: its `audit_id` now, its place in the chain once it is durable.

        Raises:
            InvalidEvent: The event can't be recorded; the message names the field, never its value.
            BufferFull: The buffer has no room. The last tenth is kept for critical events; the refusal is counted and
                recorded.
            LogClosed: Before the start, after the end, and in a forked child.
            WriteFailed: The writer has stopped for good.
        """
        # The hot path: about 700 ns (python -m bench emit), and no Python function but this one, since a call costs 50.
        # So it does by itself what `Encoder.encode` and `Buffer.accept` do.
        buffer = self._buffer
        if get_ident() != buffer.owner:
            return NOTHING_RECORDED if self._disabled else self._intake.emit_elsewhere(event)
        try:
            kind = self._kinds[event.__class__]
        except KeyError:
            kind = self._encoder.learn(event)
        try:
            encoded = encode(event)
        except Exception:  # noqa: BLE001 - whatever the event's own objects raise; the slow path names the field
            encoded = self._encoder.look_into(event, kind, None)
            cost = len(encoded) + RECORD_OVERHEAD
        else:
            # Encoded JSON that is ASCII, has no backslash and no DEL, and is no longer than one text may be, can't hold
            # a control character, a bidirectional override or an overlong text.
            cost = len(encoded) + RECORD_OVERHEAD
            if kind and kind & LOOKED_INTO:
                encoded = self._encoder.look_into(event, kind, encoded)
                cost = len(encoded) + RECORD_OVERHEAD
            elif cost > self._plain_cost or not encoded.isascii() or BACKSLASH in encoded or DEL in encoded:
                encoded = self._encoder.harmless(event, encoded)
                cost = len(encoded) + RECORD_OVERHEAD
        bound = bound_here()
        if bound is not None:
            context = self._encoder.context_text(bound)
            encoded += context
            cost += len(context)
        if self._inbox:
            buffer.empty_inbox()
        if buffer.free_events <= 0 or buffer.free_bytes < cost:
            self._intake.refuse_unless_room(event, kind, encoded)
        chunk = buffer.chunk
        if chunk is None:
            chunk = buffer.open_chunk()
        receipt = Receipt(buffer.next_number(), time_ns(), encoded, -1, "", buffer.acknowledgements)
        buffer.free_events -= 1
        buffer.free_bytes -= cost
        if kind and kind & buffer.urgent_kinds:
            buffer.chunk_is_urgent = True
        chunk.append(receipt)
        return receipt

    async def emit_durable(self, event: AuditEvent) -> Position:
        """Record `event` and return its place in the chain once it is on stable storage.

        Waits for room if the buffer is full, and does not wait for the flush mode's interval: this event, with all
        before it, is synced at once. While the disk fails this waits, as long as it takes (`anyio.fail_after` sets a
        limit; the event stays recorded). On any event loop.

        Args:
            event: As for `emit`.

        Returns:
            The record's sequence number and hash.

        Raises:
            InvalidEvent, WriteFailed: As `emit` does.
            LogClosed: As `emit` does, and at once if the log's event loop doesn't run: no answer would ever come.
        """
        if self._disabled:
            return NOWHERE
        session = self._session
        if session is None or session.home.is_here:
            receipt = await self._intake.emit_durably(event)
            return await receipt.durable()
        self._buffer.check_open()
        return await session.home.call(lambda: self.emit_durable(event))

    async def flush(self) -> None:
        """Return once everything emitted so far is on stable storage, without waiting for the flush mode's interval.

        While the disk fails this waits, as long as it takes (`anyio.fail_after` sets a limit). On any event loop.

        Raises:
            WriteFailed: The writer has stopped for good, so not everything is durable.
            LogClosed: The log was never started, or is a parent process's; or its event loop doesn't run.
        """
        if self._disabled:
            return
        if self._session is None:
            raise LogClosed("the audit log is not started, so there is nothing to flush")
        if self._buffer.state is State.FORKED:
            raise LogClosed("this process was forked from the one that opened the audit log; flush it there")
        session = self._session
        if session.home.is_here:
            await session.writer.flush()
        elif not session.has_ended:
            await session.home.call(session.writer.flush)
        elif session.acknowledgements.failure is not None:
            raise session.acknowledgements.failure

    def record_access(self, actor: str, query: Mapping[str, object], records: int | None = None) -> Receipt:
        """Put into the trail that `actor` has read it: what was asked, and how many records were returned.

        `AuditReader.query` calls this if it is given the logger; call it for reads that go another way. From any
        thread, never waits; the buffer's bounds don't apply.

        Args:
            actor: Who has read.
            query: What was asked for, as names and values; secrets in it are redacted.
            records: How many records were returned; None if that is not known.

        Returns:
            The receipt of the record.

        Raises:
            LogClosed, WriteFailed: As `emit` does.
        """
        if self._disabled:
            return NOTHING_RECORDED
        return self._intake.emit_on_record(AuditLogAccessed(actor=actor, query=dict(query), records=records))

    def record_export(
        self,
        actor: str,
        *,
        format: str,  # noqa: A002 - what it is called everywhere
        records: int,
        sha256: str,
        unsealed: bool,
    ) -> Receipt:
        """Put into the trail that records left it as a file, so that it can be said who has a copy.

        From any thread, never waits; the buffer's bounds don't apply.

        Args:
            actor: Who has the file.
            format: What it is: `ndjson`, `csv`, `html`.
            records: How many records are in it.
            sha256: Its SHA-256, in hex.
            unsealed: Whether sealed members are in the clear in it; an erasure does not reach those.

        Returns:
            The receipt of the record.

        Raises:
            LogClosed, WriteFailed: As `emit` does.
        """
        if self._disabled:
            return NOTHING_RECORDED
        exported = AuditExported(actor=actor, format=format, records=records, sha256=sha256, unsealed=unsealed)
        return self._intake.emit_on_record(exported)

    def count_lost(self, event_type: str, reason: str) -> None:
        """Count an event that could not be emitted, so that its loss does not go unnoticed; from any thread.

        For code that makes events of something else, as the integrations do, and fails at it. The loss is in `stats()`
        and `health()` at once, and in the chain as `audit.events_dropped` soon after. What `emit` refuses because the
        buffer is full is counted already.

        Args:
            event_type: The type of the event that is missing.
            reason: A word for the record, such as `invalid_event`.
        """
        if not self._disabled:
            self._intake.count_lost(event_type, reason)

    # Proving, if `AuditConfig.transparency` is set.

    async def checkpoint(self) -> SignedCheckpoint:
        """Sign and publish a checkpoint over everything that is durable now, and return it; witnesses come later.

        The log does this by itself when its `Transparency` says so. On any event loop.

        Returns:
            The checkpoint, signed by the log's own keys; published, unless the policy asks for witnesses first.

        Raises:
            ConfigError: The log has no `Transparency`.
            LogForked, LogRolledBack: The log would contradict what it signed before.
            TransparencyError: Another of them: the key or the tiles fail.
            LogClosed: The log is not open, or its event loop doesn't run.
            OSError: The disk fails; the next checkpoint is tried when it is due.
        """
        checkpoints = checkpoints_of(self._session, self._buffer)
        return await on_its_loop(self._session, checkpoints.checkpoint)

    async def prove(self, record: Receipt | str) -> TlogProof:
        """Return the evidence that a record is in this log, named by its receipt or its `audit_id`.

        What `.encode()` returns is a `.tlog-proof` file, which anybody can check without the log. Waits until the
        record is durable (a receipt), and makes a checkpoint if none covers it yet. On any event loop.

        Args:
            record: The record's receipt, or its `audit_id`.

        Returns:
            The proof.

        Raises:
            RecordNotFound: This log does not have such an `audit_id`.
            AuditError, OSError: As `checkpoint` does.
        """
        checkpoints = checkpoints_of(self._session, self._buffer)

        async def prove() -> TlogProof:
            if isinstance(record, Receipt):
                position = await record.durable()
            else:
                position = await checkpoints.position_of(record)
            return await checkpoints.prove(position.seq, bytes.fromhex(position.hash))

        return await on_its_loop(self._session, prove)

    # Keeping and forgetting.

    async def apply_retention(self, *, dry_run: bool = False, at: datetime | None = None) -> RetentionReport:
        """Archive and delete what `RetentionPolicy` says is due, or only list it with `dry_run`.

        An open log does this by itself once a day, the first time a minute after its opening (unless the policy's
        `automatic` is off). Each step is in the chain, durably, before it is taken; what was done stays done if
        this is cancelled. A step that fails is reported in the outcome, and the segment stays as it was. On any event
        loop.

        Args:
            dry_run: Only say what is due.
            at: In a dry run: what would be due at this time, which is aware.

        Returns:
            What was done, or would be, oldest segment first.

        Raises:
            ConfigError: `at` is given without `dry_run`, or has no time zone.
            RetentionRefused: The clock was set forward by more than a day since the opening.
            LogCorrupted: `hold.json` can't be read, or an archive is missing.
            LogClosed: The log is not open, or its event loop doesn't run.
            OSError: The disk fails.
        """
        if at is not None and (not dry_run or at.utcoffset() is None):
            raise ConfigError("at", "only a dry run may ask about another time, and it needs a time zone")
        if self._disabled:
            return RetentionReport(steps=(), hold=None, dry_run=dry_run)
        upkeep = upkeep_of(self._session, self._buffer)
        return await on_its_loop(self._session, lambda: upkeep.apply(dry_run=dry_run, at=at))

    async def set_hold(self, *, reason: str, set_by: str) -> Hold:
        """Put a legal hold in force: nothing is archived or deleted until it is lifted, also after a restart.

        On return the hold, and its record in the chain, are durable. If one is in force already it stays as it is,
        and is returned; the chain has the new reason, too. On any event loop.

        Args:
            reason: Why, for the record.
            set_by: Who asks for it, for the record.

        Returns:
            The hold that is in force.

        Raises:
            LogClosed: The log is not open, or its event loop doesn't run.
            WriteFailed, OSError: The record, or the hold, could not be made durable.
        """
        upkeep = upkeep_of(self._session, self._buffer)
        return await on_its_loop(self._session, lambda: upkeep.set_hold(reason=reason, set_by=set_by))

    async def lift_hold(self, *, reason: str, lifted_by: str) -> None:
        """End the legal hold; its record in the chain is durable before. Does nothing if there is none.

        Args:
            reason: Why, for the record.
            lifted_by: Who asks for it, for the record.

        Raises:
            LogClosed, WriteFailed, OSError: As `set_hold` does.
        """
        upkeep = upkeep_of(self._session, self._buffer)
        await on_its_loop(self._session, lambda: upkeep.lift_hold(reason=reason, lifted_by=lifted_by))

    async def hold(self) -> Hold | None:
        """Return the legal hold that is in force, None if there is none; raises as `set_hold` does."""
        upkeep = upkeep_of(self._session, self._buffer)
        return await on_its_loop(self._session, upkeep.hold)

    async def erase_subject(  # the parts of a record, and how long to wait
        self,
        subject_id: str,
        *,
        kind: str = "user",
        tenant: str | None = None,
        reason: str,
        requested_by: str,
        approved_by: str | None = None,
        force: bool = False,
        timeout_s: float = 30.0,
    ) -> ErasureReport:
        """Erase a person: destroy the keys that what is personal to him was sealed under, in all logs of the key store.

        The records stay, and verify as before. On return the keys are destroyed, and the records of it, which do not
        name him, are durable. What is emitted about him from now on is sealed under new keys. If the process dies
        meanwhile, the next opening completes the erasure. On any event loop.

        Args:
            subject_id: The person's id, as events have it.
            kind: The id space, as `Personal` declares it (`user`, `customer`).
            tenant: Whose id space, if `Privacy.tenant_binding` is set; empty for events without a tenant.
            reason: Why, for the record; sealed under a key of `requested_by`.
            requested_by: Who asks for it, for the record; sealed likewise.
            approved_by: Who else agrees, for the record. It does not replace an approval: if `Privacy.two_person` is
                set, or a delay, this call is refused; see `request_erasure`.
            force: Also under a legal hold; that is recorded.
            timeout_s: How long to wait for other processes to drop the keys; they do within about a second.

        Returns:
            How many keys were destroyed, and which processes did not answer in time.

        Raises:
            ConfigError: The log has no `Privacy`, or an argument can't be right.
            ErasureRefused: A legal hold of some log of the key store is in force, or its rules want a request, or keys
                of this person are too young.
            KeyStoreUnavailable, MasterKeyError: The key store can't be used now; what has begun is completed later.
            LogClosed, WriteFailed: The log is not open, or can't record it.
        """
        if self._disabled:
            raise ConfigError("mode", "is Disabled(), so this logger seals nothing and can erase nobody")
        erasures = erasures_of(self._session, self._buffer)
        return await on_its_loop(
            self._session,
            lambda: erasures.erase(
                subject_id,
                kind=kind,
                tenant=tenant,
                reason=reason,
                requested_by=requested_by,
                approved_by=approved_by,
                force=force,
                timeout_s=timeout_s,
            ),
        )

    # What it says of itself.

    def stats(self) -> LoggerStats:
        """Return the counters since the start; cheap, from any thread."""
        return stats_of(self._intake, self._session, self._measurements)

    def observe_commits(self, observer: CommitObserver) -> Callable[[], None]:
        """Call `observer(commit)` after each commit to the disk, in the log's loop; return what ends that.

        For metrics that are pushed; `stats()` has the same as histograms. May be called before the start, so that no
        commit is missed.

        Args:
            observer: Should take microseconds. One that raises is logged and called no more.

        Returns:
            A function that ends it.
        """
        self._measurements.observe(observer)
        return lambda: self._measurements.forget(observer)

    def health(self) -> Health:
        """Return how the log is doing: for health endpoints; cheap, from any thread."""
        return health_of(self._intake, self._session, self._condition)

    @property
    def directory(self) -> Path | None:
        """The log's own directory, `<base_dir>/<service_id>/<instance>`; None before the start and when disabled."""
        return self._session.store.directory if self._session else None

    # The life cycle.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        except WriteFailed as failure:
            if exc_value is None:
                raise
            # The application's own error is the first thing to know; ours must not take its place.
            exc_value.add_note(f"{self._condition.where}: {failure}")
            _log.error("%s", failure)

    async def start(self) -> None:
        """Open the log and begin to take events; `async with` does the same.

        On return the log is locked, recovered if a crash left something behind, and `audit.log_opened` is durable.

        Raises:
            LogLocked: Another process, or logger, writes this log.
            LogCorrupted: What is on disk is not what was written.
            ConfigError: The directory can be written to by others, or a setting can't work here.
            WriteFailed: The disk does not take the first record.
            LogClosed: This logger was started before, or no asyncio event loop is running.
        """
        if isinstance(self.config.mode, Disabled):
            return
        if self._starting or self._session is not None:
            raise LogClosed("this AuditLogger was started before; a logger is opened once, make a new one")
        self._starting = True
        try:
            if self.config.forward is not None:
                from audit_async.logger.forwarding_task import ForwardingTask  # noqa: PLC0415 - few logs need it

                self._forwarding = ForwardingTask(self.config.forward)
            self._session = await Session.open(
                self.config, Path(self.config.mode.base_dir), self._intake, self._condition, self._measurements
            )
            if self._forwarding is not None:
                self._session.acknowledgements.replication = self._forwarding
                self._forwarding.start(self, self._session, self._condition)
        finally:
            self._starting = False
        if self.config.handle_signals:
            if current_thread() is not main_thread():
                _log.warning(
                    "%s: handle_signals has no effect here: only a log that is started in the main thread can be "
                    "drained on SIGTERM and SIGINT. Start it there, or say handle_signals=False",
                    self._condition.where,
                )
            signals.drain_on_signals(self._session, self._session.home.loop)

    async def aclose(self) -> None:
        """Take no more events, make everything that was taken durable, write `audit.log_closed`, and unlock the log.

        Drains also while the surrounding task is being cancelled, for up to `drain_timeout` seconds; a cancellation
        takes effect afterwards. With `forward` it then waits for the engine, for up to `close_timeout`; what is not
        shipped by then is logged, and stays in the log. May be called again, and from several tasks; only the first
        does anything. If the log's event loop is closed, the calling thread drains, and is blocked meanwhile.

        Raises:
            WriteFailed: Something could not be made durable; the message says how much.
            LogClosed: The log's event loop is another one and has stopped; close the log there.
        """
        session = self._session
        if session is None or self._buffer.state is State.FORKED:
            return
        if session.home.is_here:
            await self._close(session)
        elif session.has_ended or session.home.loop.is_closed():
            if self._forwarding is not None:
                self._forwarding.abandon()
            session.close_without_loop()
        else:
            await session.home.call(lambda: self._close(session))

    async def _close(self, session: Session) -> None:
        try:
            await session.close()
        finally:
            if self._forwarding is not None:
                await self._forwarding.finish(session.acknowledgements.durable_seq)

    def __enter__(self) -> NoReturn:
        raise TypeError("an AuditLogger is entered by `async with AuditLogger(config) as audit:`, not by `with`")

    def __exit__(self, *_: object) -> None:
        """For a message about `with` that says what to do."""


#: `AuditLogger.emit` as it is here, whatever an application or a test puts in its place later.
OWN_EMIT: Final = AuditLogger.emit
