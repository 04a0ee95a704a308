"""The evidence bundle: what a query found, with all that is needed to check it without this package.

A zip of: the records; for each log the whole chain from the first of them to the last, because only an unbroken
chain proves anything; the log's manifest and checksum files; a verifier that needs Python alone; a README; and a list
of checksums over all of it. Two exports of the same records at the same time are the same file, byte for byte.
"""

from __future__ import annotations

import tempfile
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Any, BinaryIO, Final

import msgspec

from audit_async._chain import Head
from audit_async._chain.record_format import HASH_AT, PREV_AT
from audit_async._export.evidence_zip import README, EvidenceZip, log_folders
from audit_async._export.export_file import ExportFailed
from audit_async._layout.names import CHECKSUM, LOG_FILE, MANIFEST_FILE
from audit_async._layout.regular_files import MOST_MANIFEST_BYTES, MOST_SMALL_BYTES, read_bounded
from audit_async._query.audit_query import AuditQuery, Glob
from audit_async._query.matching import Filter
from audit_async._query.segment_scan import Damage, Found, scan
from audit_async._sanitize.unsafe_text import escape
from audit_async._trail.log_files import Log, unreadable
from audit_async._trail.segment_parts import Part, Range, parts_of
from audit_async._version import __version__
from audit_async.errors import LogCorrupted
from audit_async.events.registry import known_types

__all__ = ["write_bundle"]

_FORMAT: Final = "audit-async evidence bundle"
_VERSION: Final = 1
_SPOOLED_IN_MEMORY: Final = 8 << 20


@dataclass(slots=True)
class _Piece:
    """What of one log goes into the bundle."""

    log: Log
    prev_hash: str  #: of the first record
    first_seq: int
    seqs: array[int] = field(default_factory=lambda: array("Q"))  # of the records: 8 bytes each is all that is kept
    last_hash: str = ""
    head: Head | None = None  #: the log's newest record when it was exported

    @property
    def last_seq(self) -> int:
        return self.seqs[-1]


def write_bundle(found: Iterable[Found], query: AuditQuery, file: BinaryIO, *, now: datetime | None = None) -> int:
    """Write a bundle of the records in `found`, which are those of `query`; return how many there are.

    Raises `ExportFailed` if there are none, or if the newest are asked for first; `LogCorrupted` if the
    chain between them is damaged or has a gap; `OSError`.
    """
    if query.newest_first:
        raise ExportFailed("a bundle follows the chain, so it can't have the newest records first")
    pieces: dict[Log, _Piece] = {}
    for record in found:
        _note(record, pieces)
    if not pieces:
        raise ExportFailed("the query finds no record, so there is nothing to prove")
    _write(file, list(pieces.values()), query, now if now is not None else datetime.now(UTC))
    return sum(len(piece.seqs) for piece in pieces.values())


def _note(found: Found, pieces: dict[Log, _Piece]) -> None:
    """Take note of a record; its line is read again with the chain around it."""
    piece = pieces.get(found.log)
    if piece is None:
        prev_hash = found.line[PREV_AT : PREV_AT + 64].decode()
        piece = pieces[found.log] = _Piece(found.log, prev_hash, found.seq)
    piece.seqs.append(found.seq)
    piece.last_hash = found.line[HASH_AT : HASH_AT + 64].decode()


def _write(file: BinaryIO, pieces: Sequence[_Piece], query: AuditQuery, now: datetime) -> None:
    """Write the zip: what the README speaks of first, the checksums over everything last."""
    pieces = sorted(pieces, key=lambda piece: piece.log.name)
    folders = log_folders([piece.log for piece in pieces])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        bundle = EvidenceZip(archive)
        for piece in pieces:
            parts = parts_of(piece.log)
            piece.head = _head(parts)
            _write_piece(bundle, folders[piece.log], piece, parts)
        contents = _contents(pieces, folders, query, now)
        bundle.add("bundle.json", msgspec.json.format(msgspec.json.encode(contents), indent=2) + b"\n")
        bundle.add(README, _readme(contents).encode())
        bundle.add("verify_trail.py", _verifier())
        bundle.add_checksums()


def _verifier() -> bytes:
    """Return the source of the verifier, also if the package is in a zip file."""
    return resources.files("audit_async").joinpath("standalone.py").read_bytes()


def _write_piece(bundle: EvidenceZip, folder: str, piece: _Piece, parts: Sequence[Part]) -> None:
    """Write one log's chain, its records, and the files that vouch for its sealed segments."""
    wanted = iter(piece.seqs)
    next_wanted = next(wanted, None)
    with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_IN_MEMORY) as records:
        with bundle.begin(f"{folder}/chain.ndjson") as chain:
            for found in _unbroken(piece, parts):
                chain(found.line)
                if found.seq == next_wanted:
                    records.write(found.line)
                    next_wanted = next(wanted, None)
        records.seek(0)
        with bundle.begin(f"{folder}/records.ndjson") as write:
            while block := records.read(1 << 20):
                write(block)
    names = [LOG_FILE, MANIFEST_FILE]
    names += [
        part.segment.name + CHECKSUM
        for part in parts
        if part.segment.sealed is not None and part.overlaps(Range(piece.first_seq - 1, piece.last_seq + 1))
    ]
    for name in names:
        try:
            bundle.add(f"{folder}/{name}", _read(piece.log, name))
        except FileNotFoundError:
            continue  # a log without a sealed segment, or an archived one: the manifest has its checksum


def _read(log: Log, name: str) -> bytes:
    """Return the content of a small file of a log; raises `LogCorrupted` for a link, a FIFO or a file of gigabytes."""
    try:
        most = MOST_MANIFEST_BYTES if name == MANIFEST_FILE else MOST_SMALL_BYTES
        return read_bounded(log.directory / name, max_bytes=most)
    except LogCorrupted as error:
        reason = f"{error.reason}; it does not go into a bundle. Verify the trail"
        raise LogCorrupted(f"{log.name}/{name}", None, None, reason) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(log.directory / name, error) from error


def _unbroken(piece: _Piece, parts: Sequence[Part]) -> Iterator[Found]:
    """Yield every record of the chain from the piece's first to its last; raises `LogCorrupted` at a gap."""
    due, prev = piece.first_seq, piece.prev_hash.encode()
    everything, seqs, damage = Filter(AuditQuery()), Range(piece.first_seq - 1, piece.last_seq + 1), Damage(skip=False)
    for part in parts:
        if not part.overlaps(seqs):
            continue
        for found in scan(part, everything, seqs, damage):
            if found is None:
                continue
            if found.seq != due or found.line[PREV_AT : PREV_AT + 64] != prev:
                reason = "it does not follow the record before, so a bundle would prove nothing; verify the trail"
                raise LogCorrupted(part.name, None, due, reason)
            due, prev = found.seq + 1, found.line[HASH_AT : HASH_AT + 64]
            yield found
    damage.require_searched()
    if due != piece.last_seq + 1:
        raise LogCorrupted(piece.log.name, None, due, "records are missing from here on; verify the trail")


def _head(parts: Sequence[Part]) -> Head | None:
    """Return the newest record of a log."""
    everything, damage = Filter(AuditQuery()), Damage(skip=True)
    for part in reversed(parts):
        for found in scan(part, everything, Range(), damage, newest_first=True):
            if found is not None:
                return Head(found.seq, found.line[HASH_AT : HASH_AT + 64])
    return None


def _contents(pieces: Sequence[_Piece], folders: dict[Log, str], query: AuditQuery, now: datetime) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "created": now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "library_version": __version__,
        "query": query.asked(),
        **_for_the_verifier(query),
        "logs": [
            {
                "log": folders[piece.log],
                "log_id": piece.log.log_id,
                "records": len(piece.seqs),
                "first_seq": piece.first_seq,
                "prev_hash": piece.prev_hash,
                "last_seq": piece.last_seq,
                "hash": piece.last_hash,
                "head": {"seq": piece.head.seq, "hash": piece.head.hash.decode()} if piece.head else None,
            }
            for piece in pieces
        ],
    }


def _for_the_verifier(query: AuditQuery) -> dict[str, Any]:
    """Return what the verifier needs besides the query to decide which records it asks for."""
    named = (query.actor, query.resource_id, query.path)
    texts = [one.pattern if isinstance(one, Glob) else one for one in named]
    texts += [query.ip, query.outcome, query.text, *query.context.values()]
    for value in query.fields.values():
        texts += [value] if isinstance(value, str) else value
    recorded_as = {text: harmless for text in texts if text and (harmless := escape(text)) != text}
    critical = sorted(tag for tag, cls in known_types().items() if cls.critical)
    return {
        **({"recorded_as": recorded_as} if recorded_as else {}),
        **({"critical_types": critical} if query.critical is not None else {}),
    }


def _readme(contents: dict[str, Any]) -> str:
    """Return what an auditor reads first. Names of logs and numbers only: no text of a record gets in here."""
    logs = "\n".join(
        f"  {part['log']}: {part['records']} records, in the chain from seq {part['first_seq']} to {part['last_seq']}\n"
        f"    its last record here has the hash {part['hash']}\n"
        + (
            f"    the log's head at the time of the export: seq {part['head']['seq']}, hash {part['head']['hash']}"
            if part["head"]
            else "    the log's head could not be read"
        )
        for part in contents["logs"]
    )
    return f"""EVIDENCE FROM AN AUDIT TRAIL

Made on {contents["created"]} by audit-async {contents["library_version"]}; bundle.json says what was asked for.

What is here
{logs}

  <log>/records.ndjson   the records that were asked for, one a line, byte for byte as they were recorded
  <log>/chain.ndjson     every record of the log from the first of them to the last. It is here because each record
                         contains the hash of the one before: only the unbroken chain proves that nothing between
                         them was changed, removed or inserted. It holds records that were not asked for; treat
                         them as confidential.
  <log>/manifest.json, log.json, *.audit.sha256
                         what the log's directory says of its sealed segments
  bundle.json            what was asked, and where each chain begins and ends
  verify_trail.py        checks all of this; needs Python 3.9 or later and nothing else; short enough to be read
  MANIFEST.sha256        the SHA-256 of every other file

How to check it
  1. Compare the SHA-256 of the zip file with the one that the exporter gave you by another way.
  2. In this folder:   sha256sum -c MANIFEST.sha256
  3. In this folder:   python3 -I verify_trail.py .
     It prints what was asked for: compare that with what you asked for. Every record of the chain that this matches
     must be among the records, and no other. It says of how many records that was not checked, because a member that
     decides it is sealed; selective evidence can disclose such a member.
  4. Ask for the heads (seq and hash) that were kept outside the log, on paper or at a third party. A record in
     chain.ndjson with such a seq must have that hash.

  By hand: a record's "hash" is the SHA-256 of its line without the member ,"hash":"..." and without the line feed;
  its "prev_hash" is the "hash" of the line before; its "seq" is one more.

What it does not prove
  That the log holds everything that happened. That no record before or after the chain matches the query.
  And anyone who could rewrite the whole log before the export could make a chain that holds: only a head that was kept
  elsewhere (4.) or a signed checkpoint shows that.
"""
