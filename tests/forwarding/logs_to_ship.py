"""Logs to be shipped, made of real records without a disk."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from hashlib import sha256

from audit_async.forwarding import Batch, Head, LogIdentity

NO_HASH = "0" * 64


def a_log(**parts: str) -> LogIdentity:
    """Return a log that nobody has seen yet."""
    names = {"tenant": "acme", "service": "orders", "host": "web-1", "instance": "00", "log_id": uuid.uuid4().hex}
    return LogIdentity(**(names | parts))


def a_line(seq: int, prev: str, text: str = "") -> tuple[bytes, str]:
    """Return a record as it is on the disk, and its hash."""
    body = (
        f'{{"seq":{seq},"audit_id":"0123456789abcdef-{seq:x}","timestamp":"2026-11-28T00:00:00.000000Z",'
        f'"service_id":"orders","event":{{"event_type":"test.made","text":"{text}"}},"prev_hash":"{prev}"'
    ).encode()
    digest = sha256(body + b"}").hexdigest()
    return body + f',"hash":"{digest}"}}\n'.encode(), digest


def a_batch(after: Head | None, count: int = 3, *, text: str = "") -> Batch:
    """Return the next records after a head."""
    first = 0 if after is None else after.seq + 1
    prev = last = NO_HASH if after is None else after.hash
    lines = []
    for seq in range(first, first + count):
        line, last = a_line(seq, last, text)
        lines.append(line)
    return Batch(first_seq=first, last_seq=first + count - 1, prev=prev, last_hash=last, lines=b"".join(lines))


def batches(number: int, count: int = 3, *, after: Head | None = None, text: str = "") -> Iterator[Batch]:
    """Yield batches that follow each other."""
    for _ in range(number):
        batch = a_batch(after, count, text=text)
        yield batch
        after = batch.head
