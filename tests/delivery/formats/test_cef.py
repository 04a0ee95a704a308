r"""Records as CEF messages: a parser that knows the escapes alone reads back what was recorded, whatever it holds."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_async._sanitize.unsafe_text import escape
from audit_async.delivery.siem_formats.cef_format import CefFormat
from audit_async.events import ActorInfo, ActorKind, AuthFailure, IntegrityViolation, Severity, UserUpdated
from tests.delivery.formats.recorded_lines import ANYTHING, LOG_ID, TEXTS, built_in_types, deliverable, line_of
from tests.events.test_events import any_event

FORMAT = CefFormat()
#: A key, at the beginning or after a space, and an `=` that no backslash escapes.
KEY = re.compile(r"(?:^| )([A-Za-z0-9]+)=")
ESCAPED = re.compile(r"\\(.)")
#: Keys of the CEF dictionary, https://www.microfocus.com/documentation/arcsight/ (CEF implementation standard).
# fmt: off
DICTIONARY = frozenset({
    "act", "cn1", "cn1Label", "cs1", "cs1Label", "cs2", "cs2Label", "cs3", "cs3Label", "cs4", "cs4Label",
    "cs5", "cs5Label", "cs6", "cs6Label", "c6a2", "c6a2Label", "deviceProcessName", "duid", "dvchost",
    "externalId", "fname", "in", "msg", "out", "outcome", "reason", "request", "requestClientApplication",
    "requestMethod", "rt", "spriv", "src", "start", "suid", "suser",
})
# fmt: on


def parse(message: bytes) -> tuple[list[str], dict[str, str]]:
    """Return the header's fields and the extension of a message, as a receiver reads them."""
    text = message.decode("utf-8", "strict")
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)
    fields = split_header(text)
    header, extension = fields[:7], fields[7]
    pairs: dict[str, str] = {}
    found = [match for match in KEY.finditer(extension) if not escaped_at(extension, match.end() - 1)]
    for match, following in zip(found, [*found[1:], None], strict=True):
        value = extension[match.end() : following.start() if following else len(extension)]
        assert match[1] not in pairs
        pairs[match[1]] = ESCAPED.sub(lambda e: {"n": "\n", "r": "\r"}.get(e[1], e[1]), value)
    return header, pairs


def split_header(text: str) -> list[str]:
    """Return the seven fields of a header, and what follows it."""
    fields = [""]
    position = 0
    while len(fields) < 8:
        character = text[position]
        if character == "\\":
            fields[-1] += text[position + 1]
            position += 1
        elif character == "|":
            fields.append("")
        else:
            fields[-1] += character
        position += 1
    return [*fields[:7], text[position:]]


def escaped_at(text: str, position: int) -> bool:
    """Return whether a backslash escapes the character at a position."""
    before = text[:position]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


@pytest.mark.parametrize("event_type", sorted(built_in_types()))
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_built_in_event_is_read_back(event_type: str, data: st.DataObject) -> None:
    """Seven fields of a header, keys of the dictionary alone, and the event is what was recorded."""
    line = line_of(data.draw(any_event(built_in_types()[event_type], TEXTS, ANYTHING)), note=data.draw(TEXTS))
    recorded = msgspec.json.decode(line)
    header, pairs = parse(FORMAT.encode(deliverable(line)))
    assert header[:3] == ["CEF:0", "audit-async", "audit-async"]
    assert header[4] == event_type
    assert 0 <= int(header[6]) <= 10
    assert pairs.keys() <= DICTIONARY
    assert pairs["externalId"] == recorded["audit_id"]
    assert (pairs["cs1"], pairs["cs2"], pairs["cn1"]) == (recorded["hash"], LOG_ID, str(recorded["seq"]))
    event = {name: value for name, value in recorded["event"].items() if name != "event_type"}
    assert msgspec.json.decode(pairs["cs3"]) == event
    assert msgspec.json.decode(pairs["cs4"]) == recorded["context"]


def test_hostile_texts_stay_in_their_fields() -> None:
    """A text with every separator of the format is one value."""
    text = "a|b\\c=d\ne\r\nf src=6.6.6.6 \x1b[0m\u202e"
    header, pairs = parse(
        FORMAT.encode(deliverable(line_of(AuthFailure(attempted_user=text, reason=text, ip=text, path=text))))
    )
    assert header[4] == "auth.failure"
    assert pairs["suser"] == pairs["reason"] == pairs["request"] == "a|b\\c=d\ne\r\nf src=6.6.6.6 \\x1b[0m\\u202e"
    assert "src" not in pairs
    hostile = {"event_type": "evil|type\\\n|10|src=1"}
    assert parse(FORMAT.encode(deliverable(line_of(hostile))))[0][4] == "evil|type\\\\n|10|src=1"


def test_addresses_of_both_versions() -> None:
    """`src` takes IPv4 alone; an IPv6 address has its own key, with its label."""
    for ip, key in (("203.0.113.9", "src"), ("2001:db8::1", "c6a2")):
        _, pairs = parse(FORMAT.encode(deliverable(line_of(AuthFailure(reason="", ip=ip, path="/")))))
        assert pairs[key] == ip
        assert ("c6a2Label" in pairs) == (key == "c6a2")


def test_the_severity_is_that_of_the_record() -> None:
    """A `severity` of the event decides; otherwise the type."""
    made = [
        parse(
            FORMAT.encode(
                deliverable(
                    line_of(
                        IntegrityViolation(
                            resource_type="t",
                            resource_id="1",
                            expected_hash="",
                            actual_hash="",
                            severity=severity,
                            action_taken="",
                        )
                    )
                )
            )
        )[0][6]
        for severity in (Severity.LOW, Severity.CRITICAL, "unheard of")
    ]
    assert made == ["3", "10", "8"]


def test_an_actor_and_a_subject() -> None:
    """Who did it is the source's user, to whom the destination's."""
    actor = ActorInfo(user_id="root", role="admin", kind=ActorKind.USER)
    _, pairs = parse(FORMAT.encode(deliverable(line_of(UserUpdated(actor=actor, subject="alice", changes={})))))
    assert (pairs["suid"], pairs["spriv"], pairs["duid"]) == ("root", "admin", "alice")
    assert escape(pairs["suid"]) == "root"
