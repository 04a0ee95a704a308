"""A log's signed checkpoints: its durable records go into a Merkle tree, whose root is signed from time to time.

The formats, and what they prove, are the subject of `audit_async.tlog`. This runs beside the writer and reads what that
has made durable, so it costs the hot path nothing, and whatever happens here (a key that is locked, a disk that is
full, a witness that is down) delays no record. The one exception is meant: a log that contradicts what was signed
before does not open at all.

The way of a checkpoint: new hashes are appended to the tree about once a second (`_catch_up`); where one is due, tiles
and guard become durable, the keys sign, tiles and checkpoint are published, `audit.checkpoint` goes into the chain
(`checkpoint`); then witnesses are asked, and their cosignatures published behind it (`_have_cosigned`).
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, ParamSpec, Self, TypeVar

import anyio
import anyio.to_thread

from audit_async._query.audit_query import AuditQuery
from audit_async._query.lookup import find_record, position_in_chain
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage, scan
from audit_async._trail.log_files import Log
from audit_async._trail.record_hashes import RecordHashes
from audit_async._trail.segment_parts import Range, parts_of
from audit_async.config.transparency import Transparency, default_origin
from audit_async.errors import AuditError, LogCorrupted
from audit_async.events.base import AuditEvent
from audit_async.events.lifecycle import AuditCheckpoint, AuditSigningKeysChanged, AuditSigningRefused
from audit_async.events.recorded import decode_record
from audit_async.status import Position, describe_error
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.failures import InconsistentLog, NotCovered, PublisherStopped, QuorumNotMet
from audit_async.tlog.guard import GUARD_FILE
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import TlogProof
from audit_async.tlog.signed_tree import SignedTree
from audit_async.tlog.signing_keys import Signer, load_signers, sign_checkpoint
from audit_async.tlog.witness import WitnessClient, Witnesses

_log = logging.getLogger("audit_async")

#: The directory in the log's own that holds the tree.
TREE_DIRECTORY: Final = "tlog"
#: Seconds between two looks for new records, at most.
_LOOK_S: Final = 1.0
#: Record hashes appended in one call to the worker thread: some milliseconds of work.
_PIECE: Final = 4096
#: While no checkpoint is due the tree rests after each piece for as long as that took: it shares the GIL with the
#: writer, and a burst of records is not the time to hash them twice. Not where more than these are missing in it, a
#: second's work, so that neither a checkpoint nor the end of the log has to wait for long.
_MOST_BEHIND: Final = 500_000

_P = ParamSpec("_P")
_T = TypeVar("_T")


class CheckpointLog:
    """Makes the checkpoints of one open log. Owned by the loop's thread; what blocks runs in a thread of its own."""

    def __init__(
        self,
        settings: Transparency,
        log: Log,
        *,
        signers: tuple[Signer, ...],
        witnesses: Witnesses,
        policy: Policy | None,
        publisher: SignedTree,
        emit: Callable[[AuditEvent], object],
        durable_seq: Callable[[], int],
        sealed: Callable[[], int],
    ) -> None:
        """For `open`, which every caller uses."""
        self._settings: Final = settings
        self._log: Final = log
        self._signers: Final = signers
        self._witnesses: Final = witnesses
        self._policy: Final = policy  # only one that asks for witnesses
        self._publisher = publisher
        self._hashes = RecordHashes(log, publisher.size - 1)
        self._emit: Final = emit
        self._durable_seq: Final = durable_seq
        self._sealed: Final = sealed
        # The host's worker threads may all be taken by the host; one more is always there for this.
        self._thread: Final = anyio.CapacityLimiter(1)
        self._one_at_a_time: Final = anyio.Lock()  # whoever changes the tree or what is published
        self._reopen = False  # after an error of the disk nothing that the tree believes to be on it is believed
        self._refused: InconsistentLog | None = None
        # The records that the last checkpoint accounts for, its own record included, and when it was made.
        self._accounted = publisher.published.checkpoint.size if publisher.published else 0
        self._made_at = time.monotonic()
        self._sealed_then = sealed()
        self._uncosigned: SignedCheckpoint | None = None
        # A log whose last checkpoint is known to witnesses asks them first, whether they remember more.
        self._may_sign = not (len(witnesses) and publisher.published is not None)
        self._complaints: dict[str, str] = {}

    @classmethod
    def open(
        cls,
        settings: Transparency,
        log: Log,
        *,
        records: int,
        emit: Callable[[AuditEvent], object],
        durable_seq: Callable[[], int],
        sealed: Callable[[], int],
    ) -> Self:
        """Open the tree of a log that has `records` durable records; blocks.

        `emit` takes the events that tell of checkpoints, `durable_seq` and `sealed` return up to where the log is
        durable and how many segments are sealed. Raises `LogForked` and `LogRolledBack` where the log is not what was
        signed before, `KeyUnavailable`, `TilesDamaged`, `ConfigError`, `LogCorrupted`, `OSError`.
        """
        origin = settings.origin or default_origin(socket.gethostname(), log.service_id, log.instance)
        signers = load_signers(settings.keys, origin=origin, passphrase=settings.passphrase)
        policy = Policy.parse(Path(settings.policy).read_bytes()) if settings.policy is not None else None
        publisher = _open_publisher(settings, log, origin, signers, records)
        return cls(
            settings,
            log,
            signers=signers,
            witnesses=_witnesses(settings, policy),
            policy=policy if policy is not None and policy.quorum is not None else None,
            publisher=publisher,
            emit=emit,
            durable_seq=durable_seq,
            sealed=sealed,
        )

    # The life of it.

    async def run(self) -> None:
        """Append what is durable and make checkpoints when they are due, until cancelled."""
        self._tell_of_the_opening()
        await self._ask_witnesses_first()
        async with anyio.create_task_group() as group:
            group.start_soon(self._cosign_again_and_again)
            while self._refused is None:
                await anyio.sleep(min(_LOOK_S, self._settings.interval / 4, 0.1 if self._settings.every else _LOOK_S))
                try:
                    await self._catch_up()
                    if self.refused is None and self._is_due():  # a witness may have said so meanwhile
                        await self.checkpoint()
                except InconsistentLog as error:
                    self._refuse(error)
                except Exception as error:  # noqa: BLE001 - nobody awaits this task: it says what is wrong, and goes on
                    self._failed("checkpoint", error)
                else:
                    self._complain("checkpoint", None)
            group.cancel_scope.cancel()

    async def finish(self) -> None:
        """Make the last checkpoint, over everything; the log is closed and takes no events any more.

        It is told by the next opening, and cosigned then. What fails is logged: the log itself is closed in order.
        """
        try:
            if self._refused is None and self._may_sign:
                await self.checkpoint(record=False)
        except InconsistentLog as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the log is closed all the same
            self._failed("checkpoint", error)
        finally:
            await self._in_thread(self._publisher.close)

    # Checkpoints.

    def abandon(self) -> None:
        """Let go of the files; blocks."""
        self._publisher.close()

    async def checkpoint(self, *, record: bool = True) -> SignedCheckpoint:
        """Sign and publish a checkpoint over everything that is durable now; return it, without cosignatures.

        Raises `InconsistentLog` where it would contradict an earlier one, and whatever of the errors of
        `audit_async.tlog` came in the way; then the next one is tried when it is due.
        """
        if self._refused is not None:
            raise self._refused
        async with self._one_at_a_time:
            await self._catch_up_locked()
            published = self._publisher.published
            if published is not None and published.checkpoint.size == self._publisher.size:
                return published
            sealed = self._sealed()
            prepared = await self._on_disk(self._publisher.prepare)
            signed = await sign_checkpoint(prepared, self._signers)
            if self._policy is None:  # otherwise it is valid, and published, when enough witnesses have cosigned it
                await self._on_disk(self._publisher.publish, signed)
            self._accounted, self._made_at, self._sealed_then = prepared.size, time.monotonic(), sealed
            self._uncosigned = signed
        if record:
            self._tell(signed)
        return signed

    async def position_of(self, audit_id: str) -> Position:
        """Return the place of a durable record; raises `RecordNotFound`."""

        def find() -> Position:
            for found in find_record([self._log], seq=None, audit_id=audit_id):
                if found is not None:
                    return position_in_chain(found)
            raise AssertionError("find_record finds a record or raises")

        return await self._in_thread(find)

    async def prove(self, seq: int, record_hash: bytes) -> TlogProof:
        """Return the evidence for a record, after a checkpoint that covers it; see `AuditLogger.prove`."""
        try:
            return await self._in_thread(self._publisher.prove, seq, record_hash)
        except NotCovered:
            signed = await self.checkpoint()
            if self._policy is not None:
                await self._have_cosigned(signed)
            return await self._in_thread(self._publisher.prove, seq, record_hash)

    def _is_due(self) -> bool:
        new_records = self._publisher.size - self._accounted
        if new_records > 0 and self._sealed() != self._sealed_then:
            return True
        return self._settings.is_due(new_records=new_records, elapsed_s=time.monotonic() - self._made_at)

    def _tell(self, signed: SignedCheckpoint) -> None:
        """Put a checkpoint into the chain; its record is none that asks for another checkpoint."""
        self._accounted += 1
        root = signed.checkpoint.root.hex()
        self._emit(AuditCheckpoint(size=signed.checkpoint.size, root=root, note=signed.encode().decode()))

    def _tell_of_the_opening(self) -> None:
        """Put into the chain what the last session could not: its last checkpoint, and a change of the keys."""
        publisher = self._publisher
        if publisher.added_keys or (publisher.retired_keys and publisher.published is not None):
            self._emit(AuditSigningKeysChanged(added=list(publisher.added_keys), retired=list(publisher.retired_keys)))
        if publisher.published is not None and publisher.published.checkpoint.size == publisher.size:
            self._tell(publisher.published)
            self._uncosigned = publisher.published

    # Feeding the tree.

    async def _catch_up(self) -> None:
        """Append the hashes of durable records, piece by piece, until there are no more or a checkpoint is due."""
        while True:
            began = time.monotonic()
            async with self._one_at_a_time:
                behind = await self._append_piece()
            if behind <= 0 or self._is_due() or self._refused is not None:
                return
            if behind < _MOST_BEHIND:
                await anyio.sleep(time.monotonic() - began)

    async def _catch_up_locked(self) -> None:
        """Append the hashes of all records that are durable now, without a rest."""
        up_to_seq = self._durable_seq()
        while await self._append_piece(up_to_seq) > 0:
            pass

    async def _append_piece(self, up_to_seq: int | None = None) -> int:
        """Append the next hashes, up to those of all that is durable; return how many of them are missing then."""
        if self._reopen:
            await self._in_thread(self._open_again)
        if up_to_seq is None:
            up_to_seq = self._durable_seq()
        if self._publisher.size <= up_to_seq:
            await self._on_disk(self._read_and_append, up_to_seq)
        return up_to_seq + 1 - self._publisher.size

    def _read_and_append(self, up_to_seq: int) -> None:
        self._publisher.append(self._hashes.read(up_to_seq, _PIECE))

    def _open_again(self) -> None:
        self._publisher.close()
        origin, records = self._publisher.origin, self._durable_seq() + 1
        self._publisher = _open_publisher(self._settings, self._log, origin, self._signers, records)
        self._hashes = RecordHashes(self._log, self._publisher.size - 1)
        self._reopen = False

    # Witnesses.

    async def _ask_witnesses_first(self) -> None:
        """Before anything is signed in this session, ask what the witnesses remember of the last one."""
        published = self._publisher.published
        if self._may_sign or published is None:
            return
        try:
            await self._have_cosigned(published)
        except InconsistentLog as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - a witness that is down delays nothing for longer than this
            self._failed("witnesses", error)
        self._may_sign = self._refused is None

    async def _cosign_again_and_again(self) -> None:
        if not len(self._witnesses):
            return
        while True:
            signed, self._uncosigned = self._uncosigned, None
            if signed is not None:
                try:
                    await self._have_cosigned(signed)
                except InconsistentLog as error:
                    self._refuse(error)
                    return
                except Exception as error:  # noqa: BLE001 - as in run
                    self._failed("witnesses", error)
            await anyio.sleep(min(_LOOK_S, self._settings.interval / 4))

    async def _have_cosigned(self, signed: SignedCheckpoint) -> None:
        """Ask all witnesses about one checkpoint, and publish it again with the cosignatures that came."""
        cosigned, answers = await self._witnesses.cosign(
            signed, self._publisher.consistency, timeout_s=self._settings.witness_timeout
        )
        for answer in answers:
            if isinstance(answer.error, InconsistentLog):
                raise answer.error
            self._complain(answer.key.name, None if answer.error is None else describe_error(answer.error))
        if self._uncosigned is None and any(answer.cosignature is None for answer in answers):
            self._uncosigned = signed  # asked again, those that have failed lately after a pause
        if not any(answer.cosignature is not None for answer in answers):
            return
        if self._policy is not None:
            try:
                self._policy.verify(cosigned.encode())
            except QuorumNotMet as error:
                self._complain("quorum", describe_error(error))
                return
            self._complain("quorum", None)
        async with self._one_at_a_time:
            await self._on_disk(self._publisher.publish, cosigned)

    # What goes wrong.

    def _refuse(self, error: InconsistentLog) -> None:
        """Sign nothing more, and say so wherever it can be said; the records themselves go on."""
        self._refused = error
        _log.error("%s signs no more checkpoints: %s", self._log.name, error)
        try:
            self._emit(AuditSigningRefused(reason=str(error)))
        except AuditError:
            return  # the log is closed: the line above has to do

    def _failed(self, what: str, error: Exception) -> None:
        self._complain(what, describe_error(error))

    def _complain(self, what: str, text: str | None) -> None:
        """Log trouble once, and its end."""
        before = self._complaints.pop(what, None)
        if text is not None:
            self._complaints[what] = text
        if text is not None and text != before:
            _log.warning("%s: %s: %s; it will be tried again", self._log.name, what, text)
        elif text is None and before is not None:
            _log.warning("%s: %s: that trouble is over", self._log.name, what)

    @property
    def refused(self) -> InconsistentLog | None:
        """Why nothing more is signed; None while all is well."""
        return self._refused

    # Threads.

    async def _on_disk(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call something that changes the tree; after an error of the disk it has to be opened again."""
        try:
            return await self._in_thread(call, *args, **kwargs)
        except (OSError, LogCorrupted, PublisherStopped):
            self._reopen = True
            raise

    async def _in_thread(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await anyio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._thread)


def _open_publisher(
    settings: Transparency, log: Log, origin: str, signers: tuple[Signer, ...], records: int
) -> SignedTree:
    guarded = (log.directory / TREE_DIRECTORY / GUARD_FILE).exists()
    return SignedTree.open(
        log.directory / TREE_DIRECTORY,
        origin=origin,
        keys=[signer.key for signer in signers],
        records=records,
        record_hash=lambda seq: RecordHashes(log, seq - 1).read(seq, 1)[0],
        publish_dir=Path(settings.publish_dir) if settings.publish_dir is not None else None,
        guard=Path(settings.guard) if settings.guard is not None else None,
        known=() if guarded else _recorded_checkpoints(log, origin),
    )


def _recorded_checkpoints(log: Log, origin: str) -> Iterator[tuple[Checkpoint, str]]:
    """Give the checkpoints that the chain tells of: who removes the tree gets no fresh start by that."""
    wanted = Filter(AuditQuery(event_types=(AuditCheckpoint.__struct_config__.tag,)))  # type: ignore[arg-type]  # a text
    for part in parts_of(log):
        for found in scan(part, wanted, Range(), Damage(skip=True)):
            event = decode_record(found.line).event if found is not None else None
            if isinstance(event, AuditCheckpoint) and found is not None:
                checkpoint = SignedCheckpoint.parse(event.note.encode()).checkpoint
                if checkpoint.origin == origin:
                    yield checkpoint, f"record {found.seq} of {log.name}"


def _witnesses(settings: Transparency, policy: Policy | None) -> Witnesses:
    clients = [WitnessClient.parse(line) for line in settings.witnesses]
    if policy is not None:
        clients += [WitnessClient(known.key, known.url) for known in policy.witnesses if known.url is not None]
    return Witnesses(clients)
