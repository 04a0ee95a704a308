"""Checking selective evidence: without the log, without keys of the key store, and believing nothing in the file.

What counts is whom the caller trusts (a policy), and what follows from it: the checkpoint's signatures, the proof of
each record, the hash of each record's bytes, and the commitment in it of each member that is disclosed. A record is
kept in memory only once it is proven, so a file can't claim more than the log that is trusted has.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterator
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Final, NamedTuple, TypeVar

import msgspec

from audit_async._chain import BadRecord, check_record
from audit_async._chain.record_check import CheckedRecord
from audit_async._export.evidence_zip import CHECKSUMS, README
from audit_async._export.selective_evidence import (
    CONTENTS,
    DISCLOSURES,
    FORMAT,
    MOST_DISCLOSURE_BYTES,
    MOST_RECORDS,
    VERSION,
    Contents,
    Disclosure,
    LogContents,
    proof_entry,
    records_entry,
)
from audit_async._query.recorded_members import read_said
from audit_async._trail.log_files import LONGEST_LINE
from audit_async.errors import AuditError
from audit_async.privacy.opening_sealed import associated_data, sealed_members
from audit_async.privacy.sealed_text import Opened, verify_disclosure
from audit_async.tlog.checkpoint import VerifiedCheckpoint
from audit_async.tlog.failures import InvalidProof, InvalidSignature, Malformed, QuorumNotMet
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import TlogProof, check_inclusion
from audit_async.tlog.signed_tree import CHECKPOINT_FILE

__all__ = ["Disclosed", "InvalidEvidence", "ProvenLog", "ProvenRecord", "verify_evidence"]

_MOST_SMALL_BYTES: Final = 4 << 20
_MOST_CHECKSUM_BYTES: Final = 64 << 20
_CHECKSUM: Final = re.compile(r"([0-9a-f]{64})  (.+)")
_HEX: Final = re.compile(r"[0-9a-f]+")
#: What reading a damaged zip raises besides `OSError`: also for one that is encrypted, or compressed in another way.
_DAMAGED_ZIP: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
_Struct = TypeVar("_Struct")


class InvalidEvidence(AuditError):
    """A file does not prove what it is to prove; the message says what in it is wrong."""


class Disclosed(NamedTuple):
    """A sealed member in the clear, after the check that it is what was sealed."""

    place: tuple[str, ...]  #: `event` or `context`, then the names from there
    value: object


class ProvenRecord(NamedTuple):
    """A record that is in its log."""

    seq: int
    audit_id: str
    timestamp: str  #: by the log's own clock, RFC 3339
    disclosed: tuple[Disclosed, ...]  #: members that are sealed in the record
    line: bytes  #: the record as it is in the log, which is what is proven; `audit_async.events.decode_record` reads it


class ProvenLog(NamedTuple):
    """The records of one log, all proven against one checkpoint."""

    verified: VerifiedCheckpoint  #: the checkpoint, and the signatures on it that the policy knows
    records: tuple[ProvenRecord, ...]


def verify_evidence(path: str | os.PathLike[str], policy: Policy) -> tuple[ProvenLog, ...]:
    """Check a file of selective evidence, and return what it proves.

    It needs neither the log nor a key of the key store, and believes nothing in the file but what follows from the
    signatures: that each record is in its log at its place, and that each disclosed member is what was sealed. It says
    nothing about records that are not in the file. The format is that of
    https://audit-async.github.io/audit-async/format/#selective-evidence.

    It blocks, so call it in a thread if an event loop runs. It may be called from any thread, several times at once.

    Args:
        path: The zip, made by `AuditReader.export(..., evidence="selective")`. It is read where it is, and nothing is
            unpacked.
        policy: Whose signatures count; have it from another source than the file.

    Returns:
        The records, log by log, in the order of the file.

    Raises:
        InvalidEvidence: Something in the file is wrong, missing or too much; then nothing of it is proven.
        OSError: The file can't be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(_Check(archive, policy).run())
    except _DAMAGED_ZIP as error:
        # Only the kind of error: its text may be anything that is in the file.
        raise InvalidEvidence(f"the file is no zip that can be read ({type(error).__name__})") from error


class _Check:
    """The check of one file."""

    def __init__(self, archive: zipfile.ZipFile, policy: Policy) -> None:
        self._archive: Final = archive
        self._policy: Final = policy
        self._entries: Final = _entries(archive)
        self._digests: Final[dict[str, str]] = {}
        self._unread: Final = set(self._entries)
        self._disclosures: Final[dict[tuple[str, int], list[Disclosure]]] = {}

    def run(self) -> list[ProvenLog]:
        if CONTENTS not in self._entries:
            raise InvalidEvidence(f"{CONTENTS} is missing, so this is no selective evidence")
        self._read_checksums()
        contents = _decoded(self._read(CONTENTS), Contents, CONTENTS)
        if (contents.format, contents.version) != (FORMAT, VERSION):
            raise InvalidEvidence(f"{CONTENTS} is not {FORMAT}, version {VERSION}; a newer audit-async may know it")
        _require_distinct(contents)
        self._read_disclosures(contents)
        self._read(README)
        logs = [self._check_log(part) for part in contents.logs]
        if self._disclosures:
            raise InvalidEvidence(f"{DISCLOSURES} discloses members of records that are not in the file")
        if self._unread:
            raise InvalidEvidence(f"{_shown(min(self._unread))} does not belong into the file")
        return logs

    # Entries.

    def _read_checksums(self) -> None:
        """Read the list of checksums, which must name every other entry and no more."""
        for line in self._content(CHECKSUMS, _MOST_CHECKSUM_BYTES).decode("utf-8", "replace").splitlines():
            found = _CHECKSUM.fullmatch(line)
            if found is None or found[2] in self._digests:
                raise InvalidEvidence(f"{CHECKSUMS} is no list of checksums")
            self._digests[found[2]] = found[1]
        if differing := self._digests.keys() ^ (self._entries.keys() - {CHECKSUMS}):
            raise InvalidEvidence(f"{_shown(min(differing))} is in the zip or in {CHECKSUMS}, and not in both")

    def _read(self, name: str, most: int = _MOST_SMALL_BYTES) -> bytes:
        """Return an entry's content after the check of its SHA-256."""
        content = self._content(name, most)
        if sha256(content).hexdigest() != self._digests[name]:
            raise _changed(name)
        return content

    def _content(self, name: str, most: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise InvalidEvidence(f"{_shown(name)} is missing")
        self._unread.discard(name)
        with self._archive.open(entry) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise InvalidEvidence(f"{_shown(name)} is longer than it can be")
        return content

    def _lines(self, name: str) -> Iterator[bytes]:
        """Yield an entry's lines; its SHA-256 is checked after the last one."""
        if name not in self._entries:
            raise InvalidEvidence(f"{_shown(name)} is missing")
        self._unread.discard(name)
        digest = sha256()
        with self._archive.open(self._entries[name]) as file:
            while line := file.readline(LONGEST_LINE + 1):
                digest.update(line)
                yield line
        if digest.hexdigest() != self._digests[name]:
            raise _changed(name)

    # Records.

    def _check_log(self, part: LogContents) -> ProvenLog:
        """Check the records of one log, each with its proof against the one checkpoint."""
        name = f"{part.log}/{CHECKPOINT_FILE}"
        note = self._read(name)
        try:
            verified = self._policy.verify(note)
        except (InvalidSignature, QuorumNotMet, Malformed) as error:
            raise InvalidEvidence(f"{_shown(name)} is not accepted: {error}") from error
        if (verified.checkpoint.origin, verified.checkpoint.size) != (part.origin, part.size):
            raise InvalidEvidence(f"{CONTENTS} says of {_shown(part.log)} something else than its checkpoint")
        records: dict[int, ProvenRecord] = {}
        entry = records_entry(part.log)
        for number, line in enumerate(self._lines(entry), 1):
            at = f"{_shown(entry)}, line {number}"
            if number > MOST_RECORDS:
                raise InvalidEvidence(f"{at}: there are more records than {CONTENTS} may have")
            try:
                checked = check_record(line, None)
            except BadRecord as error:
                raise InvalidEvidence(f"{at}: not one genuine record: {error}") from error
            if checked.seq in records:
                raise InvalidEvidence(f"{at}: record {checked.seq} is there twice")
            self._check_proof(part, checked, note, verified)
            records[checked.seq] = self._proven(part, checked, line)
        if len(records) != part.records or not records:
            raise InvalidEvidence(f"{_shown(entry)} has {len(records)} records, and {CONTENTS} says {part.records}")
        return ProvenLog(verified, tuple(records.values()))

    def _check_proof(self, part: LogContents, record: CheckedRecord, note: bytes, verified: VerifiedCheckpoint) -> None:
        name = proof_entry(part.log, record.seq)
        try:
            proof = TlogProof.parse(self._read(name))
            if proof.checkpoint != note:
                raise InvalidProof(f"it is for another checkpoint than {part.log}/{CHECKPOINT_FILE}")
            record_hash = bytes.fromhex(record.hash.decode())
            check_inclusion(proof, verified.checkpoint, index=record.seq, record_hash=record_hash)
        except (InvalidProof, Malformed) as error:
            raise InvalidEvidence(f"{_shown(name)} does not prove the record: {error}") from error

    def _proven(self, part: LogContents, record: CheckedRecord, line: bytes) -> ProvenRecord:
        disclosures = self._disclosures.pop((part.log_id, record.seq), [])
        disclosed = tuple(_check_disclosures(disclosures, record, line)) if disclosures else ()
        return ProvenRecord(record.seq, record.audit_id, record.timestamp, disclosed, line)

    # Disclosures.

    def _read_disclosures(self, contents: Contents) -> None:
        """Read what is disclosed, by log and record; each is checked together with its record."""
        disclosures: list[Disclosure] = []
        if contents.disclosed or DISCLOSURES in self._entries:
            disclosures = _decoded(self._read(DISCLOSURES, MOST_DISCLOSURE_BYTES), list[Disclosure], DISCLOSURES)
        if len(disclosures) != contents.disclosed:
            raise InvalidEvidence(f"{DISCLOSURES} has {len(disclosures)}, and {CONTENTS} says {contents.disclosed}")
        for disclosure in disclosures:
            self._disclosures.setdefault((disclosure.log_id, disclosure.seq), []).append(disclosure)


def _check_disclosures(disclosures: list[Disclosure], record: CheckedRecord, line: bytes) -> Iterator[Disclosed]:
    """Yield what is disclosed of a genuine record, each after the check of its commitment.

    A `log_id` that is not the log's would not lead to the commitment, nor would another place.
    """
    said = read_said(line)
    sealed = {member.place: member for member in sealed_members(said.event, said.context)}
    for disclosure in disclosures:
        what = f"{DISCLOSURES}: {_shown('.'.join(disclosure.place))} of record {record.seq}"
        if disclosure.audit_id != record.audit_id:
            raise InvalidEvidence(f"{what}: it is for another record than {record.audit_id}")
        member = sealed.pop(tuple(disclosure.place), None)
        if member is None:
            raise InvalidEvidence(f"{what}: nothing is sealed there, or it is disclosed twice")
        opened = _opened(disclosure)
        if opened is None or not verify_disclosure(
            member.sealed, opened, associated_data(disclosure.log_id, said.event, member)
        ):
            raise InvalidEvidence(f"{what}: this is not what was sealed")
        yield Disclosed(member.place, _decoded(opened.text, object, f"{what}: the text"))


def _opened(disclosure: Disclosure) -> Opened | None:
    """Return salt and text of a disclosure, None if they are not written as they have to be."""
    if _HEX.fullmatch(disclosure.salt) is None:  # `fromhex` also takes blanks
        return None
    try:
        return Opened(bytes.fromhex(disclosure.salt), b64decode(disclosure.text, validate=True))
    except (NotBase64, ValueError):
        return None


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by name; raises `InvalidEvidence` for one that is not a plain file below the folder."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.orig_filename
        path = PurePosixPath(name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or str(path) != name or re.search(r"[\\:\x00]", name):
            raise InvalidEvidence(f"the entry {_shown(name)} is no plain path below the folder of the zip")
        if kind not in {0, stat.S_IFREG}:
            raise InvalidEvidence(f"the entry {_shown(name)} is no regular file")
        if name in entries:
            raise InvalidEvidence(f"the entry {_shown(name)} is there twice")
        entries[name] = entry
    return entries


def _require_distinct(contents: Contents) -> None:
    """Raise `InvalidEvidence` unless every log is there once."""
    for member in ("log", "log_id", "origin"):
        names = [name for part in contents.logs if (name := getattr(part, member))]
        if len(set(names)) != len(names):
            raise InvalidEvidence(f"{CONTENTS} names a log twice, by its {member}")
    if not contents.logs:
        raise InvalidEvidence(f"{CONTENTS} names no log")


def _decoded(content: bytes, kind: type[_Struct], what: str) -> _Struct:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvidence(f"{what} is not in its format") from error


def _changed(name: str) -> InvalidEvidence:
    return InvalidEvidence(f"{_shown(name)} was changed: its SHA-256 is not that of {CHECKSUMS}")


def _shown(name: str) -> str:
    """Return a name out of the file, as it may be shown."""
    return ascii(name[:200]) if not name.isprintable() or not name.isascii() else name[:200]
