"""`AuditReader`: everything that can be asked of trails, and what each call promises."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Self, get_args

import anyio.from_thread
import anyio.to_thread

from audit_async._export.partition_files import PartitionReport, write_partitions
from audit_async._export.record_export import Evidence, ExportFormat, ExportReport, Selection, export
from audit_async._layout.age_files import Identities
from audit_async._query.answers import Page, page_of
from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async._query.cursor import decode_cursor
from audit_async._query.index_check import CheckedIndex
from audit_async._query.likely_lines import likely_lines
from audit_async._query.lookup import PlacedRecord, look_up
from audit_async._query.opened_records import SealedReading
from audit_async._query.sealing_logs import SealingLogs
from audit_async._query.search import Search, count_wanted
from audit_async._query.term_index import IndexedSegment
from audit_async._trail.log_files import Log, find_logs
from audit_async._trail.off_loop import in_pieces, only_one
from audit_async._verify.state_file import KeptState
from audit_async._verify.verified_before import FULL_EVERY
from audit_async._verify.verify_report import Progress, VerifyReport
from audit_async._verify.verify_scope import Scope
from audit_async.events import Record
from audit_async.logger import AuditLogger
from audit_async.reader.answering import Access, OnDamage, Question
from audit_async.reader.index_runs import compare_indexes, index_logs
from audit_async.reader.record_streams import new_records, wanted_batches, wanted_records
from audit_async.reader.trail_verification import Wanted, add_key_findings, verify_logs
from audit_async.reader.unfinished_transactions import require_no_types, unfinished_intents
from audit_async.status import Position

if TYPE_CHECKING:
    import pyarrow as pa  # needs an extra

    from audit_async.privacy.key_store import KeyStore  # needs an extra
    from audit_async.privacy.subjects import Subject
    from audit_async.tlog.policy import Policy  # needs an extra

_PAGE_SIZE: Final = 100


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
        host: str | None = None,
        key_store: KeyStore | None = None,
        identities: Identities | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            base_dir: The base directory that the services were configured with, or a directory below it.
            service: Read only the logs of this service.
            instance: Read only the logs of this instance.
            host: Read only the logs of this host, if `base_dir` is a collector's directory.
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
        self.host: Final = host
        self._key_store: Final = key_store
        self._identities: Final = identities
        self._sealing = SealingLogs()  # remembers what it has read, for the next question
        self._left_out: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        named = (("host", self.host), ("service", self.service), ("instance", self.instance))
        only = "".join(f" {name}={value}" for name, value in named if value)
        return f"<AuditReader {self.base_dir}{only}>"

    @property
    def opens_sealed(self) -> bool:
        """True if records are returned with what is sealed in the clear, since there is a key store."""
        return self._key_store is not None

    def logs(self) -> list[Log]:
        """Return the logs there are now, sorted by name; blocks for some system calls.

        Raises:
            TrailUnreadable: There is none, or a directory may not be read.
        """
        logs = find_logs(self.base_dir, service=self.service, instance=self.instance, host=self.host)
        logs = [log for log in logs if log.name not in self._left_out]
        return [dataclasses.replace(log, identities=self._identities) for log in logs] if self._identities else logs

    def _without(self, names: Iterable[str]) -> Self:
        """Return the same reader without these logs, such as some that can't be read at all."""
        other = copy.copy(self)
        other._left_out = frozenset(names)  # noqa: SLF001 - of the same class
        return other

    def _question(
        self,
        query: AuditQuery,
        audit: AuditLogger | None,
        accessed_by: str | None,
        on_damage: OnDamage,
        on_undecided: Callable[[int], None] | None = None,
    ) -> Question:
        access = Access(audit, accessed_by, sealing=self._sealing)
        return Question(query, self.logs, access, self._key_store, on_damage=on_damage, on_undecided=on_undecided)

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
        verify_keys: str | os.PathLike[str] | None = None,
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
            verify_keys: The directory of the key store: that it has, or has destroyed, each key that a record is sealed
                under, and is no older than the logs. All logs are read once more for that; no key is opened.
            progress: Called on the event loop, now and then.

        Raises:
            TrailUnreadable: The trail can't be read.
            KeyStoreError: The key store of `verify_keys` can't be opened.
            InvalidQuery: The arguments contradict each other.
            ConfigError: The policy is wrong, or the state can't be used: it is damaged, of a later release, in the
                trail, or where others can write.
        """
        heads = dict(expected_heads or {})
        wanted = Wanted(
            scope,
            heads,
            policy,
            known_checkpoints or {},
            published,
            has_state=state is not None,
            full=full,
            full_every=full_every,
            skip_encrypted=skip_encrypted,
            processes=processes,
            has_keys=verify_keys is not None,
        )
        wanted.require_consistent()
        logs = await anyio.to_thread.run_sync(self.logs)
        if expected_head is not None:
            if len(logs) > 1 or heads:
                raise InvalidQuery("expected_head", "belongs to one log; name it in expected_heads")
            heads[logs[0].name] = Position(*expected_head)
        kept: KeptState | None = None
        if state is not None:
            kept = KeptState(
                state, logs, base_dir=self.base_dir, service=self.service, instance=self.instance, host=self.host
            )
        report = await verify_logs(logs, wanted, kept, progress)
        return report if verify_keys is None else await add_key_findings(report, logs, verify_keys)

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
        question = self._question(query, audit, accessed_by, on_damage, on_undecided)
        return wanted_records(question, use_index=use_index)

    def unfinished(
        self,
        query: AuditQuery = AuditQuery(),  # noqa: B008
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        on_damage: OnDamage = "raise",
        on_undecided: Callable[[int], None] | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Yield each `transaction.intended` without an outcome: a crash cut it off, or it is under way now.

        One whose outcome is `unknown` counts as unfinished. All logs of this reader are looked at, since another
        process may have recorded the outcome. It takes two readings of them, and memory for what is unfinished and
        what was under way at one time. `audit_async.integrations.sqlalchemy.resolve_unfinished` asks the database.

        Args:
            query: Which of them are wanted, by anything but types; all of them by default.
            audit: As for `query`.
            accessed_by: As for `query`.
            use_index: As for `query`.
            on_damage: As for `query`.
            on_undecided: As for `query`.

        Raises:
            InvalidQuery: The query asks for types of events; or as for `query`.
            TrailUnreadable: As for `query`.
            LogCorrupted: As for `query`.
        """
        require_no_types(query)

        def ask(asked: AuditQuery) -> AsyncGenerator[Record, None]:
            question = self._question(asked, audit, accessed_by, on_damage, on_undecided)
            return wanted_records(question, use_index=use_index)

        def ask_all(asked: AuditQuery) -> AsyncGenerator[Record, None]:
            return wanted_records(self._question(asked, None, None, on_damage), use_index=use_index)

        return unfinished_intents(query, ask_all=ask_all, ask=ask)

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
        question = self._question(query, audit, accessed_by, on_damage)
        if self._key_store is None:
            raise InvalidQuery("key_store", "is missing: an AuditReader needs it to say what is about a person")
        return wanted_records(question, use_index=True, about=subject)

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
        question = self._question(query, audit, accessed_by, on_damage, on_undecided)
        wanted, counted = question.reading.wanted, dict[str, int]()
        try:
            logs = await question.begin()
            likely = await likely_lines(logs, query, wanted, use_index=use_index)
            counts = count_wanted(logs, query, wanted, question.damage, use_index=use_index, likely=likely)
            async with aclosing(in_pieces(counts)) as pieces:
                async for piece in pieces:
                    counted |= piece
            question.damage.require_searched()
            return counted
        finally:
            question.given = sum(counted.values())
            question.end(count=True)

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
        return index_logs(self.logs, again=again, processes=processes, progress=progress)

    def check_index(
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
        return compare_indexes(self.logs, processes=processes, progress=progress)

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
        question = self._question(query, audit, accessed_by, on_damage, on_undecided)
        reached = decode_cursor(cursor, query) if cursor is not None else None
        reading, damage = question.reading, question.damage
        try:
            logs = await question.begin()
            search = Search(logs, query, damage, reached=reached, use_index=use_index, wanted=reading.wanted)
            page = await only_one(page_of(search, query, query.limit or _PAGE_SIZE, reading.decode))
            damage.require_searched()
            question.given = len(page.records)
            return page
        finally:
            question.end()

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
        access = Access(audit, accessed_by, sealing=self._sealing)
        given = 0
        try:
            logs = await anyio.to_thread.run_sync(self.logs)
            if log is not None:
                names = ", ".join(one.name for one in logs)
                logs = [one for one in logs if one.name == log]
                if not logs:
                    raise InvalidQuery("log", f"there is no such log here; there is {names}")
            decode = SealedReading(AuditQuery(), self._key_store).decode
            placed = await only_one(look_up(logs, seq=seq, audit_id=audit_id, decode=decode))
            given = 1
            return placed
        finally:
            asked = {"seq": seq, "audit_id": audit_id, "log": log}
            access.record_as({name: value for name, value in asked.items() if value is not None}, given)

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
        access = Access(audit, accessed_by, sealing=self._sealing, may_be_unnamed=True)
        question = Question(query, self.logs, access, self._key_store, on_damage=on_damage)
        reached = decode_cursor(after, query) if after is not None else {}
        return new_records(question, reached, self.logs, from_now=from_now and after is None, last=last)

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
        return wanted_batches(self._question(query, audit, accessed_by, on_damage), use_index=use_index)

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
        selection = _selection(evidence, disclose, published)
        question = self._question(query, audit, accessed_by, "raise")
        if (unseal or disclose) and audit is None:
            raise InvalidQuery("audit", "is missing: what leaves the trail in the clear has to be recorded")
        question.given = None

        def record_unsealed(made: ExportReport) -> None:
            if audit is not None and accessed_by is not None:
                receipt = audit.record_export(
                    accessed_by, format=format, records=made.records, sha256=made.sha256, unsealed=made.unsealed
                )
                anyio.from_thread.run(receipt.durable)

        try:
            report = await export(
                await question.begin(),
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
            question.given = report.records
            return report
        finally:
            question.end(export=format)

    async def write_partitions(
        self,
        directory: str | os.PathLike[str],
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> PartitionReport:
        """Bring a copy of the logs as Parquet files by service and day up to date, for DuckDB and its like.

        A segment is one file, `service=<service>/day=<date>/…parquet`: a sealed one is written once, that which is
        being written is replaced by each run, and one that retention has deleted is removed. What is sealed stays so.
        Needs the extra `parquet`. One run at a time for one directory; another one is refused.

        Args:
            directory: Where the files are; it is made if it is absent. Nothing in it is evidence.
            audit: As for `query`.
            accessed_by: As for `query`.
            progress: Called with the number of records so far.

        Returns:
            What was done; the files that were written are on stable storage.

        Raises:
            ExportFailed: pyarrow is missing, `directory` is a file, or another run brings it up to date.
            InvalidQuery: As for `query`.
            TrailUnreadable: As for `query`.
            LogCorrupted: A record is damaged; files of other segments are as they were.
            OSError: A file can't be read or written.
        """
        question = self._question(AuditQuery(), audit, accessed_by, "raise")
        question.given = None
        try:
            report = await write_partitions(await question.begin(), Path(directory), progress=progress)
            question.given = report.records
            return report
        finally:
            question.end(export="parquet")


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
