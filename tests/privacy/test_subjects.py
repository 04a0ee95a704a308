"""Who a key belongs to: pseudonyms keep id spaces apart and spellings of one id together."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async.config.key_store_settings import split_master_key_source
from audit_async.errors import ConfigError
from audit_async.privacy import UNATTRIBUTED, KeyMaker, KeyStoreForked, Subject, key_id_bytes, key_id_text
from audit_async.privacy.data_keys import date_of, day_number, day_of
from audit_async.privacy.subjects import pseudonym_of

KEY = bytes(range(32))


def test_a_pseudonym_is_what_the_documentation_says() -> None:
    """Another language makes the same one from the parts."""
    message = b"audit-async subject 1\0\0\0\4acme\0\0\0\4user\0\0\0\5alice"
    expected = hmac.new(KEY, message, hashlib.sha256).digest()[:16]
    assert pseudonym_of(Subject("acme", "user", "alice"), KEY) == expected


PARTS = st.tuples(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))


@given(PARTS, PARTS)
def test_two_subjects_share_no_pseudonym(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """Neither the same id in another space, nor parts that join to the same text."""
    same = one == other
    assert (pseudonym_of(Subject(*one), KEY, "none") == pseudonym_of(Subject(*other), KEY, "none")) is same
    joined = Subject(one[0] + one[1], "", one[2])
    assert (pseudonym_of(joined, KEY, "none") == pseudonym_of(Subject(*one), KEY, "none")) is (one[1] == "")


def test_spellings_of_one_id_are_one_subject() -> None:
    """NFC by default; case only if it is asked for."""
    composed, decomposed = Subject("", "user", "zo\u00eb"), Subject("", "user", "zoe\u0308")
    assert composed.id != decomposed.id
    assert pseudonym_of(composed, KEY) == pseudonym_of(decomposed, KEY)
    assert pseudonym_of(composed, KEY, "none") != pseudonym_of(decomposed, KEY, "none")
    upper = Subject("", "user", "ZO\u00cb")
    assert pseudonym_of(upper, KEY) != pseudonym_of(composed, KEY)
    assert pseudonym_of(upper, KEY, "NFC-casefold") == pseudonym_of(decomposed, KEY, "NFC-casefold")


def test_an_id_that_is_no_unicode_has_a_pseudonym() -> None:
    """A lone surrogate is an id like any other; an event with one is made harmless, not refused."""
    assert len(pseudonym_of(Subject("", "user", "\ud800"), KEY)) == 16


def test_nobody_in_particular_is_no_user() -> None:
    """The empty user id and the unattributed members do not share keys."""
    assert pseudonym_of(UNATTRIBUTED, KEY) != pseudonym_of(Subject("", "user", ""), KEY)


@given(st.integers(0, 0xFFFF))
def test_a_key_id_says_its_day(day: int) -> None:
    """The day is in the id, the text is 22 letters, and the way back is exact."""
    key = KeyMaker().make(b"s" * 16, day, 3)
    assert day_of(key.key_id) == day == day_number(date_of(day))
    assert len(key_id_text(key.key_id)) == 22
    assert key_id_bytes(key_id_text(key.key_id)) == key.key_id
    assert len(key.key) == 32
    assert key.key.hex() not in repr(key)


@pytest.mark.parametrize("text", ["", "A" * 21, "A" * 23, "A" * 21 + "B", "A" * 21 + "=", "A" * 21 + "+", "é" * 22])
def test_what_is_no_key_id_is_refused(text: str) -> None:
    """Every id has one spelling only, so an id is compared as text."""
    with pytest.raises(ValueError, match="22 letters"):
        key_id_bytes(text)


def test_ids_are_never_given_twice() -> None:
    """Not by one maker, not by two."""
    makers = [KeyMaker() for _ in range(50)]
    made = [maker.make(b"s" * 16, 20_000, 0) for maker in makers for _ in range(100)]
    assert len({key.key_id for key in made}) == len({key.key for key in made}) == 5_000


def test_a_maker_does_not_serve_a_forked_child() -> None:
    """The child would give the parent's next id to another key."""
    maker = KeyMaker()
    child = os.fork()
    if child == 0:
        try:
            maker.make(b"s" * 16, 20_000, 0)
        except KeyStoreForked:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_master_key_source_names_a_place() -> None:
    """What can't be a source is refused before anything is opened."""
    assert split_master_key_source("file:/etc/key") == ("/etc/key", False)
    assert split_master_key_source("passphrase:env:PASS") == ("env:PASS", True)
    for source in ("", "file:", "passphrase:", "env:", "~/key", "file:~/key"):
        with pytest.raises(ConfigError, match=r"privacy\.master_key"):
            split_master_key_source(source)
