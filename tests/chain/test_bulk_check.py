"""Checking many lines at once gives exactly the verdict of checking each by itself."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audit_async._chain import START, BadRecord, Batch, Entry, Framer, Head, check_record
from audit_async._chain.bulk_check import Bad, ChainChecker, Good, are_readable, check_unlinked
from audit_async._chain.record_format import PREV_AT
from tests.chain.test_chain import resealed

_EVENTS = [
    b'{"event_type":"auth.failure","reason":"bad_password","ip":"203.0.113.9","path":"/login"}',
    b'{"event_type":"a","hash":"' + b"0" * 64 + b'","prev_hash":"' + b"1" * 64 + b'","hash":"x"}',
    b'{"event_type":"a","hash":"' + b"0" * 64 + b'"}',
    b'{"event_type":"t","n":[1,2.5,-3e300,true,null,{"deep":{"er":[]}}],"text":"caf\xc3\xa9 \\n \\\\u202e \\" }{"}',
    b'{"event_type":"spaces" , "x" : 1.00}',
    b"{}",
    b'{"event_type":"t"},"context":{"request_id":"r-1","tenant":"x"}',
]
# What a forger can put in the place of an event or a member, with a good hash.
_FORGED = [
    (b'"event":{', b'"event":[{'),
    (b'"event":{', b'"event": {'),
    (b'"event":{', b'"event":1,"context":{'),
    (b'"event":{', b'"event":"{","context":{'),
    (b',"prev_hash":"', b',"context":[{}],"prev_hash":"'),
    (b'"event":', b'"evil":1,"event":'),
    (b'"event":', b'"event":{},"event":'),
    (b'"event":{', b'"event":{"n":1e999,'),
    (b'"event":{', b'"event":{"n":' + b"9" * 400 + b","),
    (b'"event":{', b'"event":{"n":1E5,'),
    (b'"event":{', b'"event":{"t":"\xff",'),
    (b'"event":{', b'"event":{"t":"\\ud800",'),
    (b'"event":{', b'"event":{"t":"\\u0041",'),
    (b'"event":{', b'"event":{"t":"\x01",'),
    (b'"event":{', b'"event":{"t":' + b"[" * 3000 + b"]" * 3000 + b","),
    (b'"service_id":"orders"', b'"service_id":"\\u006frders"'),
    (b'"service_id":"orders"', b'"service_id":"orders" '),
    (b'"timestamp":"2', b'"timestamp":"12'),
    (b'"timestamp":"2', b'"timestamp":"x'),
    (b"T", b" "),
    (b'Z","service', b'Z\\n","service'),
    (b'"timestamp":"20', b'"timestamp":"\xd9\xa2\xd9\xa0'),
    (b'"audit_id":"5f0c1e9b7a3d2c48-', b'"audit_id":"5f0c1e9b7a3d2c48-0\\n5f0c1e9b7a3d2c48-'),
    (b'"audit_id":"5f', b'"audit_id":"5F'),
    (b'{"seq":', b'{"seq":0'),
    (b'{"seq":', b' {"seq":'),
    (b'{"seq":', b'{"seq":-'),
    (b'"audit_id"', b'"timestamp":"x","audit_id"'),
    (b'","prev_hash":"', b'" ,"prev_hash":"'),
    (b',"prev_hash":"', b', "prev_hash":"'),
]


def lines_of(events: list[bytes], after: Head = START) -> list[bytes]:
    """Frame events, a millisecond apart and on whole seconds as well."""
    batch = Batch(after)
    entries = [
        Entry(number, 1_795_348_800 * 10**9 + number * 250_000_000, event) for number, event in enumerate(events)
    ]
    Framer(after, audit_prefix="5f0c1e9b7a3d2c48", service_id="orders").frame(entries, batch)
    return batch.lines


def one_by_one(lines: list[bytes], after: Head) -> tuple[int, str | None]:
    """Return how many lines `check_record` accepts, and why it refuses the next."""
    for count, line in enumerate(lines):
        try:
            after = check_record(line, after).head
        except BadRecord as error:
            return count, str(error)
    return len(lines), None


def at_once(lines: list[bytes], after: Head) -> tuple[int, str | None]:
    """Return the same from checking many at once."""
    count = 0
    for outcome in ChainChecker(after).check_lines(b"".join(lines)):
        if isinstance(outcome, Bad):
            assert outcome.line == count + 1
            assert outcome.data == lines[count]
            return count, outcome.reason
        assert outcome.line == count + 1
        assert outcome.data == b"".join(lines[count : count + len(outcome.records)])
        count += len(outcome.records)
    return count, None


def mutate(lines: list[bytes], random_: random.Random) -> list[bytes]:
    """Change lines the way that somebody might who may know the format."""
    lines = list(lines)
    at = random_.randrange(len(lines))
    line = bytearray(lines[at])
    if len(line) < 3:
        return lines
    match random_.randrange(7):
        case 0:
            line[random_.randrange(len(line) - 1)] ^= 1 << random_.randrange(8)
        case 1:
            line[random_.randrange(len(line) - 1)] = random_.choice(b' \t\r"\\{}[]:,09afz\0\x7f\xff')
        case 2:
            del line[random_.randrange(len(line) - 1)]
        case 3:
            lines[at : at + 1] = [lines[at]] * random_.randrange(3)
        case 4:
            other = random_.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case 5 if b',"hash":"' in line:  # it may have been changed already
            old, new = random_.choice(_FORGED)
            line = bytearray(resealed(bytes(line).replace(old, new, 1)))
        case _:
            where = random_.randrange(len(line) - 1)
            line[where:where] = random_.choice([b" ", b"\\", b'"', b"{", b"}", b",", b"\r", b"\x1c", b"\xc2\x85"])
    if len(lines) > at and bytes(line) != lines[at] and b"\n" not in line[:-1]:
        lines[at] = bytes(line)
    return lines or [b"\n"]


@given(
    st.lists(st.sampled_from(_EVENTS), min_size=1, max_size=60), st.randoms(use_true_random=False), st.integers(0, 2)
)
@settings(max_examples=400, deadline=None)
def test_many_lines_at_once_get_the_verdict_of_each(
    events: list[bytes], random_: random.Random, mutations: int
) -> None:
    """How many lines hold, and why the next does not, is the same; whatever was done to them."""
    lines = lines_of(events)
    for _ in range(mutations):
        lines = [line if line.endswith(b"\n") else line + b"\n" for line in mutate(lines, random_)]
        lines = [part + b"\n" for line in lines for part in line[:-1].split(b"\n")]
    assert at_once(lines, START) == one_by_one(lines, START)


@given(
    st.lists(st.sampled_from(_EVENTS), min_size=1, max_size=60), st.randoms(use_true_random=False), st.integers(0, 2)
)
@settings(max_examples=400, deadline=None)
def test_lines_without_a_chain_are_accepted_only_if_each_is(
    events: list[bytes], random_: random.Random, mutations: int
) -> None:
    """In any order and with gaps: what is accepted at once is accepted one by one, and can be read if that is said."""
    lines = lines_of(events)
    random_.shuffle(lines)
    for _ in range(mutations):
        lines = [line if line.endswith(b"\n") else line + b"\n" for line in mutate(lines, random_)]
        lines = [part + b"\n" for line in lines for part in line[:-1].split(b"\n")]
    records = check_unlinked(b"".join(lines))
    if records is not None:
        checked = [check_record(line, None) for line in lines]
        assert [(record.seq, record.hash, record.timestamp) for record in records] == [
            (one.seq, one.hash.decode(), one.timestamp) for one in checked
        ]
        if are_readable(records):
            for line in lines:
                msgspec.json.decode(line)


@pytest.mark.parametrize(("old", "new"), _FORGED)
def test_a_forgery_without_a_chain_is_accepted_by_nobody(old: bytes, new: bytes) -> None:
    """Each way of spelling a record otherwise is left to the check of a single line."""
    lines = lines_of(_EVENTS[:1] * 20)
    lines[10] = resealed(lines[10].replace(old, new, 1))
    if check_unlinked(b"".join(lines)) is not None:
        check_record(lines[10], None)


def test_untouched_lines_without_a_chain_are_accepted_as_a_whole() -> None:
    """The fast path is taken for what the library writes, also for some lines out of many."""
    encoded = [event for event in _EVENTS[:-1] if msgspec.json.encode(msgspec.json.decode(event)) == event]
    lines = lines_of([*encoded, _EVENTS[-1]] * 50)[::-3]
    assert [record.seq for record in check_unlinked(b"".join(lines)) or ()] == list(range(249, -1, -3))


@pytest.mark.parametrize(
    "number",
    [b"1e999", b"-1E400", b"1E+0400", b"0.1e00310", b"1" * 5000, b"0.5e+309", b"9" * 210 + b"e99"],
)
def test_a_number_that_is_too_large_is_never_called_readable(number: bytes) -> None:
    """Also in a context, or somewhere within; decoding the line decides."""
    for event, context in ((number, b"1"), (b"1", number)):
        body = b'{"event_type":"a.b","n":[%s]},"context":{"n":%s}' % (event, context)
        line = resealed(lines_of([b'{"event_type":"a.b"}'])[0].replace(b'{"event_type":"a.b"}', body))
        records = check_unlinked(line)
        assert records is not None
        with pytest.raises(msgspec.MsgspecError):
            msgspec.json.decode(line)
        assert not are_readable(records)


def test_ordinary_numbers_and_hashes_are_readable_at_once() -> None:
    """A hash that looks like an exponent in a text costs the slow path at most, an ordinary number never."""
    (line,) = lines_of([b'{"event_type":"a.b","n":[1.5,-3e-7,18446744073709551616,1e99],"t":"0"}'])
    records = check_unlinked(line)
    assert records is not None
    assert are_readable(records)


@pytest.mark.parametrize(("old", "new"), _FORGED)
@pytest.mark.parametrize("at", [0, 10, 19])
def test_a_forgery_with_a_good_hash_is_judged_alike(old: bytes, new: bytes, at: int) -> None:
    """Each way of spelling a record otherwise; most are refused, and none is accepted by haste."""
    lines = lines_of(_EVENTS[:1] * 20)
    lines[at] = resealed(lines[at].replace(old, new, 1))
    previous = lines[at][-67:-3]
    for later in range(at + 1, len(lines)):  # the forger seals all that follows
        lines[later] = resealed(lines[later][:PREV_AT] + previous + lines[later][PREV_AT + 64 :])
        previous = lines[later][-67:-3]
    assert at_once(lines, START) == one_by_one(lines, START)


@example(Head(-1, b"A" * 64))
@example(Head(-1, b"0" * 63))
@example(Head(-2, b"0" * 64))
@given(st.builds(Head, st.integers(-1, 10), st.sampled_from([b"0" * 64, b"a" * 64, b""])))
def test_the_place_to_begin_at_is_part_of_the_verdict(after: Head) -> None:
    """A wrong one makes the first line bad, as it does for one line; so does one that no record can be linked to."""
    for lines in (lines_of(_EVENTS[:1] * 3), lines_of(_EVENTS[:1] * 3, after)):
        assert at_once(lines, after) == one_by_one(lines, after)


def test_an_untouched_chunk_is_accepted_as_a_whole() -> None:
    """The fast road is taken for what the library writes: that is the whole point."""
    encoded = [event for event in _EVENTS[:-1] if msgspec.json.encode(msgspec.json.decode(event)) == event]
    assert len(encoded) == 4
    lines = lines_of([*encoded, _EVENTS[-1]] * 50)
    (outcome,) = ChainChecker(START).check_lines(b"".join(lines))
    assert isinstance(outcome, Good)
    assert [record.seq for record in outcome.records] == list(range(len(lines)))


@given(st.integers(0, 199), st.integers(0, 380), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_one_changed_byte_makes_at_most_two_bad_lines(line: int, at: int, change: int) -> None:
    """The check finds its place again after a bad line, so the damage is not hidden in thousands of findings."""
    lines = lines_of(_EVENTS[:1] * 200)
    changed = bytearray(lines[line])
    changed[at % (len(changed) - 1)] ^= change
    lines[line] = bytes(changed)
    outcomes = list(ChainChecker(START).check_lines(b"".join(lines)))
    bad = [outcome for outcome in outcomes if isinstance(outcome, Bad)]
    assert 1 <= len(bad) <= 2
    assert bad[0].line == line + 1
    assert sum(len(outcome.records) for outcome in outcomes if isinstance(outcome, Good)) >= 198


@pytest.mark.parametrize("extra", [b"x\n", b"\n", b"x" * 400 + b"\n", resealed(lines_of(_EVENTS[2:3])[0])])
@pytest.mark.parametrize("at", [0, 1, 10, 20])
def test_a_line_too_many_is_one_bad_line(extra: bytes, at: int) -> None:
    """The record behind it stands where it is due, and so do all the others."""
    lines = lines_of(_EVENTS[:1] * 20)
    outcomes = list(ChainChecker(START).check_lines(b"".join([*lines[:at], extra, *lines[at:]])))
    bad = [outcome.line for outcome in outcomes if isinstance(outcome, Bad)]
    if extra.startswith(b"{"):  # a whole record: which of the two is the one too many, nobody can tell
        assert bad[:1] in ([at + 1], [at + 2])
    else:
        assert bad == [at + 1]
        assert sum(len(outcome.records) for outcome in outcomes if isinstance(outcome, Good)) == 20


def test_a_check_may_begin_anywhere() -> None:
    """Without a head the first record stands as it says; the ones behind it must follow."""
    lines = lines_of(_EVENTS[:1] * 20)
    checker = ChainChecker(None)
    assert (
        sum(len(outcome.records) for outcome in checker.check_lines(b"".join(lines[7:12])) if isinstance(outcome, Good))
        == 5
    )
    assert checker.due == 12
    assert isinstance(next(checker.check_lines(lines[13])), Bad)
    assert isinstance(next(checker.check_lines(lines[14])), Good)
