"""Answers as streams: the records that are wanted, new ones as they come, and record batches; in constant memory."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import aiofiles.os
import anyio
import anyio.to_thread
import msgspec

from audit_async._export.record_blocks import blocks_of
from audit_async._export.record_export import NEEDS_PYARROW, ExportFailed
from audit_async._query.answers import records_of
from audit_async._query.follow import Follower
from audit_async._query.likely_lines import likely_lines
from audit_async._query.search import Search
from audit_async._query.segment_scan import Found
from audit_async._trail.log_files import Log, TrailUnreadable
from audit_async._trail.off_loop import in_pieces
from audit_async.events import Record
from audit_async.logger import AuditLogger
from audit_async.reader.answering import Question

if TYPE_CHECKING:
    import pyarrow as pa  # needs an extra

    from audit_async.privacy.subjects import Subject

_POLL_S: Final = 0.1
_POLLS_A_LOOK_FOR_LOGS: Final = 10


async def wanted_records(
    question: Question, *, use_index: bool, about: Subject | None = None
) -> AsyncGenerator[Record, None]:
    """Yield the records that are wanted, as they are found; with `about` only those about this person."""
    query = question.query
    try:
        logs = await question.begin()
        if about is not None:
            await question.ask_about(about)
        wanted = question.reading.wanted
        likely = await likely_lines(logs, query, wanted, use_index=use_index)
        search = Search(logs, query, question.damage, use_index=use_index, wanted=wanted, likely=likely)
        async with aclosing(_decoded(question, search.run(), query.limit)) as records:
            async for record in records:
                yield record
        question.damage.require_searched()
    finally:
        question.end()


async def new_records(
    question: Question,
    reached: Mapping[str, int],
    reload_logs: Callable[[], list[Log]],
    *,
    from_now: bool,
    last: int,
) -> AsyncGenerator[Record, None]:
    """Yield records as they are written, after `last` older ones; `reload_logs` finds logs that were made meanwhile."""
    query, wanted = question.query, question.reading.wanted
    follower = Follower(wanted, question.damage, _durable_in(question.access.audit))
    has_news = aiofiles.os.wrap(follower.has_news)
    polls = given = 0
    try:
        logs = await question.begin()
        if query.after_seq is not None:
            reached = {logs[0].name: max(query.after_seq, reached.get(logs[0].name, -1))}
        await anyio.to_thread.run_sync(lambda: follower.begin(logs, from_now=from_now, reached=reached))
        if last:
            before = msgspec.structs.replace(query, newest_first=True, limit=None)
            search = Search(logs, before, question.damage, reached=follower.next_seqs, wanted=wanted)
            async with aclosing(in_pieces(records_of(search.run(), last, question.reading.decode))) as pieces:
                newest = [record async for piece in pieces for record in piece]
            for record in newest[::-1][: query.limit]:
                given = question.given = given + 1
                yield record
        while query.limit is None or given < query.limit:
            looked_s = anyio.current_time()
            is_there = await has_news()
            took_s = anyio.current_time() - looked_s
            if is_there:
                left = query.limit - given if query.limit is not None else None
                async with aclosing(_decoded(question, follower.poll(), left)) as records:
                    async for record in records:
                        given += 1
                        yield record
                if given == query.limit:
                    return
            # Of thousands of logs a look takes a while; no more than a fifth of the time is spent looking.
            await anyio.sleep(max(_POLL_S, 4 * took_s))
            polls += 1
            if polls % _POLLS_A_LOOK_FOR_LOGS == 0:
                await anyio.to_thread.run_sync(_follow_new_logs, follower, reload_logs)
    finally:
        follower.close()
        question.end()


async def wanted_batches(question: Question, *, use_index: bool) -> AsyncGenerator[pa.RecordBatch, None]:
    """Yield the records that are wanted as record batches of Apache Arrow."""
    try:
        from audit_async._export.arrow_batches import batches_of  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise ExportFailed(NEEDS_PYARROW) from error
    try:
        logs = await question.begin()
        wanted = question.reading.wanted
        blocks = blocks_of(logs, question.query, question.damage, use_index=use_index, wanted=wanted)
        async with aclosing(in_pieces(batches_of(blocks))) as pieces:
            async for piece in pieces:
                for batch in piece:
                    question.given = (question.given or 0) + batch.num_rows
                    yield batch
    finally:
        question.end(export="arrow")


async def _decoded(
    question: Question, found: Generator[Found | None, None, None], limit: int | None
) -> AsyncGenerator[Record, None]:
    """Decode what is found in a worker thread, and count it as given."""
    async with aclosing(in_pieces(records_of(found, limit, question.reading.decode))) as pieces:
        async for piece in pieces:
            for record in piece:
                question.given = (question.given or 0) + 1
                yield record


def _follow_new_logs(follower: Follower, logs: Callable[[], list[Log]]) -> None:
    try:
        follower.add(logs())
    except TrailUnreadable:
        return  # gone for the moment; what is open is still read


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
