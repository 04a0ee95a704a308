"""The encoder: the same event becomes the same harmless bytes, in any thread, without a log that is open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async import ActorInfo, AuditConfig, AuditEvent, Disabled, InvalidEvent
from audit_async._sanitize.unsafe_text import UNSAFE
from audit_async._writer.encoder import CRITICAL, LOOKED_INTO, Encoder
from audit_async.context import audit_context
from audit_async.events import AuditLogClosed, AuthFailure, ModelAccessed, PoolModified


def encoder(**settings: object) -> Encoder:
    """Return an encoder; no log belongs to it."""
    return Encoder(AuditConfig(mode=Disabled(), **settings))  # type: ignore[arg-type]  # settings that exist


def login(text: str = "mallory") -> AuthFailure:
    """Return an event with this text in it."""
    return AuthFailure(attempted_user=text, reason="bad_password", ip="203.0.113.9", path="/login")


def pool(**changes: object) -> PoolModified:
    """Return an event with free-form data."""
    return PoolModified(actor=ActorInfo(user_id="ada"), pool_id="p1", changes=changes)


def test_plain_text_is_left_as_it_is() -> None:
    """What is harmless is encoded, and nothing else."""
    kind, encoded = encoder().encode(login())
    assert json.loads(encoded)["attempted_user"] == "mallory"
    assert kind & CRITICAL
    assert not kind & LOOKED_INTO


def test_what_a_class_is_is_learned_once() -> None:
    """An event's kind is looked up from its second event on; `emit` reads the same table."""
    used = encoder()
    assert used.kinds == {}
    first, _ = used.encode(login())
    assert used.kinds == {AuthFailure: first}
    assert used.encode(login())[0] == first


def test_only_the_log_encodes_what_it_says_of_itself() -> None:
    """Nobody can emit `audit.*`; the log itself encodes it whatever `on_unsafe` says."""
    used = encoder(on_unsafe="reject")
    with pytest.raises(InvalidEvent, match="only the log"):
        used.encode(AuditLogClosed())
    assert json.loads(used.encode_internal(AuditLogClosed()))["event_type"] == "audit.log_closed"


def test_secrets_in_free_form_data_are_redacted() -> None:
    """An event with free-form members is looked into, however harmless its bytes are."""
    kind, encoded = encoder().encode(pool(api_key="k-123", replicas=2))
    assert kind & LOOKED_INTO
    assert b"k-123" not in encoded
    assert json.loads(encoded)["changes"]["replicas"] == 2


def test_what_is_bound_is_part_of_the_bytes_and_made_once() -> None:
    """The context follows the event's own bytes; its text is made at the first event under the binding."""
    used = encoder()
    plain = used.encode(login())[1]
    with audit_context(request_id="7f3a"):
        first, second = used.encode(login())[1], used.encode(login())[1]
    assert first == second == plain + b',"context":{"request_id":"7f3a"}'


def test_an_event_is_never_larger_than_the_largest() -> None:
    """With its context as well: what does not fit is cut, with its size and hash."""
    used = encoder(max_event_bytes=1024, max_field_chars=1024)
    with audit_context(note="n" * 200):
        encoded = used.encode(pool(text="x" * 5000))[1]
    assert len(encoded) <= 1024


@given(text=st.text(st.characters(), max_size=300))
def test_no_text_leaves_the_encoder_unsafe(text: str) -> None:
    """Whatever a text holds, what is in the record is one line of JSON without anything that misleads a reader."""
    encoded = encoder().encode(login(text))[1]
    assert b"\n" not in encoded
    assert not UNSAFE.search(json.loads(encoded)["attempted_user"])


def test_threads_may_share_an_encoder() -> None:
    """It is thread-agnostic: eight threads that meet new classes at once get what one gets."""
    events: list[AuditEvent] = [
        login("\x1b[2J"),
        pool(a=1.5, b=float("nan")),
        ModelAccessed(customer_id="c", model_ref="m", access_type="read"),
    ]
    alone = [encoder().encode(event) for event in events]

    def encodings(used: Encoder) -> Iterator[bool]:
        for _ in range(50):
            yield [used.encode(event) for event in events] == alone

    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            used = encoder()
            assert all(threads.map(lambda _, used=used: all(encodings(used)), range(8)))
