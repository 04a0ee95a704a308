"""Policies: whose checkpoints are accepted, and which witnesses must have cosigned them.

Source: https://c2sp.org/tlog-policy. Names of witnesses and groups are opaque octets; here they are text decoded so
that different octets stay different.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from audit_async.tlog.checkpoint import SignedCheckpoint, VerifiedCheckpoint
from audit_async.tlog.failures import InvalidSignature, Malformed, QuorumNotMet
from audit_async.tlog.notes import VerifiedSignature, VerifierKey, verify_note

_MAX_POLICY_BYTES: Final = 1 << 20
_NO_QUORUM: Final = "none"


class KnownLog(NamedTuple):
    """A log whose checkpoints are accepted: its key's name is its origin."""

    key: VerifierKey
    url: str | None = None


class KnownWitness(NamedTuple):
    """A witness whose cosignatures count."""

    name: str  #: within the policy only
    key: VerifierKey
    url: str | None = None  #: its submission prefix


class Group(NamedTuple):
    """Witnesses and groups, of which at least `threshold` must have witnessed a checkpoint."""

    name: str
    threshold: int
    members: tuple[str, ...]


class Policy(NamedTuple):
    """Who must have signed a checkpoint for it to be valid."""

    logs: tuple[KnownLog, ...]
    witnesses: tuple[KnownWitness, ...]
    groups: tuple[Group, ...]
    quorum: str | None  #: name of a witness or group; None asks for no cosignature

    @classmethod
    def of(cls, keys: Iterable[VerifierKey]) -> Policy:
        """Return the policy that asks for the signature of one of these log keys, and for no witness."""
        return cls(tuple([KnownLog(key) for key in keys]), (), (), None)

    @classmethod
    def parse(cls, content: bytes) -> Policy:
        """Return what a policy file says; raises `Malformed`, which names the line."""
        return _parse(content)

    def verify(self, content: bytes, *, origin: str | None = None) -> VerifiedCheckpoint:
        """Return a checkpoint that the policy accepts.

        Args:
            content: The signed note.
            origin: Restricts it to one of the policy's logs.

        Raises:
            Malformed: It is no signed checkpoint.
            InvalidSignature: No accepted log has signed it, or a signature by a known key is wrong.
            QuorumNotMet: Too few of the policy's witnesses have cosigned it.
        """
        signed = SignedCheckpoint.parse(content)
        said = signed.checkpoint.origin
        keys = [log.key for log in self.logs if log.key.name == said]
        if not keys or (origin is not None and said != origin):
            accepted = origin or ", ".join([log.key.name for log in self.logs]) or "no log"
            raise InvalidSignature(f"the checkpoint is of the log {said[:200]!a}, and the policy accepts {accepted}")
        signatures = verify_note(signed.note, keys)
        cosignatures = self.cosignatures(signed)
        if not self.is_met_by({cosignature.key for cosignature in cosignatures}):
            got = ", ".join(sorted([cosignature.key.name for cosignature in cosignatures])) or "none"
            raise QuorumNotMet(
                f"the checkpoint of {said} at size {signed.checkpoint.size} is not cosigned by the quorum "
                f"{self.quorum!a}; valid cosignatures: {got}"
            )
        return VerifiedCheckpoint(signed.checkpoint, signed.note, (*signatures, *cosignatures))

    def cosignatures(self, signed: SignedCheckpoint) -> tuple[VerifiedSignature, ...]:
        """Return the cosignatures of known witnesses; raises `InvalidSignature` if one of them is wrong."""
        keys = [witness.key for witness in self.witnesses]
        ids = {(key.name, key.key_id) for key in keys}
        if not any((signature.name, signature.key_id) in ids for signature in signed.note.signatures):
            return ()
        return verify_note(signed.note, keys)

    def is_met_by(self, keys: set[VerifierKey]) -> bool:
        """Return whether the witnesses with these keys are a quorum."""
        if self.quorum is None:
            return True
        met = {witness.name: witness.key in keys for witness in self.witnesses}
        for group in self.groups:  # in the order of the file, so each after its members
            met[group.name] = sum([met[member] for member in group.members]) >= group.threshold
        return met[self.quorum]


# -- parsing --------------------------------------------------------------------------------------------------------


class _Parser:
    """What the lines up to here have said."""

    def __init__(self) -> None:
        self.logs: list[KnownLog] = []
        self.witnesses: list[KnownWitness] = []
        self.groups: list[Group] = []
        self.quorums: list[str | None] = []
        self._names: set[str] = set()
        self._members: set[str] = set()

    def log(self, words: Sequence[str]) -> None:
        """`log <vkey> [<url>]`."""
        vkey, url = _one_or_two(words, "log <vkey> [<url>]")
        key = _key(vkey)
        if any(log.key.public_key == key.public_key for log in self.logs):
            raise ValueError("this log's key was given before")
        self.logs.append(KnownLog(key, url))

    def witness(self, words: Sequence[str]) -> None:
        """`witness <name> <vkey> [<url>]`."""
        if not words:
            raise ValueError("witness <name> <vkey> [<url>]")
        name = self._new_name(words[0])
        vkey, url = _one_or_two(words[1:], "witness <name> <vkey> [<url>]")
        key = _key(vkey)
        if not key.type.is_cosignature:
            raise ValueError("a witness has a key for cosignatures (type 0x04 or 0x06)")
        if any(witness.key.public_key == key.public_key for witness in self.witnesses):
            raise ValueError("this witness's key was given before")
        self.witnesses.append(KnownWitness(name, key, url))

    def group(self, words: Sequence[str]) -> None:
        """`group <name> all|any|<k> <name>...`."""
        if len(words) < 3:
            raise ValueError("group <name> all|any|<k> <name>...")
        name, threshold, *members = words
        for member in members:
            self._known_name(member)
            if member in self._members:
                raise ValueError("a name can be a member only once, so that each witness counts in one way only")
            self._members.add(member)
        count = {"all": len(members), "any": 1}.get(threshold)
        if count is None:
            if not (threshold.isascii() and threshold.isdigit()) or len(threshold) > 6:
                raise ValueError("a group's threshold is all, any or a decimal number")
            count = int(threshold)
        if not 1 <= count <= len(members):
            raise ValueError(f"a group of {len(members)} has a threshold from 1 to {len(members)}")
        self.groups.append(Group(self._new_name(name), count, tuple(members)))

    def quorum(self, words: Sequence[str]) -> None:
        """`quorum <name>|none`."""
        if len(words) != 1:
            raise ValueError("quorum <name>")
        if self.quorums:
            raise ValueError("a policy has one quorum line")
        if words[0] != _NO_QUORUM:
            self._known_name(words[0])
        self.quorums.append(None if words[0] == _NO_QUORUM else words[0])

    def _new_name(self, name: str) -> str:
        if name == _NO_QUORUM or name in self._names:
            raise ValueError("the name is taken")
        self._names.add(name)
        return name

    def _known_name(self, name: str) -> None:
        if name not in self._names:
            raise ValueError("a name that no line before this one defines")


def _parse(content: bytes) -> Policy:
    if len(content) > _MAX_POLICY_BYTES:
        raise Malformed("policy", f"longer than {_MAX_POLICY_BYTES} bytes")
    parser = _Parser()
    kinds: Mapping[str, Callable[[Sequence[str]], None]] = {
        "log": parser.log,
        "witness": parser.witness,
        "group": parser.group,
        "quorum": parser.quorum,
    }
    lines = content.split(b"\n")
    if lines[-1].strip(b" \t"):
        raise Malformed("policy", f"line {len(lines)} does not end in a newline")
    for number, line in enumerate(lines, 1):
        if any((octet < 0x20 and octet != 0x09) or octet == 0x7F for octet in line):
            raise Malformed("policy", f"line {number} holds a control character")
        # Split at spaces and tabs alone: other white space, and octets that are no UTF-8, belong to names.
        words = [word.decode("utf-8", "surrogateescape") for word in line.replace(b"\t", b" ").split(b" ") if word]
        if not words or words[0].startswith("#"):
            continue
        take = kinds.get(words[0])
        if take is None:
            raise Malformed("policy", f"line {number} begins with none of {', '.join(kinds)}")
        try:
            take(words[1:])
        except Malformed as error:
            raise Malformed("policy", f"line {number}: {error.what}: {error.reason}") from None
        except ValueError as error:
            raise Malformed("policy", f"line {number}: {error}") from None
    if not parser.quorums:
        raise Malformed("policy", 'the quorum line is missing; "quorum none" asks for no cosignature')
    return Policy(tuple(parser.logs), tuple(parser.witnesses), tuple(parser.groups), parser.quorums[0])


def _one_or_two(words: Sequence[str], form: str) -> tuple[str, str | None]:
    if len(words) == 1:
        return words[0], None
    if len(words) == 2:
        return words[0], words[1]
    raise ValueError(form)


def _key(vkey: str) -> VerifierKey:
    try:
        vkey.encode()
    except UnicodeEncodeError:
        raise ValueError("a verifier key is UTF-8") from None
    return VerifierKey.parse(vkey)
