"""Comparing what a receiver has with the trail: whether each copy is of a record that is there, and says the same.

A copy names its record by the audit_id and holds the record's hash. The record is read, which checks its hash, turned
into the same format once more, and compared member by member; what the receiver has added of its own does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async.delivery.deliverable_record import DeliverableRecord, DeliveredLog
from audit_async.delivery.record_formats import format_of
from audit_async.errors import ConfigError
from audit_async.events import Record
from audit_async.reader import AuditReader

__all__ = ["COPY_FORMATS", "CopyCheck", "CopyFinding", "check_copies"]

#: So many copies are compared in one pass over the time that they are of.
_AT_A_TIME: Final = 10_000
#: Findings that are listed; the others are counted.
_MOST_FINDINGS: Final = 1000
_MOST_MEMBERS: Final = 10


class _Places(NamedTuple):
    """Where a format has what a copy is known by."""

    audit_id: str
    timestamp: str
    hash: str
    altered: str
    ours: frozenset[str]  #: members that say who delivered it, and with which release


#: The formats whose copies can be compared, with the places of what they are known by.
COPY_FORMATS: Final[Mapping[str, _Places]] = {
    "record": _Places("audit_id", "timestamp", "hash", "altered", frozenset()),
    "ocsf": _Places(
        "metadata.uid",
        "metadata.original_time",
        "unmapped.audit.hash",
        "unmapped.audit.altered",
        frozenset({"unmapped.audit.delivered_by", "metadata.product.version"}),
    ),
    "ecs": _Places(
        "event.id",
        "event.created",
        "event.hash",
        "audit_async.altered",
        frozenset({"audit_async.delivered_by", "agent.name", "agent.type"}),
    ),
}


class CopyFinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A copy that is not of a record of the trail, or does not say what it says.

    Args:
        line: The line of the copies, from 1.
        kind: `unreadable`: it is no copy in this format; `unknown`: the trail has no such record; `hash`: the record
            has another hash; `content`: the copy says something else than the record.
        audit_id: The record's, if the copy names one.
        members: The first ten members that differ.
    """

    line: int
    kind: Literal["unreadable", "unknown", "hash", "content"]
    audit_id: str = ""
    members: list[str] = []


class CopyCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison has found.

    Args:
        copies: How many copies there are.
        genuine: How many of them are of a record of the trail, and say the same.
        altered: How many of the genuine ones say that members were redacted or opened: of these the hash alone is
            compared.
        repeated: How many are of a record that a copy before was of.
        findings: The first thousand of all others.
        others: How many all others are.
    """

    copies: int
    genuine: int
    altered: int
    repeated: int
    findings: list[CopyFinding]
    others: int


class _Copy(NamedTuple):
    line: int
    audit_id: str
    at: datetime
    document: dict[str, Any]


async def check_copies(copies: Iterable[bytes], reader: AuditReader, form: str) -> CopyCheck:
    """Compare copies with the records of a trail, in one pass over each ten thousand copies' time.

    Args:
        copies: The copies, a JSON object each, as the receiver exports them: the document itself, or in the member
            `_source` (Elasticsearch, OpenSearch), or as text in `_raw` of `result` (Splunk).
        reader: Of the trail.
        form: The format that they were delivered in: `record`, `ocsf` or `ecs`.

    Raises:
        ConfigError: Copies of this format can't be compared.
        TrailUnreadable: A log can't be read.
        LogCorrupted: A record of the trail is not genuine.
    """
    if form not in COPY_FORMATS:
        raise ConfigError("format", f"copies in this format can't be compared; allowed: {', '.join(COPY_FORMATS)}")
    check = _Comparison(reader, form)
    numbered = enumerate(copies, 1)
    while part := list(islice(numbered, _AT_A_TIME)):
        await check.compare(part)
    return check.result()


class _Comparison:
    """Compares copies part by part."""

    def __init__(self, reader: AuditReader, form: str) -> None:
        self._reader = reader
        self._places = COPY_FORMATS[form]
        self._format = format_of(form)
        self._logs = {log.name: DeliveredLog(log.log_id, log.service_id, log.instance, "") for log in reader.logs()}
        self._seen: set[str] = set()
        self._copies = self._genuine = self._altered = self._repeated = self._others = 0
        self._findings: list[CopyFinding] = []

    def result(self) -> CopyCheck:
        return CopyCheck(
            copies=self._copies,
            genuine=self._genuine,
            altered=self._altered,
            repeated=self._repeated,
            findings=self._findings,
            others=self._others,
        )

    async def compare(self, part: list[tuple[int, bytes]]) -> None:
        waiting: dict[str, list[_Copy]] = {}
        for number, line in part:
            self._copies += 1
            copy = self._read(number, line)
            if copy is None:
                self._report(number, "unreadable")
                continue
            waiting.setdefault(copy.audit_id, []).append(copy)
        if waiting:
            times = [copy.at for copies in waiting.values() for copy in copies]
            query = AuditQuery(start=min(times), end=max(times) + timedelta(microseconds=1))
            async with aclosing(self._reader.query(query)) as records:
                async for record in records:
                    for copy in waiting.pop(record.audit_id, ()):
                        self._compare(copy, record)
        for copies in waiting.values():
            for copy in copies:
                self._report(copy.line, "unknown", copy.audit_id)

    def _read(self, number: int, line: bytes) -> _Copy | None:
        try:
            document = msgspec.json.decode(line)
            if isinstance(document, dict) and isinstance(document.get("_source"), dict):
                document = document["_source"]
            elif isinstance(document, dict) and isinstance(document.get("result"), dict):
                document = msgspec.json.decode(document["result"]["_raw"])
            members = dict(_leaves(document))
            at = datetime.fromisoformat(members[self._places.timestamp])
            at.astimezone()  # raises for what is no time of a record
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError, ValueError):
            return None
        audit_id = members.get(self._places.audit_id)
        if not isinstance(audit_id, str) or at.utcoffset() is None:
            return None
        return _Copy(number, audit_id, at, members)

    def _compare(self, copy: _Copy, record: Record) -> None:
        if copy.document.get(self._places.hash) != record.hash:
            self._report(copy.line, "hash", copy.audit_id)
            return
        if copy.document.get(self._places.altered) is not True:
            expected = dict(_leaves(msgspec.json.decode(self._format.encode(self._deliverable(record)))))
            differing = [
                name
                for name, value in expected.items()
                if name not in self._places.ours and copy.document.get(name, _ABSENT) != value
            ]
            if differing:
                self._report(copy.line, "content", copy.audit_id, differing[:_MOST_MEMBERS])
                return
        else:
            self._altered += 1
        self._genuine += 1
        if record.audit_id in self._seen:
            self._repeated += 1
        self._seen.add(record.audit_id)

    def _deliverable(self, record: Record) -> DeliverableRecord:
        members = record.to_dict()
        del members["log"]
        return DeliverableRecord(msgspec.json.encode(members), self._logs[record.log])

    def _report(
        self,
        line: int,
        kind: Literal["unreadable", "unknown", "hash", "content"],
        audit_id: str = "",
        members: list[str] | None = None,
    ) -> None:
        self._others += 1
        if len(self._findings) < _MOST_FINDINGS:
            self._findings.append(CopyFinding(line=line, kind=kind, audit_id=audit_id[:80], members=members or []))


_ABSENT: Final = object()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - plain data
    """Yield the members of a document that are no objects, by path; a list is one value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value
