"""Lines as a log records them, without a log: a format looks at one line alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import strategies as st

from audit_async.delivery.deliverable_record import DeliverableRecord, DeliveredLog
from audit_async.events import AuditEvent
from audit_async.events.base import encode
from audit_async.events.registry import describe, known_types

LOG_ID = "0f" * 8
ZEROS = "0" * 64


def built_in_types() -> dict[str, type[AuditEvent]]:
    """Return the library's own classes of events, by type."""
    return {
        tag: cls
        for tag, cls in sorted(known_types().items())
        if cls.__module__.startswith("audit_async.events.") and describe(cls).tag == tag
    }


def line_of(event: AuditEvent | Mapping[str, Any], *, seq: int = 7, **context: object) -> bytes:
    """Return a line with this event, its hashes made up."""
    recorded = encode(event)
    members = {
        "seq": seq,
        "audit_id": f"5f0c1e9b7a3d2c48-{seq:x}",
        "timestamp": "2026-11-23T04:35:12.123456Z",
        "service_id": "orders",
        "event": msgspec.Raw(recorded),
        **({"context": context} if context else {}),
        "prev_hash": ZEROS,
        "hash": "ab" * 32,
    }
    return msgspec.json.encode(members) + b"\n"


#: What users put into texts, and attackers.
HOSTILE = st.sampled_from(
    [
        "",
        "line\nbreak",
        "carriage\r\nreturn",
        "pipe|and\\|escaped",
        "a=b c\\=d",
        "\x00\x07\x1b[31m",
        "\u202egnp.exe\u2066",
        "\u2028\u2029",
        "'; DROP TABLE--",
        '"}],"event":{"x":"',
        "CEF:0|evil|evil|1|1|1|10|",
        "sealed:1:abc:def:ghi",
        "\U0001f600\ufffd",
        "203.0.113.9",
        "fe80::1%eth0",
    ]
)

TEXTS = st.one_of(HOSTILE, st.text(st.characters(codec="utf-8"), max_size=20))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=4,
)


def deliverable(line: bytes, *, host: str = "web-1") -> DeliverableRecord:
    """Return what the deliverer hands to a format for a line."""
    return DeliverableRecord(line.rstrip(b"\n"), DeliveredLog(LOG_ID, "orders", "00", host))
