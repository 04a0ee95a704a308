"""What every engine promises, as tests: an engine's test class inherits them and says how its sinks are opened."""

from __future__ import annotations

import abc
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from audit_async.forwarding import Batch, Head, HeadMoved, LogIdentity, Sink, SinkRefused, SinkUnavailable
from audit_async.forwarding.sink import HearsHosts
from tests.forwarding.logs_to_ship import a_batch, a_log, batches


async def read(sink: Sink, log: LogIdentity, after: Head | None = None) -> list[Batch]:
    """Return what the sink has, each batch checked."""
    found = [batch async for batch in sink.read(log, after)]
    for batch in found:
        batch.check()
    return found


class SinkContract(abc.ABC):
    """The tests; `host` and `collector` open the same engine, each with the rights of that part."""

    @abc.abstractmethod
    async def host(self) -> AbstractAsyncContextManager[Sink]:
        """Open the engine as the host of `a_log()`."""

    @abc.abstractmethod
    async def collector(self) -> AbstractAsyncContextManager[Sink]:
        """Open the engine as its tenant's collector."""

    async def test_what_was_appended_is_read_byte_by_byte(self) -> None:
        """By its host and by the collector, from each head on, a large batch included."""
        log = a_log()
        sent = list(batches(9))
        sent.append(a_batch(sent[-1].head, 1, text="x" * 700_000))
        async with await self.host() as host, await self.collector() as collector:
            assert await host.head(log) is None
            assert await read(host, log) == []
            head = None
            for batch in sent:
                await host.append(log, batch, after=head)
                head = batch.head
                assert await host.head(log) == head
            assert await read(host, log) == sent
            assert await read(collector, log, sent[3].head) == sent[4:]
            assert await read(collector, log, sent[-1].head) == []
            assert await collector.logs() == [log]
            assert await collector.head(log) == head

    async def test_reading_begins_in_the_middle_of_a_batch(self) -> None:
        """A host that ships again after a loss cuts its batches elsewhere: a head may be inside of one."""
        log, batch = a_log(), a_batch(None, 5)
        async with await self.host() as sink:
            await sink.append(log, batch, after=None)
            for count in range(1, 5):
                begun = a_batch(None, count)
                [rest] = await read(sink, log, begun.head)
                assert begun.lines + rest.lines == batch.lines
                assert (rest.first_seq, rest.prev) == (count, begun.last_hash)

    async def test_an_append_is_conditional_on_the_head(self) -> None:
        """Older, newer, other hash, none: nothing is stored, and the actual head is returned."""
        log = a_log()
        first, second, third = batches(3)
        other = a_batch(first.head, text="other history")
        async with await self.host() as sink:
            with pytest.raises(HeadMoved) as caught:
                await sink.append(log, second, after=first.head)
            assert caught.value.actual is None
            await sink.append(log, first, after=None)
            await sink.append(log, second, after=first.head)
            wrong: list[tuple[Batch, Head | None]] = [
                (first, None),
                (second, first.head),
                (other, first.head),
                (a_batch(third.head), third.head),
                (a_batch(other.head), other.head),
            ]
            for batch, after in wrong:
                with pytest.raises(HeadMoved) as caught:
                    await sink.append(log, batch, after=after)
                assert caught.value.actual == second.head
            assert await read(sink, log) == [first, second]

    async def test_a_batch_that_does_not_follow_the_head_it_names_is_refused(self) -> None:
        """Even if that is the engine's head."""
        log = a_log()
        first, second, third = batches(3)
        async with await self.host() as sink:
            await sink.append(log, first, after=None)
            for batch in (third, a_batch(a_batch(None, text="other history").head)):
                with pytest.raises(SinkRefused):
                    await sink.append(log, batch, after=first.head)
            assert await read(sink, log) == [first]
            await sink.append(log, second, after=first.head)

    async def test_of_several_forwarders_one_wins_each_round(self) -> None:
        """Every record is there once, in order, and the losers learn the winner's head."""
        log, rounds = a_log(), list(batches(15))
        lost = 0

        async def forward(sink: Sink) -> None:
            nonlocal lost
            head = None
            for batch in rounds:
                try:
                    await sink.append(log, batch, after=head)
                except HeadMoved as moved:
                    lost += moved.actual is not None and moved.actual.seq >= batch.last_seq
                head = batch.head

        async with await self.host() as one, await self.host() as other, anyio.create_task_group() as group:
            for sink in (one, other, one):
                group.start_soon(forward, sink)
        assert lost == 2 * len(rounds)
        async with await self.host() as sink:
            assert await read(sink, log) == rounds

    async def test_a_host_begins_again_from_the_collectors_confirmation(self) -> None:
        """The engine has lost everything, the host has deleted the beginning: the confirmed head is the position."""
        log = a_log()
        first, second, third = batches(3)
        confirmation = f"signed: {first.last_seq} {first.last_hash}".encode()
        async with await self.host() as host, await self.collector() as collector:
            assert await host.confirmation(log) is None
            await collector.confirm(log, b"older")
            await collector.confirm(log, confirmation)
            assert await host.confirmation(log) == confirmation
            with pytest.raises(HeadMoved) as caught:
                await host.append(log, second, after=first.head)
            assert caught.value.actual is None
            for resume, batch, after in [
                (b"older", second, first.head),
                (confirmation + b"!", second, first.head),
                (confirmation, third, second.head),
            ]:
                with pytest.raises(SinkRefused, match="has not confirmed record"):
                    await host.append(log, batch, after=after, resume=resume)
            assert await host.head(log) is None
            await host.append(log, second, after=first.head, resume=confirmation)
            await host.append(log, third, after=second.head)
            assert await read(collector, log, first.head) == [second, third]

    async def test_a_log_is_described_once(self) -> None:
        """By the bytes of its `log.json`, before its first batch, and by nobody a second time in another way."""
        log, document = a_log(), b'{"format_version":1,"created":"2026-11-29T00:00:00.000000Z"}'
        async with await self.host() as host, await self.collector() as collector:
            assert await host.description(log) is None
            await host.describe(log, document)
            await host.describe(log, document)
            assert await host.head(log) is None
            [batch] = batches(1)
            await host.append(log, batch, after=None)
            with pytest.raises(SinkRefused, match=r"another log\.json"):
                await host.describe(log, document + b"\n")
            with pytest.raises(SinkRefused, match=r"65,?536"):
                await host.describe(a_log(), b"x" * 65_537)
            assert await collector.description(log) == await host.description(log) == document
            assert await collector.logs() == [log]

    async def test_a_host_with_nothing_new_shows_itself(self) -> None:
        """Of a log that the engine has; what is stored, and the head, stay as they are."""
        log, (first,) = a_log(), batches(1)
        async with await self.host() as host, await self.collector() as collector:
            assert isinstance(host, HearsHosts)
            assert isinstance(collector, HearsHosts)
            with pytest.raises(HeadMoved):
                await host.repeat_head(log)
            assert await collector.heard_at(log) is None
            await host.append(log, first, after=None)
            appended = await collector.heard_at(log)
            assert appended is not None
            await anyio.sleep(0.02)
            await host.repeat_head(log)
            shown = await collector.heard_at(log)
            assert shown is not None
            assert appended < shown <= datetime.now(UTC) + timedelta(minutes=1)
            assert await read(collector, log) == [first]
            assert await collector.head(log) == first.head

    async def test_another_tenants_log_is_refused(self) -> None:
        """By every call that names one."""
        async with await self.host() as sink:
            with pytest.raises(SinkRefused, match="tenant"):
                await sink.head(a_log(tenant="other"))

    async def test_a_closed_sink_says_so(self) -> None:
        """And takes nothing more."""
        async with await self.host() as sink:
            await sink.aclose()
            with pytest.raises(SinkUnavailable, match="closed"):
                await sink.head(a_log())
            assert "closed" in repr(sink)
