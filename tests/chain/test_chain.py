"""The record format and the chain: what is framed is what design.md says, and only that is accepted."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async._chain import GENESIS_HASH, START, BadRecord, Batch, Entry, Framer, Head, check_record

PREFIX = "5f0c1e9b7a3d2c48"
EVENT = b'{"event_type":"auth.failure","reason":"bad_password","ip":"203.0.113.9","path":"/login"}'
# From 1970 to 2200, in nanoseconds.
times_ns = st.integers(0, 7_258_118_400 * 10**9)
events = st.dictionaries(st.text(max_size=20), st.integers() | st.text(max_size=50), max_size=5).map(
    lambda members: json.dumps({"event_type": "test.any"} | members, ensure_ascii=False).encode(errors="replace")
)


def framer(after: Head = START) -> Framer:
    """Return a framer for a service called orders."""
    return Framer(after, audit_prefix=PREFIX, service_id="orders")


def lines_of(entries: list[Entry], after: Head = START) -> list[bytes]:
    """Frame `entries` into one batch and return its lines."""
    batch = Batch(after)
    framer(after).frame(entries, batch)
    return batch.lines


def test_a_record_is_byte_for_byte_what_the_format_says() -> None:
    """Members stand in the order of format version 1, without white space, and the hash covers the line."""
    entry = Entry(0x2_9ABC_DEF0, 1_764_000_912_123_456_789, EVENT)
    (line,) = lines_of([entry], after=Head(40, b"ab" * 32))
    moment = datetime.fromtimestamp(1_764_000_912, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    hashed = (
        f'{{"seq":41,"audit_id":"{PREFIX}-29abcdef0","timestamp":"{moment}.123456Z","service_id":"orders",'
        f'"event":{EVENT.decode()},"prev_hash":"{"ab" * 32}"}}'
    )
    digest = hashlib.sha256(hashed.encode()).hexdigest()
    assert line.decode() == hashed[:-1] + f',"hash":"{digest}"}}\n'
    assert (entry.seq, entry.hash, entry.event) == (41, digest, b"")


@given(st.lists(st.tuples(times_ns, events), min_size=1, max_size=40), st.data())
def test_whatever_is_framed_links_up_whichever_way_it_is_sliced(
    emitted: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    """Every line is one valid record that follows the one before, also across slices and batches."""
    writer = framer()
    batch = Batch(START)
    batches = [batch]
    for number, (time_ns, event) in enumerate(emitted):
        writer.frame([Entry(number, time_ns, event)], batch)
        if data.draw(st.booleans()):
            batch = Batch(writer.head)
            batches.append(batch)
    head = START
    for each in batches:
        assert each.first_seq == head.seq + 1
        assert each.size == sum(map(len, each.lines))
        for line in each.lines:
            assert line.count(b"\n") == 1
            checked = check_record(line, after=head)
            assert json.loads(line)["event"] == json.loads(emitted[checked.seq][1])
            head = checked.head
        assert each.head == head
    assert writer.head == head
    assert sum(each.event_bytes for each in batches) == sum(len(event) for _, event in emitted)


@given(st.lists(times_ns, min_size=1, max_size=30))
def test_a_batch_says_where_its_date_changes(emitted_ns: list[int]) -> None:
    """`Batch.dates` names the first line and each line whose UTC date is not that of the line before."""
    batch = Batch(START)
    framer().frame([Entry(0, time_ns, EVENT) for time_ns in emitted_ns], batch)
    dates = [datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d") for time_ns in emitted_ns]
    changes = [(i, date) for i, date in enumerate(dates) if i == 0 or dates[i - 1] != date]
    assert batch.dates == changes


@given(times_ns)
def test_the_timestamp_is_the_moment_of_emit_cut_to_microseconds(time_ns: int) -> None:
    """RFC 3339, UTC, six digits and `Z`; never rounded up into the future."""
    (line,) = lines_of([Entry(0, time_ns, EVENT)])
    stamped = datetime.fromisoformat(json.loads(line)["timestamp"])
    since_1970 = stamped - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since_1970.days * 86_400 + since_1970.seconds) * 10**6 + since_1970.microseconds
    assert microseconds == time_ns // 1000


GOOD, NEXT = lines_of([Entry(7, 1_764_000_912_000_000_000, EVENT), Entry(8, 1_764_000_913_000_000_000, EVENT)])


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_no_bit_of_a_record_can_change_unseen(at: int) -> None:
    """Each single flipped bit of a line is found, wherever it is."""
    for bit in range(8):
        changed = bytearray(GOOD)
        changed[at] ^= 1 << bit
        with pytest.raises(BadRecord):
            check_record(bytes(changed), after=START)


def resealed(line: bytes) -> bytes:
    """Return `line` with the hash that its other bytes have: what a forger who knows the format writes."""
    hashed = line[: line.rindex(b',"hash":"')] + b"}"
    return hashed[:-1] + b',"hash":"' + hashlib.sha256(hashed).hexdigest().encode() + b'"}\n'


def test_the_forger_in_these_tests_can_seal_a_line() -> None:
    """A line resealed unchanged is the line itself, so the forgeries below fail for their own reason."""
    assert resealed(GOOD) == GOOD


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        pytest.param(GOOD[:-1], "whole record", id="no line end"),
        pytest.param(b"\n", "whole record", id="empty line"),
        pytest.param(GOOD[:-1] + b"\r\n", "whole record", id="CR LF"),
        pytest.param(resealed(GOOD.replace(b'{"seq":0', b'{"seq":00')), "does not begin", id="leading zero"),
        pytest.param(resealed(GOOD.replace(b'{"seq":0', b'{"seq":-1')), "does not begin", id="negative seq"),
        pytest.param(resealed(GOOD.replace(b'{"seq"', b'{ "seq"')), "does not begin", id="white space"),
        pytest.param(resealed(GOOD.replace(b"5f0c", b"5F0C")), "does not begin", id="upper-case audit_id"),
        pytest.param(resealed(GOOD.replace(b'Z",', b'+00:00",')), "does not begin", id="offset for Z"),
        pytest.param(resealed(GOOD.replace(b'"event":', b'"evil":1,"event":')), "members", id="a member too many"),
        pytest.param(resealed(GOOD.replace(b'"event":{', b'"event":[{')), "members", id="broken JSON"),
        pytest.param(resealed(GOOD.replace(b"203.0.113.9", b"203.0.\xff13.9")), "members", id="not UTF-8"),
        pytest.param(
            resealed(GOOD.replace(b'"event":{', b'"event":[],"context":{')),
            "no JSON object",
            id="an event that is a list",
        ),
        pytest.param(
            resealed(GOOD.replace(b'},"prev_hash"', b'},"context":"x","prev_hash"')),
            "no JSON object",
            id="a text as context",
        ),
        pytest.param(
            GOOD.replace(b',"prev_hash":"' + GENESIS_HASH, b',"prev_hash":"' + b"A" * 64),
            "prev_hash and hash",
            id="upper-case hash",
        ),
        pytest.param(resealed(GOOD.replace(b'{"seq":0', b'{"seq":1')), "seq is 1, but 0 is due", id="wrong seq"),
        pytest.param(resealed(GOOD.replace(b'"prev_hash":"0', b'"prev_hash":"1')), "record before", id="wrong link"),
        pytest.param(NEXT, "seq is 1, but 0 is due", id="a record removed"),
    ],
)
def test_a_forged_record_is_refused_with_its_reason(forged: bytes, reason: str) -> None:
    """What is not exactly the record that is due is refused, and the reason holds none of its text."""
    with pytest.raises(BadRecord, match=re.escape(reason)) as caught:
        check_record(forged, after=START)
    assert "203.0" not in str(caught.value)


def test_a_record_can_be_checked_without_the_one_before() -> None:
    """Without a predecessor at hand, seq and prev_hash stand as the line says them."""
    checked = check_record(NEXT, after=None)
    assert (checked.seq, checked.audit_id, checked.timestamp) == (
        1,
        f"{PREFIX}-8",
        "2025-11-24T16:15:13.000000Z",
    )
    assert checked.prev_hash.decode() == json.loads(GOOD)["hash"]


def test_a_number_of_any_size_is_json() -> None:
    """The chain vouches for a record with a number that no reader can take; a query names it."""
    huge = resealed(GOOD.replace(b'"event":{', b'"event":{"n":1e999,'))
    assert check_record(huge, after=START).seq == 0


@given(st.binary(max_size=600))
def test_any_bytes_get_a_verdict(line: bytes) -> None:
    """Garbage is refused, and never with another error than `BadRecord`."""
    with pytest.raises(BadRecord):
        check_record(line, after=None)
