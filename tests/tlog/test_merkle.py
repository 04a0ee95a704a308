"""Roots and proofs are those of RFC 6962, and a verifier accepts no others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async.tlog.failures import InvalidProof
from audit_async.tlog.merkle import (
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


#: The inclusion proofs of the reference implementations (transparency-dev/merkle, proof/verify_test.go, as the C++ and
#: Python ones before it): index, size, hashes.
CT_INCLUSION: list[tuple[int, int, list[str]]] = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
#: Their consistency proofs: old size, new size, hashes.
CT_CONSISTENCY: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        6,
        7,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
]


def unhexed(hashes: list[str]) -> list[bytes]:
    """Return a published proof as it is used."""
    return [bytes.fromhex(value) for value in hashes]


@pytest.mark.parametrize(("index", "size", "published"), CT_INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, published: list[str]) -> None:
    """They are what is computed here, they verify, and nothing that differs from them in one place does."""
    hashes, root = unhexed(published), bytes.fromhex(CT_ROOTS[size - 1])
    leaf = leaf_hash(CT_LEAVES[index])
    assert inclusion_proof(index, size, reader_of(CT_LEAVES[:size])) == hashes
    verify_inclusion(index, size, leaf, root, hashes)
    some = leaf_hash(b"some other")
    wrong = [(other, size, leaf, root, hashes) for other in (index - 1, index + 1, index ^ 2)]
    wrong += [(index, other, leaf, root, hashes) for other in (size * 2, size // 2)]
    wrong += [(index, size, other, root, hashes) for other in (b"wrong leaf", b"", some)]
    wrong += [(index, size, leaf, other, hashes) for other in (EMPTY_ROOT, some, b"")]
    wrong += [(index, size, leaf, root, other) for other in _near_misses(hashes, bit=3, root=root)]
    for probe in wrong:
        with pytest.raises(InvalidProof):
            verify_inclusion(*probe)


@pytest.mark.parametrize(("old", "new", "published"), CT_CONSISTENCY)
def test_published_consistency_proofs(old: int, new: int, published: list[str]) -> None:
    """The same of them; an equal size needs no proof, and takes none."""
    hashes, old_root, new_root = unhexed(published), bytes.fromhex(CT_ROOTS[old - 1]), bytes.fromhex(CT_ROOTS[new - 1])
    assert consistency_proof(old, new, reader_of(CT_LEAVES[:new])) == hashes
    verify_consistency(old, new, old_root, new_root, hashes)
    some = leaf_hash(b"some other")
    wrong = [(other, new, old_root, new_root, hashes) for other in (old - 1, old + 1, old ^ 2)]
    wrong += [(old, other, old_root, new_root, hashes) for other in (new * 2, new // 2)]
    wrong += [(old, new, other, new_root, hashes) for other in (b"wrong root", some)]
    wrong += [(old, new, old_root, other, hashes) for other in (b"wrong root", some)]
    wrong += [(old, new, new_root, old_root, hashes)] if new != old else []
    near = [*_near_misses(hashes, bit=4, root=old_root), *_near_misses(hashes, bit=0, root=new_root)]
    near += [[], [hashes[0], *hashes]] if hashes else []
    wrong += [(old, new, old_root, new_root, other) for other in near]
    for probe in wrong:
        with pytest.raises(InvalidProof):
            verify_consistency(*probe)


def _near_misses(hashes: list[bytes], *, bit: int, root: bytes) -> list[list[bytes]]:
    """Return what the reference verifiers are probed with: one hash too many, too few, or wrong in one bit."""
    wrong = [[*hashes, b""], [*hashes, root], [b"", *hashes], [root, *hashes]]
    for at, value in enumerate(hashes):
        wrong.append([*hashes[:at], bytes([value[0] ^ (1 << bit)]) + value[1:], *hashes[at + 1 :]])
        wrong.append([*hashes[:at], *hashes[at + 1 :]])
    if len(hashes) > 1:
        wrong.append([hashes[0], leaf_hash(b"some other"), *hashes[1:]])
    return wrong


def test_sizes_that_no_proof_is_for() -> None:
    """A tree never shrinks, nothing is in the empty tree, and no proof is too short to be looked at."""
    some, other = leaf_hash(b"some"), leaf_hash(b"other")
    for index, size in ((0, 0), (0, 1), (1, 0), (2, 1)):
        for leaf, root in ((some, b""), (b"", EMPTY_ROOT), (some, EMPTY_ROOT)):
            with pytest.raises(InvalidProof):
                verify_inclusion(index, size, leaf, root, [])
    verify_inclusion(0, 1, some, some, [])
    for old, new, old_root, new_root, hashes in (
        (0, 0, some, other, []),
        (1, 1, some, other, []),
        (1, 0, some, other, []),
        (2, 1, some, other, []),
        (1, 2, some, other, []),
        (0, 0, EMPTY_ROOT, EMPTY_ROOT, [EMPTY_ROOT]),
        (0, 1, EMPTY_ROOT, EMPTY_ROOT, [EMPTY_ROOT]),
        (1, 1, EMPTY_ROOT, EMPTY_ROOT, [EMPTY_ROOT]),
    ):
        with pytest.raises(InvalidProof):
            verify_consistency(old, new, old_root, new_root, hashes)
    verify_consistency(1, 1, some, some, [])


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
