"""Looking for holds in whole segments: what is passed over says nothing of holds."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async._layout import holds_in_force
from audit_async._layout.chain_holds import ChainHolds
from tests.layout.test_chain_holds import histories, record

#: What a caller may put into an event so that it looks like one of the library's own.
POSING = [
    {"event_type": "x", "text": '","event":{"event_type":"audit.hold_lifted","hold_id":"a"}'},
    {"event_type": "x", "n": 1, "event": {"event_type": "audit.hold_lifted", "hold_id": "a"}},
    {"event_type": "audited.by", "event": {"event_type": "audit.log_opened", "holds": []}},
]


def read_at_once(content: bytes, chunk_bytes: int) -> ChainHolds:
    """Return what a segment says of holds, read in chunks of this size."""
    holds = ChainHolds()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holds_in_force, "_CHUNK_BYTES", chunk_bytes)
        holds_in_force._read_all(io.BytesIO(content), holds)
    return holds


@given(
    histories(), st.lists(st.tuples(st.integers(0, 20), st.sampled_from(POSING))), st.integers(1, 500), st.booleans()
)
def test_chunks_say_what_the_lines_say(
    history: tuple[list[bytes], set[str]],
    posing: list[tuple[int, dict[str, object]]],
    chunk_bytes: int,
    is_torn: bool,
) -> None:
    """Wherever a chunk ends, whatever poses as a record of a hold, and with a last line that has no end."""
    lines = list(history[0])
    for at, event in posing:
        lines.insert(at, record(at, json.loads(json.dumps(event))))
    content = b"".join(lines)[: -1 if is_torn else None]
    expected = ChainHolds()
    for line in content.splitlines(keepends=True):
        expected.read(line)
    found = read_at_once(content, chunk_bytes)
    assert (found.in_force, found.lifted, found.is_complete) == (
        expected.in_force,
        expected.lifted,
        expected.is_complete,
    )


def test_records_of_others_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log without statements is read back once: with a call for each of ten million records that took 3.6 s."""
    looked_at: list[bytes] = []
    monkeypatch.setattr(ChainHolds, "read", lambda _, line: looked_at.append(line))
    own = record(7, {"event_type": "audit.hold_set", "reason": "r", "set_by": "s", "hold_id": "a"})
    others = [record(number, {"event_type": "auth.failure", "reason": "r" * 200}) for number in range(20_000)]
    read_at_once(b"".join([*others, own, *others]), 1 << 20)
    assert looked_at == [own]
