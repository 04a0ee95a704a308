"""Signed notes: a text, and under it one line for each signature; verifier keys that fit on one line.

Ed25519 signatures over the text (type 0x01) and the timestamped cosignatures of witnesses over a checkpoint (Ed25519,
type 0x04, and ML-DSA-44, type 0x06) are verified here; making them is the subject of `signing_keys`. A text
has no author before a signature by a trusted key has been verified.

Sources: https://c2sp.org/signed-note, https://c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple

from audit_async.tlog.failures import InvalidSignature, Malformed

#: More than any note needs; more is not read.
MAX_NOTE_BYTES: Final = 1 << 20
MAX_SIGNATURES: Final = 100

_DASH: Final = "\u2014 "
_KEY_ID_BYTES: Final = 4
_TIMESTAMP_BYTES: Final = 8
_ED25519_SIGNATURE_BYTES: Final = 64
_ML_DSA_44_SIGNATURE_BYTES: Final = 2420
_MAX_TIMESTAMP: Final = (1 << 63) - 1


class SignatureType(IntEnum):
    """The kinds of signature that are known here, by their byte in a verifier key."""

    ED25519 = 0x01  #: over the note's text
    COSIGNATURE = 0x04  #: Ed25519 over a time and a checkpoint's text: what witnesses give
    ML_DSA_44 = 0x06  #: the same with a signature that outlasts quantum computers, and bound to the signer's name

    @property
    def public_key_bytes(self) -> int:
        """Length of the public key."""
        return 1312 if self is SignatureType.ML_DSA_44 else 32

    @property
    def is_cosignature(self) -> bool:
        """Whether it states a time, and so may be a witness's."""
        return self is not SignatureType.ED25519


# -- notes --------------------------------------------------------------------------------------------------------


class Signature(NamedTuple):
    """One signature line, nothing of it verified."""

    name: str
    key_id: bytes  #: 4 bytes; with the name, it says which key is meant
    signature: bytes  #: what follows the key id

    def line(self) -> str:
        """Return the line as it is in a note, with its newline."""
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.signature)}\n"

    @classmethod
    def parse(cls, line: str, *, what: str = "signed note") -> Signature:
        """Return what a line (without its newline) says; raises `Malformed`."""
        if not line.startswith(_DASH):
            raise Malformed(what, "a signature line begins with an em dash and a space")
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        if not space or not is_key_name(name):
            raise Malformed(what, "a signature line is an em dash, a key name and base64, a space between each")
        value = decode_base64(encoded, what=what)
        if len(value) <= _KEY_ID_BYTES:
            raise Malformed(what, "a signature is longer than its key's 4-byte id")
        return cls(name, value[:_KEY_ID_BYTES], value[_KEY_ID_BYTES:])


class Note(NamedTuple):
    """A text, which ends in a newline, and its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Return the note as it is stored and sent."""
        return f"{self.text}\n{''.join([signature.line() for signature in self.signatures])}".encode()

    def with_signatures(self, signatures: Iterable[Signature]) -> Note:
        """Return the note with further signatures; a key that signed already keeps its first one."""
        kept = {(old.name, old.key_id): old for old in self.signatures}
        for new in signatures:
            kept.setdefault((new.name, new.key_id), new)
        return Note(self.text, tuple(kept.values()))


def check_text(text: str, *, what: str = "signed note") -> None:
    """Refuse a text that can't be a note's: it must end in a newline and hold no other control character."""
    if not text.endswith("\n"):
        raise Malformed(what, "the text must end in a newline")
    if any(character < " " and character != "\n" for character in text):
        raise Malformed(what, "a control character other than a newline")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed(what, "a lone surrogate, which UTF-8 has no place for") from None


def parse_note(content: bytes, *, what: str = "signed note") -> Note:
    """Return a note's text and signatures, nothing of it verified; raises `Malformed`."""
    if len(content) > MAX_NOTE_BYTES:
        raise Malformed(what, f"{len(content)} bytes, and no note is longer than {MAX_NOTE_BYTES}")
    try:
        decoded = content.decode()
    except UnicodeDecodeError:
        raise Malformed(what, "not UTF-8") from None
    text, blank, lines = decoded.rpartition("\n\n")
    if not blank:
        raise Malformed(what, "no blank line between text and signatures")
    text += "\n"
    check_text(decoded, what=what)
    signatures = tuple([Signature.parse(line, what=what) for line in lines.split("\n")[:-1]])
    if not signatures:
        raise Malformed(what, "no signature line")
    if len(signatures) > MAX_SIGNATURES:
        raise Malformed(what, f"{len(signatures)} signatures, and no more than {MAX_SIGNATURES} are read")
    return Note(text, signatures)


# -- verifier keys ------------------------------------------------------------------------------------------------


class VerifierKey(NamedTuple):
    """A public key with the name that its owner signs under: `<name>+<key id>+<type and key>`."""

    name: str
    type: SignatureType
    public_key: bytes

    @classmethod
    def of(cls, name: str, public_key: bytes, type: SignatureType = SignatureType.ED25519) -> VerifierKey:  # noqa: A002
        """Return a verifier key; raises `Malformed` for a name or key that can't be one."""
        if not is_key_name(name):
            raise Malformed("verifier key", f"{name[:200]!a} can't be a key's name: no spaces, no plus, not empty")
        if len(public_key) != type.public_key_bytes:
            raise Malformed(
                "verifier key", f"a key of its type has {type.public_key_bytes} bytes, not {len(public_key)}"
            )
        if type is SignatureType.ML_DSA_44:
            from audit_async.tlog.signature_check import KNOWS_ML_DSA_44  # noqa: PLC0415 - needs the extra

            if not KNOWS_ML_DSA_44:
                raise Malformed("verifier key", "ML-DSA-44 (0x06) needs a newer release of cryptography; upgrade it")
        return cls(name, type, public_key)

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Return the key that a vkey line gives; raises `Malformed`, also if its key id is not that of its key."""
        name, _, rest = vkey.partition("+")
        key_id, _, encoded = rest.partition("+")  # base64 may hold a plus, a name and an id may not
        if not encoded:
            raise Malformed("verifier key", "it is one line, NAME+ID+KEY, as audit-async keys show prints it")
        material = decode_base64(encoded, what="verifier key")
        if not material or material[0] not in {kind.value for kind in SignatureType}:
            kind = f"type {material[0]:#04x}" if material else "no type"
            raise Malformed("verifier key", f"{kind} is not supported; 0x01, 0x04 and 0x06 are")
        key = cls.of(name, material[1:], SignatureType(material[0]))
        if key.key_id.hex() != key_id:
            raise Malformed("verifier key", f"the key id of {name[:200]!a} is {key.key_id.hex()}, not what it says")
        return key

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that name this key in a signature line."""
        return sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public_key).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes([self.type]) + self.public_key)}"

    def verify(self, text: str, signature: Signature) -> int | None:
        """Check one signature; returns the time (POSIX seconds) that a cosignature states, None for others.

        Raises `InvalidSignature`.
        """
        message, value, timestamp = text.encode(), signature.signature, None
        if self.type.is_cosignature:
            timestamp = int.from_bytes(value[:_TIMESTAMP_BYTES], "big")
            if timestamp > _MAX_TIMESTAMP:
                raise InvalidSignature(f"the cosignature by {self.name} states an impossible time")
            value = value[_TIMESTAMP_BYTES:]
            if self.type is SignatureType.COSIGNATURE:
                message = cosigned_message(text, timestamp)
            else:
                message = cosigned_subtree(self.name, text, timestamp)
        expected = _ML_DSA_44_SIGNATURE_BYTES if self.type is SignatureType.ML_DSA_44 else _ED25519_SIGNATURE_BYTES
        if len(value) != expected:
            raise InvalidSignature(f"the signature by {self.name} has the wrong length for its key")
        from audit_async.tlog.signature_check import check_ed25519, check_ml_dsa_44  # noqa: PLC0415 - needs the extra

        check = check_ml_dsa_44 if self.type is SignatureType.ML_DSA_44 else check_ed25519
        check(self.name, self.public_key, value, message)
        return timestamp


class VerifiedSignature(NamedTuple):
    """A signature that was checked against a trusted key."""

    key: VerifierKey
    timestamp: int | None  #: POSIX seconds, from a cosignature


def verify_note(note: Note, keys: Sequence[VerifierKey]) -> tuple[VerifiedSignature, ...]:
    """Return whose of these keys' signatures the note bears, one for each key.

    Signatures by other keys are ignored.

    Raises:
        InvalidSignature: The signature of a known key is wrong, two of `keys` can't be distinguished, or no known key
            has signed.
    """
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise InvalidSignature(f"two trusted keys share the name {key.name} and the id {key.key_id.hex()}")
    verified: dict[VerifierKey, VerifiedSignature] = {}
    for signature in note.signatures:
        signer = known.get((signature.name, signature.key_id))
        if signer is not None:
            timestamp = signer.verify(note.text, signature)
            verified.setdefault(signer, VerifiedSignature(signer, timestamp))
    if not verified:
        names = ", ".join(dict.fromkeys(f"{key.name}+{key.key_id.hex()}" for key in keys)) or "no key is trusted"
        raise InvalidSignature(f"the note is not signed by any trusted key ({names})")
    return tuple(verified.values())


def cosigned_message(text: str, timestamp: int) -> bytes:
    """Return what a witness signs: `timestamp` in POSIX seconds, and the checkpoint's whole text."""
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()


def cosigned_subtree(name: str, text: str, timestamp: int) -> bytes:
    """Return what the witness called `name` signs with ML-DSA-44: a checkpoint's origin, size and root, no extensions.

    Raises `InvalidSignature` for a text that is no checkpoint's, since no witness can have cosigned it.
    """
    origin, _, rest = text.partition("\n")
    size, _, rest = rest.partition("\n")
    try:
        number = parse_decimal(size, what="size", maximum=_MAX_TIMESTAMP)
        root = decode_base64(rest.partition("\n")[0], what="root")
    except Malformed:
        raise InvalidSignature(f"{name} can't have cosigned this: it is no checkpoint") from None
    names = [value.encode() for value in (name, origin)]
    if len(root) != 32 or any(not 1 <= len(value) <= 255 for value in names):
        raise InvalidSignature(f"{name} can't have cosigned this: a name or the root has the wrong length")
    witness, log = [bytes([len(value)]) + value for value in names]
    start = bytes(8)
    return b"".join(
        [b"subtree/v1\n\0", witness, timestamp.to_bytes(8, "big"), log, start, number.to_bytes(8, "big"), root]
    )


# -- the parts of both --------------------------------------------------------------------------------------------


def is_key_name(name: str) -> bool:
    """Return whether a key may have this name: not empty, no space of any script, no plus, no control character."""
    return bool(name) and "+" not in name and not any(char.isspace() or char < " " for char in name)


def encode_base64(value: bytes) -> str:
    """Return standard base64, with padding."""
    return base64.b64encode(value).decode()


def decode_base64(text: str, *, what: str) -> bytes:
    """Return the bytes of standard base64 in its one canonical spelling; raises `Malformed`."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(what, "not base64") from None
    if encode_base64(value) != text:  # stray bits in the last character would give one signature many spellings
        raise Malformed(what, "base64 that is not canonical")
    return value


def parse_decimal(text: str, *, what: str, maximum: int) -> int:
    """Return a number written in ASCII digits without leading zeros; raises `Malformed`."""
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0") or len(text) > len(str(maximum)):
        raise Malformed(what, "not a decimal number without leading zeros")
    number = int(text)
    if number > maximum:
        raise Malformed(what, f"a number larger than {maximum}")
    return number
