"""Evidence for one record: it verifies without the log, for this record, by this policy, and not otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async.tlog.checkpoint import Checkpoint
from audit_async.tlog.failures import (
    InvalidProof,
    InvalidSignature,
    LogForked,
    Malformed,
    NotCovered,
    QuorumNotMet,
    TilesDamaged,
    TransparencyError,
)
from audit_async.tlog.log_monitor import directory_source
from audit_async.tlog.merkle import inclusion_proof
from audit_async.tlog.notes import decode_base64
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import TlogProof, make_proof, verify_proof
from tests.tlog.trees import (
    ORIGIN,
    Cosigner,
    cosigned,
    mth,
    open_publisher,
    publish_all,
    reader_of,
    records,
    sign,
    signer,
)

LOG = records(300)
WITNESS = Cosigner(1)
SIGNED = cosigned(sign(Checkpoint(ORIGIN, 300, mth(LOG))), WITNESS)
POLICY = Policy.parse(f"log {signer().key}\nwitness w {WITNESS.key}\nquorum w\n".encode())


def proof_of(index: int) -> TlogProof:
    """Return the evidence for a record."""
    return TlogProof(index, tuple(inclusion_proof(index, 300, reader_of(LOG))), SIGNED.encode())


@pytest.mark.parametrize("index", [0, 1, 255, 256, 299])
def test_a_proof_stands_by_itself(index: int) -> None:
    """File, record and policy are enough; who saw the checkpoint, and when, comes with it."""
    proof = TlogProof.parse(proof_of(index).encode())
    assert proof == proof_of(index)
    verified = verify_proof(proof, index=index, record_hash=LOG[index], policy=POLICY)
    assert verified.checkpoint == SIGNED.checkpoint
    assert [(one.key, one.timestamp) for one in verified.signatures] == [
        (signer().key, None),
        (WITNESS.key, 1_795_348_800),
    ]


def test_the_form_of_the_specification() -> None:
    """Header, extra, index, one hash a line, an empty line, the checkpoint as it is."""
    proof = proof_of(41)._replace(extra=b"age-v1.2.1")
    lines = proof.encode().decode().split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra YWdlLXYxLjIuMQ==", "index 41"]
    assert [decode_base64(line, what="hash") for line in lines[3:12]] == list(proof.hashes)
    assert lines[12] == ""
    assert "\n".join(lines[13:]).encode() == SIGNED.encode()
    assert TlogProof.parse(proof.encode()) == proof
    single = sign(Checkpoint(ORIGIN, 1, mth(LOG[:1])))
    alone = TlogProof(0, (), single.encode())
    assert TlogProof.parse(alone.encode()) == alone
    verify_proof(alone, index=0, record_hash=LOG[0], policy=Policy.of([signer().key]))


def test_what_it_does_not_prove() -> None:
    """Another record, another place, another tree, another key, a quorum that is not there."""
    proof = proof_of(41)
    for index, record_hash in ((42, LOG[41]), (42, LOG[42]), (41, LOG[42]), (41, records(300, salt="x")[41])):
        with pytest.raises(InvalidProof):
            verify_proof(proof, index=index, record_hash=record_hash, policy=POLICY)
    with pytest.raises(InvalidProof, match="is for record 42"):
        verify_proof(proof._replace(leaf_index=42), index=41, record_hash=LOG[41], policy=POLICY)
    other = cosigned(sign(Checkpoint(ORIGIN, 300, mth(records(300, salt="x")))), WITNESS)
    with pytest.raises(InvalidProof):
        verify_proof(proof._replace(checkpoint=other.encode()), index=41, record_hash=LOG[41], policy=POLICY)
    with pytest.raises(InvalidSignature):
        verify_proof(proof, index=41, record_hash=LOG[41], policy=Policy.of([signer(2).key]))
    alone = sign(SIGNED.checkpoint)
    with pytest.raises(QuorumNotMet):
        verify_proof(proof._replace(checkpoint=alone.encode()), index=41, record_hash=LOG[41], policy=POLICY)


@settings(deadline=None)  # a busy machine breaks no promise
@given(st.data())
def test_no_byte_can_be_changed(data: st.DataObject) -> None:
    """A proof file with one byte changed is refused, or proves the same of the same record; never something else."""
    content = bytearray(proof_of(41).encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    try:
        proof = TlogProof.parse(bytes(content))
        verified = verify_proof(proof, index=41, record_hash=LOG[41], policy=POLICY)
    except TransparencyError:
        return
    assert verified.checkpoint == SIGNED.checkpoint


@settings(deadline=None)  # a busy machine breaks no promise
@given(st.binary(max_size=300))
def test_any_bytes_get_a_verdict(content: bytes) -> None:
    """Whatever is read as a proof, it is one, written as it was read, or it is refused as malformed."""
    whole = proof_of(41).encode()
    for candidate in (content, whole + content, whole[: len(content)] + content, b"c2sp.org/tlog-proof@v1\n" + content):
        try:
            proof = TlogProof.parse(candidate)
        except Malformed:
            continue
        assert proof.encode() == candidate


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
        ("index 41\n", ""),
        ("index 41", "index 041"),
        ("index 41", "index -41"),
        ("index 41", f"index {1 << 63}"),
        ("index 41", "Index 41"),
        ("index 41\n", "index 41\nextra AAAA\n"),
        ("index 41\n", "extra A\nindex 41\n"),
        ("index 41\n", "extra AAAA\nextra AAAA\nindex 41\n"),
        ("index 41\n", "index 41\nAAAA\n"),
        ("index 41\n", "index 41\n" + "A" * 43 + "=\n" * 64),
        ("index 41\n", "index 41\n\n"),
        ("\n\n", "\n"),
    ],
)
def test_malformed_proofs(old: str, new: str) -> None:
    """What breaks one of the format's rules is refused before anything is computed."""
    content = proof_of(41).encode().decode()
    assert old in content
    with pytest.raises(Malformed):
        TlogProof.parse(content.replace(old, new, 1).encode())


def test_proofs_from_a_published_log(tmp_path: Path) -> None:
    """What a log gives for any record that its published checkpoint covers verifies, cosignatures and all."""
    publisher = open_publisher(tmp_path / "tlog", LOG)
    with pytest.raises(NotCovered, match="no checkpoint yet"):
        publisher.prove(0, LOG[0])
    for size in (100, 300):
        publisher.append(LOG[publisher.size : size])
        publisher.publish(cosigned(sign(publisher.prepare()), WITNESS))
        for index in (0, 50, size - 1):
            verify_proof(publisher.prove(index, LOG[index]), index=index, record_hash=LOG[index], policy=POLICY)
        for index in (size, -1):
            with pytest.raises(NotCovered, match=f"not in the checkpoint of size {size}"):
                publisher.prove(index, LOG[0])
    publisher.close()


def test_no_false_evidence_is_made(tmp_path: Path) -> None:
    """A record that is not the one that was signed gets no proof, and neither does one whose tiles are damaged."""
    signed = publish_all(tmp_path / "tlog", LOG)
    source = directory_source(tmp_path / "tlog")
    with pytest.raises(LogForked, match=r"record 41 of .* was changed") as caught:
        make_proof(source, signed, index=41, record_hash=LOG[42])
    assert caught.value.evidence == (signed.encode(),)
    for path, index in (("tile/0/000", 1), ("tile/1/000.p/1", 299)):
        content = (tmp_path / "tlog" / path).read_bytes()
        (tmp_path / "tlog" / path).write_bytes(b"x" + content[1:])
        with pytest.raises(TilesDamaged):
            make_proof(source, signed, index=index, record_hash=LOG[index])
        (tmp_path / "tlog" / path).write_bytes(content)
        make_proof(source, signed, index=index, record_hash=LOG[index])
