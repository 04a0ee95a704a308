"""Small trails with known records, also such as this library would never write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from audit_async._chain.record_format import PREV_MEMBER_AT
from tests.store.chained import Chain, open_store

#: What a terminal must never get of a record: escape sequences, an OSC 52 that fills the clipboard, DEL, C1, bidi.
HOSTILE = "\x1b[2J\x1b]52;c;ZXZpbA==\x07\x7f\x9b31m\u202eevil\u2066\u200b[red]markup[/red]\r\nforged line"


def failure(user: str, n: int = 0) -> bytes:
    """Return an encoded log-in failure."""
    return json.dumps(
        {"event_type": "auth.failure", "attempted_user": user, "reason": "bad", "ip": "203.0.113.9", "path": f"/{n}"},
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode("utf-8", "surrogatepass")


def erasure(customer: str) -> bytes:
    """Return an encoded erasure."""
    event = {"event_type": "data.deleted", "customer_id": customer, "data_types": ["orders"], "reason": "gdpr_art_17"}
    return json.dumps(event, separators=(",", ":")).encode()


def make_trail(
    base_dir: Path, events: Iterable[bytes], *, instance: str = "00", max_bytes: int = 1 << 20, step_ns: int = 10**6
) -> Chain:
    """Write a log of the service `orders` with these events, from noon of 2026-11-22 on; return its chain."""
    chain = Chain()
    store = open_store(base_dir, max_bytes=max_bytes, instance=instance)
    store.commit(chain.batch_of(list(events), step_ns=step_ns), sync=True)
    store.close()
    return chain


def make_hostile_trail(base_dir: Path) -> Chain:
    """Write a log as another program might have: its records hold in every text what no terminal may get."""
    event = failure(HOSTILE)
    other = json.dumps({"event_type": f"foreign.{HOSTILE}", HOSTILE: [HOSTILE], "actor": {"user_id": HOSTILE}})
    return make_trail(base_dir, [event, other.encode(), failure("alice")])


def rehashed(content: bytes, prev: bytes = b"0" * 64) -> bytes:
    """Return lines as somebody would leave them who changed them and made the chain again, from `prev` on."""
    lines = []
    for line in content.splitlines(keepends=True):
        body = line[:PREV_MEMBER_AT] + b',"prev_hash":"' + prev + b'"'
        prev = sha256(body + b"}").hexdigest().encode()
        lines.append(body + b',"hash":"' + prev + b'"}\n')
    return b"".join(lines)
