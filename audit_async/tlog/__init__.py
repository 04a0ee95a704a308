"""Transparency log: a trail's records as the leaves of a Merkle tree, whose signed head others can hold the log to.

The hash chain shows that a trail is consistent in itself; a signed tree shows that it is the same trail as before, also
to somebody who does not trust the machine it is on. Nothing here is invented: RFC 6962 trees, and the formats of
https://c2sp.org (signed notes, checkpoints, tiles, cosignatures, witnesses, policies, proofs), so that other people's
tools verify them.

    from audit_async.tlog import Policy, TlogProof, VerifierKey, verify_proof

    policy = Policy.of([VerifierKey.parse(vkey)])
    verify_proof(TlogProof.parse(proof), index=record["seq"], record_hash=record_hash, policy=policy)

Everything that applications need is imported from this package; its modules are implementation details:

| module | subject |
| --- | --- |
| `merkle` | hashes and proofs, pure |
| `tiles` | which file holds which hashes |
| `notes`, `checkpoint` | what is signed, and checking it |
| `signing_keys` | where signing keys come from; signing |
| `published_files`, `signed_tree` | the directory that is published; never two histories |
| `guard`, `commitments` | what was signed before, and holding the log to it |
| `policy`, `proof` | who must have signed; evidence for one record |
| `witness`, `http_client` | collecting cosignatures |
| `log_monitor` | watching a published log from elsewhere |
| `failures` | the errors |

Leaf n is the 32-byte `hash` of record n. Reading these formats needs no extra; verifying and making signatures needs
`cryptography`, which the extra `tlog` installs: `pip install 'audit-async[tlog]'`.
"""

from typing import TYPE_CHECKING, Final

from audit_async._first_use import Needed, imported_at_first_use

if TYPE_CHECKING:
    from audit_async.config import ExternalKey, KeySource, SecretSource, SignFunction
    from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint, VerifiedCheckpoint, verify_checkpoint
    from audit_async.tlog.failures import (
        InconsistentLog,
        InvalidProof,
        InvalidSignature,
        KeyUnavailable,
        LogForked,
        LogRolledBack,
        Malformed,
        NotCovered,
        PublisherStopped,
        QuorumNotMet,
        SigningFailed,
        SourceFailed,
        TilesDamaged,
        TransparencyError,
        WitnessFailed,
        WitnessRefused,
    )
    from audit_async.tlog.log_monitor import (
        Observation,
        Seen,
        check_entries,
        directory_source,
        http_source,
        load_seen,
        observe,
        save_seen,
    )
    from audit_async.tlog.merkle import leaf_hash, verify_consistency, verify_inclusion
    from audit_async.tlog.notes import (
        Note,
        Signature,
        SignatureType,
        VerifiedSignature,
        VerifierKey,
        parse_note,
        verify_note,
    )
    from audit_async.tlog.policy import Group, KnownLog, KnownWitness, Policy
    from audit_async.tlog.proof import TlogProof, make_proof, verify_proof
    from audit_async.tlog.signing_keys import (
        Signer,
        load_signer,
        load_signers,
        new_key,
        read_secret,
        sign_checkpoint,
        write_key,
    )
    from audit_async.tlog.tiles import FileReader
    from audit_async.tlog.witness import Cosignature, WitnessAnswer, WitnessClient, Witnesses

__all__ = [
    "Checkpoint",
    "Cosignature",
    "ExternalKey",
    "FileReader",
    "Group",
    "InconsistentLog",
    "InvalidProof",
    "InvalidSignature",
    "KeySource",
    "KeyUnavailable",
    "KnownLog",
    "KnownWitness",
    "LogForked",
    "LogRolledBack",
    "Malformed",
    "NotCovered",
    "Note",
    "Observation",
    "Policy",
    "PublisherStopped",
    "QuorumNotMet",
    "SecretSource",
    "Seen",
    "SignFunction",
    "Signature",
    "SignatureType",
    "SignedCheckpoint",
    "Signer",
    "SigningFailed",
    "SourceFailed",
    "TilesDamaged",
    "TlogProof",
    "TransparencyError",
    "VerifiedCheckpoint",
    "VerifiedSignature",
    "VerifierKey",
    "WitnessAnswer",
    "WitnessClient",
    "WitnessFailed",
    "WitnessRefused",
    "Witnesses",
    "check_entries",
    "directory_source",
    "http_source",
    "leaf_hash",
    "load_seen",
    "load_signer",
    "load_signers",
    "make_proof",
    "new_key",
    "observe",
    "parse_note",
    "read_secret",
    "save_seen",
    "sign_checkpoint",
    "verify_checkpoint",
    "verify_consistency",
    "verify_inclusion",
    "verify_note",
    "verify_proof",
    "write_key",
]

# Imported at first use: who only catches `LogForked` does not wait for `cryptography`, or does not have it.
_HOMES: Final = {
    "audit_async.config.transparency": ("ExternalKey", "KeySource", "SecretSource", "SignFunction"),
    "audit_async.tlog.checkpoint": (
        "Checkpoint",
        "SignedCheckpoint",
        "VerifiedCheckpoint",
        "verify_checkpoint",
    ),
    "audit_async.tlog.failures": (
        "InconsistentLog",
        "InvalidProof",
        "InvalidSignature",
        "KeyUnavailable",
        "LogForked",
        "LogRolledBack",
        "Malformed",
        "NotCovered",
        "PublisherStopped",
        "QuorumNotMet",
        "SigningFailed",
        "SourceFailed",
        "TilesDamaged",
        "TransparencyError",
        "WitnessFailed",
        "WitnessRefused",
    ),
    "audit_async.tlog.log_monitor": (
        "Observation",
        "Seen",
        "check_entries",
        "directory_source",
        "http_source",
        "load_seen",
        "observe",
        "save_seen",
    ),
    "audit_async.tlog.merkle": ("leaf_hash", "verify_consistency", "verify_inclusion"),
    "audit_async.tlog.notes": (
        "Note",
        "Signature",
        "SignatureType",
        "VerifiedSignature",
        "VerifierKey",
        "parse_note",
        "verify_note",
    ),
    "audit_async.tlog.policy": ("Group", "KnownLog", "KnownWitness", "Policy"),
    "audit_async.tlog.proof": ("TlogProof", "make_proof", "verify_proof"),
    "audit_async.tlog.signing_keys": (
        "Signer",
        "load_signer",
        "load_signers",
        "new_key",
        "read_secret",
        "sign_checkpoint",
        "write_key",
    ),
    "audit_async.tlog.tiles": ("FileReader",),
    "audit_async.tlog.witness": ("Cosignature", "WitnessAnswer", "WitnessClient", "Witnesses"),
}

if not TYPE_CHECKING:  # or a type checker would believe in every name
    __getattr__, __dir__ = imported_at_first_use(__name__, _HOMES, Needed("cryptography", "tlog"))
