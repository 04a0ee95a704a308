"""Checkpoints say what they say in one way, and a log is held to what it has signed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint, verify_checkpoint
from audit_async.tlog.commitments import Commitments
from audit_async.tlog.failures import InvalidSignature, LogForked, Malformed
from audit_async.tlog.merkle import EMPTY_ROOT, MAX_SIZE
from tests.tlog.trees import ORIGIN, mth, records, sign, signer

#: c2sp.org/tlog-checkpoint.
EXAMPLE = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_published_example() -> None:
    """The example of the specification is read, and written as it was read."""
    checkpoint = Checkpoint.parse(EXAMPLE)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex() == "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    assert checkpoint.text() == EXAMPLE
    extended = Checkpoint.parse(EXAMPLE + "opaque line\n")
    assert extended.extensions == ("opaque line",)
    assert extended.text() == EXAMPLE + "opaque line\n"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "origin\n1\n",
        EXAMPLE[:-1],
        EXAMPLE + "\n",
        "\n" + EXAMPLE,
        EXAMPLE.replace("20852163", "020852163"),
        EXAMPLE.replace("20852163", "+1"),
        EXAMPLE.replace("20852163", "-1"),
        EXAMPLE.replace("20852163", "1_0"),
        EXAMPLE.replace("20852163", "٣"),
        EXAMPLE.replace("20852163", str(MAX_SIZE + 1)),
        EXAMPLE.replace("20852163", "9" * 5000),
        EXAMPLE.replace("20852163", ""),
        EXAMPLE.replace("q2I=", "q2J="),
        EXAMPLE.replace("q2I=", ""),
        EXAMPLE.replace("example", "exa\tmple"),
        "origin\n0\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
    ],
)
def test_malformed_checkpoints(wrong: str) -> None:
    """What breaks one of the format's rules is refused, a number with two spellings among it."""
    with pytest.raises(Malformed):
        Checkpoint.parse(wrong)


@settings(deadline=None)  # a busy machine breaks no promise
@given(
    st.text(max_size=80), st.integers(0, MAX_SIZE), st.binary(min_size=32, max_size=32), st.lists(st.text(max_size=9))
)
def test_whatever_is_written_is_read_back(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    """A checkpoint that can be written means the same when it is read; one that would mean another is refused."""
    checkpoint = Checkpoint(origin, size, root if size else EMPTY_ROOT, tuple(extensions))
    try:
        text = checkpoint.text()
    except Malformed:
        return
    assert Checkpoint.parse(text) == checkpoint


@settings(deadline=None)  # a busy machine breaks no promise
@given(st.text(max_size=120))
def test_any_text_gets_a_verdict(text: str) -> None:
    """Whatever text is read, it is a checkpoint, written as it was read, or it is refused as malformed."""
    for candidate in (text, EXAMPLE + text, text + EXAMPLE):
        try:
            checkpoint = Checkpoint.parse(candidate)
        except Malformed:
            continue
        assert checkpoint.text() == candidate


def test_a_key_speaks_for_its_own_log_alone() -> None:
    """A checkpoint is taken from the log that was asked about, and from no other that the same key has signed."""
    content = sign(Checkpoint(ORIGIN, 1, mth(records(1)))).encode()
    key = signer().key
    assert verify_checkpoint(content, [key]).checkpoint.size == 1
    assert verify_checkpoint(content, [key], origin=ORIGIN).signatures[0].key == key
    with pytest.raises(InvalidSignature, match="was expected"):
        verify_checkpoint(content, [key], origin="another.example/log")
    foreign = sign(Checkpoint("another.example/log", 1, mth(records(1)))).encode()
    with pytest.raises(InvalidSignature, match="was expected"):
        verify_checkpoint(foreign, [key])
    with pytest.raises(InvalidSignature, match="not signed by any trusted key"):
        verify_checkpoint(content, [signer(2).key])


# -- commitments ------------------------------------------------------------------------------------------------------


def commitments(*sizes: int, log: list[bytes]) -> Commitments:
    """Return what a log with these records has committed itself to at these sizes."""
    return Commitments([(Checkpoint(ORIGIN, size, mth(log[:size])), f"checkpoint {size}") for size in sizes])


def test_two_checkpoints_of_one_size_and_two_roots_are_a_fork() -> None:
    """Such a pair convicts the log by itself, wherever the two are from; the message names both places."""
    known = commitments(5, log=records(5))
    with pytest.raises(LogForked, match="checkpoint 5 and the mirror"):
        known.add(Checkpoint(ORIGIN, 5, mth(records(5, salt="other"))), "the mirror")


def test_a_signed_checkpoint_is_read_without_being_believed() -> None:
    """Reading gives what it says; whether it is true is another call."""
    signed = sign(Checkpoint(ORIGIN, 1, mth(records(1))))
    assert SignedCheckpoint.parse(signed.encode()) == signed
