"""Transparency log: a trail's records as the leaves of a Merkle tree, whose signed head others can hold us to.

The hash chain shows that a trail fits together; this room shows that it is the same trail as before, also to somebody
who does not trust the machine it is on. It invents nothing: RFC 6962 trees, and the formats of https://c2sp.org
(signed notes, checkpoints, tiles, cosignatures, witnesses, policies, proofs), so that other people's tools verify it.

| module | subject |
| --- | --- |
| `tree` | hashes and proofs, pure |
| `tiles` | which file holds which hashes |
| `notes`, `checkpoint` | what is signed, and checking it |
| `keys` | where signing keys come from; signing |
| `publication`, `publisher` | the directory that is published; never two histories |
| `policy`, `proof` | who must have signed; evidence for one record |
| `witness`, `http` | collecting cosignatures |
| `monitor` | watching a published log from elsewhere |
| `config` | what a logger is told of all this |

Leaf n is the 32-byte `hash` of record n. Needs the extra `tlog`, but for `config`, `tree`, `tiles` and `errors`.
"""
