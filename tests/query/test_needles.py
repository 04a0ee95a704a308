"""The bytes that are looked for: no wanted line is without them, and hardly any other has them."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from audit_async._query import needles
from audit_async._query.matching import Filter
from audit_async._query.needles import Needles
from audit_async.reader import AuditQuery, Glob

#: A line with what is in every line: hashes and numbers.
LINE = (
    b'{"seq":47110,"audit_id":"5f0c1e9b7a3d2c48-7","timestamp":"2026-11-22T12:00:00.404500Z","service_id":"orders",'
    b'"event":{"event_type":"http.request","path":"/a","duration_ms":7,"status":200,"n":[404,7],"ip":"203.0.113.150"},'
    b'"prev_hash":"4040071500"}\n'
)


def may_want(query: AuditQuery, line: bytes = LINE) -> bool:
    """Return whether a line passes all needles of a query, looked for in it alone and in a chunk."""
    passed = [one.may_be_in(line) for one in Filter(query).needles]
    assert passed == [bool(list(one.hits(line))) for one in Filter(query).needles]
    return all(passed)


@pytest.mark.parametrize(
    "query",
    [
        AuditQuery(status=404),
        AuditQuery(status="4xx,500-599"),
        AuditQuery(ip="203.0.113.15"),
        AuditQuery(ip="203.0.113.0/28"),
        AuditQuery(ip="203.0.112.0/24"),
        AuditQuery(ip="10.0.0.0/8"),
        AuditQuery(outcome="failure"),
        AuditQuery(actor="404"),
        AuditQuery(context={"tenant": "7"}),
        AuditQuery(actor="0000"),
        AuditQuery(actor="-7"),
        AuditQuery(path=Glob("/b*")),
        AuditQuery(fields={"m": "7"}),
        AuditQuery(fields={"n": "eve"}),
    ],
    ids=repr,
)
def test_a_line_without_what_is_wanted_is_not_read(query: AuditQuery) -> None:
    """What is in hashes, times and other members does not make a line a candidate."""
    assert not may_want(query)


@pytest.mark.parametrize(
    ("query", "change"),
    [
        (AuditQuery(status=404), (b'"status":200', b'"status" : 404 ')),
        (AuditQuery(status=404), (b'"status":200', b'"status":"404"')),
        (AuditQuery(outcome="failure"), (b'"status":200', b'"status":\t500')),
        (AuditQuery(actor="404"), (b'"n":[404,7]', b'"user_id": 404')),
        (AuditQuery(actor="0"), (b'"n":[404,7]', b'"user_id":-0')),
        (AuditQuery(actor="a/b"), (b'"n":[404,7]', rb'"user_id":"a\/b"')),
        (AuditQuery(actor="eve"), (b'"n":[404,7]', rb'"user_id":"\u0065ve"')),
        (AuditQuery(actor="\\eve"), (b'"n":[404,7]', rb'"user_id":"\\\u0065ve"')),
        (AuditQuery(fields={"n": "7"}), (b"", b"")),
        (AuditQuery(fields={"n.0": "404"}), (b"", b"")),
        (AuditQuery(ip="203.0.113.144/28"), (b"", b"")),
        (AuditQuery(ip="3405803785"), (b'"203.0.113.150"', b"3405803785")),
        (AuditQuery(ip="202.0.0.0/7"), (b"", b"")),
    ],
    ids=repr,
)
def test_every_spelling_of_what_is_wanted_is_read(query: AuditQuery, change: tuple[bytes, bytes]) -> None:
    """White space that JSON allows, numbers as texts, and other escapes than the library's hide nothing."""
    assert may_want(query, LINE.replace(*change))


def test_a_backslash_in_a_text_is_no_other_spelling() -> None:
    r"""A text with a visible escape in it, such as `\u202e`, which every hostile text has, is not read for that."""
    for text, is_read in (
        (rb"\\u202e", False),
        (rb"\\\\/", False),
        (rb"\"/", False),
        (rb"\\\u0065", True),
        (rb"\/", True),
    ):
        line = LINE.replace(b"/a", text)
        assert may_want(AuditQuery(actor="eve"), line) is is_read, text
        assert json.loads(line)


@pytest.mark.parametrize("prefix", range(33))
def test_every_address_of_a_network_has_its_needles(prefix: int) -> None:
    """The first, the last and another address of a network of any size pass, its neighbours hardly ever matter."""
    network = ip_network(f"203.151.113.77/{prefix}", strict=False)
    found = needles.for_network(network)
    assert (found is None) == (prefix == 0)
    for address in (network[0], network[-1], network[network.num_addresses // 3]):
        for spelling in (f'"{address}"', f'"::ffff:{address}"'):
            assert found is None or found.may_be_in(spelling.encode())


def test_hits_come_in_order_and_once_a_line() -> None:
    """Whether needles are few, many or a pattern, each line with one is hit, the first one first."""
    data = b"".join(b"line %d eve%d %s\n" % (n, n % 7, rb"\u0065" if n % 5 == 0 else b"") for n in range(50))
    for one in (
        Needles((b"eve3",)),
        Needles((b"eve3", b"eve4")),
        Needles(tuple(b"eve%d" % n for n in range(7))),
        Needles((), b"eve[34]"),
    ):
        hits = list(one.hits(data))
        assert hits == sorted(hits)
        lines = [data.count(b"\n", 0, hit) for hit in hits]
        assert sorted(set(lines)) == [n for n, line in enumerate(data.splitlines()) if one.may_be_in(line)]
