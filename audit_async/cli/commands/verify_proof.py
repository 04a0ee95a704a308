"""`audit-async verify-proof`: checking the evidence for one record, or selective evidence, without the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import aiofiles
import msgspec
import typer
from anyio import to_thread

from audit_async._chain import BadRecord, check_record
from audit_async._export.evidence_check import InvalidEvidence, ProvenLog, verify_evidence
from audit_async._trail.log_files import LONGEST_LINE
from audit_async.cli.arguments import Json
from audit_async.cli.cosignatures import Cosigned, cosigned_by
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, count_of, json_line
from audit_async.cli.trusted import Trust
from audit_async.tlog.checkpoint import VerifiedCheckpoint
from audit_async.tlog.failures import InvalidProof, InvalidSignature, Malformed, QuorumNotMet
from audit_async.tlog.policy import Policy
from audit_async.tlog.proof import FILE_ENDING, TlogProof
from audit_async.tlog.proof import verify_proof as check_proof

__all__ = ["register"]

_LARGEST_PROOF: Final = 4 << 20


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


class MemberDisclosed(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed member whose plain value was checked to be the one that was sealed."""

    place: list[str]  #: `event` or `context`, then the names from there
    value: object


class RecordProven(msgspec.Struct, frozen=True, kw_only=True):
    """A record of selective evidence that is in its log."""

    seq: int
    audit_id: str
    timestamp: str  #: by the log's own clock
    disclosed: list[MemberDisclosed] = []


class LogProven(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one log."""

    origin: str
    size: int  #: records that the log had when it was signed
    signed_by: list[str]  #: verifier keys of the log
    cosigned_by: list[Cosigned]
    records: list[RecordProven]


class EvidenceVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify-proof` has found out about selective evidence."""

    proven: bool
    reason: str | None = None  #: why not
    logs: list[LogProven] = []


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "verify-proof",
        epilog="Example: audit-async verify-proof 5f0c1e9b7a3d2c48-29.json 5f0c1e9b7a3d2c48-29.tlog-proof --vkey .... "
        "For selective evidence: audit-async verify-proof evidence.zip --vkey ...",
        short_help="Check the evidence for records, without the log.",
    )(verify_proof)


@with_option_groups
def verify_proof(
    record: Annotated[
        Path,
        typer.Argument(
            metavar="RECORD",
            show_default=False,
            readable=False,
            help="The file with the record's line; or a .zip that export --evidence selective has made.",
        ),
    ],
    proof: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PROOF]",
            show_default=False,
            readable=False,
            help=f"The proof, a {FILE_ENDING} file; left out for a .zip, which has the proofs in it.",
        ),
    ] = None,
    *,
    trust: Trust,
    as_json: Json = False,
) -> None:
    """Check, offline, that a log which you trust had this record when it signed; exit status 1 if it is not proven.

    The record's hash is computed from its bytes. Get the verifier key or policy from another source than the
    proof. Of selective evidence every record is checked, and every member that is disclosed; one that does not hold
    refuses the whole file.
    """
    trust.require()
    output = Output(as_json=as_json)
    if proof is None and record.suffix.lower() != ".zip":
        raise typer.BadParameter("PROOF is missing: give RECORD and PROOF, or selective evidence, which ends in .zip")

    async def run() -> ExitStatus:
        policy = trust.policy()
        if proof is None:
            return await _check_file(record, policy, output)
        verdict = _verdict(await _read(record, LONGEST_LINE), await _read(proof, _LARGEST_PROOF), policy)
        _report(output, verdict)
        return ExitStatus.OK if verdict.proven else ExitStatus.FINDINGS

    perform(output, run)


async def _check_file(path: Path, policy: Policy, output: Output) -> ExitStatus:
    """Check selective evidence, and show what it proves."""
    try:
        logs = await to_thread.run_sync(verify_evidence, path, policy)
    except InvalidEvidence as error:
        verdict = EvidenceVerdict(proven=False, reason=str(error))
    else:
        verdict = EvidenceVerdict(proven=True, logs=[_proven_log(log) for log in logs])
    _report_file(output, verdict)
    return ExitStatus.OK if verdict.proven else ExitStatus.FINDINGS


def _proven_log(log: ProvenLog) -> LogProven:
    return LogProven(
        origin=log.verified.checkpoint.origin,
        size=log.verified.checkpoint.size,
        signed_by=_signed_by(log.verified),
        cosigned_by=cosigned_by(log.verified),
        records=[
            RecordProven(
                seq=record.seq,
                audit_id=record.audit_id,
                timestamp=record.timestamp,
                disclosed=[MemberDisclosed(place=list(one.place), value=one.value) for one in record.disclosed],
            )
            for record in log.records
        ],
    )


def _signed_by(verified: VerifiedCheckpoint) -> list[str]:
    return [str(signature.key) for signature in verified.signatures if signature.timestamp is None]


async def _read(path: Path, most: int) -> bytes:
    """Return a file's content, at most one byte more than a genuine one can have."""
    async with aiofiles.open(path, "rb") as file:
        return await file.read(most + 1)


def _verdict(line: bytes, proof: bytes, policy: Policy) -> ProofVerdict:
    """Return what a record's line and a proof show; nothing in them is taken on trust."""
    try:
        checked = check_record(line if line.endswith(b"\n") else line + b"\n", None)
    except BadRecord as error:
        return ProofVerdict(proven=False, reason=f"the record's file does not hold one genuine record: {error}")
    record_hash = bytes.fromhex(checked.hash.decode())
    try:
        verified = check_proof(TlogProof.parse(proof), index=checked.seq, record_hash=record_hash, policy=policy)
    except (InvalidProof, InvalidSignature, QuorumNotMet, Malformed) as error:
        return ProofVerdict(proven=False, reason=str(error), seq=checked.seq, audit_id=checked.audit_id)
    return ProofVerdict(
        proven=True,
        seq=checked.seq,
        audit_id=checked.audit_id,
        timestamp=checked.timestamp,
        origin=verified.checkpoint.origin,
        size=verified.checkpoint.size,
        signed_by=_signed_by(verified),
        cosigned_by=cosigned_by(verified),
    )


def _is_reported(output: Output, verdict: ProofVerdict | EvidenceVerdict) -> bool:
    """Write a verdict as JSON if that was asked for, or why nothing is proven; return whether that was all."""
    if output.as_json:
        output.document(verdict)
    elif not verdict.proven:
        output.line(Cell("NOT proven", "red"), f"  {verdict.reason}")
    return output.as_json or not verdict.proven


def _report(output: Output, verdict: ProofVerdict) -> None:
    if _is_reported(output, verdict):
        return
    output.line(Cell("proven", "green"), f"  record {verdict.seq}, {verdict.audit_id}, is in the log.")
    output.pairs(
        [
            ("log", str(verdict.origin)),
            ("records", f"{verdict.size:,} when it was signed"),
            ("recorded", f"{verdict.timestamp} by the log's clock"),
            *_signatures(verdict.signed_by, verdict.cosigned_by),
        ]
    )


def _signatures(signed_by: list[str], cosigned_by: list[Cosigned]) -> list[tuple[str, str]]:
    witnesses = [f"{cosigned.name} at {cosigned.time}" for cosigned in cosigned_by]
    return [
        *[("signed by", vkey) for vkey in signed_by],
        *[("cosigned by", witness) for witness in witnesses or ["no witness that you trust"]],
    ]


def _report_file(output: Output, verdict: EvidenceVerdict) -> None:
    if _is_reported(output, verdict):
        return
    records = sum(len(log.records) for log in verdict.logs)
    output.line(Cell("proven", "green"), f"  {count_of(records, 'record')} in the file, each of them is in its log.")
    for log in verdict.logs:
        output.pairs(
            [
                ("log", log.origin),
                ("records", f"{log.size:,} when it was signed"),
                *_signatures(log.signed_by, log.cosigned_by),
            ]
        )
        for record in log.records:
            output.line(f"  record {record.seq}, {record.audit_id}, recorded {record.timestamp} by the log's clock")
            for member in record.disclosed:
                name = ".".join(member.place[1:] if member.place[0] == "event" else member.place)
                output.line(f"    {name}: ", Cell(json_line(member.value), "bold"), "  (checked: this was sealed)")
    output.line("That no other record answers the question is not proven: nothing is said about other records.")
