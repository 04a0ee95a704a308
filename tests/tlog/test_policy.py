"""A policy accepts the checkpoints that it says it accepts, and a policy file says one thing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async.tlog.checkpoint import Checkpoint
from audit_async.tlog.failures import InvalidSignature, Malformed, QuorumNotMet
from audit_async.tlog.notes import Note, VerifierKey
from audit_async.tlog.policy import Policy
from tests.tlog.trees import ORIGIN, Cosigner, cosigned, mth, records, sign, signer

X = [Cosigner(number) for number in (1, 2, 3)]
Y = [Cosigner(number) for number in (4, 5, 6)]
SIGNED = sign(Checkpoint(ORIGIN, 3, mth(records(3))))

#: The example of c2sp.org/tlog-policy, with keys.
EXAMPLE = f"""\
log {signer().key}

witness X1 {X[0].key}
witness X2 {X[1].key} https://witness.example/x2
witness X3 {X[2].key}
group X-witnesses 2 X1 X2 X3

  witness Y1 {Y[0].key}
witness\tY2\t{Y[1].key}
witness Y3 {Y[2].key}
group Y-witnesses any Y1 Y2 Y3
 # a comment
group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def accepts(text: str, *cosigners: Cosigner) -> bool:
    """Return whether a policy accepts our checkpoint with these cosignatures."""
    try:
        Policy.parse(text.encode()).verify(cosigned(SIGNED, *cosigners).encode())
    except QuorumNotMet:
        return False
    return True


def test_the_example_of_the_specification() -> None:
    """Two of the X and one of the Y are a quorum, whatever else there is; every subset is tried."""
    everybody = [*X, *Y]
    for count in range(7):
        for chosen in itertools.combinations(everybody, count):
            expected = sum(one in chosen for one in X) >= 2 and any(one in chosen for one in Y)
            assert accepts(EXAMPLE, *chosen) == expected, chosen
    policy = Policy.parse(EXAMPLE.encode())
    assert [witness.url for witness in policy.witnesses] == [None, "https://witness.example/x2", None, None, None, None]
    verified = policy.verify(cosigned(SIGNED, X[0], X[1], Y[2], Cosigner(9)).encode())
    assert [one.key for one in verified.signatures] == [signer().key, X[0].key, X[1].key, Y[2].key]
    assert [one.timestamp for one in verified.signatures] == [None, 1_795_348_800, 1_795_348_800, 1_795_348_800]


def test_simple_quorums() -> None:
    """No witness, one witness, any, all."""
    log, w1, w2 = f"log {signer().key}\n", f"witness a {X[0].key}\n", f"witness b {X[1].key}\n"
    assert accepts(log + "quorum none\n")
    assert accepts(log + w1 + w2 + "quorum none\n")
    for text, one, both in (
        ("quorum a\n", True, True),
        ("group g any a b\nquorum g\n", True, True),
        ("group g all a b\nquorum g\n", False, True),
        ("group g 2 a b\nquorum g\n", False, True),
    ):
        assert not accepts(log + w1 + w2 + text)
        assert accepts(log + w1 + w2 + text, X[0]) == one
        assert accepts(log + w1 + w2 + text, X[0], X[1]) == both


def test_one_witness_counts_once() -> None:
    """A cosignature that stands there twice, or a stranger's, makes no quorum."""
    text = f"log {signer().key}\nwitness a {X[0].key}\nwitness b {X[1].key}\ngroup g all a b\nquorum g\n"
    twice = (*SIGNED.note.signatures, X[0].cosign(SIGNED.note.text, 1), X[0].cosign(SIGNED.note.text, 2))
    with pytest.raises(QuorumNotMet, match=r"valid cosignatures: witness\.example/w1$"):
        Policy.parse(text.encode()).verify(Note(SIGNED.note.text, twice).encode())
    assert not accepts(text, X[0], Cosigner(9))


def test_a_wrong_cosignature_of_a_known_witness_rejects_the_checkpoint() -> None:
    """It is not merely left out: somebody has tampered with the note."""
    policy = Policy.parse(f"log {signer().key}\nwitness a {X[0].key}\nquorum none\n".encode())
    wrong = X[0].cosign("another text\n")
    with pytest.raises(InvalidSignature, match=r"witness\.example/w1 is wrong"):
        policy.verify(SIGNED.note.with_signatures([wrong]).encode())


def test_logs_that_are_not_listed() -> None:
    """A log's own signature is needed, by its own key, and under the name that the policy gives it."""
    other = signer(2, "another.example/log")
    both = Policy.parse(f"log {signer().key}\nlog {other.key}\nquorum none\n".encode())
    assert both.verify(SIGNED.encode()).checkpoint == SIGNED.checkpoint
    with pytest.raises(InvalidSignature, match=r"accepts another\.example/log"):
        both.verify(SIGNED.encode(), origin="another.example/log")
    with pytest.raises(InvalidSignature, match="not signed by any trusted key"):
        both.verify(sign(SIGNED.checkpoint, other).encode())
    with pytest.raises(InvalidSignature, match=r"the policy accepts another\.example/log"):
        Policy.of([other.key]).verify(SIGNED.encode())
    with pytest.raises(InvalidSignature, match="accepts no log"):
        Policy.parse(b"quorum none\n").verify(SIGNED.encode())
    with pytest.raises(QuorumNotMet, match="valid cosignatures: none"):
        Policy.parse(f"log {signer().key}\nwitness a {X[0].key}\nquorum a\n".encode()).verify(SIGNED.encode())


LOG, A, B = f"log {signer().key}", f"witness a {X[0].key}", f"witness b {X[1].key}"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([LOG, A], "quorum line is missing"),
        ([LOG, "quorum none", "quorum none"], "line 3: a policy has one quorum line"),
        ([LOG, "quorum a", A], "line 2: a name that no line before"),
        ([LOG, "quorum"], "line 2: quorum <name>"),
        ([LOG, "quorum none none"], "line 2: quorum <name>"),
        ([LOG, LOG, "quorum none"], "line 2: this log's key was given before"),
        ([LOG, f"log {VerifierKey.of('other', signer().key.public_key)}", "quorum none"], "line 2: this log's key"),
        ([A, f"witness b {X[0].key}", "quorum a"], "line 2: this witness's key"),
        ([A, f"witness a {X[1].key}", "quorum a"], "line 2: the name is taken"),
        ([f"witness none {X[0].key}", "quorum none"], "line 1: the name is taken"),
        ([f"witness a {signer().key}", "quorum a"], "line 1: a witness has a key for cosignatures"),
        (["witness", "quorum none"], "line 1: witness <name>"),
        (["witness a", "quorum none"], "line 1: witness <name>"),
        (["log", "quorum none"], "line 1: log <vkey>"),
        ([LOG + " https://a b", "quorum none"], "line 1: log <vkey>"),
        (["log nonsense", "quorum none"], "line 1: verifier key:"),
        ([A, "group g all", "quorum none"], "line 2: group <name>"),
        ([A, "group g all b", "quorum none"], "line 2: a name that no line before"),
        ([A, "group g all g", "quorum none"], "line 2: a name that no line before"),
        ([A, "group g all none", "quorum none"], "line 2: a name that no line before"),
        ([A, "group a all a", "quorum none"], "line 2: the name is taken"),
        ([A, "group g 0 a", "quorum none"], "line 2: a group of 1 has a threshold from 1 to 1"),
        ([A, "group g 2 a", "quorum none"], "line 2: a group of 1"),
        ([A, "group g -1 a", "quorum none"], "line 2: a group's threshold"),
        ([A, "group g some a", "quorum none"], "line 2: a group's threshold"),
        ([A, B, "group g all a a", "quorum g"], "line 3: a name can be a member only once"),
        ([A, B, "group g all a", "group h any a b", "quorum h"], "line 4: a name can be a member only once"),
        (["something else", "quorum none"], "line 1 begins with none of"),
        (["quorum\x0bnone"], "line 1 holds a control character"),
        (["quorum none\r"], "line 1 holds a control character"),
        (["quorum none\x7f"], "line 1 holds a control character"),
        (["quorum\u00a0none"], "line 1 begins with none of"),
    ],
)
def test_malformed_policies(lines: list[str], reason: str) -> None:
    """A policy that breaks a rule is refused with the line and the rule: nothing in it is guessed or skipped."""
    with pytest.raises(Malformed) as caught:
        Policy.parse("".join([line + "\n" for line in lines]).encode())
    assert reason in str(caught.value)


def test_a_last_line_that_is_cut_off() -> None:
    """Each line ends in a newline; one that does not may be half of what somebody wrote."""
    with pytest.raises(Malformed, match="line 1 does not end in a newline"):
        Policy.parse(b"quorum none")


def test_names_are_opaque_octets() -> None:
    """Names that are no UTF-8 are names like others, and names that merely look alike are different."""
    lines = (
        b"witness \xff\xfe %s",
        b"witness K %s",
        b"witness \xe2\x84\xaa %s",
        b"group \xc3\x28 all \xff\xfe K \xe2\x84\xaa",
        b"quorum \xc3\x28\n",
    )
    text = b"\n".join(lines)
    policy = Policy.parse(text % tuple(str(one.key).encode() for one in X))
    assert policy.is_met_by({one.key for one in X})
    assert not policy.is_met_by({one.key for one in X[:2]})
    with pytest.raises(Malformed, match="line 1: a verifier key is UTF-8"):
        Policy.parse(b"log \xff+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\nquorum none\n")


@settings(deadline=None)  # a busy machine breaks no promise
@given(st.binary(max_size=200) | st.text(alphabet="loguqrmwitnesadyk 0123\t\n#", max_size=200).map(str.encode))
def test_any_bytes_get_a_verdict(content: bytes) -> None:
    """Whatever is read as a policy, it is one, or it is refused as malformed."""
    for candidate in (content, content + b"\n" + EXAMPLE.encode(), EXAMPLE.encode() + content):
        try:
            Policy.parse(candidate)
        except Malformed:
            continue
