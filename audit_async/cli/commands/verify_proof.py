"""`audit-async verify-proof`: checking the evidence for one record, without its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import aiofiles
import msgspec
import typer

from audit_async._chain import BadRecord, check_record
from audit_async._trail.log_files import LONGEST_LINE
from audit_async.cli.arguments import Json
from audit_async.cli.cosignatures import Cosigned, cosigned_by
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output
from audit_async.cli.trusted import Trust
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


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "verify-proof",
        epilog="Example: audit-async verify-proof 5f0c1e9b7a3d2c48-29.json 5f0c1e9b7a3d2c48-29.tlog-proof --vkey ...",
        short_help="Check the evidence for a record, without the log.",
    )(verify_proof)


@with_option_groups
def verify_proof(
    record: Annotated[
        Path,
        typer.Argument(metavar="RECORD", show_default=False, readable=False, help="The file with the record's line."),
    ],
    proof: Annotated[
        Path,
        typer.Argument(metavar="PROOF", show_default=False, readable=False, help=f"The proof, a {FILE_ENDING} file."),
    ],
    *,
    trust: Trust,
    as_json: Json = False,
) -> None:
    """Check, offline, that a log which you trust had this record when it signed; exit status 1 if it is not proven.

    The record's hash is computed from its bytes. Get the verifier key or policy from another source than the
    proof.
    """
    trust.require()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        policy = trust.policy()
        verdict = _verdict(await _read(record, LONGEST_LINE), await _read(proof, _LARGEST_PROOF), policy)
        _report(output, verdict)
        return ExitStatus.OK if verdict.proven else ExitStatus.FINDINGS

    perform(output, run)


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
        signed_by=[str(signature.key) for signature in verified.signatures if signature.timestamp is None],
        cosigned_by=cosigned_by(verified),
    )


def _report(output: Output, verdict: ProofVerdict) -> None:
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
