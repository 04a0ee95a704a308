"""Collecting a tenant's logs from an engine into ordinary log directories, each record checked on the way.

The position is what the collector's own files say after their own sync, never what an engine remembers of a reader. So
a collector that is killed, or restored from an older copy, goes on from what it has, and nothing is there twice.

What is wrong with one log is a finding, and affects that log alone: it stays as it is until the engine has records that
follow what was collected. Nothing that is collected is ever deleted here.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import anyio
from anyio import to_thread

from audit_async._chain import BadRecord
from audit_async._chain import Head as ChainHead
from audit_async._layout.bucket_receipts import heads_in_buckets, place_of
from audit_async._layout.collected_file import Collected
from audit_async._store.collected_log import CollectedLog, check_description
from audit_async.errors import ConfigError, LogCorrupted, LogLocked
from audit_async.forwarding.batches import Batch, Head
from audit_async.forwarding.collector_findings import CollectorFindings, Report
from audit_async.forwarding.collector_root import (
    CollectedStatus,
    CollectorStatus,
    Finding,
    locked_root,
    prepare_root,
    read_status,
    write_status,
)
from audit_async.forwarding.confirmations import (
    MOST_BUCKETS,
    VALID_FOR,
    BucketCopy,
    Confirmation,
    ConfirmationInvalid,
    check_confirmations,
    merged_confirmations,
    sign_confirmation,
    without_collector,
)
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.sink import HearsHosts, Sink
from audit_async.forwarding.sink_errors import SinkError, SinkRefused, SinkUnavailable

if TYPE_CHECKING:
    from audit_async.forwarding.collected_checkpoints import CheckpointWitness
    from audit_async.tlog.signing_keys import Signer

__all__ = ["Collector", "Round", "Shard"]

_logger: Final = logging.getLogger(__name__)

#: Logs that are collected at the same time.
_AT_ONCE: Final = 4
_STATUS_EVERY_S: Final = 5.0
#: How often the engine is asked when the host of an idle log was last there; hosts show themselves each hour.
_HEARD_EVERY_S: Final = 600.0
#: How often the receipts of pushes to buckets are looked at, for a log.
_BUCKETS_EVERY_S: Final = 60.0
#: A confirmation holds for a week; it is renewed daily also if nothing new came.
_RENEW_AFTER: Final = timedelta(days=1)
_LONGEST_PAUSE_S: Final = 30.0


class Shard(NamedTuple):
    """The part of a tenant's hosts that one collector takes, so that several share the work."""

    number: int = 1  #: from 1 to `of`
    of: int = 1

    def has(self, host: str) -> bool:
        """Return whether a host is in this part; each is in exactly one."""
        return int.from_bytes(sha256(host.encode()).digest()[:8], "big") % self.of == self.number - 1


class Round(NamedTuple):
    """What one round over all logs has done."""

    logs: int
    records: int  #: received
    findings: tuple[Finding, ...]  #: seen in this round, old ones included


class _Kept:
    """One log, as this process has it."""

    __slots__ = ("buckets", "buckets_read_at", "checkpoint", "confirmed", "confirmed_at", "engine_seq",
                 "heard_asked_at", "heard_at", "identity", "log", "received_at")  # fmt: skip

    def __init__(self, identity: LogIdentity, log: CollectedLog, before: CollectedStatus | None) -> None:
        self.identity: Final = identity
        self.log: Final = log
        self.engine_seq = -1
        self.received_at = before.received_at if before is not None else None
        self.checkpoint: bytes | None = None  # that came with records, and was not looked at yet
        self.heard_at = before.heard_at if before is not None else None
        self.heard_asked_at: float | None = None  # of the event loop's clock
        self.buckets: tuple[BucketCopy, ...] = ()
        self.buckets_read_at: float | None = None  # of the event loop's clock
        self.confirmed: Confirmation | None = None  # by this process; the newest
        self.confirmed_at: datetime | None = None  # by this process

    @property
    def head(self) -> Head | None:
        head = self.log.head
        return None if head.seq < 0 else Head(seq=head.seq, hash=head.hash.decode())

    def status(self) -> CollectedStatus:
        identity, head = self.identity, self.log.head
        return CollectedStatus(
            log=identity.path(), tenant=identity.tenant, host=identity.host, service=identity.service,
            instance=identity.instance, log_id=identity.log_id, seq=head.seq, hash=head.hash.decode(),
            engine_seq=self.engine_seq, last_record_at=self.log.last_timestamp, received_at=self.received_at,
            confirmed_seq=self.confirmed.seq if self.confirmed is not None else -1, heard_at=self.heard_at,
        )  # fmt: skip


class Collector:
    """Receives a tenant's logs, or a shard of them, from an engine into a directory.

    Used as an asynchronous context manager; the directory belongs to this process meanwhile. From one event loop.

    Args:
        root: the directory; it is made if it is missing, and each log gets a directory of its own in it.
        sink: the engine, with a collector's rights. It is not closed here.
        tenant: whose logs they are.
        signer: the key that heads are confirmed with, from `tlog.load_signer(source, origin=NAME)`; None confirms none.
        log_keys: the verifier keys of logs whose checkpoints are cosigned with the signer's key, if they are of the
            records that came; each is named after its log's origin. Needs the extra `tlog`.
        copies: in how many places each record is once it is here, this one included: 2 if the directory is replicated
            or backed up before it can be lost. A bucket that the directory's segments are pushed to is not meant: it
            is confirmed as a place of its own, up to the record that it has.
        shard: the part of the hosts that this collector takes.
        report: called with each new finding, once.

    Raises:
        ConfigError: `copies` or the shard makes no sense.
    """

    def __init__(
        self,
        root: str | Path,
        sink: Sink,
        *,
        tenant: str,
        signer: Signer | None = None,
        log_keys: Sequence[str] = (),
        copies: int = 1,
        shard: Shard | None = None,
        report: Report | None = None,
    ) -> None:
        if not 1 <= copies <= 99:
            raise ConfigError("copies", f"{copies!r} is none; at least 1, this one")
        shard = shard if shard is not None else Shard()
        if not 1 <= shard.number <= shard.of:
            raise ConfigError("shard", f"{shard.number}/{shard.of} is none; give a number from 1 to {shard.of}")
        self._root: Final = Path(root)
        self._sink: Final = sink
        self._tenant: Final = tenant
        self._signer: Final = signer
        self._witness: Final = _witness_of(signer, log_keys)
        self._copies: Final = copies
        self._hears: Final = sink if isinstance(sink, HearsHosts) else None
        self._shard: Final = shard
        self._stack: Final = AsyncExitStack()
        self._logs: Final[dict[str, _Kept]] = {}  # by path
        self._before: dict[str, CollectedStatus] = {}  # as the process before this one has left it
        self._findings: Final = CollectorFindings(report)
        self._status_at = 0.0

    def __repr__(self) -> str:
        return f"<Collector {self._root} tenant={self._tenant!r} logs={len(self._logs)}>"

    async def __aenter__(self) -> Self:
        """Take the directory.

        Raises:
            CollectorRunning: another process collects into it.
            ConfigError: it has something in it that is no collector's.
        """
        async with AsyncExitStack() as stack:
            await to_thread.run_sync(prepare_root, self._root)
            stack.enter_context(locked_root(self._root))
            self._findings.open(self._root)
            with suppress(LogCorrupted):  # a cache
                status = read_status(self._root)
                self._before = {one.log: one for one in status.logs} if status is not None else {}
            self._stack.push_async_exit(stack.pop_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def run(self, *, pause_s: float = 1.0) -> None:
        """Collect until cancelled; an engine that is away, or a full disk, is waited for, at growing intervals.

        Args:
            pause_s: seconds between two rounds.
        """
        pause = pause_s
        while True:
            try:
                await self.collect()
            except (SinkError, OSError) as error:
                pause = min(max(pause * 2, 1.0), _LONGEST_PAUSE_S)
                _logger.warning("%s: collecting goes on in %.0f s: %s", self._root, pause, error)
            else:
                pause = pause_s
            await anyio.sleep(pause)

    async def collect(self) -> Round:
        """Receive what the engine has of every log, confirm it, and write the status.

        Returns:
            What was done. What was received is durable.

        Raises:
            SinkUnavailable: the engine gave no answer; what came before that is kept.
            SinkRefused: this collector has no right to the tenant's logs.
            OSError: the disk refuses.
        """
        self._findings.seen = []
        before = sum(kept.log.head.seq + 1 for kept in self._logs.values())
        error = ""
        try:
            found = [log for log in await self._sink.logs() if self._shard.has(log.host)]
            for log in found:
                if log.path() not in self._logs:
                    opened = await self._opened(log)
                    before += opened.log.head.seq + 1 if opened is not None else 0
            await self._collect_all([log for log in found if log.path() in self._logs])
        except (SinkError, OSError) as failed:
            error = str(failed)
            raise
        finally:
            self._write_status(error)
        received = sum(kept.log.head.seq + 1 for kept in self._logs.values()) - before
        return Round(len(found), received, tuple(self._findings.seen))

    # -- one log ---------------------------------------------------------------------------------------------------

    async def _collect_all(self, logs: Sequence[LogIdentity]) -> None:
        failed: list[SinkError | OSError] = []
        waiting = iter(logs)

        async def work() -> None:
            for log in waiting:
                if failed:
                    return
                try:
                    await self._collect_log(self._logs[log.path()])
                except (SinkUnavailable, OSError) as error:
                    failed.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(_AT_ONCE):
                group.start_soon(work)
        if failed:
            raise failed[0]

    async def _opened(self, log: LogIdentity) -> _Kept | None:
        """Open or make a log's directory; None if that is not possible yet."""
        try:
            document = await self._sink.description(log)
        except SinkRefused as refused:
            await self._findings.found(log, "refused", -1, str(refused))
            return None
        if document is None:
            return None  # its forwarder has not come so far
        collected = Collected(
            tenant=log.tenant, host=log.host, service=log.service, instance=log.instance, log_id=log.log_id
        )
        path = self._root / log.path()
        try:
            check_description(collected, document)
        except LogCorrupted as wrong:
            await self._findings.found(log, "bad_description", -1, wrong.reason)
            return None
        try:
            if others := await to_thread.run_sync(_others_in_its_place, path):
                # Before the directory is made: a collector that is killed in between finds it the next time.
                reason = f"the host had the log {', '.join(others)} in this place: was it begun again on purpose?"
                await self._findings.found(log, "log_replaced", -1, reason)
            kept = _Kept(
                log,
                await to_thread.run_sync(CollectedLog.open, path, collected, document),
                self._before.get(log.path()),
            )
        except LogCorrupted as damaged:
            await self._findings.found(log, "damaged_copy", -1, f"{damaged.segment}: {damaged.reason}")
            return None
        except (ConfigError, LogLocked) as refused:
            await self._findings.found(log, "damaged_copy", -1, str(refused))
            return None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            await self._findings.found(
                log, "damaged_copy", -1, f"its names are too long for this file system: {error.strerror}"
            )
            return None
        self._logs[log.path()] = kept
        if self._witness is not None:
            try:
                await to_thread.run_sync(self._witness.add, log, kept.log.path)
            except LogCorrupted as damaged:
                await self._findings.found(log, "damaged_copy", -1, f"{damaged.segment}: {damaged.reason}")
        return kept

    async def _collect_log(self, kept: _Kept) -> None:
        log = kept.identity
        try:
            await to_thread.run_sync(kept.log.refresh)
            engine = await self._sink.head(log)
            kept.engine_seq = -1 if engine is None else engine.seq
            await self._receive(kept, engine)
            await self._confirm(kept)
            await self._cosign(kept)
            if engine == kept.head:
                await self._ask_whether_heard(kept)
        except SinkRefused as refused:
            await self._findings.found(log, "refused", -1, str(refused))
        except LogCorrupted as damaged:
            await self._findings.found(log, "damaged_copy", -1, f"{damaged.segment}: {damaged.reason}")
        except ConfigError as insecure:  # others may write to the directory
            await self._findings.found(log, "damaged_copy", -1, str(insecure))
        except LogLocked as locked:
            _logger.warning("%s: collected in the next round: %s", log, locked)

    async def _receive(self, kept: _Kept, engine: Head | None) -> None:
        log, head = kept.identity, kept.head
        if head is not None and (engine is None or engine.seq < head.seq):
            has = "no record of the log" if engine is None else f"the log up to record {engine.seq}"
            await self._findings.found(
                log, "engine_went_back", head.seq,
                f"the engine has {has}, and record {head.seq} was collected: was it restored from an older copy?",
            )  # fmt: skip
            return
        if engine == head:
            return
        if engine is not None and head is not None and engine.seq == head.seq:
            reason = f"the engine's record {head.seq} is another one than was collected"
            await self._findings.found(log, "fork", head.seq, reason)
            return
        async for batch in self._sink.read(log, head):
            if not await self._take(kept, batch):
                return

    async def _ask_whether_heard(self, kept: _Kept) -> None:
        """Learn, of a log with nothing new, when its host last showed itself: it may be idle, or gone."""
        now = anyio.current_time()
        if self._hears is None or (kept.heard_asked_at is not None and now - kept.heard_asked_at < _HEARD_EVERY_S):
            return
        kept.heard_at = await self._hears.heard_at(kept.identity)
        kept.heard_asked_at = now

    async def _cosign(self, kept: _Kept) -> None:
        """Cosign the last checkpoint that came; what the key can't sign now waits for the next round."""
        if self._witness is None or kept.checkpoint is None:
            return
        from audit_async.forwarding.collected_checkpoints import CheckpointRefused  # noqa: PLC0415 - needs the extra tlog
        from audit_async.tlog.failures import SigningFailed  # noqa: PLC0415 - as above

        # Taken first: what can't be compared now, such as a damaged log, must not be read again in each round.
        content, kept.checkpoint = kept.checkpoint, None
        try:
            records = kept.log.head.seq + 1
            await self._witness.cosign(kept.identity, kept.log.path, content, records=records)
        except CheckpointRefused as refused:
            await self._findings.found(kept.identity, "checkpoint_refused", refused.size, str(refused))
        except SigningFailed as failed:
            _logger.warning("%s: its checkpoint is not cosigned yet: %s", kept.identity, failed)
            kept.checkpoint = content

    async def _take(self, kept: _Kept, batch: Batch) -> bool:
        """Check and store a batch; False if it does not fit, and nothing after it can."""
        log, head = kept.identity, kept.log.head
        due = head.seq + 1
        if batch.first_seq != due:
            reason = f"record {due} is due, and the engine goes on with record {batch.first_seq}"
            await self._findings.found(log, "gap" if batch.first_seq > due else "bad_batch", due, reason)
            return False
        if batch.prev != head.hash.decode():
            reason = f"the engine's record {due} follows another record {head.seq} than was collected"
            await self._findings.found(log, "fork", due, reason)
            return False
        try:
            received = await to_thread.run_sync(kept.log.append, batch.lines, ChainHead(head.seq, head.hash))
        except BadRecord as bad:
            await self._findings.found(log, "bad_batch", due, str(bad))
            return False
        kept.received_at = datetime.now(UTC)
        if self._witness is not None:
            kept.checkpoint = self._witness.checkpoint_in(batch.lines) or kept.checkpoint
        for stated in received.differing:
            reason = (
                f"{stated.segment} has {stated.bytes} bytes and SHA-256 {stated.sha256} at the host, which is not what "
                "its chain holds"
            )
            await self._findings.found(log, "differing_segment", stated.first_seq, reason)
        if (received.head.seq, received.head.hash.decode()) != (batch.last_seq, batch.last_hash):
            reason = f"a batch declares record {batch.last_seq} as its last, and ends with {received.head.seq}"
            await self._findings.found(log, "bad_batch", batch.last_seq, reason)
            return False
        return True

    # -- confirmations ---------------------------------------------------------------------------------------------

    async def _confirm(self, kept: _Kept) -> None:
        """Confirm what is durable here, if that is new or the last confirmation is a day old; withdraw what is not."""
        signer, log, head = self._signer, kept.identity, kept.head
        if signer is None:
            return
        now = datetime.now(UTC)
        await self._read_buckets(kept)
        due = None
        if head is not None:
            buckets = tuple(one for one in kept.buckets if one.seq <= head.seq)
            due = Confirmation.of(
                log.log_id, head.seq, head.hash, collector=signer.key.name, copies=self._copies, buckets=buckets
            )
        renewed = kept.confirmed_at is not None and now - kept.confirmed_at < _RENEW_AFTER
        if renewed and _says(kept.confirmed) == _says(due):
            return
        stored = await self._sink.confirmation(log)
        own = _own(stored, signer, log)
        if own is not None and own.seq > (-1 if head is None else head.seq):
            reason = (
                f"this collector has confirmed record {own.seq}, and has {'none' if head is None else head.seq} now: "
                "was the directory restored from an older copy? The confirmation is withdrawn"
            )
            await self._findings.found(log, "collector_went_back", own.seq, reason)
        if due is not None:
            note = await sign_confirmation(due, signer)
            await self._sink.confirm(log, merged_confirmations(stored, note))
        elif own is not None and stored is not None:
            await self._sink.confirm(log, without_collector(stored, signer.key.name))
        kept.confirmed_at, kept.confirmed = now, due

    async def _read_buckets(self, kept: _Kept) -> None:
        """Learn from the receipts of pushes from this directory which buckets have the log, and up to which record."""
        now = anyio.current_time()
        if kept.buckets_read_at is not None and now - kept.buckets_read_at < _BUCKETS_EVERY_S:
            return
        kept.buckets = await to_thread.run_sync(_buckets_of, self._root / kept.identity.path(), kept.identity.log_id)
        kept.buckets_read_at = now

    # -- the status ---------------------------------------------------------------------------------------

    def _write_status(self, error: str) -> None:
        now = anyio.current_time()
        if not error and self._status_at and now - self._status_at < _STATUS_EVERY_S:
            return
        self._status_at = now
        status = CollectorStatus(
            collector=self._signer.key.name if self._signer is not None else "",
            tenant=self._tenant,
            updated_at=datetime.now(UTC),
            error=error,
            logs=tuple(kept.status() for _, kept in sorted(self._logs.items())),
        )
        with suppress(OSError):  # a full disk is reported by the round itself
            write_status(self._root, status)


def _witness_of(signer: Signer | None, log_keys: Sequence[str]) -> CheckpointWitness | None:
    if not log_keys:
        return None
    if signer is None:
        raise ConfigError("log_keys", "checkpoints are cosigned with the collector's key; give a signer as well")
    from audit_async.forwarding.collected_checkpoints import CheckpointWitness  # noqa: PLC0415 - needs the extra tlog

    return CheckpointWitness(signer, log_keys)


def _own(stored: bytes | None, signer: Signer, log: LogIdentity) -> Confirmation | None:
    """Return what this collector has confirmed, None if that does not hold any more."""
    try:
        return check_confirmations(stored or b"", [signer.key], log_id=log.log_id)[0]
    except ConfirmationInvalid:
        return None


def _says(confirmation: Confirmation | None) -> tuple[int, tuple[BucketCopy, ...]]:
    """Return what a confirmation says besides its time."""
    return (-1, ()) if confirmation is None else (confirmation.seq, confirmation.buckets)


def _buckets_of(path: Path, log_id: str) -> tuple[BucketCopy, ...]:
    """Return what buckets have of a log, locked for as long as a confirmation of today holds.

    A damaged manifest is found when the log is opened or refreshed; here it only vouches for nothing.
    """
    try:
        heads = heads_in_buckets(path, log_id, now=datetime.now(UTC) + VALID_FOR)
    except (LogCorrupted, OSError):
        return ()
    newest: dict[str, int] = {}
    for name, head in sorted(heads.items()):
        place = place_of(name)
        newest[place] = max(head.seq, newest.get(place, -1))
    found = (BucketCopy(bucket=place, seq=seq) for place, seq in newest.items())
    return tuple(one for one in found if one.fits())[:MOST_BUCKETS]


def _others_in_its_place(path: Path) -> list[str]:
    """Return the log_ids of other logs of the same slot, if this log was never here before."""
    if path.exists() or not path.parent.is_dir():
        return []
    slot = path.name.partition(".")[0]
    names = sorted(other.name.partition(".") for other in path.parent.iterdir())
    return [log_id for instance, _, log_id in names if instance == slot]
