"""The format of sealed texts: the vectors, what docs/format.md prints, and that no text passes for another."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from audit_async.privacy import sealed_text
from audit_async.privacy.sealed_text import (
    Forged,
    Opened,
    context_place,
    escape_plain,
    event_place,
    is_sealed,
    key_prefix,
    open_sealed,
    parse_sealed,
    seal_text,
    unescape_plain,
    verify_disclosure,
)

DOCS = Path(__file__).parents[2] / "docs"
VECTORS: dict[str, list[dict[str, Any]]] = json.loads((DOCS / "vectors" / "sealed.json").read_bytes())
KEY_ID = "UTEAAQIDBAUGBwAAAAAAAQ"
LOG_ID = "0123456789abcdef0123456789abcdef"


def why(case: dict[str, Any]) -> str:
    """Return the name of a vector."""
    return str(case["why"])


def place(case: dict[str, Any]) -> bytes:
    """Return the associated data of a vector, by ours."""
    sealed = parse_sealed(case["sealed"])
    assert sealed is not None
    own = context_place(case["context"]) if "context" in case else event_place(case["event_type"], case["path"])
    return key_prefix(case["log_id"], sealed.key_id) + own


@pytest.fixture(scope="module")
def printed() -> dict[str, Callable[..., Any]]:
    """What docs/format.md prints, which needs hashlib and cryptography alone."""
    _, code = re.findall(r"```python\n(.*?)```", (DOCS / "format.md").read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "printed"}
    exec(code, namespace)  # noqa: S102 - it is ours, and running it is the point
    return namespace


@pytest.mark.parametrize("case", VECTORS["sealed"], ids=why)
def test_every_reader_agrees_on_a_sealed_text(case: dict[str, Any], printed: dict[str, Callable[..., Any]]) -> None:
    """Ours and the one that the page prints open what is genuine, and refuse what was moved or forged."""
    sealed, key = parse_sealed(case["sealed"]), bytes.fromhex(case["key"])
    assert sealed is not None
    assert is_sealed(case["sealed"])
    where = (case["log_id"], case.get("event_type"), case.get("path") or [case["context"]])
    if not case["opens"]:
        with pytest.raises(Forged):
            open_sealed(sealed, AESGCM(key), place(case))
        with pytest.raises((InvalidTag, ValueError)):
            printed["unseal"](case["sealed"], key, *where)
        return
    salt, text = bytes.fromhex(case["salt"]), case["text"].encode()
    assert open_sealed(sealed, AESGCM(key), place(case)) == Opened(salt, text)
    assert printed["unseal"](case["sealed"], key, *where) == (salt, text)
    assert printed["discloses"](case["sealed"], *where, salt, text)
    assert not printed["discloses"](case["sealed"], *where, salt, text + b" ")
    assert not printed["discloses"](case["sealed"], *where, salt[:15], salt[15:] + text)


@pytest.mark.parametrize("case", VECTORS["not_sealed"], ids=why)
def test_what_only_looks_sealed_is_not(case: dict[str, Any]) -> None:
    """The form is exact: one spelling of each sealed text, and nothing else."""
    assert parse_sealed(case["text"]) is None


@pytest.mark.parametrize("case", VECTORS["escapes"], ids=lambda case: str(case["plain"])[:20])
def test_an_escape_is_undone(case: dict[str, str]) -> None:
    """What a caller writes comes back as he wrote it."""
    assert escape_plain(case["plain"]) == case["recorded"]
    assert unescape_plain(case["recorded"]) == case["plain"]


@given(st.lists(st.sampled_from(["plain:", "sealed:", "x", ""]), max_size=6).map("".join) | st.text())
def test_no_plain_text_is_recorded_as_a_sealed_one(text: str) -> None:
    """Whatever is emitted, what is recorded does not begin with `sealed:`, and reads back as it was."""
    recorded = escape_plain(text)
    assert not recorded.startswith("sealed:")
    assert unescape_plain(recorded) == text


@given(st.text(), st.binary(min_size=28, max_size=28), st.lists(st.text(), min_size=1, max_size=4))
def test_what_is_sealed_opens_to_what_it_was(text: str, random: bytes, path: list[str]) -> None:
    """Any text, at any path; the length shows no more than its sixteens of bytes."""
    associated = key_prefix(LOG_ID, KEY_ID) + event_place("a.b", path)
    cipher = AESGCM(bytes(32))
    sealed = seal_text(cipher, KEY_ID, associated, text.encode(), random)
    parsed = parse_sealed(sealed)
    assert parsed is not None
    assert parsed.key_id == KEY_ID
    assert len(parsed.ciphertext) == 16 + (len(text.encode()) // 16 + 1) * 16 + 16
    assert open_sealed(parsed, cipher, associated) == Opened(random[12:], text.encode())


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3), st.text(max_size=5))
def test_no_two_places_have_the_same_associated_data(one: list[str], other: list[str], event_type: str) -> None:
    """Lengths come first, so no part can pass for two."""
    assert (event_place(event_type, one) == event_place(event_type, other)) == (one == other)
    assert all(event_place(event_type, one) != context_place(name) for name in other)


def test_one_ciphertext_cannot_be_opened_as_two_texts() -> None:
    """AES-GCM does not bind a ciphertext to its key; the commitment does, whichever key its maker hands out."""
    associated = key_prefix(LOG_ID, KEY_ID) + event_place("auth.success", ["actor", "user_id"])
    cipher = AESGCM(bytes(32))
    alice = parse_sealed(seal_text(cipher, KEY_ID, associated, b'"alice"', bytes(28)))
    bob = parse_sealed(seal_text(cipher, KEY_ID, associated, b'"bob"', bytes(27) + b"\1"))
    assert alice is not None
    assert bob is not None
    with pytest.raises(Forged, match="commits"):
        open_sealed(alice._replace(commitment=bob.commitment), cipher, associated)
    assert not verify_disclosure(alice, Opened(bytes(16), b'"bob"'), associated)


def test_padding_of_another_maker_is_refused() -> None:
    """Each text has one padding, so nothing can be hidden in it."""
    associated = key_prefix(LOG_ID, KEY_ID) + event_place("a.b", ["x"])
    cipher = AESGCM(bytes(32))
    sealed = parse_sealed(seal_text(cipher, KEY_ID, associated, b'"x"', bytes(28)))
    assert sealed is not None
    for padded in (bytes(32), bytes(16) + b"text" + bytes(12), bytes(16) + b"\x80" + bytes(31)):
        forged = sealed._replace(ciphertext=cipher.encrypt(sealed.nonce, padded, associated))
        with pytest.raises(Forged, match="format"):
            open_sealed(forged, cipher, associated)


def test_the_module_lists_what_it_offers() -> None:
    """`__all__` is complete."""
    assert all(hasattr(sealed_text, name) for name in sealed_text.__all__)
