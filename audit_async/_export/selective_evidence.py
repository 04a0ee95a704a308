"""Selective evidence: the records that were asked for, each with a proof that a signed checkpoint covers it.

No other record is in it, unlike in a `bundle`, whose chain needs all records between the first and the last. Instead
each record has an inclusion proof (https://c2sp.org/tlog-proof), made from what the log has published. So the log must
sign, and its newest checkpoint must cover the records.

Sealed members stay sealed, except for those that are disclosed: salt and text of one member of one record, which are
checked with SHA-256 against what is recorded. No key leaves the host. docs/format.md describes the file.

`evidence_check` checks it.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, BinaryIO, Final

import msgspec

from audit_async._chain.record_format import HASH_AT
from audit_async._export.evidence_zip import README, EvidenceZip, log_folders
from audit_async._export.export_file import ExportFailed
from audit_async._query.audit_query import InvalidQuery
from audit_async._query.recorded_members import read_said
from audit_async._query.segment_scan import Found
from audit_async._sanitize.unsafe_text import escape
from audit_async._trail.log_files import Log
from audit_async._verify.signed_trail import TREE_DIRECTORY, published_at
from audit_async._version import __version__
from audit_async.errors import LogCorrupted
from audit_async.privacy.key_store import KeyStore
from audit_async.privacy.opening_sealed import FORGED, MemberOpened, Opener, Place
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.failures import InconsistentLog, Malformed, NotCovered
from audit_async.tlog.proof import FILE_ENDING, make_proof
from audit_async.tlog.signed_tree import CHECKPOINT_FILE
from audit_async.tlog.tiles import FileReader

__all__ = [
    "CONTENTS",
    "DISCLOSURES",
    "FORMAT",
    "MOST_DISCLOSURE_BYTES",
    "MOST_RECORDS",
    "VERSION",
    "Contents",
    "Disclosure",
    "LogContents",
    "SelectiveEvidence",
    "proof_entry",
    "records_entry",
]

FORMAT: Final = "audit-async selective evidence"
VERSION: Final = 1
CONTENTS: Final = "evidence.json"
DISCLOSURES: Final = "disclosures.json"
#: Each record is an entry of the zip, and whoever checks it keeps their names in memory.
MOST_RECORDS: Final = 100_000
MOST_DISCLOSURE_BYTES: Final = 64 << 20

_SPOOLED_IN_MEMORY: Final = 1 << 20
#: Tiles of one log that are kept: neighbouring records need the same. 8 KiB each.
_KEPT_TILES: Final = 64


class LogContents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of one log is in the file."""

    log: str  #: the folder in the zip
    log_id: str  #: of log.json; disclosures refer to it
    origin: str  #: the log's name in its checkpoint
    size: int  #: records that the checkpoint covers
    records: int  #: records that are in the file


class Contents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in the file. Not what was asked for: that may name a person whose name is sealed."""

    format: str
    version: int
    created: str
    library_version: str
    logs: list[LogContents]
    disclosed: int = 0  #: members


class Disclosure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What opens one sealed member of one record."""

    log_id: str
    audit_id: str
    seq: int
    place: list[str]  #: `event` or `context`, then the names from there, a position in a list as a decimal number
    salt: str  #: hex
    text: str  #: the JSON of the member, in base64


def records_entry(folder: str) -> str:
    """Return the name of the entry with a log's records."""
    return f"{folder}/records.ndjson"


def proof_entry(folder: str, seq: int) -> str:
    """Return the name of the entry with the proof for a record."""
    return f"{folder}/proofs/{seq}{FILE_ENDING}"


class SelectiveEvidence:
    """One export of selective evidence: what it discloses, and how much of that it could. Used by one thread."""

    def __init__(
        self, disclose: Sequence[str], key_store: KeyStore | None, published: str | os.PathLike[str] | None
    ) -> None:
        """Prepare it.

        Args:
            disclose: Members, such as `actor.user_id` and `context.user_id`; all that is sealed at or below them.
            key_store: The keys; None if nothing is disclosed.
            published: Where the one log publishes its tree; None for `tlog/` in each log's directory.

        Raises:
            InvalidQuery: A member's name is none.
            ExportFailed: Something is to be disclosed without keys.
        """
        self._members: Final = {name: _place_of(name) for name in disclose}
        if self._members and key_store is None:
            raise ExportFailed("members can be disclosed with the key store of the trail alone; give that")
        self._opener: Final = Opener(key_store)
        self._published: Final = published
        self._found_sealed: Final[set[str]] = set()
        self.disclosed = 0  #: members that are in the clear in the file
        self.undisclosed = 0  #: members that were to be, and stay sealed: their key was destroyed, or is missing

    def write(self, found: Iterable[Found], logs: Sequence[Log], file: BinaryIO, *, now: datetime | None = None) -> int:
        """Write the zip; return the number of records.

        Args:
            found: The records, each checked against its own hash.
            logs: The logs that they may be from.
            file: Where it is written.
            now: The time that it says; the clock's by default.

        Raises:
            ExportFailed: There is no record, too many, one that no checkpoint covers yet, or nothing to disclose.
            LogCorrupted: A record is not the one that was signed.
            TilesDamaged, SourceFailed: What the log has published is damaged, or can't be read.
        """
        folders = log_folders(sorted(logs, key=lambda log: log.name))
        parts: dict[Log, _LogPart] = {}
        records = 0
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, _spool() as disclosures:
            evidence = EvidenceZip(archive)
            try:
                for record in found:
                    if records == MOST_RECORDS:
                        raise ExportFailed(f"there are more than {MOST_RECORDS:,} records; ask for fewer, or by parts")
                    part = parts.get(record.log)
                    if part is None:
                        part = parts[record.log] = self._begin(record.log, folders[record.log], parts)
                    part.add(record, evidence)
                    self._disclose(record, disclosures)
                    records += 1
                self._require_complete(records)
                for part in sorted(parts.values(), key=lambda part: part.folder):
                    part.finish(evidence)
            finally:
                for part in parts.values():
                    part.close()
            if self.disclosed:
                with evidence.begin(DISCLOSURES) as write:
                    write(b"[\n")
                    _copy(disclosures, write)
                    write(b"\n]\n")
            contents = self._contents(parts.values(), now if now is not None else datetime.now(UTC))
            evidence.add(CONTENTS, msgspec.json.format(msgspec.json.encode(contents), indent=2) + b"\n")
            evidence.add(README, _readme(contents).encode())
            evidence.add_checksums()
        return records

    def _begin(self, log: Log, folder: str, parts: dict[Log, _LogPart]) -> _LogPart:
        """Read the checkpoint of a log; all records of the log are proven against this one."""
        if self._published is not None and parts:
            raise ExportFailed("the records are from several logs, and --published is of one; name the log")
        part = _LogPart(log, folder, self._published)
        if any(part.origin == other.origin for other in parts.values()):
            part.close()
            raise ExportFailed(f"two logs call themselves {part.origin} in their checkpoints; name one of them")
        return part

    def _disclose(self, found: Found, out: IO[bytes]) -> None:
        """Write what opens the members of a record that are to be disclosed."""
        if not self._members or b"sealed:1:" not in found.line:
            return
        said = read_said(found.line)
        for member in self._opener.open(found.log.log_id, said.event, said.context).members:
            asked = [name for name, place in self._members.items() if member.place[: len(place)] == place]
            self._found_sealed.update(asked)
            if asked:
                self._disclose_member(found, member, asked[0], out)

    def _disclose_member(self, found: Found, member: MemberOpened, asked: str, out: IO[bytes]) -> None:
        if member.opened is None:
            if member.shown == FORGED:
                reason = f"{asked} was not sealed for this record, so it can't be disclosed; verify the trail"
                raise LogCorrupted(found.segment, None, found.seq, reason)
            self.undisclosed += 1
            return
        disclosure = Disclosure(
            log_id=found.log.log_id,
            audit_id=_audit_id(found.line),
            seq=found.seq,
            place=list(member.place),
            salt=member.opened.salt.hex(),
            text=b64encode(member.opened.text).decode(),
        )
        out.write((b",\n" if self.disclosed else b"") + msgspec.json.encode(disclosure))
        self.disclosed += 1
        if out.tell() > MOST_DISCLOSURE_BYTES - 8:
            raise ExportFailed(f"more than {MOST_DISCLOSURE_BYTES >> 20} MiB are to be disclosed; ask for less")

    def _require_complete(self, records: int) -> None:
        if not records:
            raise ExportFailed("the query finds no record, so there is nothing to prove")
        missing = self._members.keys() - self._found_sealed
        if missing:
            raise ExportFailed(
                f"none of the {records} records has a sealed member {', '.join(sorted(missing))}; check its name. "
                "A member is named from the event on, such as actor.user_id, or from context on"
            )

    def _contents(self, parts: Iterable[_LogPart], now: datetime) -> Contents:
        return Contents(
            format=FORMAT,
            version=VERSION,
            created=now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            library_version=__version__,
            logs=[part.contents() for part in sorted(parts, key=lambda part: part.folder)],
            disclosed=self.disclosed,
        )


def _place_of(name: str) -> Place:
    """Return where the member is that a person calls so."""
    parts = tuple(name.strip().split("."))
    if not all(parts):
        raise InvalidQuery("disclose", f"{name!a} names no member; give one such as actor.user_id or context.user_id")
    return parts if parts[0] == "context" else ("event", *parts)


class _LogPart:
    """The evidence from one log."""

    def __init__(self, log: Log, folder: str, published: str | os.PathLike[str] | None) -> None:
        self._log: Final = log
        self.folder: Final = folder
        source = published_at(log.directory / TREE_DIRECTORY if published is None else published)
        self._source: Final[FileReader] = lru_cache(_KEPT_TILES)(source)
        self._signed: Final = _checkpoint_of(log, source)
        self._records: Final = _spool()
        self._count = 0

    @property
    def origin(self) -> str:
        return self._signed.checkpoint.origin

    def add(self, found: Found, evidence: EvidenceZip) -> None:
        """Write the proof for a record, and keep the record."""
        record_hash = bytes.fromhex(found.line[HASH_AT : HASH_AT + 64].decode())
        try:
            proof = make_proof(self._source, self._signed, index=found.seq, record_hash=record_hash)
        except NotCovered:
            raise ExportFailed(
                f"record {found.seq} of {self._log.name} is not covered yet: the last checkpoint is over the first "
                f"{self._signed.checkpoint.size} records. Wait for the next one, have the service make one (`await "
                "audit.checkpoint()`), or ask only for records of before (--until)"
            ) from None
        except InconsistentLog as error:
            raise LogCorrupted(found.segment, None, found.seq, f"it can't be proven: {error}") from error
        evidence.add(proof_entry(self.folder, found.seq), proof.encode())
        self._records.write(found.line)
        self._count += 1

    def finish(self, evidence: EvidenceZip) -> None:
        """Write the checkpoint and the records."""
        evidence.add(f"{self.folder}/{CHECKPOINT_FILE}", self._signed.encode())
        with evidence.begin(records_entry(self.folder)) as write:
            _copy(self._records, write)

    def contents(self) -> LogContents:
        checkpoint = self._signed.checkpoint
        return LogContents(
            log=self.folder,
            log_id=self._log.log_id,
            origin=checkpoint.origin,
            size=checkpoint.size,
            records=self._count,
        )

    def close(self) -> None:
        self._records.close()


def _checkpoint_of(log: Log, source: FileReader) -> SignedCheckpoint:
    """Return what a log has published as its newest checkpoint."""
    content = source(CHECKPOINT_FILE)
    if content is None:
        raise ExportFailed(
            f"{log.name} publishes no checkpoint there, and without one nothing can be proven: the log signs none yet, "
            "or publishes elsewhere; say where with --published, or ask only for logs that sign"
        )
    try:
        return SignedCheckpoint.parse(content)
    except Malformed as error:
        raise ExportFailed(f"what {log.name} has published can't be used: {error}; verify the trail") from error


def _audit_id(line: bytes) -> str:
    return str(msgspec.json.decode(line, type=_Named).audit_id)


class _Named(msgspec.Struct):
    audit_id: str


def _spool() -> tempfile.SpooledTemporaryFile[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=_SPOOLED_IN_MEMORY)


def _copy(source: IO[bytes], write: Callable[[bytes], None]) -> None:
    source.seek(0)
    for block in _blocks(source):
        write(block)


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    while block := source.read(1 << 20):
        yield block


def _readme(contents: Contents) -> str:
    """Return what an auditor reads first. Names of logs and numbers only: no text of a record gets in here."""
    logs = "\n".join(
        f"  {part.log}: {part.records} of the first {part.size} records of the log\n    {escape(part.origin)}"
        for part in contents.logs
    )
    disclosed = (
        f"""
  disclosures.json       {contents.disclosed} members that are sealed in the records, each with the salt and text that
                         open it. They are personal data in the clear, which no erasure in the log reaches: treat
                         this file as confidential, and delete it when it is no longer needed."""
        if contents.disclosed
        else ""
    )
    return f"""SELECTIVE EVIDENCE FROM AN AUDIT TRAIL

Made on {contents.created} by audit-async {contents.library_version}.

What is here
{logs}

  <log>/records.ndjson   the records that were asked for, one a line, byte for byte as they were recorded
  <log>/checkpoint       what the log has signed, and witnesses have cosigned: a Merkle tree over all of its records
  <log>/proofs/SEQ.tlog-proof
                         for each record that its hash is in that tree, at the place SEQ{disclosed}
  evidence.json          which logs these are
  MANIFEST.sha256        the SHA-256 of every other file

How to check it
  1. Compare the SHA-256 of the zip file with the one that the exporter gave you by another way.
  2. Get the log's verifier key, or a policy with its witnesses, from somebody else than who gave you this file.
  3. Run:   audit-async verify-proof FILE.zip --vkey VKEY      (or --policy FILE)
     It needs neither the log nor a network: pip install 'audit-async[cli,tlog]'

  By hand: a record's "hash" is the SHA-256 of its line without the member ,"hash":"..." and without the line feed. The
  proof (c2sp.org/tlog-proof) leads from this hash, as 32 bytes, to the root in the checkpoint
  (c2sp.org/tlog-checkpoint), whose signatures are those of a signed note (c2sp.org/signed-note). docs/format.md of
  audit-async says how a disclosed member is checked.

What it proves
  These records, as they are here, are in the log that signed this checkpoint, each at the place SEQ; none of them was
  changed since. A disclosed text is the one that was sealed in this member of this record when it was recorded.

What it does not prove
  That no other record answers the question, or that these are all there are: nothing is said about the records that
  are not here. That what a record says is true. When the checkpoint was made, except that it was before the times at
  which witnesses have cosigned it; without witnesses that you trust, you have only the word of the log's operator.
"""
