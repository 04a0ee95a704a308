"""Signed notes: the published examples verify, and nothing that differs from them does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async.tlog import signature_check
from audit_async.tlog.checkpoint import Checkpoint
from audit_async.tlog.failures import InvalidSignature, Malformed
from audit_async.tlog.merkle import EMPTY_ROOT
from audit_async.tlog.notes import (
    MAX_SIGNATURES,
    Note,
    Signature,
    SignatureType,
    VerifierKey,
    cosigned_message,
    cosigned_subtree,
    parse_note,
    verify_note,
)
from tests.tlog.trees import ORIGIN, Cosigner, sign, signer

#: c2sp.org/signed-note, "Example".
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
#: golang.org/x/mod/sumdb/note, TestSign.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()


@pytest.mark.parametrize(("vkey", "content"), [(VKEY, NOTE), (PETER, PETER_NOTE)])
def test_published_examples(vkey: str, content: bytes) -> None:
    """The examples of the specification and of Go's note package verify, and are written as they were read."""
    key = VerifierKey.parse(vkey)
    note = parse_note(content)
    assert str(key) == vkey
    assert note.encode() == content
    assert [signature.key for signature in verify_note(note, [key])] == [key]
    with pytest.raises(InvalidSignature):
        verify_note(note._replace(text=note.text + "more\n"), [key])


def test_mangled_verifier_keys() -> None:
    """No part of a vkey, and none with one character changed, passes for a vkey: Go's own test, with its keys."""
    for begin in range(len(PETER) + 1):
        for end in range(begin + 1, len(PETER) + 1):
            if (begin, end) != (0, len(PETER)):
                with pytest.raises(Malformed):
                    VerifierKey.parse(PETER[begin:end])
    for at, character in enumerate(PETER):
        with pytest.raises(Malformed):
            VerifierKey.parse(PETER[:at] + chr(ord(character) + 1) + PETER[at + 1 :])
    for wrong in (
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ):
        with pytest.raises(Malformed):
            VerifierKey.parse(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"text\n",
        b"text\n\n",
        NOTE[:-1],
        NOTE + b"\n",
        NOTE.replace(b"\n\n", b"\n"),
        NOTE.replace("— ".encode(), b"- "),
        NOTE.replace("— ".encode(), "—".encode()),
        NOTE.replace(b"example.com/foo", b""),
        NOTE.replace(b"example.com/foo", b"example.com+foo"),
        NOTE.replace(b"example.com/foo", "example.com\u2003foo".encode()),
        NOTE.replace(b"example message", b"example\tmessage"),
        NOTE.replace(b"example message", b"example\rmessage"),
        NOTE.replace(b"example message", b"example\x00message"),
        NOTE.replace(b"example message", b"example\xffmessage"),
        NOTE.replace(b"aQM=", b"aQM"),
        NOTE.replace(b"aQM=", b"aQN="),
        NOTE.replace(b"aQM=", b"a-_="),
        NOTE.replace(b"aQM=", b"aQM= "),
        "text\n\n— name AAAA\n".encode(),
        "text\n\n— name\n".encode(),
        NOTE + NOTE.split(b"\n\n")[1] * MAX_SIGNATURES,
    ],
)
def test_malformed_notes(wrong: bytes) -> None:
    """What breaks one of the format's rules is refused before any signature is looked at."""
    with pytest.raises(Malformed):
        parse_note(wrong)


@settings(deadline=None)  # a busy machine breaks no promise
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_get_a_verdict(content: bytes) -> None:
    """Whatever is read, it is a note, which is written as it was read, or it is refused as malformed."""
    for candidate in (content, content + b"\n\n" + NOTE.split(b"\n\n")[1]):
        try:
            note = parse_note(candidate)
        except Malformed:
            continue
        assert note.encode() == candidate


@settings(deadline=None)  # a busy machine breaks no promise
@given(st.text(max_size=100))
def test_any_text_is_a_verifier_key_or_not(text: str) -> None:
    """Whatever text is read as a key, it is one, which is written as it was read, or it is refused as malformed."""
    for candidate in (text, f"{text}+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"):
        try:
            key = VerifierKey.parse(candidate)
        except Malformed:
            continue
        assert str(key) == candidate


def test_text_may_hold_empty_lines() -> None:
    """The last empty line is the one that separates the text from the signatures."""
    note = parse_note(b"a\n\nb\n\n\n\n" + NOTE.split(b"\n\n")[1])
    assert note.text == "a\n\nb\n\n\n"


def test_unknown_signatures_are_ignored_and_known_ones_are_not() -> None:
    """A stranger's signature counts for nothing; a wrong one under a trusted key's name rejects the note."""
    key, note = VerifierKey.parse(VKEY), parse_note(NOTE)
    stranger = Signature("stranger.example", b"abcd", b"anything")
    same_name, same_id = stranger._replace(name=key.name), stranger._replace(key_id=key.key_id)
    for added in (stranger, same_name, same_id):
        assert [one.key for one in verify_note(Note(note.text, (added, *note.signatures)), [key])] == [key]
    wrong = Signature(key.name, key.key_id, b"x" * 64)
    for signatures in ((wrong, *note.signatures), (*note.signatures, wrong)):
        with pytest.raises(InvalidSignature, match=r"example\.com/foo is wrong"):
            verify_note(Note(note.text, signatures), [key])
    for keys in ([], [VerifierKey.parse(PETER)]):
        with pytest.raises(InvalidSignature, match="not signed by any trusted key"):
            verify_note(note, keys)


def test_one_key_counts_once() -> None:
    """A note that bears a key's signature twice is signed by one key, also where the key is trusted twice."""
    key, note = VerifierKey.parse(VKEY), parse_note(NOTE)
    assert len(verify_note(Note(note.text, note.signatures * 2), [key, key])) == 1


def test_keys_that_can_not_be_told_apart_are_refused() -> None:
    """Where two trusted keys share name and id, nobody can say which of them signed."""
    key = VerifierKey.parse(VKEY)

    class Colliding(VerifierKey):
        key_id = key.key_id

    twin = Colliding(key.name, key.type, b"x" * 32)
    with pytest.raises(InvalidSignature, match="share the name"):
        verify_note(parse_note(NOTE), [key, twin])


def test_a_cosignature_covers_text_and_time() -> None:
    """A witness's time is returned, and can't be changed without the key; its key signs no plain note."""
    witness = Cosigner(1)
    signed = sign(Checkpoint("host.example/orders/00", 0, EMPTY_ROOT))
    text = signed.note.text
    assert cosigned_message(text, 12).decode() == f"cosignature/v1\ntime 12\n{text}"
    signature = witness.cosign(text, 1_679_315_147)
    note = signed.note.with_signatures([signature])
    assert verify_note(note, [witness.key])[0].timestamp == 1_679_315_147
    later = signature._replace(signature=(1_679_315_148).to_bytes(8, "big") + signature.signature[8:])
    impossible = witness.cosign(text, 1 << 63)  # signed in earnest, and still no time
    short = signature._replace(signature=signature.signature[:7])
    plain = signature._replace(signature=signature.signature[8:])
    for wrong in (later, impossible, short, plain):
        with pytest.raises(InvalidSignature):
            verify_note(Note(text, (wrong,)), [witness.key])
    assert Cosigner(2).key.key_id != VerifierKey.of(Cosigner(2).key.name, Cosigner(2).key.public_key).key_id


def test_an_ml_dsa_cosignature_covers_time_name_and_tree() -> None:
    """The post-quantum cosignature that new witnesses give is verified; it commits to the witness's name too."""
    mldsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
    private = mldsa.MLDSA44PrivateKey.generate()
    key = VerifierKey.of("witness.example/pq", private.public_key().public_bytes_raw(), SignatureType.ML_DSA_44)
    assert VerifierKey.parse(str(key)) == key
    text = Checkpoint(ORIGIN, 0, EMPTY_ROOT).text()

    def cosign(text: str, timestamp: int, name: str = key.name) -> Signature:
        value = private.sign(cosigned_subtree(name, text, timestamp))
        return Signature(key.name, key.key_id, timestamp.to_bytes(8, "big") + value)

    good = cosign(text, 1_679_315_147)
    assert key.verify(text, good) == 1_679_315_147
    assert key.verify(text + "an extension, which it does not cover\n", good) == 1_679_315_147
    later = good._replace(signature=(1_679_315_148).to_bytes(8, "big") + good.signature[8:])
    other_tree = Checkpoint(ORIGIN, 1, EMPTY_ROOT).text()
    for wrong_text, wrong in (
        (text, later),
        (other_tree, good),
        (text.replace("host", "host2"), good),
        (text, cosign(text, 1_679_315_147, "another.example")),
        (text, good._replace(signature=good.signature[:-1])),
        ("no checkpoint\n", good),
        (f"{ORIGIN}\n0\nAAAA\n", good),
        ("x" * 256 + text.removeprefix(ORIGIN), good),
    ):
        with pytest.raises(InvalidSignature):
            key.verify(wrong_text, wrong)


def test_without_support_for_ml_dsa_its_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an older cryptography the error says what is missing; other keys work."""
    monkeypatch.setattr(signature_check, "KNOWS_ML_DSA_44", False)
    with pytest.raises(Malformed, match="newer release of cryptography"):
        VerifierKey.of("witness.example/pq", bytes(1312), SignatureType.ML_DSA_44)
    VerifierKey.parse(VKEY)


def test_signatures_are_added_behind_those_that_are_there() -> None:
    """A key that signed already keeps its signature; others are added in order."""
    note = sign(Checkpoint("host.example/orders/00", 0, EMPTY_ROOT)).note
    first, second = Cosigner(1), Cosigner(2)
    cosigned = note.with_signatures([first.cosign(note.text, 1), second.cosign(note.text, 2)])
    again = cosigned.with_signatures([first.cosign(note.text, 3)])
    assert again == cosigned
    assert [signature.name for signature in again.signatures] == [signer().key.name, first.key.name, second.key.name]


def test_names_that_keys_can_not_have() -> None:
    """A key's name has no space, plus or control character, and its key the length that its type has."""
    for name in ("", "a b", "a+b", "a\nb", "a\u00a0b", "a\x01b"):
        with pytest.raises(Malformed):
            VerifierKey.of(name, bytes(32))
    with pytest.raises(Malformed):
        VerifierKey.of("a", bytes(31), SignatureType.COSIGNATURE)
