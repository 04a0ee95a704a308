"""What a client sends costs work in proportion to its length, in every parser of the web integrations.

Counted, not timed: the lines of Python that run, and the comparisons that regular expressions make.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async import context
from audit_async.context import parse_traceparent
from audit_async.integrations import logging as audit_logging
from audit_async.integrations._http import correlation, http_redactor, incidents, path_traversal
from audit_async.integrations._http.actor import method_shown
from audit_async.integrations._http.client_address import TrustedProxies
from audit_async.integrations._http.correlation import correlation_of
from audit_async.integrations._http.exchange import path_in_application
from audit_async.integrations._http.incidents import Incident
from audit_async.integrations._http.path_traversal import climbs_out
from audit_async.integrations._http.request_policy import Policy, Rule
from tests.redact.counted_steps import CountedPattern, lines_of, steps_of

SMALL, LARGE = 2_000, 16_000

#: What is repeated: every separator that a parser here knows, whole and half escapes, and what almost matches.
PIECES = (
    "/", "//", "\\", "..", "../", "/..", "..;", "..;a/", "...", "%", "%2", "%2e", "%2e%2e/", "%25", "%252e", "%25252e",
    "%c0", "%c0%", "%c0%ae", "\ufffd", "\0", "a", "a/", "*", "-", "0", "00-", "for=", "for=1.2.3.4", ";", ",", ", ",
    "\"", "[", "]", "[::1]:1,", "1.2.3.4,", "10.0.0.1, ", "unknown,", " ", "\t", "=", ";w=", "; w=1", ":", "é", "\n",
    "Traceback (most recent call last):\n", "| ", "+ ", "  | A.b", "A.", "Bearer ", "cookie: ",
)  # fmt: skip

TRUSTED = {header: TrustedProxies(["10.0.0.0/8"], header=header) for header in ("x-forwarded-for", "forwarded")}
DEEP = [
    Rule("/**/a/**/*a*a*b/**/c", level="none"),
    Rule("/**/..*/**/%*/**", level="request"),
    Rule("/*/*/*", level="none"),
]


def policy(text: str) -> object:
    """Match a path against globs that match late or never."""
    return Policy(DEEP).plan("GET", f"/{text}")


def forwarded(header: str) -> Callable[[str], object]:
    """Look for the client in a header."""
    return lambda text: TRUSTED[header].client_of("10.0.0.1", [(header.encode(), text.encode("utf-8"))])


def limit(text: str) -> object:
    """Read an application's rate-limit headers."""
    headers = [(b"ratelimit-policy", text.encode()), (b"x-ratelimit-limit", text.encode())]
    return Incident(False, 429, "GET", "/", None, None, headers).event(None, actor_is_known=True)


PARSERS: dict[str, Callable[[str], object]] = {
    "path": lambda text: climbs_out(text, text.encode("utf-8")),
    "root path": lambda text: path_in_application(text, text[: len(text) // 2]),
    "globs": policy,
    "X-Forwarded-For": forwarded("x-forwarded-for"),
    "Forwarded": forwarded("forwarded"),
    "traceparent": parse_traceparent,
    "X-Request-ID": lambda text: correlation_of({b"x-request-id": text.encode(), b"traceparent": text.encode()}),
    "Authorization": lambda text: method_shown({b"authorization": text.encode()}),
    "RateLimit": limit,
    "traceback": audit_logging._without_traceback,
}


WITHIN = ("/audit_async/", "/ipaddress.py", "/urllib/parse.py", "/fnmatch.py")


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("piece", PIECES)
def test_eight_times_the_text_is_at_most_about_eight_times_the_work(name: str, piece: str) -> None:
    """Repeated alone, with a head that makes a parser begin, and with a tail on which a match fails at the end."""
    parse = PARSERS[name]
    for head, tail in (("", ""), ("/../", "x"), ("00-", "\0"), ("[", "!")):
        parse(head + piece + tail)  # what is loaded or cached at first
        small = lines_of(partial(parse, head + piece * (SMALL // len(piece)) + tail), *WITHIN)
        large = lines_of(partial(parse, head + piece * (LARGE // len(piece)) + tail), *WITHIN)
        assert large <= 10 * small + 200, (name, piece, small, large)


@pytest.mark.parametrize("name", PARSERS)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=6))
@settings(deadline=None, max_examples=30)
def test_mixed_texts_cost_no_more(name: str, pieces: list[str]) -> None:
    """The same for mixtures of what is repeated."""
    parse, unit = PARSERS[name], "".join(pieces)
    parse(unit)
    small = lines_of(partial(parse, unit * (SMALL // len(unit) + 1)), *WITHIN)
    large = lines_of(partial(parse, unit * (LARGE // len(unit) + 1)), *WITHIN)
    assert large <= 10 * small + 400, (name, pieces, small, large)


def as_text(pattern: re.Pattern[bytes]) -> re.Pattern[str]:
    """Return the same pattern for texts, which can be counted."""
    return re.compile(pattern.pattern.decode("latin-1"), pattern.flags | re.ASCII)


#: Not `_RAISED` and globs, which the counter does not know: the first is possessive, the stars of `fnmatch` are atomic.
PATTERNS: dict[str, re.Pattern[str]] = {
    "plain path": http_redactor.PLAIN_PATH,
    "overlong UTF-8": as_text(path_traversal._OVERLONG),
    "request id": as_text(correlation._SANE_ID),
    "limit": as_text(incidents._NUMBER),
    "window": as_text(incidents._WINDOW),
    "traceparent": context._TRACEPARENT,
    "traceback": audit_logging._TRACEBACK,
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("call", ["search", "fullmatch"])
def test_patterns_take_steps_in_proportion(name: str, call: str) -> None:
    """The comparisons that a pattern makes in eight times the text are at most about eight times as many."""
    if call == "search" and name in {"plain path", "limit"}:
        pytest.skip("is only matched from the beginning")
    pattern = CountedPattern(PATTERNS[name])
    for piece in PIECES:
        for head, tail in (("", ""), ("/../", "x"), ("00-", "\0"), ("; w", "!")):
            small, large = (
                steps_of(partial(getattr(pattern, call), head + piece * (chars // len(piece)) + tail))
                for chars in (150, 1200)
            )
            assert large <= 10 * small + 200, (piece, head, tail, small, large)
