"""What can go wrong with checkpoints, proofs, keys and witnesses; one class a cause.

No message holds key material, a passphrase, or the text of a note that was not verified.
"""

from __future__ import annotations

from audit_async.errors import AuditError


class TransparencyError(AuditError):
    """The base of every error of this room."""


class Malformed(TransparencyError, ValueError):
    """Something that was read is not in the format of its standard.

    `what` names the thing (a note, a policy, a tile's path) and `reason` the rule that it breaks, with the line if
    there is one.
    """

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class InvalidProof(TransparencyError):
    """A Merkle proof does not lead to the root that was signed."""


class NotCovered(TransparencyError):
    """No checkpoint covers the record yet; wait for the next one, or have the log make one."""


class InvalidSignature(TransparencyError):
    """A note bears no valid signature of a key that is trusted, or a wrong one under such a key's name."""


class QuorumNotMet(TransparencyError):
    """A checkpoint is signed by its log, but not cosigned by as many witnesses as the policy demands."""


class InconsistentLog(TransparencyError):
    """Two statements about one log can't both be true; `evidence` holds the notes that say so, if there are any.

    Keep the evidence: two signed checkpoints that contradict each other convict the log without any further word.
    """

    def __init__(self, message: str, *, evidence: tuple[bytes, ...] = ()) -> None:
        self.evidence = evidence
        super().__init__(message)


class LogForked(InconsistentLog):
    """The log has shown, or is about to sign, another history than before: records were changed or exchanged."""


class LogRolledBack(InconsistentLog):
    """The log is smaller than a checkpoint that it has signed: records at its end are gone, or a backup came back."""


class TilesDamaged(TransparencyError):
    """A published file of the log is missing or does not hold what its place demands; `path` is its name."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class SourceFailed(TransparencyError):
    """A published log could not be read: no connection, a refusal, or an answer that is too long or too late."""


class PublisherStopped(TransparencyError):
    """A publisher has met an error of the disk and believes nothing of what it wrote; close it, and open it again."""


class KeyUnavailable(TransparencyError):
    """A signing key can't be used: not there, readable by others, of another kind, or its passphrase is wrong."""


class SigningFailed(TransparencyError):
    """A signer answered with an error, or with something that is no signature by its key; the cause is chained."""


class WitnessFailed(TransparencyError):
    """A witness gave no cosignature this time. Nothing is wrong with the log; try again with a later checkpoint."""


class WitnessRefused(WitnessFailed):
    """A witness will give none before somebody acts: it does not know the log or its key. See the message."""
