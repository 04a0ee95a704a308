"""No input is expensive: twice the text is twice the work, for texts that are made to be slow. Work is counted.

The counted steps of regular expressions show what `re` compares again; the counted lines of Python show what loops do.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import pytest

from audit_async._redact import (
    bodies,
    command_lines,
    labelled_text,
    redactor,
    sensitive_names,
    service_keys,
    token_patterns,
)
from audit_async._redact.redactor import Redactor
from audit_async._sanitize import context_member, plain_json, reductions, slow_path, unsafe_text
from audit_async._sanitize.slow_path import make_harmless
from audit_async._sanitize.unsafe_text import escape, is_unsafe_json
from audit_async.config import AuditConfig
from audit_async.config.toml_file import read_toml
from audit_async.events import ActorInfo, PoolModified
from audit_async.events.recorded import _holds
from tests.redact.counted_steps import CountedPattern, count_patterns, lines_of, steps_of

ROOMS = (bodies, command_lines, labelled_text, redactor, sensitive_names, service_keys, token_patterns)

#: What texts are made of, over and over: beginnings of what each pattern looks for, and what it may be interrupted by.
UNITS = (
    "a", "A1", "é", "İ", "\\", '"', "'", "`", "<", ">", "[", "{", "=", ":", "&", ",", ".", "-", "/", "@", "%", "\n",
    " ",
    "eyJ", "eyJ.", "-eyJ.", "password=", 'password="', "password='\n", "password=\\'", '"password":', '"password":"',
    '\\"token\\":', '"token":[', '"token":{"', "password: '", "token => ", "token := '", "password:a", "token ",
    "token: ",
    "token: a1", "<password>", "<password ", "<a:token ", "token>", "Cookie: ", "cookie: [redacted:a]=b ",
    "Cookie: a",
    "authorization: basic ", "Bearer ", "Basic YTpi ", "auth=", "ghp_", "sk-", "sk-ant-a-", "SG.", "ya29.", "gl",
    "xox",
    "s.", "M", "0/1111111111:", "8Q~", "abc8Q~", "AZDO", ":AA", "1:AA", ".atlasv1.", "-us1", "A3-",
    "hooks.slack.com/a/",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN A ", "-----END ", "://", "://a:", "://a:b/", "://a@", "?sig=",
    "&code=aB3",
    "4111 ", "4111-", "4111111111111111 ", "3782 822463 ", "--a b ", "--token ", "--token is ", "-token ", "curl ",
    "curl -u a:b ", "-u a:", "mysql ", "-p x ", "-pass ", "password 'a", "identified by ", "login a password b ",
    "name=password value=", "name: token, value: ", "name=a\n\n", "a=", "a,b=", "token=,a", "token=a,", "%3D",
    "token%3D",
    "token%5d", "record=", "x=1&", '"a":1,', "[redacted:token]", "token=[redacted:a] ", "token=null ", "pin: 1 ",
    "iban=DE89 ",
)  # fmt: skip
BEFORE = ("", '"token":"', "password=", "curl -u ", "<a ")


def texts(size: int) -> Iterator[tuple[str, str]]:
    """Yield every adversarial text of a size, with its name."""
    for unit in UNITS:
        for before in BEFORE:
            yield f"{before}|{unit}", before + (unit * size)[:size]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Redactor:
    """Return a redactor all of whose patterns count their steps."""
    assert len(count_patterns(monkeypatch, *ROOMS)) > 40
    others = tuple((kind, part, CountedPattern(pattern)) for kind, part, pattern in service_keys._OTHER_RULES)
    monkeypatch.setattr(service_keys, "_OTHER_RULES", others)
    inside = labelled_text._inside.__wrapped__
    monkeypatch.setattr(labelled_text, "_inside", lambda *given: CountedPattern(inside(*given)))
    kinds = {kind: tuple(map(CountedPattern, patterns)) for kind, patterns in labelled_text._BY_KIND.items()}
    monkeypatch.setattr(labelled_text, "_BY_KIND", kinds)
    monkeypatch.setattr(labelled_text, "_LOOKS_SECRET", tuple(map(CountedPattern, labelled_text._LOOKS_SECRET)))
    made = Redactor()
    for name in ("_label", "_label_or_element"):
        setattr(made._labelled, name, CountedPattern(getattr(made._labelled, name)))
    return made


def test_the_counter_finds_what_is_not_linear() -> None:
    """The measure itself: a pattern that reads its run again from each place shows as four times the steps."""
    quadratic, linear = CountedPattern(re.compile(r"a+b")), CountedPattern(re.compile(r"(?<!a)a++b"))
    for pattern, low, high in ((quadratic, 3.5, 4.5), (linear, 1.9, 2.1)):
        ratio = steps_of(partial(pattern.search, "a" * 400)) / steps_of(partial(pattern.search, "a" * 200))
        assert low < ratio < high


def test_redaction_takes_steps_in_proportion_to_the_text(counted: Redactor) -> None:
    """Each pattern, as it is called, over some 500 texts: twice the text takes about twice the steps."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        slow = []
        for (name, short), (_, long) in zip(texts(48), texts(96), strict=True):
            once, twice = (steps_of(partial(counted.redact_text, text)) for text in (short, long))
            if twice > 2.5 * once + 400:
                slow.append((name, once, twice))
    finally:
        sys.setrecursionlimit(limit)
    assert slow == []


def test_redaction_runs_lines_in_proportion_to_the_text() -> None:
    """The loops around the patterns: twice the text, and not more than some more than twice the lines."""
    made = Redactor()
    slow = []
    for (name, short), (_, long) in zip(texts(1024), texts(2048), strict=True):
        once, twice = (lines_of(partial(made.redact_text, text), "audit_async") for text in (short, long))
        if twice > 2.3 * once + 100:
            slow.append((name, once, twice))
    assert slow == []


def multipart(parts: int, head: str = "") -> bytes:
    """Return a body of nested parts."""
    return f"--B\r\nContent-Type: multipart/mixed; boundary=B\r\n{head}\r\n".encode() * parts


FORM = "application/x-www-form-urlencoded"


def json_in_json(size: int) -> str:
    """Return texts of JSON in texts of JSON."""
    return json.dumps({"a": json.dumps({"a": json.dumps({"a": "password=x " * size})})})


#: Data and bodies of a size, each made to be slow by what some parser does with it; and the parser.
INPUTS: dict[str, tuple[Callable[[int], Any], Callable[[Redactor, Any], object]]] = {
    "equal names in JSON": (lambda n: "{" + ",".join(['"":1'] * n) + "}", Redactor.redact),
    "names that are numbered already": (
        lambda n: "{" + ",".join([*(f'"a~{i}":1' for i in range(n)), *['"a":1'] * n]) + "}",
        Redactor.redact,
    ),
    "keys that redact alike": (lambda n: {f"password={i}": 1 for i in range(n)}, Redactor.redact),
    "a query that redacts alike": (
        lambda n: "&".join(f"ghp_{i:036}=1" for i in range(n)).encode(),
        lambda made, body: made.redact_body(body, FORM),
    ),
    "fields of one name": (lambda n: b"a=1&" * n, lambda made, body: made.redact_body(body, FORM)),
    "headers of one name": (lambda n: [(b"a", b"b")] * n, Redactor.redact_headers),
    "one more backslash per line": (
        lambda n: "".join(f"password={chr(92) * (i % 40)}'x\n" for i in range(n)),
        Redactor.redact,
    ),
    "nested parts": (multipart, lambda made, body: made.redact_body(body, "multipart/form-data; boundary=B")),
    "parameters of a part": (
        lambda n: multipart(1, "Content-Disposition: form-data" + ';a="' * n + "\r\n"),
        lambda made, body: made.redact_body(body, "multipart/form-data; boundary=B"),
    ),
    "lists in lists": (lambda n: "[" * n, Redactor.redact),
    "JSON in JSON": (json_in_json, Redactor.redact),
    "shared lists": (lambda n: [[["token=x"]] * 3] * n, Redactor.redact),
    "a long list": (lambda n: {"a": list(range(n)), "password": "x"}, Redactor.redact),
}


@pytest.mark.parametrize("name", INPUTS)
def test_parsers_of_bodies_and_data_run_lines_in_proportion(name: str) -> None:
    """JSON, forms, parts, headers, names that become equal."""
    make, read = INPUTS[name]

    def lines(size: int) -> int:
        data, made = make(size), Redactor()  # one whose caches are empty
        return lines_of(lambda: read(made, data), "audit_async", "email", "urllib")

    assert lines(600) <= 2.3 * lines(300) + 100


def test_what_is_larger_than_the_bound_is_neither_searched_nor_shown() -> None:
    """The work is capped before the search begins: for one text, many texts, a long list, a body."""
    made = Redactor(max_chars=4096)
    text = "x " * 2000 + "password=hunter2 " + "y " * 4000
    clean = made.redact_text(text)
    assert clean.endswith("[redacted:too_long]")
    assert "y" in clean
    assert len(clean) < 4200
    assert "hunter2" not in clean
    assert made.redact(["password=hunter2"] * 1000) == "[redacted:too_large]"
    assert made.redact({"a": [text, "token=abcdef"], "b": 1})["b"] == 1  # type: ignore[index]  # it is a dict
    assert str(made.redact_body(text.encode(), "application/json")).endswith("[redacted:too_long]")
    lines = {size: lines_of(partial(made.redact, {"a": "token=a " * size}), "audit_async") for size in (4096, 65_536)}
    assert lines[65_536] <= lines[4096] + 50


# -- making harmless ------------------------------------------------------------------------------------------


def modified(changes: dict[str, object]) -> Callable[[], object]:
    """Return what makes an event harmless that holds this."""
    event = PoolModified(actor=ActorInfo(user_id="u"), pool_id="p", changes=changes)
    return lambda: make_harmless(event, None, on_unsafe="escape", max_field_chars=64, max_event_bytes=8192)


def nested(depth: int) -> object:
    """Return lists in lists."""
    data: object = "\x1b"
    for _ in range(depth):
        data = [data]
    return data


EVENTS: dict[str, Callable[[int], dict[str, object]]] = {
    "keys that are escaped alike": lambda n: {"\x1b" * i: i for i in range(1, min(n, 60))} | {"a": ["\x1b"] * n},
    "keys that are cut alike": lambda n: {"k" * 100 + str(i): i for i in range(n)},
    "pairs of keys that are cut alike": lambda n: {f"{'k' * 61}{i % n:03}{i // n}": i for i in range(2 * n)},
    "many texts that are cut": lambda n: {"a": ["x" * 100] * n},
    "many members that are large": lambda n: {f"k{i}": "x" * 60 + "\x1b" for i in range(n)},
    "lists in lists": lambda n: {"a": nested(4 * n)},
    "large integers": lambda n: {"a": [10**50] * n},
    "escapes": lambda n: {"a": "\u202e" * n},
}


@pytest.mark.parametrize("name", EVENTS)
def test_making_harmless_runs_lines_in_proportion(name: str) -> None:
    """The walk over plain data, and fitting it into the bound."""
    once, twice = (lines_of(modified(EVENTS[name](size)), "audit_async") for size in (400, 800))
    assert twice <= 2.4 * once + 500


def cut_and_escape(text: str) -> str:
    """Make a text harmless and cut it."""
    return unsafe_text.cut(escape(text), 7)


def test_unsafe_text_is_found_in_steps_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Escaping, cutting, paths, ids, digits: the patterns of the room."""
    names = count_patterns(monkeypatch, unsafe_text, context_member, reductions, slow_path, plain_json)
    assert len(names) >= 3
    for unit in ("a", "\x1b", "\\", "\\x1", "\\u202", "\u202e", "\ud800", "é", "[", "0", "-"):
        once, twice = (steps_of(partial(cut_and_escape, unit * size)) for size in (200, 400))
        assert twice <= 2.2 * once + 50, unit
        encoded = json.dumps(unit * 100).encode()
        assert is_unsafe_json(encoded) in {True, False}


# -- reading configurations and records -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a = 1\n", "[[a]]\n", '"x" = "y"\n', "# c\n", "a = [[[[\n", "a.b.c = 1\n", "k = '''\n"], ids=repr
)
def test_a_configuration_file_is_read_in_proportion(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """TOML: the standard library's parser and what is made of its table."""

    def read(size: int) -> int:
        path = tmp_path_factory.mktemp("toml") / "audit.toml"
        path.write_text("".join(text.replace("a", f"a{number}", 1) for number in range(size)), encoding="utf-8")

        def call() -> None:
            with suppress(ValueError):
                read_toml(path)

        return lines_of(call, "audit_async", "tomllib")

    assert read(400) <= 2.3 * read(200) + 100


def test_the_environment_is_read_in_proportion() -> None:
    """Variables of other programs cost one comparison each."""

    def read(size: int) -> int:
        environ = {f"AUDITOR_{number}": "x" for number in range(size)} | {"AUDIT_MODE": "disabled"}
        return lines_of(lambda: AuditConfig.from_env(environ=environ), "audit_async")

    assert read(2000) <= 2.3 * read(1000) + 100


def test_a_record_is_compared_in_proportion() -> None:
    """What was recorded is compared with what was read once, however deep its lists are and wherever they differ."""

    def compare(depth: int) -> int:
        one, other = (msgspec.json.decode(msgspec.json.encode(nested(depth))) for _ in range(2))
        innermost = other
        while isinstance(innermost[0], list):
            innermost = innermost[0]
        innermost[0] = 1
        return lines_of(lambda: _holds(one, other), "audit_async")

    assert compare(200) <= 2.3 * compare(100) + 20
    assert _holds([1, [2, 3]], [1, [3, 2]])
    assert not _holds([[1], [2]], [[2], [1]])
