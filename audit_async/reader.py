"""The front door for reading: `AuditReader`, which verifies, queries, follows and exports trails.

    reader = AuditReader("./audit")
    async for record in reader.query(AuditQuery(event_types=("auth.*",), actor="mallory")):
        print(record.timestamp, record.event)

It needs no lock, changes nothing but the index (a cache), and works while the logs are being written. What blocks
(files, hashing, the index) runs in worker threads and processes, never on the event loop.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, TypeVar, get_args

import aiofiles.os
import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec

from audit_async._export.record_blocks import blocks_of
from audit_async._export.record_export import (
    NEEDS_PYARROW,
    Evidence,
    ExportFailed,
    ExportFormat,
    ExportReport,
    Selection,
    export,
)
from audit_async._layout.age_files import ArchiveEncrypted, Identities
from audit_async._query.answers import Page, page_of, records_of
from audit_async._query.audit_query import AuditQuery, Glob, InvalidQuery
from audit_async._query.cursor import decode_cursor
from audit_async._query.follow import Follower
from audit_async._query.index_check import CheckedIndex, check_index_of
from audit_async._query.likely_lines import likely_lines
from audit_async._query.lookup import PlacedRecord, RecordNotFound, look_up
from audit_async._query.opened_records import SealedReading, seals
from audit_async._query.sealed_filter import NOT_RECORDED, asked_without_names
from audit_async._query.search import Search, count_wanted
from audit_async._query.segment_scan import Damage
from audit_async._query.term_index import IndexedSegment, IndexTask, index_segment, tasks_of_index
from audit_async._trail.log_files import Log, TrailUnreadable, find_logs
from audit_async._trail.off_loop import in_pieces, only_one
from audit_async._trail.segment_parts import parts_of
from audit_async._trail.worker_pool import processes_for, run_in_thread, run_tasks
from audit_async._trail.worker_process import Work
from audit_async._verify.findings import Finding, Note
from audit_async._verify.state_file import KeptState
from audit_async._verify.verification import verify_trail
from audit_async._verify.verified_before import FULL_EVERY
from audit_async._verify.verify_report import LogReport, Progress, VerifyReport
from audit_async._verify.verify_scope import Everything, LastRecords, Scope, SeqRange, TimeRange
from audit_async.errors import LogCorrupted
from audit_async.events import NotARecord, Record
from audit_async.logger import AuditLogger
from audit_async.status import Position

if TYPE_CHECKING:
    import pyarrow as pa  # needs an extra

    from audit_async.privacy.key_store import KeyStore  # needs an extra
    from audit_async.privacy.subjects import Subject
    from audit_async.tlog.policy import Policy  # needs an extra

__all__ = [
    "ArchiveEncrypted",
    "AuditQuery",
    "AuditReader",
    "CheckedIndex",
    "Everything",
    "Evidence",
    "ExportFailed",
    "ExportFormat",
    "ExportReport",
    "Finding",
    "Glob",
    "Identities",
    "IndexedSegment",
    "InvalidQuery",
    "LastRecords",
    "Log",
    "LogCorrupted",
    "LogReport",
    "NotARecord",
    "Note",
    "OnDamage",
    "Page",
    "PlacedRecord",
    "Position",
    "Progress",
    "Record",
    "RecordNotFound",
    "Scope",
    "SeqRange",
    "TimeRange",
    "TrailUnreadable",
    "VerifyReport",
]

#: What a query does about a line that may be wanted and is no genuine record: raise `LogCorrupted`, or leave it out
#: and say at the end, by a warning of the logger `audit_async`, how often it did.
OnDamage = Literal["raise", "skip"]

_PAGE_SIZE: Final = 100
_Outcome = TypeVar("_Outcome")
_POLL_S: Final = 0.1
_POLLS_A_LOOK_FOR_LOGS: Final = 10

_log = logging.getLogger("audit_async")


class AuditReader:
    """Reads the logs at one place: a base directory, the directory of a service, or that of one log.

    It holds no file and no state, so one reader serves any number of tasks and threads at the same time.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        service: str | None = None,
        instance: str | None = None,
        key_store: KeyStore | None = None,
        identities: Identities | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            base_dir: The base directory that the services were configured with, or a directory below it.
            service: Read only the logs of this service.
            instance: Read only the logs of this instance.
            key_store: Where the keys of sealed members are (`audit_async.privacy.open_key_store`): records are then
                returned with what is sealed in the clear, or `[erased DATE]`, `[key missing]`, `[forged]` instead.
                Without it a sealed member is the text that was recorded. It stays the caller's to close. Exports
                are sealed unless `export` is asked to `unseal`.
            identities: The age private keys that encrypted archives are opened with
                (`Identities.from_files("key.txt")`). Without, `verify` reports what it could not open, and a query
                yields what it finds elsewhere and then raises `TrailUnreadable`.
        """
        self.base_dir: Final = Path(base_dir)
        self.service: Final = service
        self.instance: Final = instance
        self._key_store: Final = key_store
        self._identities: Final = identities

    def _reading(self, query: AuditQuery) -> SealedReading:
        return SealedReading(query, self._key_store)

    def __repr__(self) -> str:
        only = "".join(
            f" {name}={value}" for name, value in (("service", self.service), ("instance", self.instance)) if value
        )
        return f"<AuditReader {self.base_dir}{only}>"

    def logs(self) -> list[Log]:
        """Return the logs there are now, sorted by name; blocks for some system calls.

        Raises:
            TrailUnreadable: There is none, or a directory may not be read.
        """
        logs = find_logs(self.base_dir, service=self.service, instance=self.instance)
        return [dataclasses.replace(log, identities=self._identities) for log in logs] if self._identities else logs

    # Verifying.

    async def verify(
        self,
        scope: Scope | None = None,
        *,
        expected_head: Position | tuple[int, str] | None = None,
        expected_heads: Mapping[str, Position] | None = None,
        policy: Policy | None = None,
        known_checkpoints: Mapping[str, bytes] | None = None,
        published: str | os.PathLike[str] | None = None,
        state: str | os.PathLike[str] | None = None,
        full: bool = False,
        full_every: timedelta = FULL_EVERY,
        skip_encrypted: bool = False,
        processes: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> VerifyReport:
        """Check that nothing was changed, removed or inserted, and report what is wrong.

        Args:
            scope: What to check; all that is here by default.
            expected_head: For a reader of one log: a position that was kept elsewhere (`Receipt.durable` returns it).
                Without one it can't be seen that the newest records were cut off, or that the whole chain was
                rewritten; the report says so.
            expected_heads: The same for several logs, by their names.
            policy: Whose signatures count. The records must then also lead to the checkpoints that were signed: the
                one that each log publishes, those that the chain records, and `known_checkpoints`. What was cut off or
                rewritten up to the last checkpoint is then found. Needs the extra `tlog`.
            known_checkpoints: Signed notes that were kept elsewhere, by a text that says where.
            published: For one log: a directory or URL of what it publishes; `tlog/` in its directory by default.
            state: A file that keeps what was verified, for the next verification, which then reads what is new and
                what was changed, and finds a log that was cut off or replaced since. It is made if it is missing, and
                replaced, durably, for each log in which nothing is found. It must not be in the trail, nor in a place
                where other users can write. Records before are not read again; the report says so (`verified_before`).
            full: Read everything in spite of `state`.
            full_every: Read everything in spite of `state` if the last time is longer ago.
            skip_encrypted: Archives that are encrypted, and that the reader's identities don't open, make the report
                not valid unless this is set: then they are a note. Their files are checked all the same.
            processes: How many processes share the work; by default one for each core, if there is enough to do.
            progress: Called on the event loop, now and then.

        Raises:
            TrailUnreadable: The trail can't be read.
            InvalidQuery: The arguments contradict each other.
            ConfigError: The policy is wrong, or the state can't be used: it is damaged, of a later release, in the
                trail, or where others can write.
        """
        if state is None and full:
            raise InvalidQuery("full", "belongs to a state; without one everything is read")
        if state is not None and scope not in {None, Everything()}:
            raise InvalidQuery("state", "is of whole logs; it goes with no scope")
        logs = await anyio.to_thread.run_sync(self.logs)
        heads = dict(expected_heads or {})
        if expected_head is not None:
            if len(logs) > 1 or heads:
                raise InvalidQuery("expected_head", "belongs to one log; name it in expected_heads")
            heads[logs[0].name] = Position(*expected_head)
        if policy is None and (known_checkpoints or published is not None):
            raise InvalidQuery("policy", "is missing; say whose signature counts")
        kept: KeptState | None = None
        if state is not None:
            kept = KeptState(state, logs, base_dir=self.base_dir, service=self.service, instance=self.instance)
        verified = None if kept is None else await anyio.to_thread.run_sync(kept.read, full, full_every)
        if policy is None:
            report = await verify_trail(
                logs,
                scope,
                expected_heads=heads,
                verified=verified,
                skip_encrypted=skip_encrypted,
                processes=processes,
                progress=progress,
            )
        else:
            from audit_async._verify.signed_trail import verify_signed_trail  # noqa: PLC0415 - needs the extra tlog

            report = await verify_signed_trail(
                logs,
                policy,
                scope,
                known_checkpoints=known_checkpoints,
                published=published,
                expected_heads=heads,
                verified=verified,
                skip_encrypted=skip_encrypted,
                processes=processes,
                progress=progress,
            )
        if kept is not None and verified is not None:
            await anyio.to_thread.run_sync(kept.write, verified, report)
        return report

    # Asking.

    def query(
        self,
        query: AuditQuery = AuditQuery(),  # noqa: B008 - frozen, and it asks for everything
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        on_damage: OnDamage = "raise",
        on_undecided: Callable[[int], None] | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Yield the records that are wanted, one by one, in constant memory.

        They come in the order of their logs' chains, several logs merged by time; with `newest_first` in the opposite
        order. Each is checked: it hashes to what it claims. Whether one is missing is for `verify` to say. What is
        written while this runs may be found or not. To end a query early and at once, close it:

            async with aclosing(reader.query(query)) as records: ...

        Args:
            query: Which records are wanted; all of them by default.
            audit: A running logger, which gets an `audit.log_accessed` at the end, also if it ends early: by whom,
                what was asked, and how many records were returned.
            accessed_by: Who is asking; needed with `audit`.
            use_index: Use the index of the segments that have one (`build_index`), and scan the others. What is found
                is the same without it, unless somebody tampered with its files. A query never waits for an index.
            on_damage: `"raise"`, or `"skip"` to leave damaged records out and warn at the end.
            on_undecided: Called at the end if there are records that may be wanted or not, with their number: what was
                asked for is sealed in them, and its key is not here. By default a warning is logged.

        Raises:
            InvalidQuery: The question makes no sense for these logs.
            TrailUnreadable: A log can't be read. If archives are encrypted and no identity opens them, this comes after
                all that was found elsewhere.
            LogCorrupted: A line that may be wanted is no genuine record.
        """
        _require_asker(audit, accessed_by)
        _require_on_damage(on_damage)
        return self._query(
            query, audit, accessed_by, use_index=use_index, on_damage=on_damage, on_undecided=on_undecided
        )

    async def _query(
        self,
        query: AuditQuery,
        audit: AuditLogger | None,
        accessed_by: str | None,
        *,
        use_index: bool,
        on_damage: OnDamage,
        on_undecided: Callable[[int], None] | None,
    ) -> AsyncGenerator[Record, None]:
        damage = Damage(skip=on_damage == "skip")
        reading = self._reading(query)
        access = _Access(audit, accessed_by)
        given = 0
        try:
            logs = await access.begin(await self._logs_for(query))
            likely = await likely_lines(logs, query, reading.wanted, use_index=use_index)
            search = Search(logs, query, damage, use_index=use_index, wanted=reading.wanted, likely=likely)
            found = records_of(search.run(), query.limit, reading.decode)
            async with aclosing(in_pieces(found)) as pieces:
                async for piece in pieces:
                    for record in piece:
                        given += 1
                        yield record
            damage.require_searched()
        finally:
            _warn_of(damage)
            _report_undecided(reading.undecided, on_undecided)
            access.record(query, given)

    def about(
        self,
        subject: Subject,
        query: AuditQuery = AuditQuery(),  # noqa: B008
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        on_damage: OnDamage = "raise",
    ) -> AsyncGenerator[Record, None]:
        """Yield all records about a person, for an access request (GDPR, article 15): opened, and nobody else's data.

        These are the records with anything that is sealed under the person's keys, and, if they name the person in the
        clear, those of before the log sealed: as who acts, `user_id` or `subject` for a user; as `customer_id`, or the
        resource of the type `customer`, for a customer. Members that are sealed under other keys stay `[sealed]`.

        An index knows the keys, so it makes this fast; see `build_index`.

        Args:
            subject: The person, as events have the id.
            query: Which of the records are wanted; all of them by default.
            audit: As for `query`.
            accessed_by: As for `query`.
            on_damage: As for `query`.

        Raises:
            InvalidQuery: This reader has no key store.
            KeyStoreUnavailable: The key store can't be read now.
            TrailUnreadable: As for `query`.
            LogCorrupted: As for `query`.
        """
        _require_asker(audit, accessed_by)
        _require_on_damage(on_damage)
        if self._key_store is None:
            raise InvalidQuery("key_store", "is missing: an AuditReader needs it to say what is about a person")
        return self._about(subject, query, audit, accessed_by, on_damage=on_damage)

    async def _about(
        self,
        subject: Subject,
        query: AuditQuery,
        audit: AuditLogger | None,
        accessed_by: str | None,
        *,
        on_damage: OnDamage,
    ) -> AsyncGenerator[Record, None]:
        damage = Damage(skip=on_damage == "skip")
        access = _Access(audit, accessed_by)
        given = 0
        try:
            logs = await access.begin(await self._logs_for(query))
            reading = await anyio.to_thread.run_sync(lambda: SealedReading(query, self._key_store, about=subject))
            likely = await likely_lines(logs, query, reading.wanted, use_index=True)
            search = Search(logs, query, damage, wanted=reading.wanted, likely=likely)
            async with aclosing(in_pieces(records_of(search.run(), query.limit, reading.decode))) as pieces:
                async for piece in pieces:
                    for record in piece:
                        given += 1
                        yield record
        finally:
            _warn_of(damage)
            access.record(query, given, about=subject)

    async def count(
        self,
        query: AuditQuery = AuditQuery(),  # noqa: B008
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        on_damage: OnDamage = "raise",
        on_undecided: Callable[[int], None] | None = None,
    ) -> dict[str, int]:
        """Return how many records of each log `query` would yield, by the log's name; 0 for a log without any.

        Each record that is counted is checked as `query` does it, and none is kept, so memory does not grow. The logs
        are read one after the other.

        Args:
            query: Which records are wanted; all of them by default. A limit ends the counting.
            audit: As for `query`.
            accessed_by: As for `query`.
            use_index: As for `query`.
            on_damage: As for `query`.
            on_undecided: As for `query`.

        Raises:
            InvalidQuery: As for `query`.
            TrailUnreadable: As for `query`.
            LogCorrupted: As for `query`.
        """
        _require_asker(audit, accessed_by)
        _require_on_damage(on_damage)
        damage = Damage(skip=on_damage == "skip")
        reading = self._reading(query)
        access = _Access(audit, accessed_by)
        counted: dict[str, int] = {}
        try:
            logs = await access.begin(await self._logs_for(query))
            likely = await likely_lines(logs, query, reading.wanted, use_index=use_index)
            counts = count_wanted(logs, query, reading.wanted, damage, use_index=use_index, likely=likely)
            async with aclosing(in_pieces(counts)) as pieces:
                async for piece in pieces:
                    counted |= piece
            damage.require_searched()
            return counted
        finally:
            _warn_of(damage)
            _report_undecided(reading.undecided, on_undecided)
            access.record(query, sum(counted.values()), count=True)

    def build_index(
        self,
        *,
        again: bool = False,
        processes: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> AsyncGenerator[IndexedSegment, None]:
        """Index the sealed segments that have no index yet, and yield what was done with each, log by log.

        Queries by actor, resource, address, path, status, outcome, type, context and time use an index if there is one.
        It is a cache, a file for each segment in `index/` in the log's directory, or in `$XDG_CACHE_HOME/audit-async`
        if that directory is another user's. Each file is made whole, so this may be stopped at any point and works next
        to running services. A file that an older release made and that knows less counts as none.

        Args:
            again: Index those again that have an index.
            processes: How many processes share the work; by default one for each core, if there is enough to do.
            progress: Called on the event loop, now and then, with the bytes of segments that were read and that are
                to be read in the log at hand.

        Raises:
            TrailUnreadable: If the directory can't be read.
            LogCorrupted: If a manifest is damaged.
        """
        return self._build_index(again=again, processes=processes, progress=progress)

    async def _build_index(
        self, *, again: bool, processes: int | None, progress: Callable[[int, int], None] | None
    ) -> AsyncGenerator[IndexedSegment, None]:
        for log in await anyio.to_thread.run_sync(self.logs):
            parts = await anyio.to_thread.run_sync(parts_of, log)
            tasks = await anyio.to_thread.run_sync(partial(tasks_of_index, log, parts, again=again))
            async with aclosing(_each(index_segment, tasks, processes, progress)) as segments:
                async for segment in segments:
                    yield segment

    async def check_index(
        self, *, processes: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> AsyncGenerator[CheckedIndex, None]:
        """Compare the index of each sealed segment with its records, and yield the outcome, log by log.

        Each page of an index must have what its records have, and nothing else. An index is a cache: one that is wrong
        says nothing about the log, but queries that use it may miss records. Nothing is changed.

        Args:
            processes: As for `build_index`.
            progress: As for `build_index`.

        Raises:
            TrailUnreadable: If the directory can't be read.
            LogCorrupted: If a manifest is damaged.
        """
        for log in await anyio.to_thread.run_sync(self.logs):
            parts = await anyio.to_thread.run_sync(parts_of, log)
            async with aclosing(_each(check_index_of, list(IndexTask.of(parts)), processes, progress)) as segments:
                async for checked in segments:
                    yield checked

    async def page(
        self,
        query: AuditQuery = AuditQuery(),  # noqa: B008
        cursor: str | None = None,
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        on_damage: OnDamage = "raise",
        on_undecided: Callable[[int], None] | None = None,
    ) -> Page:
        """Return a page of what `query` would yield: `query.limit` records, or 100.

        A cursor stays valid while the trail grows, rotates and is archived. From page to page no record comes twice,
        and with `newest_first` none that is newer than the first page. Each page is recorded with `audit`.

        Args:
            query: Which records are wanted; its limit is the size of the page.
            cursor: Of the page before; None for the first page.
            audit: As for `query`.
            accessed_by: As for `query`.
            use_index: As for `query`.
            on_damage: As for `query`.
            on_undecided: As for `query`, for this page.

        Raises:
            InvalidQuery: As for `query`, and if the cursor is of another query.
            TrailUnreadable: As for `query`.
            LogCorrupted: As for `query`.
        """
        _require_asker(audit, accessed_by)
        _require_on_damage(on_damage)
        reached = decode_cursor(cursor, query) if cursor is not None else None
        damage = Damage(skip=on_damage == "skip")
        reading = self._reading(query)
        access = _Access(audit, accessed_by)
        given = 0
        try:
            logs = await access.begin(await self._logs_for(query))
            search = Search(logs, query, damage, reached=reached, use_index=use_index, wanted=reading.wanted)
            page = await only_one(page_of(search, query, query.limit or _PAGE_SIZE, reading.decode))
            damage.require_searched()
            given = len(page.records)
            return page
        finally:
            _warn_of(damage)
            _report_undecided(reading.undecided, on_undecided)
            access.record(query, given)

    async def record(
        self,
        seq: int | None = None,
        *,
        audit_id: str | None = None,
        log: str | None = None,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
    ) -> PlacedRecord:
        """Return one record, and the hashes of the records before and after it.

        Args:
            seq: Its sequence number in its log; either this or `audit_id`.
            audit_id: Its audit_id.
            log: The log's name, `orders/00`; a sequence number needs it if there are several logs.
            audit: As for `query`.
            accessed_by: As for `query`.

        Raises:
            RecordNotFound: No record that is still there has this sequence number or audit_id.
            InvalidQuery: Neither or both were given, the log is missing or unknown.
            TrailUnreadable: A log can't be read.
            LogCorrupted: The record's line is damaged.
        """
        _require_asker(audit, accessed_by)
        given = 0
        try:
            logs = await anyio.to_thread.run_sync(self.logs)
            if log is not None:
                names = ", ".join(one.name for one in logs)
                logs = [one for one in logs if one.name == log]
                if not logs:
                    raise InvalidQuery("log", f"there is no such log here; there is {names}")
            placed = await only_one(
                look_up(logs, seq=seq, audit_id=audit_id, decode=self._reading(AuditQuery()).decode)
            )
            given = 1
            return placed
        finally:
            if audit is not None and accessed_by is not None:
                asked = {"seq": seq, "audit_id": audit_id, "log": log}
                audit.record_access(accessed_by, {k: v for k, v in asked.items() if v is not None}, given)

    # Following.

    def follow(
        self,
        *,
        from_now: bool = True,
        query: AuditQuery | None = None,
        last: int = 0,
        after: str | None = None,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        on_damage: OnDamage = "raise",
    ) -> AsyncGenerator[Record, None]:
        """Yield new records as they come, without end (but for `query.limit`), about 0.1 s after they were written.

        A log that is made meanwhile is followed from its beginning. Across rotation and archiving nothing is left out,
        and nothing comes twice.

        What it sees are whole lines that the writer has handed to the operating system: never half a record, but one
        that a power cut may still take back, since a sync can't be seen from outside.

        Args:
            from_now: Begin after the last record that is there; otherwise with the first.
            query: Which records are wanted; all of them by default.
            last: Begin with so many older records that are wanted.
            after: The `resume` or `cursor` of a page of the same query: begin after that page.
            audit: The running logger of one of the logs: records of that log come only when they are durable.
            accessed_by: Who is asking: `audit` then gets an `audit.log_accessed` at the end.
            on_damage: As for `query`.

        Raises:
            InvalidQuery: As for `query`, for `newest_first`, and if the arguments contradict each other.
            TrailUnreadable: As for `query`.
            LogCorrupted: As for `query`.
        """
        query = query if query is not None else AuditQuery()
        if last < 0 or (last and (not from_now or after is not None or query.after_seq is not None)):
            raise InvalidQuery(
                "last", "is a number of records before the new ones; it excludes from_now=False, after and after_seq"
            )
        if query.newest_first:
            raise InvalidQuery("newest_first", "is of no use here: new records come as they are written")
        if accessed_by is not None:
            _require_asker(audit, accessed_by)
        _require_on_damage(on_damage)
        reached = decode_cursor(after, query) if after is not None else {}
        return self._follow(
            query, reached, audit, accessed_by, from_now=from_now and after is None, last=last, on_damage=on_damage
        )

    async def _follow(
        self,
        query: AuditQuery,
        reached: Mapping[str, int],
        audit: AuditLogger | None,
        accessed_by: str | None,
        *,
        from_now: bool,
        last: int,
        on_damage: OnDamage,
    ) -> AsyncGenerator[Record, None]:
        damage = Damage(skip=on_damage == "skip")
        reading = self._reading(query)
        follower = Follower(reading.wanted, damage, _durable_in(audit))
        has_news = aiofiles.os.wrap(follower.has_news)
        access = _Access(audit, accessed_by)
        given = polls = 0
        try:
            logs = await access.begin(await self._logs_for(query))
            if query.after_seq is not None:
                reached = {logs[0].name: max(query.after_seq, reached.get(logs[0].name, -1))}
            await anyio.to_thread.run_sync(lambda: follower.begin(logs, from_now=from_now, reached=reached))
            if last:
                before = msgspec.structs.replace(query, newest_first=True, limit=None)
                found = Search(logs, before, damage, reached=follower.next_seqs, wanted=reading.wanted).run()
                async with aclosing(in_pieces(records_of(found, last, reading.decode))) as pieces:
                    newest = [record async for piece in pieces for record in piece]
                for record in newest[::-1][: query.limit]:
                    given += 1
                    yield record
            while query.limit is None or given < query.limit:
                looked_s = anyio.current_time()
                is_there = await has_news()
                took_s = anyio.current_time() - looked_s
                if is_there:
                    left = query.limit - given if query.limit is not None else None
                    async with aclosing(in_pieces(records_of(follower.poll(), left, reading.decode))) as pieces:
                        async for piece in pieces:
                            for record in piece:
                                given += 1
                                yield record
                    if given == query.limit:
                        return
                # Of thousands of logs a look takes a while; no more than a fifth of the time is spent looking.
                await anyio.sleep(max(_POLL_S, 4 * took_s))
                polls += 1
                if polls % _POLLS_A_LOOK_FOR_LOGS == 0:
                    await anyio.to_thread.run_sync(self._follow_new_logs, follower)
        finally:
            follower.close()
            _warn_of(damage)
            _report_undecided(reading.undecided, None)
            access.record(query, given)

    def _follow_new_logs(self, follower: Follower) -> None:
        try:
            follower.add(self.logs())
        except TrailUnreadable:
            return  # gone for the moment; what is open is still read

    # Handing over.

    def record_batches(
        self,
        query: AuditQuery = AuditQuery(),  # noqa: B008
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        on_damage: OnDamage = "raise",
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield the records that `query` wants as record batches of Apache Arrow, some thousand records at a time.

        The columns are those of an export as Parquet. Each record is checked against its own hash; whether one is
        missing is for `verify` to say. Memory does not grow with the number of records. Members that are sealed stay
        sealed. Needs the extra `parquet` or `sql`.

        Args:
            query: Which records are wanted; all of them by default.
            audit: As for `query`.
            accessed_by: As for `query`.
            use_index: As for `query`.
            on_damage: As for `query`.

        Raises:
            ExportFailed: pyarrow is missing.
            InvalidQuery: As for `query`.
            TrailUnreadable: As for `query`.
            LogCorrupted: As for `query`.
        """
        _require_asker(audit, accessed_by)
        _require_on_damage(on_damage)
        return self._record_batches(query, audit, accessed_by, use_index=use_index, on_damage=on_damage)

    async def _record_batches(
        self,
        query: AuditQuery,
        audit: AuditLogger | None,
        accessed_by: str | None,
        *,
        use_index: bool,
        on_damage: OnDamage,
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        try:
            from audit_async._export.arrow_batches import batches_of  # noqa: PLC0415 - needs an extra
        except ImportError as error:
            raise ExportFailed(NEEDS_PYARROW) from error
        reading = self._reading(query)
        damage = Damage(skip=on_damage == "skip")
        access = _Access(audit, accessed_by)
        given = 0
        try:
            logs = await access.begin(await self._logs_for(query))
            blocks = blocks_of(logs, query, damage, use_index=use_index, wanted=reading.wanted)
            async with aclosing(in_pieces(batches_of(blocks))) as pieces:
                async for piece in pieces:
                    for batch in piece:
                        given += batch.num_rows
                        yield batch
        finally:
            _warn_of(damage)
            _report_undecided(reading.undecided, None)
            access.record(query, given, export="arrow")

    async def export(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        format: ExportFormat = "ndjson",  # noqa: A002 - what it is called everywhere
        query: AuditQuery = AuditQuery(),  # noqa: B008
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        overwrite: bool = False,
        raw_cells: bool = False,
        unseal: bool = False,
        evidence: Evidence = "chain",
        disclose: Sequence[str] = (),
        published: str | os.PathLike[str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> ExportReport:
        """Write the records that `query` wants to a file: their lines, a table, or an evidence bundle.

        A file appears when it is complete and on stable storage, and is readable only for its owner (mode 0600). A
        stream is written to from a worker thread as the records come, and is neither synced nor closed: if the export
        fails, it has a part of them. Each record is checked against its own hash; whether one is missing is for
        `verify` to say.

        Args:
            target: The file to be made, whose directory must exist; or a binary stream, such as a pipe, for all
                formats but the bundle.
            format: `"ndjson"` (the recorded lines, byte for byte), `"csv"`, `"parquet"` (needs the extra `parquet`), or
                `"bundle"`: a zip that can be checked with Python alone.
            query: Which records are wanted; all of them by default.
            audit: As for `query`.
            accessed_by: As for `query`.
            use_index: As for `query`.
            overwrite: Replace `target` if it exists.
            raw_cells: For CSV: write no apostrophe before cells that a spreadsheet would take for a formula.
            unseal: Write what is sealed in the clear, with this reader's key store; not in a bundle. No erasure
                reaches such a file, so `audit` records it (`audit.exported`) before it gets its name.
            evidence: What a bundle has besides the records. `"chain"`: all records of the log from the first of them to
                the last. `"selective"`: no other record, and for each a proof against the log's newest checkpoint;
                needs the extra `tlog` and a log that signs (see `docs/transparency.md`).
            disclose: Sealed members that are shown in selective evidence, such as `actor.user_id` or `context.user_id`,
                each with all below it; needs this reader's key store, and `audit`, which records it as for `unseal`.
            published: For selective evidence: the URL or directory at which the one log is published; None for `tlog/`
                in each log's directory.
            progress: Called with the number of records so far, from another thread.

        Returns:
            What was written; `undecided` if there are records that may be wanted or not, as for `query`.

        Raises:
            ExportFailed: `target` exists, its directory does not, pyarrow is missing, or a bundle can't be made (or is
                to be written to a stream); for selective evidence also if no checkpoint covers a record yet.
            InvalidQuery: As for `query`; also for a name in `disclose` that is none.
            TilesDamaged, SourceFailed: What the log has published is damaged, or can't be read.
            TrailUnreadable: As for `query`.
            LogCorrupted: A record that is wanted is damaged; in a bundle also a gap between them, in selective evidence
                also a record that is not the one that was signed.
            OSError: The file can't be written.
        """
        _require_asker(audit, accessed_by)
        selection = _selection(evidence, disclose, published)
        if (unseal or disclose) and audit is None:
            raise InvalidQuery("audit", "is missing: what leaves the trail in the clear has to be recorded")
        access = _Access(audit, accessed_by)
        given: int | None = None

        def record_unsealed(made: ExportReport) -> None:
            if audit is not None and accessed_by is not None:
                receipt = audit.record_export(
                    accessed_by, format=format, records=made.records, sha256=made.sha256, unsealed=made.unsealed
                )
                anyio.from_thread.run(receipt.durable)

        try:
            logs = await access.begin(await self._logs_for(query))
            report = await export(
                logs,
                query,
                Path(target) if isinstance(target, str | os.PathLike) else target,
                format,
                overwrite=overwrite,
                raw_cells=raw_cells,
                use_index=use_index,
                progress=progress,
                key_store=self._key_store,
                unseal=unseal,
                selection=selection,
                completed=record_unsealed if unseal or disclose else None,
            )
            given = report.records
            return report
        finally:
            access.record(query, given, export=format)

    async def _logs_for(self, query: AuditQuery) -> list[Log]:
        logs = await anyio.to_thread.run_sync(self.logs)
        if query.after_seq is not None and len(logs) > 1:
            raise InvalidQuery(
                "after_seq",
                f"each of the {len(logs)} logs here counts for itself; name one by its service and instance, or go on "
                "from a page's cursor",
            )
        return logs


def _selection(
    evidence: Evidence, disclose: Sequence[str], published: str | os.PathLike[str] | None
) -> Selection | None:
    """Return how selective evidence is made, None if it is not what was asked for; raises `InvalidQuery`."""
    if evidence not in get_args(Evidence):
        raise InvalidQuery("evidence", 'is neither "chain" nor "selective"')
    if evidence == "selective":
        return Selection((disclose,) if isinstance(disclose, str) else tuple(disclose), published)
    if disclose or published is not None:
        raise InvalidQuery("evidence", 'must be "selective" if members are disclosed or a published tree is named')
    return None


def _durable_in(audit: AuditLogger | None) -> Callable[[Log], int | None]:
    """Return a function that says how far a log is durable, if it is the one that the logger writes."""

    def durable(log: Log) -> int | None:
        if audit is None or (written := audit.directory) is None:
            return None
        try:
            return audit.health().durable_seq if os.path.samefile(written, log.directory) else None
        except OSError:
            return None

    return durable


def _require_asker(audit: AuditLogger | None, accessed_by: str | None) -> None:
    if audit is not None and not accessed_by:
        raise InvalidQuery("accessed_by", "is missing; say who is asking, so that audit can record it")
    if accessed_by is not None and audit is None:
        raise InvalidQuery("audit", "is missing; give the running logger that is to record who is asking")


def _require_on_damage(on_damage: str) -> None:
    if on_damage not in get_args(OnDamage):
        raise InvalidQuery("on_damage", 'is neither "raise" nor "skip"')


class _Access:
    """Who is asking, and the logger that records it; neither if nobody said."""

    def __init__(self, audit: AuditLogger | None, accessed_by: str | None) -> None:
        self._audit = audit
        self._accessed_by = accessed_by
        self._names_nobody = audit is not None and audit.config.privacy is None  # until it is known

    async def begin(self, logs: list[Log]) -> list[Log]:
        """Find out whether what is asked may be recorded in the clear; return the logs."""
        if self._names_nobody:
            self._names_nobody = await anyio.to_thread.run_sync(lambda: any(map(seals, logs)))
        return logs

    def record(self, query: AuditQuery, given: int | None, *, about: Subject | None = None, **how: object) -> None:
        """Record what was asked.

        A name that the trail seals must not be in the clear in the log of who read it; if that log seals as well, it
        is sealed there, and else it is left out.
        """
        if self._audit is not None and self._accessed_by is not None:
            asked = asked_without_names(query) if self._names_nobody else query.asked()
            if about is not None:
                member = "user_id" if about.kind == "user" else f"{about.kind}_id"
                asked[member] = NOT_RECORDED if self._names_nobody else about.id
            self._audit.record_access(self._accessed_by, asked | how, given)


def _report_undecided(records: int, report: Callable[[int], None] | None) -> None:
    if not records:
        return
    if report is not None:
        report(records)
    else:
        _log.warning(
            "%d records could not be searched: what was asked for is sealed in them; give the key store that has their "
            "keys",
            records,
        )


def _warn_of(damage: Damage) -> None:
    if damage.skips and damage.not_searched is not None:
        _log.warning("%s", damage.not_searched)
    if damage.skipped:
        _log.warning("a query passed over damage, %d times in all; the first: %s", damage.skipped, damage.first)


async def _each(
    work: Work[IndexTask, _Outcome],
    tasks: Sequence[IndexTask],
    processes: int | None,
    progress: Callable[[int, int], None] | None,
) -> AsyncGenerator[_Outcome, None]:
    """Do something with each segment of a log, in several processes if it is much, and yield the outcomes in order."""
    sizes = [task.sealed.bytes for task in tasks]
    done = 0

    def advance(bytes_: int, _records: int) -> None:
        nonlocal done
        done += bytes_
        if progress is not None:
            progress(done, sum(sizes))

    if (count := processes_for(sum(sizes), processes)) > 1:
        for outcome in await run_tasks(work, tasks, sizes, count, advance):
            yield outcome
    else:
        for task in tasks:
            [outcome] = await run_in_thread(work, [task], advance)
            yield outcome
