"""A log's name outside of its host is unambiguous, in paths and in subjects."""

from __future__ import annotations

import pickle
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_async._chain import BadRecord
from audit_async.errors import ConfigError
from audit_async.forwarding import Batch, Head, HeadMoved, LogIdentity
from tests.forwarding.logs_to_ship import a_batch, a_log

PARTS = ("tenant", "service", "host", "instance", "log_id")
part = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"], exclude_characters="/"), min_size=1, max_size=20)
identity = st.builds(LogIdentity, tenant=part, service=part, host=part, instance=part, log_id=part)


@given(one=identity, other=identity)
def test_two_logs_never_share_a_name(one: LogIdentity, other: LogIdentity) -> None:
    """Different parts make different paths and subjects, whatever characters are in them."""
    assert (one.subject() == other.subject()) == (one == other)
    assert (one.path() == other.path()) == (one == other)


@given(log=identity)
def test_no_part_leaves_its_place(log: LogIdentity) -> None:
    """A part is one directory and one token: no wildcard, no dot, nothing that goes up."""
    assert log.subject().count(".") == 4
    assert not set(log.subject()) & set("*> \t")
    path = PurePosixPath(log.path())
    assert len(path.parts) == 4
    assert not path.is_absolute()
    assert ".." not in path.parts


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("value", ["", "a" * 129, "a/b", "a\n", "a\0b", "\x7f", "a\u202eb", "\ud800"])
def test_a_part_that_could_mislead_is_refused(name: str, value: str) -> None:
    """The part is named."""
    with pytest.raises(ConfigError) as caught:
        a_log(**{name: value})
    assert caught.value.field == name


def test_dots_of_instance_and_log_id_are_told_apart() -> None:
    """They share a directory's name."""
    assert a_log(instance="a.b", log_id="c").path() != a_log(instance="a", log_id="b.c").path()


@pytest.mark.parametrize("first", [None, Head(seq=6, hash="ab" * 32)])
def test_a_batch_is_what_it_declares(first: Head | None) -> None:
    """Its lines are checked against each part of the declaration."""
    batch = a_batch(first, 3)
    batch.check()
    changes: list[dict[str, object]] = [
        {"first_seq": batch.first_seq + 1},
        {"last_seq": batch.last_seq + 1},
        {"prev": "cd" * 32},
        {"last_hash": "cd" * 32},
        {"lines": batch.lines[:-1]},
        {"lines": batch.lines.replace(b"test.made", b"test.fake", 1)},
        {"lines": b"".join(batch.lines.splitlines(keepends=True)[1:])},
        {"lines": b""},
    ]
    for change in changes:
        fields: dict[str, object] = {name: getattr(batch, name) for name in Batch.__struct_fields__}
        with pytest.raises(BadRecord):
            Batch(**(fields | change)).check()  # type: ignore[arg-type]  # the fields are those of a batch


def test_a_moved_head_survives_pickling() -> None:
    """As every error of this library does."""
    for actual in (None, Head(seq=3, hash="ab" * 32)):
        error = pickle.loads(pickle.dumps(HeadMoved(actual)))  # noqa: S301 - of our own
        assert error.actual == actual
        assert str(error) == str(HeadMoved(actual))
