"""NATS JetStream as a sink: a batch is one message, and each is stored only after the one that it follows.

The condition is `Nats-Expected-Last-Subject-Sequence` alone. No message has a `Nats-Msg-Id`: the server judges that one
before the condition and for the whole stream, so that one host could make another's batch vanish with a success.

Any replica answers a direct get, also one that lags. So what it says is never taken for a head, an end or a gap until
the stream's leader has said the same: hosts ask it by a condition that never holds, collectors for the message itself.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Final, NamedTuple, Self

import anyio
from msgspec import DecodeError, json
from nats.aio.msg import Msg

from audit_async.errors import ConfigError
from audit_async.forwarding.batches import MAX_BATCH_BYTES, Batch, Head
from audit_async.forwarding.identities import LogIdentity, escaped
from audit_async.forwarding.nats_connection import NatsServers, NoRight, WrongSequence
from audit_async.forwarding.nats_messages import (
    FIRST,
    HASH,
    LAST,
    NOT_FOUND,
    PREV,
    Message,
    PubAck,
    StreamInfo,
)
from audit_async.forwarding.nats_names import (
    confirmation_subject,
    confirmations_of,
    description_subject,
    descriptions_of,
    log_of,
    stream_of,
    subject_of,
)
from audit_async.forwarding.sink import MAX_DESCRIPTION_BYTES
from audit_async.forwarding.sink_errors import HeadMoved, RecordTooLarge, SinkRefused, SinkUnavailable

__all__ = ["HEADER_BYTES", "NatsSink"]

_RESUME: Final = "Audit-Resume"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_STREAM: Final = "Nats-Expected-Stream"
#: Names, numbers and hashes of a batch and a confirmation, with room to spare.
HEADER_BYTES: Final = 8 * 1024
#: How often a replica that lags behind its leader is asked again.
_TRIES: Final = 50
_RETRY_S: Final = 0.1


class _Stored(NamedTuple):
    """A message of a log: where in the stream it is, and the log's head with it."""

    sequence: int
    head: Head


class NatsSink:
    """A tenant's logs in JetStream streams.

    May be used by several tasks of one event loop at a time. Needs the extra `nats`, and asyncio (uvloop included).
    An append is durable when it returns only as far as the servers make it so: `sync_interval: always` in their
    configuration, and a stream on files without compression; `audit-async engine check` looks at both.

    Args:
        url: where the servers are: `nats://HOST:PORT,HOST:PORT?nkey=FILE&ca=FILE`; `nkey` names the file with the seed,
            `creds` one with credentials; `api` is what subjects of the API begin with in this account. A server that is
            not this machine has to prove its name by TLS.
        tenant: the tenant whose stream it is.
        timeout_s: seconds after which a call is given up and raises `SinkUnavailable`. What it asked for may have been
            done all the same, which the head shows.

    Raises:
        ConfigError: the URL or the tenant's name is not usable. The message does not repeat the URL.
    """

    def __init__(self, url: str, *, tenant: str, timeout_s: float = 10.0) -> None:
        if timeout_s <= 0:
            raise ConfigError("timeout_s", f"{timeout_s!r} is no time; give seconds, such as 30")
        self._tenant: Final = tenant
        self._stream: Final = stream_of(tenant)
        self._servers: Final = NatsServers(url, timeout_s=timeout_s, least_payload=MAX_BATCH_BYTES + HEADER_BYTES)
        # What each log's last message was when this sink last stored one, so that a head is not read before every
        # append: it comes with its whole batch. Forgotten after any error, and with the connection.
        self._stored: Final[dict[LogIdentity, tuple[int, _Stored]]] = {}
        # Up to which message each log was read, so that the next reading begins there.
        self._read: Final[dict[LogIdentity, tuple[int, _Stored]]] = {}
        self._made = ("", 0)  # when the stream was made, and its last sequence: neither goes back but by a restore
        self._may_ask_leader = False  # a collector's right, learned at the first head

    def __repr__(self) -> str:
        state = " closed" if self._servers.closed else ""
        return f"<NatsSink {self._servers.shown} tenant={self._tenant!r}{state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def head(self, log: LogIdentity) -> Head | None:
        """Return the last record of a log that the engine has, None if it does not have the log.

        The stream's leader has confirmed that it is the last.

        Raises:
            SinkUnavailable: no answer, or the stream is not there or has no leader.
            SinkRefused: this account has no right to the log.
        """
        newest = await self._newest(log)
        return None if newest is None else newest.head

    async def append(self, log: LogIdentity, batch: Batch, *, after: Head | None, resume: bytes | None = None) -> None:
        """Store a batch if the log's head is still `after`; stored by a quorum when it returns.

        Args:
            log: whose records they are.
            batch: the next records.
            after: the head that they follow; None for record 0.
            resume: the collector's confirmation of `after`, if the engine does not have the log.

        Raises:
            HeadMoved: the head is another one, `actual`; nothing was stored.
            SinkUnavailable: no answer, or no quorum; the batch may or may not be stored, which the head shows.
            SinkFull: the stream or this log's share of it is used up.
            SinkRefused: this account has no right to the log, or the batch does not follow `after`.
            RecordTooLarge: the servers take no message of that size.
        """
        _check_follows(batch, after)
        headers = {FIRST: str(batch.first_seq), PREV: batch.prev}
        if resume is not None:
            headers[_RESUME] = b64encode(resume).decode()
        await self._check_size(batch, headers)
        generation, known = self._stored.pop(log, (0, None))
        if known is None or known.head != after or generation != self._servers.generation:
            known = await self._newest(log)
        for _ in range(_TRIES):
            if known is None and after is not None and resume is not None:
                await self._check_confirmed(log, after, resume)
            elif (None if known is None else known.head) != after:
                raise HeadMoved(None if known is None else known.head)
            try:
                await self._store(log, batch.head, known, batch.lines, headers)
            except WrongSequence:
                known = await self._newest(log)
            else:
                return
        raise SinkUnavailable(f"{self._servers.shown}: the head of {log} changes faster than it can be read")

    async def repeat_head(self, log: LogIdentity) -> None:
        """Store the head again without records, so that it does not expire with the oldest messages of an idle log.

        It also shows that the log's host is there. To be called each quarter of the stream's `max_age`, or more often.

        Raises:
            HeadMoved: another append came first, or the engine does not have the log.
        """
        self._stored.pop(log, None)
        known = await self._newest(log)
        if known is None:
            raise HeadMoved(None)
        try:
            await self._store(log, known.head, known, b"", {})
        except WrongSequence:
            raise HeadMoved(await self.head(log)) from None

    async def heard_at(self, log: LogIdentity) -> datetime | None:
        """Return when the log's host last appended or repeated its head, by the leader's clock; for collectors only."""
        message = await self._from_leader(json.encode({"last_by_subj": self._subject(log)}))
        return None if message is None else message.stored_at

    async def read(self, log: LogIdentity, after: Head | None) -> AsyncIterator[Batch]:
        """Yield what the engine holds of a log after a record, in order; whole batches, the first one cut if need be.

        What has expired is missing: then the first batch begins later than `after` ends. The leader has confirmed each
        such gap, and the end. For collectors only.
        """
        at = -1 if after is None else after.seq
        sequence = await self._first_after(log, after)
        while (message := await self._next(log, sequence, at)) is not None:
            sequence = message.sequence + 1
            head = message.head
            if not message.has_records or head.seq <= at:
                continue
            batch = message.batch
            yield batch if batch.first_seq > at else batch.rest_after(at)
            at = head.seq
            self._read[log] = (self._servers.generation, _Stored(message.sequence, head))

    async def logs(self) -> list[LogIdentity]:
        """Return the tenant's logs; for collectors only."""
        found: list[LogIdentity] = []
        seen = 0
        while True:
            info = await self._info(
                json.encode({"subjects_filter": f"audit.{escaped(self._tenant)}.>", "offset": seen})
            )
            subjects = info.state.subjects or {}
            found += [log for log in map(log_of, subjects) if log is not None]
            seen += len(subjects)
            if not subjects or seen >= info.total:
                return found

    async def confirm(self, log: LogIdentity, confirmation: bytes) -> None:
        """Store the collector's newest signed confirmation in the place of the one before; for collectors only.

        It is in a stream apart from the records, so that both are not rolled back by restoring one.
        """
        await self._publish(self._own(log, confirmation_subject), confirmation, {_STREAM: confirmations_of(log.tenant)})

    async def confirmation(self, log: LogIdentity) -> bytes | None:
        """Return the collector's newest signed confirmation, None if there is none.

        A replica that lags may answer, with the one before.
        """
        return await self._document(confirmations_of(log.tenant), self._own(log, confirmation_subject))

    async def describe(self, log: LogIdentity, document: bytes) -> None:
        """Store a log's `log.json`, byte by byte; once, before its first batch. The same bytes again change nothing.

        Args:
            log: whose description it is.
            document: what the host's `log.json` holds, at most `MAX_DESCRIPTION_BYTES`.

        Raises:
            SinkRefused: another description is stored, or this one is too long.
            SinkFull: there is no room.
        """
        if len(document) > MAX_DESCRIPTION_BYTES:
            raise SinkRefused(
                f"{self._servers.shown}: the log.json of {log} has {len(document):,} bytes; "
                f"at most {MAX_DESCRIPTION_BYTES:,} are stored"
            )
        stream, subject = descriptions_of(log.tenant), self._own(log, description_subject)
        for _ in range(_TRIES):
            there = await self._document(stream, subject)
            if there is None:
                try:
                    await self._publish(subject, document, {_STREAM: stream, _EXPECTED: "0"})
                except WrongSequence:  # it is there, and the replica that was asked does not have it yet
                    await anyio.sleep(_RETRY_S)
                    continue
            elif there != document:
                raise SinkRefused(
                    f"{self._servers.shown}: {log} has another log.json; was the machine cloned, or the file changed?"
                )
            return
        raise SinkUnavailable(f"{self._servers.shown}: a replica lags behind, and has no description of {log} yet")

    async def description(self, log: LogIdentity) -> bytes | None:
        """Return the `log.json` that the host has stored, None if there is none.

        A replica that lags may answer, so None may mean that it is not there yet.
        """
        return await self._document(descriptions_of(log.tenant), self._own(log, description_subject))

    async def largest_record_bytes(self) -> int:
        """Return how large a record the servers take; a larger one is refused by `append`."""
        return await self._servers.max_payload() - HEADER_BYTES

    async def aclose(self) -> None:
        """Close the connection."""
        self._stored.clear()
        self._read.clear()
        await self._servers.aclose()

    # Heads: what the leader has confirmed.

    async def _newest(self, log: LogIdentity) -> _Stored | None:
        """Return a log's last message as the stream's leader has it."""
        for _ in range(_TRIES):
            if self._may_ask_leader:
                return _stored(await self._from_leader(json.encode({"last_by_subj": self._subject(log)})))
            # By subject: the form by sequence would let a host read everybody's records.
            answer = await self._servers.ask(f"{self._servers.api}.DIRECT.GET.{self._stream}.{self._subject(log)}")
            known = _stored(self._direct(answer))
            try:
                sequence = await self._leaders_sequence(log)
            except NoRight as refusal:
                # A collector may not append, and may ask the leader.
                try:
                    await self._from_leader(json.encode({"last_by_subj": self._subject(log)}))
                except NoRight:
                    raise refusal from None
                self._may_ask_leader = True
                continue
            if sequence == (0 if known is None else known.sequence):
                return known
            await anyio.sleep(_RETRY_S)
        raise SinkUnavailable(f"{self._servers.shown}: the head of {log} is in doubt: a replica lags behind its leader")

    async def _leaders_sequence(self, log: LogIdentity) -> int | None:
        """Return the sequence of the log's last message as the leader knows it, 0 if it has none, None if in doubt.

        The leader alone judges a condition, and its refusal of one that never holds names the sequence that would.
        """
        headers = {_EXPECTED: str(2**63 - 1), _STREAM: self._stream}
        answer = await self._servers.ask(self._subject(log), b"", headers)
        try:
            self._servers.check(answer)
        except WrongSequence as refusal:
            found = re.search(r"wrong last sequence: (\d+)", str(refusal))
            return None if found is None else int(found[1])
        raise SinkRefused(f"{self._servers.shown}: the stream {self._stream} does not judge conditions")

    async def _from_leader(self, wanted: bytes) -> Message | None:
        answer = await self._servers.ask(f"{self._servers.api}.STREAM.MSG.GET.{self._stream}", wanted)
        error = self._servers.error_in(answer)
        if error is not None and error.err_code == NOT_FOUND:
            return None
        self._servers.check(answer)
        return Message.from_leader(answer)

    # Reading.

    async def _next(self, log: LogIdentity, sequence: int, at: int) -> Message | None:
        """Return a log's first message from a place in the stream on, None at the end."""
        wanted = json.encode({"seq": sequence, "next_by_subj": self._subject(log)})
        message = await self._directly(wanted)
        if message is not None:
            last = message.first_seq - 1 if message.has_records else message.head.seq
            if last <= at:
                return message
        return await self._from_leader(wanted)

    async def _first_after(self, log: LogIdentity, after: Head | None) -> int:
        """Return a place in the stream that only messages up to a head are before."""
        if after is None:
            return 1
        generation, known = self._read.get(log, (0, None))
        if known is not None and known.head == after and generation == self._servers.generation:
            return known.sequence + 1
        first = 1
        last = await self._from_leader(json.encode({"last_by_subj": self._subject(log)}))
        if last is None:
            return first
        if last.head.seq <= after.seq:
            return last.sequence + 1
        # Heads of a log rise with the sequence, so the place is found by halving.
        beyond = last.sequence
        while first < beyond:
            middle = (first + beyond) // 2
            wanted = json.encode({"seq": middle, "next_by_subj": self._subject(log)})
            message = await self._directly(wanted)
            if message is None or message.head.seq > after.seq:
                beyond = middle
            else:
                first = message.sequence + 1
        return first

    async def _info(self, wanted: bytes) -> StreamInfo:
        answer = await self._servers.ask(f"{self._servers.api}.STREAM.INFO.{self._stream}", wanted)
        self._servers.check(answer)
        info = json.decode(answer.data, type=StreamInfo)
        made, last = self._made
        if info.created != made or info.state.last_seq < last:
            self._read.clear()  # the stream was restored, and its sequences begin again
        self._made = (info.created, info.state.last_seq)
        return info

    async def _directly(self, wanted: bytes) -> Message | None:
        return self._direct(await self._servers.ask(f"{self._servers.api}.DIRECT.GET.{self._stream}", wanted))

    async def _document(self, stream: str, subject: str) -> bytes | None:
        message = self._direct(await self._servers.ask(f"{self._servers.api}.DIRECT.GET.{stream}.{subject}"))
        return None if message is None else message.data

    def _direct(self, answer: Msg) -> Message | None:
        status = (answer.headers or {}).get("Status")
        if status not in {None, "404"}:
            raise SinkUnavailable(f"{self._servers.shown}: the stream answers with status {status}")
        return None if status == "404" else Message.direct(answer)

    # Writing.

    async def _store(
        self, log: LogIdentity, head: Head, known: _Stored | None, lines: bytes, more: Mapping[str, str]
    ) -> None:
        headers = {
            LAST: str(head.seq), HASH: head.hash, _EXPECTED: str(0 if known is None else known.sequence),
            _STREAM: self._stream,
        }  # fmt: skip
        ack = await self._publish(self._subject(log), lines, headers | dict(more))
        self._stored[log] = (self._servers.generation, _Stored(ack.seq, head))

    async def _publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> PubAck:
        """Store a message, and return the acknowledgement of the stream that was expected."""
        answer = await self._servers.request(subject, data, headers)
        self._servers.check(answer)
        try:
            ack = json.decode(answer.data, type=PubAck)
        except DecodeError:
            raise SinkUnavailable(f"{self._servers.shown}: the answer is no acknowledgement") from None
        if ack.stream != headers[_STREAM] or ack.duplicate:
            raise SinkRefused(
                f"{self._servers.shown}: stream {ack.stream!a} answered, not {headers[_STREAM]}; nothing is stored"
            )
        return ack

    async def _check_size(self, batch: Batch, headers: Mapping[str, str]) -> None:
        size = len(batch.lines) + HEADER_BYTES + len(headers.get(_RESUME, ""))
        most = await self._servers.max_payload()
        if size > most:
            raise RecordTooLarge(
                f"{self._servers.shown}: records {batch.first_seq}-{batch.last_seq} have {len(batch.lines):,} bytes; "
                f"more than the servers' max_payload of {most:,} has room for; raise it"
            )

    async def _check_confirmed(self, log: LogIdentity, after: Head, resume: bytes) -> None:
        """Let a log begin in its middle only after a record that the collector has confirmed; the servers can't."""
        if resume != await self.confirmation(log) or after.hash.encode() not in resume:
            raise SinkRefused(
                f"{self._servers.shown}: the collector has not confirmed record {after.seq} of {log}; "
                "a log may begin there only with its newest confirmation"
            )

    def _subject(self, log: LogIdentity) -> str:
        return self._own(log, subject_of)

    def _own(self, log: LogIdentity, named: Callable[[LogIdentity], str]) -> str:
        if log.tenant != self._tenant:
            raise SinkRefused(f"{self._servers.shown}: this is the engine of tenant {self._tenant!r}, not of {log}")
        return named(log)


def _stored(message: Message | None) -> _Stored | None:
    return None if message is None else _Stored(message.sequence, message.head)


def _check_follows(batch: Batch, after: Head | None) -> None:
    follows = (0, "0" * 64) if after is None else (after.seq + 1, after.hash)
    if (batch.first_seq, batch.prev) != follows:
        raise SinkRefused(f"the batch begins at record {batch.first_seq} and does not follow the head that was given")
