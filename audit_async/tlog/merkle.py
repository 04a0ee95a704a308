"""The Merkle tree of RFC 6962 as pure functions: hashes in, hashes and verdicts out; no files, no keys.

Terms. A tree of size n has the leaves 0 to n-1. The *complete subtree* at (level, index) has the 2^level leaves from
index * 2^level on; its hash never changes once they are there, which is what tiles store. MTH(begin, end) is the hash
of the leaves from `begin` up to, not including, `end`.

A `HashReader` returns the hash of a complete subtree; callers ask for no subtree beyond the size of the tree.

Sources: RFC 6962 section 2.1 (the tree and both proofs), RFC 9162 sections 2.1.3.2 and 2.1.4.2 (their verification).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final

from audit_async.tlog.failures import InvalidProof

HASH_SIZE: Final = 32
#: The root of the tree without leaves.
EMPTY_ROOT: Final = sha256(b"").digest()
#: Sizes fit a signed 64-bit integer, as tlog-tiles and every implementation in Go assume.
MAX_SIZE: Final = (1 << 63) - 1

#: Takes (level, index), returns the hash of that complete subtree.
HashReader = Callable[[int, int], bytes]

# What every leaf and every node begins with. A copy of it takes an update in nine tenths of the time of a new
# `sha256()` over prefix and data (python -m bench transparency).
_LEAF: Final = sha256(b"\x00")
_NODE: Final = sha256(b"\x01")


# -- hashes -------------------------------------------------------------------------------------------------------


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one leaf; its prefix keeps a leaf from ever passing for a node."""
    return sha256(b"\x00" + data).digest()


def leaf_hashes(leaves: Iterable[bytes]) -> list[bytes]:
    """Return the hash of each leaf; what `leaf_hash` does, without a call for each."""
    hashes: list[bytes] = []
    add, copy = hashes.append, _LEAF.copy
    for data in leaves:
        digest = copy()
        digest.update(data)
        add(digest.digest())
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node from those of its children."""
    return sha256(b"\x01" + left + right).digest()


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of the complete subtree whose 1, 2, 4, 8, ... hashes at one level are these."""
    count = len(hashes)
    if count == 0 or count & (count - 1):
        raise ValueError(f"a complete subtree has a power of two of hashes at each level, not {count}")
    copy = _NODE.copy
    while len(hashes) > 1:
        pairs = iter(hashes)
        above: list[bytes] = []
        for left, right in zip(pairs, pairs, strict=True):
            digest = copy()
            digest.update(left + right)
            above.append(digest.digest())
        hashes = above
    return hashes[0]


# -- roots --------------------------------------------------------------------------------------------------------


def complete_subtrees(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Give (level, index) of the complete subtrees that make up MTH(begin, end), the largest first.

    `begin` must be a multiple of the smallest power of two that is not less than `end - begin`, as it is for every
    range that RFC 6962 takes a hash of.
    """
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield level, begin >> level
        begin += 1 << level


def root_from(hashes: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees, given from the largest to the smallest."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def range_root(begin: int, end: int, read: HashReader) -> bytes:
    """Return MTH(begin, end)."""
    return root_from([read(level, index) for level, index in complete_subtrees(begin, end)])


def tree_root(size: int, read: HashReader) -> bytes:
    """Return the root of the tree of this size; log2(size) reads."""
    return range_root(0, size, read)


class RightEdge:
    """The root of a tree that only grows, from the hashes of the complete subtrees at its right edge.

    Constant memory: log2(size) hashes. A tree can be carried on from the edge that another one had.
    """

    __slots__ = ("_edge", "size")

    def __init__(self, size: int = 0, edge: Sequence[bytes] = ()) -> None:
        """Begin with a tree of `size` leaves, whose complete subtrees have these hashes, the largest first."""
        if size.bit_count() != len(edge):
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} hashes at its edge, not {len(edge)}")
        self.size = size
        self._edge = list(edge)

    @property
    def edge(self) -> tuple[bytes, ...]:
        """The hashes of the complete subtrees, the largest first."""
        return tuple(self._edge)

    def append(self, hashes: Iterable[bytes]) -> None:
        """Append leaves, given as leaf hashes."""
        edge, size, copy = self._edge, self.size, _NODE.copy
        for leaf in hashes:
            node, merges = leaf, size
            while merges & 1:
                digest = copy()
                digest.update(edge.pop() + node)
                node = digest.digest()
                merges >>= 1
            edge.append(node)
            size += 1
        self.size = size

    def root(self) -> bytes:
        """Return the root of the tree as it is now."""
        return root_from(self._edge)


# -- proofs -------------------------------------------------------------------------------------------------------


def inclusion_proof(index: int, size: int, read: HashReader) -> list[bytes]:
    """Return PATH(index, D[size]): the siblings on the way from a leaf up to the root, the leaf's own first.

    Raises `ValueError` if there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    proof = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            proof.append(range_root(middle, end, read))
            end = middle
        else:
            proof.append(range_root(begin, middle, read))
            begin = middle
    proof.reverse()
    return proof


def consistency_proof(old_size: int, new_size: int, read: HashReader) -> list[bytes]:
    """Return PROOF(old_size, D[new_size]): that the smaller tree is what the larger one began with.

    Empty if the sizes are equal, and for an old size of 0: every tree begins with the empty one. Raises
    `ValueError` if the old tree is the larger.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"a tree of {new_size} leaves did not begin with one of {old_size}")
    if old_size == 0:
        return []
    proof = []
    begin, end = 0, new_size
    while old_size != end:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            proof.append(range_root(middle, end, read))
            end = middle
        else:
            proof.append(range_root(begin, middle, read))
            begin = middle
    if begin:  # else the verifier has the last hash already: it is the old root
        proof.append(range_root(begin, end, read))
    proof.reverse()
    return proof


def verify_inclusion(index: int, size: int, leaf: bytes, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the leaf with this leaf hash is at `index` of the tree of this size and root.

    Raises `InvalidProof` if it does not follow.
    """
    _check_sizes(size, leaf, root, *proof)
    if not 0 <= index < size:
        raise InvalidProof(f"leaf {index} is not in a tree of {size} leaves")
    computed = leaf
    for is_left, sibling in _climb(index, size - 1, proof, f"the inclusion proof of leaf {index} in {size}"):
        computed = node_hash(sibling, computed) if is_left else node_hash(computed, sibling)
    if computed != root:
        raise InvalidProof(f"the inclusion proof of leaf {index} does not lead to the root of size {size}")


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of the old size and root is what the tree of the new size and root began with.

    Raises `InvalidProof` if it does not follow. An old size of 0 demands the root of the empty tree and an empty
    proof, as tlog-witness does; RFC 9162 leaves it undefined.
    """
    _check_sizes(new_size, old_root, new_root, *proof)
    if not 0 <= old_size <= new_size:
        raise InvalidProof(f"a log can't shrink from {old_size} to {new_size}")
    if old_size in {0, new_size}:
        if proof:
            raise InvalidProof(f"the consistency proof from {old_size} to {new_size} must be empty")
        if old_root != (new_root if old_size else EMPTY_ROOT) or (new_size == 0 and new_root != EMPTY_ROOT):
            raise InvalidProof(f"the roots of sizes {old_size} and {new_size} contradict each other")
        return
    hashes = list(proof)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    what = f"the consistency proof from {old_size} to {new_size}"
    if not hashes:
        raise InvalidProof(f"{what} is too short")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    computed_old = computed_new = hashes[0]
    for is_left, sibling in _climb(node, last, hashes[1:], what):
        if is_left:
            computed_old = node_hash(sibling, computed_old)
        computed_new = node_hash(sibling, computed_new) if is_left else node_hash(computed_new, sibling)
    if computed_old != old_root or computed_new != new_root:
        raise InvalidProof(f"the tree of size {new_size} did not begin with the one of size {old_size}")


def _climb(node: int, last: int, siblings: Sequence[bytes], what: str) -> Iterator[tuple[bool, bytes]]:
    """Give (is it the left one, sibling) on the way up from a node; raises `InvalidProof` for a wrong length.

    `node` and `last`, the level's last node, are numbered within their level.
    """
    for sibling in siblings:
        if last == 0:
            raise InvalidProof(f"{what} is too long")
        is_left = bool(node & 1) or node == last
        yield is_left, sibling
        if is_left:
            while node and not node & 1:  # the last node has no sibling on these levels
                node >>= 1
                last >>= 1
        node >>= 1
        last >>= 1
    if last:
        raise InvalidProof(f"{what} is too short")


def _split(size: int) -> int:
    """Return the largest power of two that is less than `size`: RFC 6962 splits a tree there."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_sizes(size: int, *hashes: bytes) -> None:
    if size > MAX_SIZE:
        raise InvalidProof(f"a tree of {size} leaves is larger than any log may be")
    for value in hashes:
        if len(value) != HASH_SIZE:
            raise InvalidProof(f"a hash has {HASH_SIZE} bytes, not {len(value)}")
