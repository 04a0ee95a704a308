"""The front door for reading: `AuditReader`, which verifies, queries, follows and exports trails.

    reader = AuditReader("./audit")
    async for record in reader.query(AuditQuery(event_types=("auth.*",), actor="mallory")):
        print(record.timestamp, record.event)

It needs no lock, changes nothing but the index (a cache), and works beside running writers. What blocks (files,
hashing, SQLite) runs in worker threads and processes, never on the event loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import aiofiles.os
import anyio
import anyio.to_thread
import msgspec

from audit_async._export.record_export import ExportFailed, ExportFormat, ExportReport, export
from audit_async._query.answers import Page, page_of, records_of
from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async._query.cursor import decode_cursor
from audit_async._query.follow import Follower
from audit_async._query.lookup import PlacedRecord, RecordNotFound, look_up
from audit_async._query.matching import Filter
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log, TrailUnreadable, find_logs
from audit_async._trail.off_loop import in_pieces, only_one
from audit_async._verify.findings import Finding, Note
from audit_async._verify.verification import verify_trail
from audit_async._verify.verify_report import LogReport, Progress, VerifyReport
from audit_async._verify.verify_scope import Everything, LastRecords, Scope, SeqRange, TimeRange
from audit_async.errors import LogCorrupted
from audit_async.events.recorded import NotARecord, Record
from audit_async.logger import AuditLogger
from audit_async.status import Position

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy  # needs an extra

__all__ = [
    "AuditQuery",
    "AuditReader",
    "Everything",
    "ExportFailed",
    "ExportFormat",
    "ExportReport",
    "Finding",
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
_POLL_S: Final = 0.1
_POLLS_A_LOOK_FOR_LOGS: Final = 10

_log = logging.getLogger("audit_async")


class AuditReader:
    """Reads the logs at one place: a base directory, the directory of a service, or that of one log."""

    def __init__(
        self, base_dir: str | os.PathLike[str], *, service: str | None = None, instance: str | None = None
    ) -> None:
        """Nothing is read yet. `service` and `instance` leave all others out."""
        self.base_dir: Final = Path(base_dir)
        self.service: Final = service
        self.instance: Final = instance

    def logs(self) -> list[Log]:
        """Return the logs there are now, sorted by name; blocks for some system calls.

        Raises `TrailUnreadable` where there is none, or where a directory may not be read.
        """
        return find_logs(self.base_dir, service=self.service, instance=self.instance)

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
        processes: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> VerifyReport:
        """Check that nothing was changed, removed or inserted: in all that is here, or in what `scope` names.

        `expected_head` is a position that was kept elsewhere (`Receipt.durable` returns it), for a reader of one log;
        `expected_heads` has them by the logs' names. Without one, nobody can see that the newest records were cut
        off or that the whole chain was written anew; the report says so. `processes` share the work: None for one a
        core, where there is enough to do. `progress` is called on the event loop.

        With a `policy` the records must also lead to the checkpoints that were signed: the one that each log
        publishes (in `tlog/` of its directory, or `published`, a directory or URL, for one log), those that the chain
        records, and `known_checkpoints`, signed notes that were kept elsewhere, by the words that say where. What was
        cut off or written anew up to the last checkpoint is then found. Needs the extra `tlog`.

        What is wrong with the trail is in the report; `TrailUnreadable` is raised where it can't be read at all,
        `InvalidQuery` and `ConfigError` for wrong arguments.
        """
        logs = await anyio.to_thread.run_sync(self.logs)
        heads = dict(expected_heads or {})
        if expected_head is not None:
            if len(logs) > 1 or heads:
                raise InvalidQuery("expected_head", "belongs to one log; name it in expected_heads")
            heads[logs[0].name] = Position(*expected_head)
        if policy is None:
            if known_checkpoints or published is not None:
                raise InvalidQuery("policy", "is missing; say whose signature counts")
            return await verify_trail(logs, scope, expected_heads=heads, processes=processes, progress=progress)
        from audit_async._verify.signed_trail import verify_signed_trail  # noqa: PLC0415 - needs the extra tlog

        return await verify_signed_trail(
            logs,
            policy,
            scope,
            known_checkpoints=known_checkpoints,
            published=published,
            expected_heads=heads,
            processes=processes,
            progress=progress,
        )

    # Asking.

    def query(
        self,
        query: AuditQuery = AuditQuery(),  # noqa: B008 - frozen, and it asks for everything
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        on_damage: OnDamage = "raise",
    ) -> AsyncGenerator[Record, None]:
        """Give the records that are wanted, one by one, in constant memory.

        They come in the order of their logs' chains, several logs merged by time; `newest_first` turns all of it
        round. Each is checked: it hashes to what it claims. That nothing is missing is for `verify` to say. What is
        written while this runs may be found or not.

        With `audit`, a running logger, an `audit.log_accessed` is emitted at the end, also where it ends early: by
        whom, what was asked, and how many records were given. To end a query early and at once, close it:

            async with aclosing(reader.query(query)) as records: ...

        `use_index` keeps an SQLite file beside each log, or in the user's cache, that makes the next query faster;
        what is found is the same with it and without, unless somebody tampered with that file.

        Raises `InvalidQuery`, `TrailUnreadable`, and for damage `LogCorrupted`, unless `on_damage` is `"skip"`.
        """
        _require_asker(audit, accessed_by)
        _require_on_damage(on_damage)
        return self._query(query, audit, accessed_by, use_index=use_index, on_damage=on_damage)

    async def _query(
        self,
        query: AuditQuery,
        audit: AuditLogger | None,
        accessed_by: str | None,
        *,
        use_index: bool,
        on_damage: OnDamage,
    ) -> AsyncGenerator[Record, None]:
        damage = Damage(skip=on_damage == "skip")
        given = 0
        try:
            logs = await self._logs_for(query)
            found = records_of(Search(logs, query, damage, use_index=use_index).run(), query.limit)
            async with aclosing(in_pieces(found)) as pieces:
                async for piece in pieces:
                    for record in piece:
                        given += 1
                        yield record
        finally:
            _warn_of(damage)
            _record_access(audit, accessed_by, query, given)

    async def page(
        self,
        query: AuditQuery = AuditQuery(),  # noqa: B008
        cursor: str | None = None,
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        on_damage: OnDamage = "raise",
    ) -> Page:
        """Return a page of what `query` would give: `query.limit` records, or 100; the one at `cursor`, or the first.

        A cursor stays valid while the trail grows, rotates and is archived. From page to page no record comes twice,
        and with `newest_first` none that is newer than the first page. Each page is recorded with `audit`.

        Raises as `query` does, and `InvalidQuery` for a cursor of another query.
        """
        _require_asker(audit, accessed_by)
        _require_on_damage(on_damage)
        reached = decode_cursor(cursor, query) if cursor is not None else None
        damage = Damage(skip=on_damage == "skip")
        given = 0
        try:
            logs = await self._logs_for(query)
            search = Search(logs, query, damage, reached=reached, use_index=use_index)
            page = await only_one(page_of(search, query, query.limit or _PAGE_SIZE))
            given = len(page.records)
            return page
        finally:
            _warn_of(damage)
            _record_access(audit, accessed_by, query, given)

    async def record(
        self,
        seq: int | None = None,
        *,
        audit_id: str | None = None,
        log: str | None = None,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
    ) -> PlacedRecord:
        """Return one record, by its sequence number in its log or by its `audit_id`, and the hashes beside it.

        `log` is the log's name, `orders/00`; a sequence number needs it where there are several logs.

        Raises `RecordNotFound`, `InvalidQuery`, `TrailUnreadable`, and `LogCorrupted` where its line is damaged.
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
            placed = await only_one(look_up(logs, seq=seq, audit_id=audit_id))
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
        """Give new records as they come, without end (but for `query.limit`), about 0.1 s after they were written.

        `from_now` begins behind the last record that is there, or with the `last` so many that are wanted; otherwise
        with the first. `after` is the `resume` or `cursor` of a page of the same query, and goes on there. A log that
        is made meanwhile is followed from its beginning. Across rotation and archiving nothing is left out, and nothing
        comes twice.

        What it sees are whole lines that the writer has handed to the operating system: never half a record, but one
        that a power cut may still take back, since from outside nobody can see a sync. With `audit`, the running
        logger of one of the logs, the records of that log come only when they are durable; with `accessed_by` an
        `audit.log_accessed` is emitted to it at the end.

        Raises as `query` does; `InvalidQuery` for `newest_first`, too.
        """
        query = query if query is not None else AuditQuery()
        if last < 0 or (last and (not from_now or after is not None or query.after_seq is not None)):
            raise InvalidQuery("last", "is a number of records, and says where to begin: give nothing else that does")
        if query.newest_first:
            raise InvalidQuery("newest_first", "what is to come can't be given from its end")
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
        follower = Follower(Filter(query), damage, _durable_in(audit))
        has_news = aiofiles.os.wrap(follower.has_news)
        given = polls = 0
        try:
            logs = await self._logs_for(query)
            if query.after_seq is not None:
                reached = {logs[0].name: max(query.after_seq, reached.get(logs[0].name, -1))}
            await anyio.to_thread.run_sync(lambda: follower.begin(logs, from_now=from_now, reached=reached))
            if last:
                before = msgspec.structs.replace(query, newest_first=True, limit=None)
                found = Search(logs, before, damage, reached=follower.next_seqs, use_index=False).run()
                async with aclosing(in_pieces(records_of(found, last))) as pieces:
                    newest = [record async for piece in pieces for record in piece]
                for record in newest[::-1][: query.limit]:
                    given += 1
                    yield record
            while query.limit is None or given < query.limit:
                if await has_news():
                    left = query.limit - given if query.limit is not None else None
                    async with aclosing(in_pieces(records_of(follower.poll(), left))) as pieces:
                        async for piece in pieces:
                            for record in piece:
                                given += 1
                                yield record
                    if given == query.limit:
                        return
                await anyio.sleep(_POLL_S)
                polls += 1
                if polls % _POLLS_A_LOOK_FOR_LOGS == 0:
                    await anyio.to_thread.run_sync(self._follow_new_logs, follower)
        finally:
            follower.close()
            _warn_of(damage)
            if accessed_by is not None:
                _record_access(audit, accessed_by, query, given)

    def _follow_new_logs(self, follower: Follower) -> None:
        try:
            follower.add(self.logs())
        except TrailUnreadable:
            return  # gone for the moment; what is open is still read

    # Handing over.

    async def export(
        self,
        target: str | os.PathLike[str],
        format: ExportFormat = "ndjson",  # noqa: A002 - what it is called everywhere
        query: AuditQuery = AuditQuery(),  # noqa: B008
        *,
        audit: AuditLogger | None = None,
        accessed_by: str | None = None,
        use_index: bool = True,
        overwrite: bool = False,
        raw_cells: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> ExportReport:
        """Write the records that `query` wants to a file; see `audit_async._export.record_export.export`."""
        _require_asker(audit, accessed_by)
        given: int | None = None
        try:
            logs = await self._logs_for(query)
            report = await export(
                logs,
                query,
                Path(target),
                format,
                overwrite=overwrite,
                raw_cells=raw_cells,
                use_index=use_index,
                progress=progress,
            )
            given = report.records
            return report
        finally:
            _record_access(audit, accessed_by, query, given, export=format)

    async def _logs_for(self, query: AuditQuery) -> list[Log]:
        logs = await anyio.to_thread.run_sync(self.logs)
        if query.after_seq is not None and len(logs) > 1:
            raise InvalidQuery(
                "after_seq",
                f"each of the {len(logs)} logs here counts for itself; name one by its service and instance, or go on "
                "from a page's cursor",
            )
        return logs


def _durable_in(audit: AuditLogger | None) -> Callable[[Log], int | None]:
    """Return what tells how far a log is durable: the logger, of the log that it writes."""

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


def _record_access(
    audit: AuditLogger | None, accessed_by: str | None, query: AuditQuery, given: int | None, **how: str
) -> None:
    if audit is not None and accessed_by is not None:
        audit.record_access(accessed_by, query.asked() | how, given)


def _warn_of(damage: Damage) -> None:
    if damage.skipped:
        _log.warning("a query passed over damage, %d times in all; the first: %s", damage.skipped, damage.first)
