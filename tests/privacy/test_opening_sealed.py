"""Opening the sealed members of records: what opens, where, and what is shown of the rest."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async.privacy import Destroyed, opening_sealed
from audit_async.privacy.opening_sealed import Opener, sealed_members
from audit_async.privacy.sealed_text import FORGED, KEY_MISSING, SEALED, context_place, escape_plain, event_place
from tests.privacy.key_stores import ALICE, BOB, make_store, open_store, some_keys
from tests.privacy.known_keys import LOG_ID, KnownKeys


def test_members_at_any_depth_are_opened() -> None:
    """In objects, lists, mappings and the context; what was not sealed stays, and the given members are not changed."""
    keys = KnownKeys()
    event: dict[str, object] = {
        "event_type": "t",
        "actor": {"user_id": keys.seal("alice", event_place("t", ("actor", "user_id"))), "kind": "user"},
        "names": ["plain", keys.seal("bob", event_place("t", ("names", "1")))],
        "details": {"a.b": keys.seal({"x": [1, None]}, event_place("t", ("details", "a.b"))), "n": 7},
    }
    context: dict[str, object] = {"ip": keys.seal("203.0.113.9", context_place("ip")), "request_id": "r"}
    before = json.dumps([event, context])
    opened = keys.opener().open(LOG_ID, event, context)
    assert opened.event == {
        "event_type": "t",
        "actor": {"user_id": "alice", "kind": "user"},
        "names": ["plain", "bob"],
        "details": {"a.b": {"x": [1, None]}, "n": 7},
    }
    assert opened.context == {"ip": "203.0.113.9", "request_id": "r"}
    assert json.dumps([event, context]) == before
    assert [member.place for member in opened.members] == [
        ("event", "actor", "user_id"),
        ("event", "names", "1"),
        ("event", "details", "a.b"),
        ("context", "ip"),
    ]
    assert all(member.opened is not None and not member.shown for member in opened.members)
    assert [member.place for member in sealed_members(event, context)] == [one.place for one in opened.members]


@pytest.mark.parametrize("state", [SEALED, "[erased 2026-11-28]", KEY_MISSING, FORGED])
def test_what_stays_closed_says_why(state: str) -> None:
    """No store, a destroyed key, an unknown key, and a text that is not from this place are four states."""
    keys = KnownKeys()
    place = event_place("t", ("ip" if state == FORGED else "name",))
    sealed = keys.seal("alice", place, store=state != KEY_MISSING)
    if state.startswith("[erased"):
        keys.known = dict.fromkeys(keys.known, Destroyed(datetime(2026, 11, 28, 23, tzinfo=UTC)))
    opener = Opener(None) if state == SEALED else keys.opener()
    opened = opener.open(LOG_ID, {"event_type": "t", "name": sealed}, {})
    assert opened.event == {"event_type": "t", "name": state}
    (member,) = opened.members
    assert (member.opened, member.shown) == (None, state)


@pytest.mark.parametrize("elsewhere", ["log", "type", "member", "context", "list"])
def test_a_text_from_elsewhere_does_not_open(elsewhere: str) -> None:
    """What was moved to another log, type or member is shown as forged."""
    keys = KnownKeys()
    sealed = keys.seal("alice", event_place("t", ("name",)))
    event: dict[str, object] = {"event_type": "t"}
    context: dict[str, object] = {}
    log_id = LOG_ID
    match elsewhere:
        case "log":
            log_id, event["name"] = "f" * 32, sealed
        case "type":
            event = {"event_type": "u", "name": sealed}
        case "member":
            event["ip"] = sealed
        case "context":
            context["name"] = sealed
        case "list":
            event["name"] = [sealed]
    opened = keys.opener().open(log_id, event, context)
    assert [member.shown for member in opened.members] == [FORGED]
    assert "alice" not in json.dumps([opened.event, opened.context])


def test_a_session_without_privacy_may_have_recorded_anything() -> None:
    """A plain text that looks sealed, or escaped, is left as it is; one whose key is known is sealed all the same."""
    keys = KnownKeys()
    known = keys.seal("alice", event_place("t", ("name",)))
    unknown = keys.seal("bob", event_place("t", ("other",)), store=False)
    event: dict[str, object] = {"event_type": "t", "name": known, "other": unknown, "third": "plain:sealed:x"}
    asked: list[int] = []

    def is_sealing() -> bool:
        asked.append(1)
        return False

    opened = keys.opener().open(LOG_ID, event, {}, is_sealing=is_sealing)
    assert opened.event == {**event, "name": "alice"}
    assert asked == [1]
    opened = keys.opener().open(LOG_ID, event, {})
    assert opened.event == {"event_type": "t", "name": "alice", "other": KEY_MISSING, "third": "sealed:x"}


def test_only_what_is_in_doubt_asks_for_the_session() -> None:
    """A record that is open, and one without anything sealed, needs no look at the session."""
    keys = KnownKeys()
    event: dict[str, object] = {"event_type": "t", "name": keys.seal("alice", event_place("t", ("name",)))}

    def is_sealing() -> bool:
        raise AssertionError("asked")

    assert keys.opener().open(LOG_ID, event, {}, is_sealing=is_sealing).event["name"] == "alice"
    assert keys.opener().open(LOG_ID, {"event_type": "t", "n": "x"}, {}, is_sealing=is_sealing).members == ()


def test_a_key_is_fetched_once() -> None:
    """The store is asked for each key at its first member alone, all keys of a record in one call."""
    keys = KnownKeys()
    first, second = (keys.seal("x", event_place("t", (name,))) for name in ("a", "b"))
    opener = keys.opener()
    for _ in range(3):
        opener.open(LOG_ID, {"event_type": "t", "a": first, "b": second}, {})
    assert len(keys.asked) == 2


def test_a_key_is_kept_no_longer_than_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens records for weeks notices an erasure by another process, also one that he saw begin."""
    monkeypatch.setattr(opening_sealed, "_LOOK_EVERY_S", 0.0)
    opened_here, elsewhere = open_store(make_store(tmp_path)), open_store(tmp_path / "keys")
    with closing(opened_here), closing(elsewhere):
        made = {subject: some_keys(elsewhere, subject, 1)[0] for subject in (ALICE, BOB)}
        elsewhere.insert(list(made.values()))
        seal = KnownKeys().seal_with
        event: dict[str, object] = {"event_type": "t"}
        for subject, key in made.items():
            event[subject.id] = seal(key, subject.id, event_place("t", (subject.id,)), LOG_ID)
        opener = Opener(opened_here)
        plain = {"event_type": "t", "alice": "alice", "bob": "bob"}
        assert opener.open(LOG_ID, event, {}).event == plain
        begun = elsewhere.begin_erasure(ALICE, "1" * 32)
        assert opener.open(LOG_ID, event, {}).event == plain  # its key is fetched again
        elsewhere.destroy(begun.key_ids, erasure_id=begun.erasure_id)
        erased = opener.open(LOG_ID, event, {}).event
        assert str(erased["alice"]).startswith("[erased 2")
        assert erased["bob"] == "bob"
        elsewhere.forget(datetime.now(UTC).date() + timedelta(days=2))
        assert str(opener.open(LOG_ID, event, {}).event["bob"]).startswith("[erased 2")


@given(st.text())
def test_escaped_texts_come_back(text: str) -> None:
    """Whatever a caller's text is, reading a session that seals gives it back."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return
    for plain in (text, f"sealed:{text}", f"plain:sealed:{text}", f"plain:plain:sealed:1:{text}"):
        recorded = escape_plain(plain)
        opened = Opener(None).open(LOG_ID, {"event_type": "t", "name": recorded}, {"n": recorded})
        assert opened.event["name"] == opened.context["n"] == plain
        assert opened.members == ()


def test_deep_members_take_no_recursion() -> None:
    """A line may nest deeper than the stack is."""
    value: object = "sealed:1:x"
    for _ in range(50_000):
        value = [value]
    assert Opener(None).open(LOG_ID, {"event_type": "t", "deep": value}, {}).members == ()
