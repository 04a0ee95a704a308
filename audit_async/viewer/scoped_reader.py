"""A reader that is narrowed to what one person may see, and records what it was asked for before it answers.

Pages have no other way to the trail, so none of them can forget either.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, TypeVar

import anyio
import anyio.to_thread
import msgspec

from audit_async._export.record_export import Evidence, ExportFailed, ExportFormat, ExportReport
from audit_async._layout.age_files import Identities
from audit_async._query.answers import Page, page_of
from audit_async._query.audit_query import AuditQuery
from audit_async._query.cursor import decode_cursor, encode_cursor
from audit_async._query.lookup import PlacedRecord, RecordNotFound, look_up
from audit_async._query.matching import Filter
from audit_async._query.recorded_members import as_text
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage, Found
from audit_async._sanitize.readable_text import count_of
from audit_async._trail.log_files import Log, TrailUnreadable, find_logs
from audit_async._trail.off_loop import only_one
from audit_async.errors import LogCorrupted
from audit_async.events import Record
from audit_async.privacy.opening_sealed import OpenedRecord
from audit_async.reader.answering import Access, Question
from audit_async.reader.audit_reader import AuditReader
from audit_async.viewer.people import NotPermitted, Person
from audit_async.viewer.request_limits import Bounds, SearchTookTooLong
from audit_async.viewer.view_log import VIEW_SERVICE, ViewLog, recorded_or_refused

if TYPE_CHECKING:
    from audit_async.privacy.key_store import KeyStore  # needs an extra

__all__ = ["Asked", "Export", "NoLogToSee", "ScopedReader", "SeenRecord", "Trail"]

_T = TypeVar("_T")

#: Exports to a file or a stream.
Export = Callable[[Path | BinaryIO], Awaitable[None]]

_PAGE_RECORDS: Final = 50


@dataclass(frozen=True, kw_only=True)
class Trail:
    """What all readers of one viewer share."""

    base_dir: Path
    view_log: ViewLog
    bounds: Bounds
    tenant_label: str  #: the member of a record's context that names the tenant
    key_store: KeyStore | None = None
    identities: Identities | None = None


class Narrowed(NamedTuple):
    """Which logs are asked, of those that may be seen."""

    service: str | None = None
    log: str | None = None
    host: str | None = None
    instance: str | None = None

    def wants(self, log: Log) -> bool:
        """Return whether a log is asked."""
        return (
            self.service in (None, log.service_id)
            and self.log in (None, log.name)
            and (self.instance is None or log.is_instance(self.instance))
            and (self.host is None or (log.collected is not None and log.collected.host == self.host))
        )


class Asked(NamedTuple):
    """A question as it may be put: what a computation over many records is handed."""

    logs: Sequence[Log]
    query: AuditQuery  #: with the tenant in it
    wanted: Filter  #: decides by what is sealed, too
    damage: Damage  #: takes what is passed over
    others_wait: Callable[[], bool]  #: whether somebody waits until a search ends; from any thread


class NoLogToSee(TrailUnreadable):
    """No log that the person may see was asked for."""


class SeenRecord(NamedTuple):
    """One record with its place."""

    placed: PlacedRecord
    opened: OpenedRecord  #: what it says as plain data, a `ClosedText` in place of what stays sealed


class ScopedReader:
    """The trail as one person may see it.

    Each call checks what may be seen, holds the bounds on searches, and returns after `audit.log_accessed` is durable
    in the viewer's own log: who, what was asked, and how many records are shown.

    Raises, besides what `AuditReader` raises:
        AccessNotRecorded: It can't be recorded, so nothing is shown.
        NotPermitted: Another tenant is asked for.
        SearchTookTooLong, TooManySearches: A bound was reached.
    """

    def __init__(
        self, trail: Trail, person: Person, remarks: list[str] | None = None, narrowed: Narrowed | None = None
    ) -> None:
        self.trail: Final = trail
        self.person: Final = person
        self.remarks: Final = remarks if remarks is not None else []  # what is to be said of the answers
        self._narrowed: Final = narrowed if narrowed is not None else Narrowed()

    def __repr__(self) -> str:
        return f"<ScopedReader of {self.person.role} {self.person.name!a}>"

    def only(
        self,
        *,
        service: str | None = None,
        log: str | None = None,
        host: str | None = None,
        instance: str | None = None,
    ) -> ScopedReader:
        """Return a reader of fewer logs; empty texts leave nothing out."""
        narrowed = Narrowed(service or None, log or None, host or None, instance or None)
        return ScopedReader(self.trail, self.person, self.remarks, narrowed)

    # What may be seen.

    def may_see(self, log: Log) -> bool:
        """Return whether the person may see records of a log, or, a tenant, those of its records that are theirs."""
        if log.service_id == VIEW_SERVICE:
            return self.person.may("see_access_log")
        return self.person.services is None or log.service_id in self.person.services

    def logs(self) -> list[Log]:
        """Return the logs that the person may know of; blocks for some system calls.

        Raises:
            NotPermitted: The person sees records, and not the logs that they are in.
            NoLogToSee: There is none.
        """
        self.person.require("see_logs")
        return self._visible(with_view_log=True)

    def _visible(self, *, with_view_log: bool) -> list[Log]:
        found = find_logs(self.trail.base_dir)
        logs = [log for log in found if self.may_see(log) and self._narrowed.wants(log)]
        if not with_view_log:
            logs = [log for log in logs if log.service_id != VIEW_SERVICE]
        if not logs and self.person.tenant is None:  # to a tenant another's log is as one that does not exist: empty
            raise NoLogToSee("there is no log here that you may see and that was asked for")
        identities = self.trail.identities
        return [replace(log, identities=identities) for log in logs] if identities is not None else logs

    def _searched(self) -> list[Log]:
        """Return the logs that a search goes through.

        The viewer's own log only if it is named: each search adds to it, so it would fill every page.

        Raises:
            NotPermitted: The person sees no records, whichever route it was that asked.
        """
        self.person.require("see_records")
        return self._visible(with_view_log=self._names_view_log())

    def _names_view_log(self) -> bool:
        return self._narrowed.service == VIEW_SERVICE or (self._narrowed.log or "").startswith(f"{VIEW_SERVICE}/")

    def narrowed_query(self, query: AuditQuery) -> AuditQuery:
        """Return a query that asks for nothing that the person may not see.

        Raises:
            NotPermitted: It asks for another tenant.
        """
        if self.person.tenant is None:
            return query
        label = self.trail.tenant_label
        if query.context.get(label, self.person.tenant) != self.person.tenant:
            raise NotPermitted("only the records of your own tenant can be seen")
        return msgspec.structs.replace(query, context={**query.context, label: self.person.tenant})

    def is_shown(self, record: Record) -> bool:
        """Return whether a record of a log that may be seen may be seen itself; a tenant's without a label may not."""
        # As a search reads it: the tenant 7 may be recorded as a number.
        return self.person.tenant is None or as_text(record.context.get(self.trail.tenant_label)) == self.person.tenant

    # Asking.

    async def page(self, query: AuditQuery, cursor: str | None = None) -> Page:
        """Return a page of the records that are wanted, as `AuditReader.page` does; damaged lines become a note."""
        query = self.narrowed_query(query)
        size = min(query.limit or _PAGE_RECORDS, self.trail.bounds.limits.page_records)
        query = msgspec.structs.replace(query, limit=size)
        reached = decode_cursor(cursor, query) if cursor is not None else None

        def search(asked: Asked, question: Question) -> Generator[Page | None, None, None]:
            called = {self._in_cursor(log): log.name for log in asked.logs}
            known = None
            if reached is not None:
                known = {called[name]: seq for name, seq in reached.items() if name in called}
            found = Search(asked.logs, query, asked.damage, reached=known, wanted=asked.wanted)
            for page in page_of(found, query, size, question.reading.decode):
                yield page if page is None else _with_names(page, query, {own: name for name, own in called.items()})

        return await self._answer(query, search, lambda page: len(page.records))

    def _in_cursor(self, log: Log) -> str:
        """Return what a cursor calls a log: to a tenant nothing that can be read, since others' logs are in it too."""
        if self.person.tenant is None:
            return log.name
        return sha256(f"log in a cursor {log.log_id} {log.name}".encode()).hexdigest()[:16]

    async def record(
        self,
        seq: int | None = None,
        *,
        audit_id: str | None = None,
        log: str | None = None,
        proof: bool = False,
        place_only: bool = False,
    ) -> SeenRecord:
        """Return one record with its place, as `AuditReader.record` does; what may not be seen is not found.

        Nor is, by a tenant, what can't be read: it may be another's, and its log one that a tenant knows nothing of.

        Args:
            seq: Its place in `log`; or else
            audit_id: Its own id.
            log: The log's name.
            proof: Whether it leaves with its proof, which is recorded.
            place_only: Whether nothing is shown of it but where it is, so that none is recorded as seen.
        """
        reader = self.only(log=log) if log is not None else self

        def find(asked: Asked, question: Question) -> Generator[SeenRecord | None, None, None]:
            opened: list[OpenedRecord] = []

            def decode(found: Found) -> Record:
                opened.append(question.reading.opened(found))
                return question.reading.decode(found)

            for placed in look_up(asked.logs, seq=seq, audit_id=audit_id, decode=decode):
                if placed is not None and not reader.is_shown(placed.record):
                    raise RecordNotFound("there is no such record that you may see")
                yield SeenRecord(placed, opened[-1]) if placed is not None else None

        named = {"seq": seq, "audit_id": audit_id, "proof": proof or None}
        named_only = {name: value for name, value in named.items() if value is not None}
        try:
            return await reader._answer(AuditQuery(), find, lambda _: 0 if place_only else 1, **named_only)  # noqa: SLF001 - its own class
        except (RecordNotFound, TrailUnreadable, LogCorrupted) as error:
            if self.person.tenant is None and not isinstance(error, RecordNotFound):
                raise
            raise RecordNotFound("there is no such record that you may see") from None

    async def blocking(
        self, function: Callable[[Asked], Generator[_T | None, None, None]], query: AuditQuery, **how: object
    ) -> _T:
        """Return the one thing that a generator function computes from many records, in worker threads.

        It yields None often, so that it can be ended, and its result last. `how` is recorded with the question.
        """
        return await self._answer(self.narrowed_query(query), lambda asked, _: function(asked), lambda _: None, **how)

    async def _answer(
        self,
        query: AuditQuery,
        search: Callable[[Asked, Question], Generator[_T | None, None, None]],
        count: Callable[[_T], int | None],
        **how: object,
    ) -> _T:
        """Put a question within the bounds; its record is durable when this returns. If it fails, none were given."""
        limits = self.trail.bounds.limits
        async with (
            self.trail.bounds.searches.one(self.person.slot),
            self.trail.view_log.access(self.person.name) as access,
        ):
            question = self._question(query, access)
            try:
                with anyio.fail_after(limits.search_s):
                    logs = await question.begin()
                    asked = Asked(logs, query, question.reading.wanted, question.damage, self._others_wait)
                    answer = await only_one(search(asked, question))
                question.given = count(answer)
            except TimeoutError:
                raise SearchTookTooLong(
                    f"the search was ended after {limits.search_s:g} s; ask for a shorter time, or have the trail "
                    "indexed (audit-async index)"
                ) from None
            finally:
                with recorded_or_refused():
                    question.end(**self._described(), **how)
            self._remark(question)
        return answer

    def _others_wait(self) -> bool:
        return self.trail.bounds.searches.is_awaited

    def _question(self, query: AuditQuery, access: Access) -> Question:
        return Question(
            query, self._searched, access, self.trail.key_store, on_damage="skip", on_undecided=self._remark_undecided
        )

    def _described(self) -> dict[str, object]:
        """Return what is recorded with every question besides the query itself."""
        asked = {name: value for name, value in self._narrowed._asdict().items() if value is not None}
        return {**asked, "viewer": self.person.role, **({"embed": True} if self.person.is_embed else {})}

    def _remark_undecided(self, records: int) -> None:
        self.remarks.append(f"Not searched: {_undecided(records)}.")

    def _remark(self, question: Question) -> None:
        damage = question.damage
        if damage.skipped:
            more = (
                f"The first: {damage.first}"
                if self.person.tenant is None
                else "Ask whoever keeps the trail to verify it"
            )
            self.remarks.append(f"Passed over: {count_of(damage.skipped, 'damaged place')}. {more}.")
        if damage.not_searched is not None:
            detail = damage.not_searched if self.person.tenant is None else "A part of the trail could not be searched"
            self.remarks.append(f"{detail}.")

    # Streams.

    async def record_access(self, query: AuditQuery, **how: bool | str) -> None:
        """Record what is about to be shown; durable when this returns.

        Raises:
            AccessNotRecorded: It can't be recorded.
        """
        await self._record_access(self._searched, query, **how)

    async def record_verification(self) -> None:
        """Record that the logs are about to be verified, which shows no record; as `record_access`."""
        await self._record_access(self.logs, AuditQuery(), verify=True)

    async def _record_access(self, logs: Callable[[], list[Log]], query: AuditQuery, **how: bool | str) -> None:
        async with self.trail.view_log.access(self.person.name) as access:
            await access.look_at(await anyio.to_thread.run_sync(logs))
            with recorded_or_refused():
                access.record(query, None, about=None, **(self._described() | how))

    async def follow(
        self, *, query: AuditQuery | None = None, last: int = 0, after: str | None = None
    ) -> AsyncGenerator[Record, None]:
        """Yield new records as they are written, as `AuditReader.follow` does. Close it (`aclosing`).

        That they are watched is durable before the first comes; how many there were is recorded at the end.
        """
        query = self.narrowed_query(query if query is not None else AuditQuery())
        async with self.trail.bounds.streams.one(self.person.slot):
            await self.record_access(query, follow=True)
            reader, audit = _SeenLogs(self), await self.trail.view_log.opened()
            following = reader.follow(
                query=query, last=last, after=after, audit=audit, accessed_by=self.person.name, on_damage="skip"
            )
            async with aclosing(following) as records:
                async for record in records:
                    if self.is_shown(record):
                        yield record

    # Downloads.

    def directory_of(self, log: str) -> Path:
        """Return where a log is; blocks. Raises `NoLogToSee` if it is none that the person may see."""
        logs = self.only(log=log)._searched()  # noqa: SLF001 - its own class
        if not logs:
            raise NoLogToSee("there is no such log that you may see")
        return logs[0].directory

    @asynccontextmanager
    async def exporting(self, format_name: ExportFormat, query: AuditQuery) -> AsyncGenerator[Export, None]:
        """Yield what exports a query to a file or a stream.

        That it is asked for is durable before, and what has left, `audit.exported`, before the block is over. A bundle
        for a tenant is selective evidence, since the chain around a record is also others'.

        Raises:
            ExportFailed: Records may be missing, since what was asked for is sealed in them. A file can't say that of
                itself, as a page does.
        """
        self.person.require("download")
        query, limits = self.narrowed_query(query), self.trail.bounds.limits
        evidence: Evidence = "chain" if self.person.tenant is None else "selective"
        made: list[ExportReport] = []

        async def export(target: Path | BinaryIO) -> None:
            reader, audit = _SeenLogs(self), await self.trail.view_log.opened()
            kind = evidence if format_name == "bundle" else "chain"
            try:
                with anyio.fail_after(limits.download_s):
                    report = await reader.export(
                        target, format_name, query, audit=audit, accessed_by=self.person.name, evidence=kind
                    )
            except TimeoutError:
                raise SearchTookTooLong(f"the download was ended after {limits.download_s:g} s; ask for less") from None
            if report.undecided:
                raise ExportFailed(f"{_undecided(report.undecided)}, and may be missing from the file")
            made.append(report)

        async with self.trail.bounds.downloads.one(self.person.slot):
            await self.record_access(query, export=format_name)
            yield export
            for report in made:
                await self.trail.view_log.record_export(self.person.name, report)


def _undecided(records: int) -> str:
    return f"{count_of(records, 'record')} in which what was asked for is sealed, and has no key here"


def _with_names(page: Page, query: AuditQuery, names: Mapping[str, str]) -> Page:
    """Return a page whose cursor calls logs by other names."""
    if page.cursor is None:
        return page
    reached = {names[name]: seq for name, seq in decode_cursor(page.cursor, query).items()}
    return msgspec.structs.replace(page, cursor=encode_cursor(query, reached))


class _SeenLogs(AuditReader):
    """The logs that a person sees, for what `AuditReader` has already."""

    def __init__(self, scoped: ScopedReader) -> None:
        trail = scoped.trail
        super().__init__(trail.base_dir, key_store=trail.key_store, identities=trail.identities)
        self._sealing = trail.view_log.sealing
        self._scoped: Final = scoped

    def logs(self) -> list[Log]:
        return self._scoped._searched()  # noqa: SLF001 - its other half
