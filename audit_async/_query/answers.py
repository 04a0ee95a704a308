"""Turning what is found into what is returned: records, and pages of them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from audit_async._query.audit_query import AuditQuery
from audit_async._query.cursor import encode_cursor
from audit_async._query.opened_records import Decode, as_recorded
from audit_async._query.search import Search
from audit_async._query.segment_scan import Found
from audit_async.events import Record
from audit_async.events.plain_data import PlainData


class Page(PlainData, frozen=True, kw_only=True):
    """Some records of a query, and where it goes on."""

    records: tuple[Record, ...]
    cursor: str | None  #: for the next page; None if nothing more was there
    resume: str  #: where this page ends, also if nothing more was there: for a later page, or for `follow`

    def __repr__(self) -> str:
        more = "more" if self.cursor is not None else "the last ones"
        return f"<Page {len(self.records)} records, {more}>"

    def to_dict(self) -> dict[str, object]:
        """Return the page as plain data: `records` as `Record.to_dict` has them, `cursor` and `resume`."""
        records = [record.to_dict() for record in self.records]
        return {"records": records, "cursor": self.cursor, "resume": self.resume}


def records_of(
    found: Generator[Found | None, None, None], limit: int | None, decode: Decode = as_recorded
) -> Generator[Record | None, None, None]:
    """Decode what is found, up to a limit; None stays None."""
    given = 0
    with closing(found):
        for one in found:
            if one is None:
                yield None
                continue
            yield decode(one)
            given += 1
            if given == limit:
                return


def page_of(
    search: Search, query: AuditQuery, size: int, decode: Decode = as_recorded
) -> Generator[Page | None, None, None]:
    """Yield one page at the end, None before."""
    records: list[Record] = []
    reached: dict[str, int] | None = None
    with closing(search.run()) as found:
        for one in found:
            if one is None:
                yield None
                continue
            if len(records) == size:
                break  # there is more; it is not given, so it is not what was reached
            records.append(decode(one))
            if len(records) == size:
                reached = search.reached
        else:
            resume = encode_cursor(query, reached if reached is not None else search.reached)
            yield Page(records=tuple(records), cursor=None, resume=resume)
            return
    assert reached is not None  # noqa: S101 - the page is full
    cursor = encode_cursor(query, reached)
    yield Page(records=tuple(records), cursor=cursor, resume=cursor)
