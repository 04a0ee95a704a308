"""Roots and proofs are those of RFC 6962, and a verifier accepts no others."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async.tlog.errors import InvalidProof
from audit_async.tlog.tree import (
    EMPTY_ROOT,
    MAX_SIZE,
    RightEdge,
    complete_root,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    leaf_hashes,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from tests.conftest import shared_file
from tests.tlog.trees import mth, path, proof, reader_of, records

#: The leaves of the certificate-transparency reference implementations, and the roots of their first n.
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

sizes = st.integers(1, 150)


def test_published_hashes_and_roots() -> None:
    """The hash of the empty tree, of leaves and of nodes, and the roots of the eight reference leaves."""
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    edge = RightEdge()
    assert edge.root() == EMPTY_ROOT
    for leaf, root in zip(CT_LEAVES, CT_ROOTS, strict=True):
        edge.append([leaf_hash(leaf)])
        assert edge.root().hex() == root


def test_published_proofs_of_rfc_6962() -> None:
    """Section 2.1.3 names the nodes of each proof in a tree of seven leaves; the numbers are theirs."""
    leaves = CT_LEAVES[:7]
    a, b, c, d, e, f, j = leaf_hashes(leaves)
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, l = node_hash(g, h), node_hash(i, j)  # noqa: E741 - the RFC's letters
    read = reader_of(leaves)
    assert inclusion_proof(0, 7, read) == [b, h, l]
    assert inclusion_proof(3, 7, read) == [c, g, l]
    assert inclusion_proof(4, 7, read) == [f, j, k]
    assert inclusion_proof(6, 7, read) == [i, k]
    assert consistency_proof(3, 7, read) == [c, d, g, l]
    assert consistency_proof(4, 7, read) == [l]
    assert consistency_proof(6, 7, read) == [i, j, k]


def test_reference_probes() -> None:
    """Every good and bad proof that the transparency-dev reference verifier is probed with gets its verdict.

    Some probes stand "don't care" in a root's place; a root that has not 32 bytes is refused here in any case.
    """
    probes = [json.loads(line) for line in shared_file("rfc6962_proofs.jsonl").read_text().splitlines()]
    assert len(probes) > 190
    for probe in probes:
        hashes = [b64decode(value) for value in probe["proof"] or []]
        try:
            if "leafIdx" in probe:
                leaf, root = b64decode(probe["leafHash"] or ""), b64decode(probe["root"] or "")
                verify_inclusion(probe["leafIdx"], probe["treeSize"], leaf, root, hashes)
            else:
                roots = b64decode(probe["root1"] or ""), b64decode(probe["root2"] or "")
                verify_consistency(probe["size1"], probe["size2"], *roots, hashes)
        except InvalidProof:
            refused = True
        else:
            refused = False
        roots_are_hashes = all(
            len(b64decode(probe[name] or "")) == 32 for name in ("root", "root1", "root2") if name in probe
        )
        assert refused == (probe["wantErr"] or not roots_are_hashes), probe


@settings(deadline=None)  # a busy machine breaks no promise
@given(sizes, st.data())
def test_proofs_follow_the_definition_and_verify(size: int, data: st.DataObject) -> None:
    """Root, every proof, and the edge of a growing tree equal the recursive definition, and proofs verify."""
    leaves = records(size)
    hashes, read, root = leaf_hashes(leaves), reader_of(leaves), mth(leaves)
    assert tree_root(size, read) == root
    index = data.draw(st.integers(0, size - 1))
    included = inclusion_proof(index, size, read)
    assert included == path(index, leaves)
    verify_inclusion(index, size, hashes[index], root, included)
    old = data.draw(st.integers(1, size))
    consistent = consistency_proof(old, size, read)
    assert consistent == proof(old, leaves)
    verify_consistency(old, size, mth(leaves[:old]), root, consistent)
    edge = RightEdge()
    edge.append(hashes[:old])
    carried_on = RightEdge(edge.size, edge.edge)
    carried_on.append(hashes[old:])
    assert (carried_on.size, carried_on.root()) == (size, root)


@settings(deadline=None)  # a busy machine breaks no promise
@given(sizes, st.data())
def test_nothing_else_verifies(size: int, data: st.DataObject) -> None:
    """A proof with one bit, one hash, one index, one size or one root changed is refused."""
    leaves = records(size)
    hashes, read, root = leaf_hashes(leaves), reader_of(leaves), mth(leaves)
    index = data.draw(st.integers(0, size - 1))
    good = inclusion_proof(index, size, read)
    for other in range(size):
        if other != index:
            with pytest.raises(InvalidProof):
                verify_inclusion(other, size, hashes[index], root, good)
    for wrong in _changed(good, data):
        with pytest.raises(InvalidProof):
            verify_inclusion(index, size, hashes[index], root, wrong)
    with pytest.raises(InvalidProof):
        verify_inclusion(index, size, leaf_hash(b"another"), root, good)
    old = data.draw(st.integers(1, size))
    consistent = consistency_proof(old, size, read)
    old_root = mth(leaves[:old])
    for wrong in _changed(consistent, data):
        with pytest.raises(InvalidProof):
            verify_consistency(old, size, old_root, root, wrong)
    with pytest.raises(InvalidProof):
        verify_consistency(old, size, leaf_hash(b"another"), root, consistent)
    with pytest.raises(InvalidProof):
        verify_consistency(old, size, old_root, leaf_hash(b"another"), consistent)


def _changed(hashes: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    """Return variants of a proof that differ from it."""
    wrong = [[*hashes, leaf_hash(b"more")], [leaf_hash(b"more"), *hashes]]
    if hashes:
        at = data.draw(st.integers(0, len(hashes) - 1))
        bit = data.draw(st.integers(0, 255))
        flipped = (int.from_bytes(hashes[at], "big") ^ (1 << bit)).to_bytes(32, "big")
        wrong += [[*hashes[:at], flipped, *hashes[at + 1 :]], [*hashes[:at], *hashes[at + 1 :]]]
        wrong.append([*hashes[:at], hashes[at][:31], *hashes[at + 1 :]])
    return wrong


@settings(deadline=None)  # a busy machine breaks no promise
@given(
    st.integers(-2, MAX_SIZE * 2),
    st.integers(-2, MAX_SIZE * 2),
    st.lists(st.binary(min_size=31, max_size=33), max_size=70),
)
def test_any_numbers_and_hashes_get_a_verdict(first: int, second: int, hashes: list[bytes]) -> None:
    """No size, index or hash that somebody sends makes a verifier fail otherwise than with `InvalidProof`."""
    for verify in (verify_inclusion, verify_consistency):
        with pytest.raises(InvalidProof):
            verify(first, second, b"a" * 32, b"b" * 32, hashes)


def test_the_empty_tree_is_the_beginning_of_every_tree() -> None:
    """A consistency proof from size 0 is empty, as tlog-witness has it, and demands the root of the empty tree."""
    verify_consistency(0, 5, EMPTY_ROOT, mth(records(5)), [])
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    for old_root, new_root, hashes in (
        (EMPTY_ROOT, mth(records(5)), [EMPTY_ROOT]),
        (mth(records(1)), mth(records(5)), []),
    ):
        with pytest.raises(InvalidProof):
            verify_consistency(0, 5, old_root, new_root, hashes)
    with pytest.raises(InvalidProof):
        verify_consistency(0, 0, EMPTY_ROOT, mth(records(1)), [])


def test_what_no_tree_has_is_a_programming_error() -> None:
    """Proofs for leaves and sizes that do not exist, and subtrees that are not complete, are refused at once."""
    read = reader_of(records(4))
    for index, size in ((4, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="has no leaf"):
            inclusion_proof(index, size, read)
    for old, new in ((5, 4), (-1, 4)):
        with pytest.raises(ValueError, match="did not begin"):
            consistency_proof(old, new, read)
    with pytest.raises(ValueError, match="power of two"):
        complete_root(records(3))
    with pytest.raises(ValueError, match="at its edge"):
        RightEdge(3, records(3))
