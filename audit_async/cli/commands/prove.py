"""`audit-async prove` and `verify-proof`: evidence for one record, made beside the log and checked without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from anyio import to_thread

from audit_async._chain import BadRecord, check_record
from audit_async._export.export_file import new_file
from audit_async._query.lookup import PlacedRecord
from audit_async._trail.log_files import LONGEST_LINE
from audit_async._verify.signed_heads import cosigned_at
from audit_async._verify.signed_trail import TREE_DIRECTORY, published_at
from audit_async.cli.access import recording
from audit_async.cli.arguments import AccessLog, AsName, Directory, Json
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Output
from audit_async.cli.trusted import PolicyFile, Published, Vkey, read_policy, require_trust
from audit_async.reader import AuditReader
from audit_async.tlog.checkpoint import SignedCheckpoint, VerifiedCheckpoint
from audit_async.tlog.failures import (
    InconsistentLog,
    InvalidProof,
    InvalidSignature,
    Malformed,
    NotCovered,
    QuorumNotMet,
)
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import FILE_ENDING, TlogProof, make_proof, verify_proof
from audit_async.tlog.signed_tree import CHECKPOINT_FILE
from audit_async.tlog.tiles import FileReader

__all__ = ["register"]

_LARGEST_PROOF: Final = 4 << 20


class ProofMade(msgspec.Struct, frozen=True, kw_only=True):
    """What `prove` has written."""

    log: str
    seq: int
    audit_id: str
    record: str  #: file
    proof: str  #: file
    origin: str  #: the log's name in its checkpoints; nobody has verified the signature here
    size: int  #: records that the checkpoint covers


class Cosigned(msgspec.Struct, frozen=True, kw_only=True):
    """A witness that the policy knows, and when it has cosigned."""

    name: str
    time: str


class ProofVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify-proof` has found out."""

    proven: bool
    reason: str | None = None  #: why not
    seq: int | None = None
    audit_id: str | None = None
    timestamp: str | None = None  #: of the record, by the log's own clock
    origin: str | None = None
    size: int | None = None  #: records that the log had when it was signed
    signed_by: list[str] = []  #: verifier keys of the log
    cosigned_by: list[Cosigned] = []


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        "prove",
        epilog="Example: audit-async prove 41 ./audit --log orders/00",
        short_help="Write the evidence that a record is in a log, for others to check.",
    )(prove)
    app.command(
        "verify-proof",
        epilog="Example: audit-async verify-proof 5f0c1e9b7a3d2c48-29.json 5f0c1e9b7a3d2c48-29.tlog-proof --vkey ...",
        short_help="Check the evidence for a record, without the log.",
    )(verify_one)


def prove(
    which: Annotated[
        str, typer.Argument(metavar="AUDIT_ID|SEQ", show_default=False, help="The record's audit_id, or its number.")
    ],
    directory: Directory,
    *,
    log: Annotated[
        str | None, typer.Option("--log", metavar="LOG", help="The log, such as orders/00, where there are several.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            readable=False,
            help=f"The proof's file, AUDIT_ID{FILE_ENDING} by default; the record goes beside it as .json.",
        ),
    ] = None,
    published: Published = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_name: AsName = None,
    access_log: AccessLog = None,
    as_json: Json = False,
) -> None:
    """Write the evidence that a record is in a log: two files that anybody checks with verify-proof, without the log.

    The record's file holds the record, whole; the proof holds hashes and the log's signed checkpoint. It is made from
    what the log has published, beside a running service.
    """
    is_seq = which.isascii() and which.isdecimal() and len(which) <= 18
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = AuditReader(directory)
        async with recording(reader, as_name, access_log) as audit:
            placed = await reader.record(
                int(which) if is_seq else None,
                audit_id=None if is_seq else which,
                log=log,
                audit=audit,
                accessed_by=as_name,
            )
        place = next(found.directory for found in reader.logs() if found.name == placed.record.log)
        source = published_at(place / TREE_DIRECTORY if published is None else published)
        try:
            proof, signed = await to_thread.run_sync(_proof_for, placed, source)
        except InconsistentLog as error:
            output.message(f"audit-async: {error}")
            return ExitStatus.FINDINGS
        target = out if out is not None else Path(placed.record.audit_id + FILE_ENDING)
        record_file = target.with_suffix(".json")
        if record_file == target:
            raise Refused(f"{target}: the record goes into that file; name the proof otherwise, such as x{FILE_ENDING}")
        with new_file(record_file, overwrite=force) as record, new_file(target, overwrite=force) as evidence:
            record.file.write(placed.line)
            evidence.file.write(proof.encode())
            record.finish()
            evidence.finish()
        made = ProofMade(
            log=placed.record.log,
            seq=placed.record.seq,
            audit_id=placed.record.audit_id,
            record=str(record_file),
            proof=str(target),
            origin=signed.checkpoint.origin,
            size=signed.checkpoint.size,
        )
        _tell_made(output, made)
        return ExitStatus.OK

    perform(output, run)


def _proof_for(placed: PlacedRecord, source: FileReader) -> tuple[TlogProof, SignedCheckpoint]:
    record = placed.record
    content = source(CHECKPOINT_FILE)
    if content is None:
        raise Refused(
            f"{record.log} publishes no checkpoint there: it signs none yet, or publishes elsewhere; say where with "
            "--published"
        )
    signed = SignedCheckpoint.parse(content)
    try:
        proof = make_proof(source, signed, index=record.seq, record_hash=bytes.fromhex(record.hash))
    except NotCovered:
        raise Refused(
            f"record {record.seq} of {record.log} is not covered yet: the last checkpoint is over the first "
            f"{signed.checkpoint.size} records. Wait for the next one, or have the service make one: "
            "`await audit.checkpoint()`"
        ) from None
    return proof, signed


def _tell_made(output: Output, made: ProofMade) -> None:
    if output.as_json:
        output.document(made)
        return
    output.line(Cell("made", "green"), f"  evidence for record {made.seq} of {made.log}, {made.audit_id}")
    output.pairs(
        [
            ("record", made.record),
            ("proof", made.proof),
            ("checkpoint", f"over {made.size:,} records of {made.origin}"),
        ]
    )
    output.line("To be checked with: audit-async verify-proof RECORD PROOF --vkey VKEY")


def verify_one(
    record: Annotated[
        Path,
        typer.Argument(metavar="RECORD", show_default=False, readable=False, help="The file with the record's line."),
    ],
    proof: Annotated[
        Path,
        typer.Argument(metavar="PROOF", show_default=False, readable=False, help=f"The proof, a {FILE_ENDING} file."),
    ],
    *,
    policy_file: PolicyFile = None,
    vkey: Vkey = None,
    as_json: Json = False,
) -> None:
    """Check, offline, that a log which you trust had this record when it signed; exit status 1 where it is not proven.

    The record's hash is computed from its bytes. Get the verifier key or policy from somebody else than who gave you
    the proof.
    """
    require_trust(vkey, policy_file)
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        policy = read_policy(vkey, policy_file)
        verdict = _verdict(_read(record, LONGEST_LINE), _read(proof, _LARGEST_PROOF), policy)
        _tell_verdict(output, verdict)
        return ExitStatus.OK if verdict.proven else ExitStatus.FINDINGS

    perform(output, run)


def _read(path: Path, most: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(most + 1)


def _verdict(line: bytes, proof: bytes, policy: Policy) -> ProofVerdict:
    """Return what a record's line and a proof show; nothing in them is taken on trust."""
    try:
        checked = check_record(line if line.endswith(b"\n") else line + b"\n", None)
    except BadRecord as error:
        return ProofVerdict(proven=False, reason=f"the record's file does not hold one genuine record: {error}")
    record_hash = bytes.fromhex(checked.hash.decode())
    try:
        verified = verify_proof(TlogProof.parse(proof), index=checked.seq, record_hash=record_hash, policy=policy)
    except (InvalidProof, InvalidSignature, QuorumNotMet, Malformed) as error:
        return ProofVerdict(proven=False, reason=str(error), seq=checked.seq, audit_id=checked.audit_id)
    return ProofVerdict(
        proven=True,
        seq=checked.seq,
        audit_id=checked.audit_id,
        timestamp=checked.timestamp,
        origin=verified.checkpoint.origin,
        size=verified.checkpoint.size,
        signed_by=[str(signature.key) for signature in verified.signatures if signature.timestamp is None],
        cosigned_by=cosigned_by(verified),
    )


def cosigned_by(verified: VerifiedCheckpoint) -> list[Cosigned]:
    """Return which known witnesses have cosigned a checkpoint, and when by their clocks."""
    return [
        Cosigned(name=signature.key.name, time=cosigned_at(signature.timestamp))
        for signature in verified.signatures
        if signature.timestamp is not None
    ]


def _tell_verdict(output: Output, verdict: ProofVerdict) -> None:
    if output.as_json:
        output.document(verdict)
        return
    if not verdict.proven:
        output.line(Cell("NOT proven", "red"), f"  {verdict.reason}")
        return
    output.line(Cell("proven", "green"), f"  record {verdict.seq}, {verdict.audit_id}, is in the log.")
    witnesses = [f"{cosigned.name} at {cosigned.time}" for cosigned in verdict.cosigned_by]
    output.pairs(
        [
            ("log", str(verdict.origin)),
            ("records", f"{verdict.size:,} when it was signed"),
            ("recorded", f"{verdict.timestamp} by the log's clock"),
            *[("signed by", vkey) for vkey in verdict.signed_by],
            *[("cosigned by", witness) for witness in witnesses or ["no witness that you trust"]],
        ]
    )
