"""A log's signed checkpoints: its durable records go into a Merkle tree, whose root is signed from time to time.

The formats, and what they prove, are the subject of `audit_async.tlog`. This runs next to the writer and reads what the
writer has made durable, so it costs the hot path nothing, and whatever happens here (a key that is locked, a disk that
is full, a witness that is down) delays no record. There is one exception, on purpose: a log that contradicts what was
signed before does not open at all.

The journey of a checkpoint: new hashes are appended to the tree about once a second (`_catch_up`); if one is due, tiles
and guard become durable, the keys sign, tiles and checkpoint are published, `audit.checkpoint` goes into the chain
(`checkpoint`); then witnesses are asked, and the checkpoint is published again with their cosignatures
(`_have_cosigned`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, Self, TypeVar

import anyio

from audit_async._query.audit_query import AuditQuery
from audit_async._query.lookup import find_record, position_in_chain
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage, scan
from audit_async._trail.log_files import Log
from audit_async._trail.segment_parts import Range, parts_of
from audit_async._writer.disk_thread import DiskThread
from audit_async._writer.growing_tree import GrowingTree
from audit_async.config import Transparency
from audit_async.config.transparency import default_origin
from audit_async.errors import AuditError
from audit_async.events import AuditEvent, decode_record
from audit_async.events.lifecycle import AuditCheckpoint, AuditSigningKeysChanged, AuditSigningRefused
from audit_async.status import Position, describe_error
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.failures import InconsistentLog, NotCovered, PublisherStopped, QuorumNotMet
from audit_async.tlog.guard import GUARD_FILE, TREE_DIRECTORY
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import TlogProof
from audit_async.tlog.signed_tree import SignedTree
from audit_async.tlog.signing_keys import Signer, load_signers, sign_checkpoint
from audit_async.tlog.witness import WitnessClient, Witnesses

_log = logging.getLogger("audit_async")

#: Seconds between two looks for new records, at most.
_LOOK_S: Final = 1.0
#: Record hashes appended in one call to the thread: some milliseconds of work.
_PIECE: Final = 4096
#: While no checkpoint is due the tree rests after each piece for as long as that took: it shares the GIL with the
#: writer, and a burst of records is not the time to hash them twice. It does not rest if more than these are missing in
#: it, a second's work, so that neither a checkpoint nor the end of the log has to wait for long.
_MOST_BEHIND: Final = 500_000

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _LastCheckpoint(NamedTuple):
    """What the last checkpoint accounts for, and when it was made."""

    records: int  #: including those that record checkpoints, which ask for none themselves
    made_at: float  #: monotonic
    sealed: int  #: segments that were sealed then


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
        tree: GrowingTree,
        emit: Callable[[AuditEvent], object],
        durable_seq: Callable[[], int],
        sealed: Callable[[], int],
        set_trouble: Callable[[str, str | None], None],
    ) -> None:
        """For `open`, which every caller uses."""
        self._settings: Final = settings
        self._log: Final = log
        self._signers: Final = signers
        self._witnesses: Final = witnesses
        self._policy: Final = policy  # only one that asks for witnesses
        self._tree: Final = tree
        self._emit: Final = emit
        self._durable_seq: Final = durable_seq
        self._sealed: Final = sealed
        self._set_trouble: Final = set_trouble
        # Its calls are made in order, also if the task that waited for one was cancelled: two at once would mix up the
        # tree.
        self._thread: Final = DiskThread(f"audit-async tree of {log.name}")
        self._one_at_a_time: Final = anyio.Lock()  # held while the tree or what is published changes
        self._one_round: Final = anyio.Lock()  # held while the witnesses are asked
        self._refused: InconsistentLog | None = None
        published = tree.published
        self._last = _LastCheckpoint(published.checkpoint.size if published else 0, time.monotonic(), sealed())
        self._uncosigned: SignedCheckpoint | None = None
        # A log whose last checkpoint is known to witnesses asks them first, whether they remember more.
        self._may_sign = not (len(witnesses) and published is not None)

    def __repr__(self) -> str:
        state = "refused" if self._refused is not None else "signing" if self._may_sign else "asking witnesses"
        return f"<CheckpointLog {self._log.name} {state} size={self._tree.size} last={self._last.records}>"

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
        set_trouble: Callable[[str, str | None], None],
    ) -> Self:
        """Open the tree of a log that has `records` durable records; blocks.

        Args:
            settings: What the configuration says.
            log: The log, locked by the caller.
            records: How many durable records it has.
            emit: Takes the events that record checkpoints.
            durable_seq: Returns up to which record the log is durable.
            sealed: Returns how many segments are sealed.
            set_trouble: Takes a subject and what is wrong with it, or None when that is over.

        Raises:
            LogForked, LogRolledBack: The log is not what was signed before.
            ConfigError: The configuration contradicts what was signed, or records that the tree needs were deleted or
                are encrypted.
            KeyUnavailable, TilesDamaged, LogCorrupted, OSError: A key, the tree or the log can't be used.
        """
        origin = settings.origin or default_origin(socket.gethostname(), log.service_id, log.instance)
        signers = load_signers(settings.keys, origin=origin, passphrase=settings.passphrase)
        policy = Policy.parse(Path(settings.policy).read_bytes()) if settings.policy is not None else None
        witnesses = _witnesses(settings, policy)
        open_tree = partial(_open_tree, settings=settings, log=log, origin=origin, signers=signers)
        tree = GrowingTree(log, open_tree, records=records)
        try:
            return cls(
                settings,
                log,
                signers=signers,
                witnesses=witnesses,
                policy=policy if policy is not None and policy.quorum is not None else None,
                tree=tree,
                emit=emit,
                durable_seq=durable_seq,
                sealed=sealed,
                set_trouble=set_trouble,
            )
        except BaseException:  # the system has no thread, say: the next start is to find the place free
            tree.close()
            raise

    # From the opening to the end.

    async def run(self) -> None:
        """Append what is durable and make checkpoints when they are due, until cancelled."""
        self._record_the_opening()
        await self._ask_witnesses_first()
        async with anyio.create_task_group() as group:
            group.start_soon(self._cosign_repeatedly)
            while self._refused is None:
                await anyio.sleep(min(_LOOK_S, self._settings.interval / 4, 0.1 if self._settings.every else _LOOK_S))
                try:
                    await self._catch_up()
                    if self.refused is None and self._is_due():  # a witness may have reported a fork meanwhile
                        await self.checkpoint()
                except InconsistentLog as error:
                    self._refuse(error)
                except Exception as error:  # noqa: BLE001 - nobody awaits this task: it reports the error, and goes on
                    self._report("checkpoint", error)
                else:
                    self._set_trouble("checkpoint", None)
            group.cancel_scope.cancel()

    async def finish(self) -> None:
        """Make the last checkpoint, over everything; the log is closed and takes no events any more.

        It is recorded by the next opening, and cosigned then. An error is logged: the log itself is closed in order.
        """
        try:
            if self._refused is None and self._may_sign:
                await self.checkpoint(record=False)
        except InconsistentLog as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the log is closed all the same
            self._report("checkpoint", error)
        finally:
            closing = self._in_thread(self._tree.close)
            self._thread.stop()
            await closing

    def abandon(self) -> None:
        """Close the files of a log whose opening failed; blocks."""
        self._thread.stop()
        self._tree.close()

    def forked(self) -> None:
        """Close the files in a forked child: they belong to the parent, and so does the thread."""
        self._tree.close()

    # Checkpoints.

    async def checkpoint(self, *, record: bool = True) -> SignedCheckpoint:
        """Sign and publish a checkpoint over everything that is durable now; return it, without cosignatures.

        After an error the next one is tried when it is due.

        Args:
            record: Whether the chain records it.

        Raises:
            InconsistentLog: It would contradict an earlier one; nothing is signed any more.
            TransparencyError, LogCorrupted, OSError: A key, the tree or the log could not be used.
        """
        if self._refused is not None:
            raise self._refused
        try:
            async with self._one_at_a_time:
                await self._append_all()
                published = self._tree.published
                if published is not None and published.checkpoint.size == self._tree.size:
                    return published
                sealed = self._sealed()
                prepared = await self._in_thread(self._tree.prepare, self._durable_seq())
                signed = await sign_checkpoint(prepared, self._signers)
                if self._policy is None:  # otherwise it is valid, and published, when enough witnesses have cosigned it
                    await self._in_thread(self._tree.publish, signed, self._durable_seq())
                self._last = _LastCheckpoint(prepared.size, time.monotonic(), sealed)
                self._uncosigned = signed
        except InconsistentLog as error:
            self._refuse(error)
            raise
        if record:
            self._record(signed)
        return signed

    async def cover(self, seq: int) -> None:
        """Return when the published checkpoint covers a record, so that its hash is in the tree for ever.

        Asked before a segment is deleted: whoever verifies the trail later has the published tree for its records.

        Raises:
            NotCovered: The witnesses that the policy asks for have not cosigned such a checkpoint yet.
            TransparencyError, LogCorrupted, OSError: As `checkpoint` does.
        """
        if self._covers(seq):
            return
        signed = await self.checkpoint()
        if not self._covers(seq):
            await self._have_cosigned(signed)
        if not self._covers(seq):
            raise NotCovered(
                f"the checkpoint over record {seq} is not published yet, since the policy's quorum of witnesses has "
                "not cosigned it; it is tried again"
            )

    def _covers(self, seq: int) -> bool:
        published = self._tree.published
        return published is not None and published.checkpoint.size > seq

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
            return await self._in_thread(self._tree.prove, seq, record_hash, self._durable_seq())
        except NotCovered:
            await self.cover(seq)
            return await self._in_thread(self._tree.prove, seq, record_hash, self._durable_seq())

    def _is_due(self) -> bool:
        new_records = self._tree.size - self._last.records
        if new_records > 0 and self._sealed() != self._last.sealed:
            return True
        return self._settings.is_due(new_records=new_records, elapsed_s=time.monotonic() - self._last.made_at)

    def _record(self, signed: SignedCheckpoint) -> None:
        """Put a checkpoint into the chain; the record of it is none that asks for another checkpoint."""
        self._last = self._last._replace(records=self._last.records + 1)
        root = signed.checkpoint.root.hex()
        self._emit(AuditCheckpoint(size=signed.checkpoint.size, root=root, note=signed.encode().decode()))

    def _record_the_opening(self) -> None:
        """Put into the chain what the last session could not: its last checkpoint, and a change of the keys."""
        tree, published = self._tree, self._tree.published
        if tree.added_keys or (tree.retired_keys and published is not None):
            self._emit(AuditSigningKeysChanged(added=list(tree.added_keys), retired=list(tree.retired_keys)))
        if published is not None and published.checkpoint.size == tree.size:
            self._record(published)
            self._uncosigned = published

    # Feeding the tree.

    async def _catch_up(self) -> None:
        """Append the hashes of durable records, piece by piece, until there are no more or a checkpoint is due."""
        while True:
            began = time.monotonic()
            async with self._one_at_a_time:
                missing = await self._in_thread(self._tree.append_piece, self._durable_seq(), _PIECE)
            if missing <= 0 or self._is_due() or self._refused is not None:
                return
            if missing < _MOST_BEHIND:
                await anyio.sleep(time.monotonic() - began)

    async def _append_all(self) -> None:
        """Append the hashes of all records that are durable now, without a rest."""
        durable_seq = self._durable_seq()
        while await self._in_thread(self._tree.append_piece, durable_seq, _PIECE) > 0:
            pass

    # Witnesses.

    async def _ask_witnesses_first(self) -> None:
        """Before anything is signed in this session, ask what the witnesses remember of the last one."""
        published = self._tree.published
        if self._may_sign or published is None:
            return
        try:
            await self._have_cosigned(published)
        except InconsistentLog as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - a witness that is down delays nothing for longer than this
            self._report("witnesses", error)
        self._may_sign = self._refused is None

    async def _cosign_repeatedly(self) -> None:
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
                    self._ask_again(signed)
                    self._report("witnesses", error)
                else:
                    self._set_trouble("witnesses", None)
            await anyio.sleep(min(_LOOK_S, self._settings.interval / 4))

    async def _have_cosigned(self, signed: SignedCheckpoint) -> None:
        """Ask all witnesses about one checkpoint, and publish it again with the cosignatures that came."""
        async with self._one_round:
            cosigned, answers = await self._witnesses.cosign(
                signed, self._consistency, timeout_s=self._settings.witness_timeout
            )
            for answer in answers:
                if isinstance(answer.error, InconsistentLog):
                    raise answer.error
                why = None if answer.error is None else describe_error(answer.error)
                self._set_trouble(f"witness {answer.key.name}", why)
            if any(answer.cosignature is None for answer in answers):
                self._ask_again(signed)  # those that have failed lately after a pause
            if not any(answer.cosignature is not None for answer in answers):
                return
            if self._policy is not None:
                try:
                    self._policy.verify(cosigned.encode())
                except QuorumNotMet as error:
                    self._set_trouble("quorum", describe_error(error))
                    return
                self._set_trouble("quorum", None)
            async with self._one_at_a_time:
                await self._in_thread(self._tree.publish, cosigned, self._durable_seq())

    def _ask_again(self, signed: SignedCheckpoint) -> None:
        """Have the next round ask about this checkpoint, unless there is a newer one."""
        if self._uncosigned is None:
            self._uncosigned = signed

    def _consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return a consistency proof, for a witness's thread; read in the tree's own, which may be opening it again."""
        timeout_s = self._settings.witness_timeout
        done = self._thread.wait(partial(self._tree.consistency, old_size, new_size, self._durable_seq()), timeout_s)
        if done is None:
            raise PublisherStopped(f"the tree of {self._log.name} could not be read within {timeout_s:g} s")
        if done.error is not None:
            raise done.error
        return done.result or []

    # What goes wrong.

    def _refuse(self, error: InconsistentLog) -> None:
        """Sign nothing more, and report it in the log, in `health()` and in the chain; the records themselves go on."""
        if self._refused is not None:
            return
        self._refused = error
        _log.error("%s signs no more checkpoints: %s", self._log.name, error)
        self._set_trouble("checkpoint", f"nothing is signed any more: {error}")
        try:
            self._emit(AuditSigningRefused(reason=str(error)))
        except AuditError:
            return  # the log is closed: the line above has to do

    def _report(self, subject: str, error: Exception) -> None:
        self._set_trouble(subject, f"{describe_error(error)}; it is tried again")

    @property
    def refused(self) -> InconsistentLog | None:
        """Why nothing more is signed; None if all is well."""
        return self._refused

    # The thread.

    def _in_thread(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
        """Have the tree's thread make a call; one that has begun is finished also if nobody waits for it any more."""
        return self._thread.call(call, *args, **kwargs)


def _open_tree(
    records: int,
    record_hash: Callable[[int], bytes],
    *,
    settings: Transparency,
    log: Log,
    origin: str,
    signers: tuple[Signer, ...],
) -> SignedTree:
    guarded = (log.directory / TREE_DIRECTORY / GUARD_FILE).exists()
    return SignedTree.open(
        log.directory / TREE_DIRECTORY,
        origin=origin,
        keys=[signer.key for signer in signers],
        records=records,
        record_hash=record_hash,
        publish_dir=Path(settings.publish_dir) if settings.publish_dir is not None else None,
        guard=Path(settings.guard) if settings.guard is not None else None,
        known=() if guarded else _recorded_checkpoints(log, origin),
    )


def _recorded_checkpoints(log: Log, origin: str) -> Iterator[tuple[Checkpoint, str]]:
    """Yield the checkpoints that the chain records: removing the tree is no fresh start.

    Those in encrypted archives are left out. `GrowingTree` refuses a tree that does not cover all of what is encrypted,
    and one that does was signed over the records in there, so it agrees with the smaller ones that they record.
    """
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
