"""`audit-async prove`: evidence for one record, made from the log and checked without it (`verify-proof`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from anyio import to_thread

from audit_async._export.export_file import new_file
from audit_async._export.record_proof import proof_of
from audit_async._verify.signed_trail import TREE_DIRECTORY, published_at
from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import RecordAt
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Output
from audit_async.cli.trusted import Published
from audit_async.reader import PlacedRecord
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.failures import InconsistentLog
from audit_async.tlog.proof import FILE_ENDING, TlogProof

__all__ = ["register"]


class ProofMade(msgspec.Struct, frozen=True, kw_only=True):
    """What `prove` has written."""

    log: str
    seq: int
    audit_id: str
    record: str  #: file
    proof: str  #: file
    origin: str  #: the log's name in its checkpoints; the signature was not verified here
    size: int  #: records that the checkpoint covers


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "prove",
        epilog="Example: audit-async prove 41 ./audit --log orders/00",
        short_help="Write the evidence that a record is in a log, for others to check.",
    )(prove)


@with_option_groups
def prove(
    choice: RecordAt,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            readable=False,
            help=f"The proof's file, AUDIT_ID{FILE_ENDING} by default; the record goes next to it as .json.",
        ),
    ] = None,
    published: Published = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    access: Access,
    as_json: Json = False,
) -> None:
    """Write the evidence that a record is in a log: two files that anybody checks with verify-proof, without the log.

    The record's file holds the record, whole; the proof holds hashes and the log's signed checkpoint. It is made from
    what the log has published, also while the service runs.
    """
    choice.require_valid()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = choice.reader()
        placed = await choice.look_up(reader, access)
        place = next(found.directory for found in reader.logs() if found.name == placed.record.log)
        source = published_at(place / TREE_DIRECTORY if published is None else published)
        try:
            proof, signed = await to_thread.run_sync(proof_of, placed, source)
        except InconsistentLog as error:
            output.message(f"audit-async: {error}")
            return ExitStatus.FINDINGS
        _report(output, _write(placed, proof, signed, out, force=force))
        return ExitStatus.OK

    perform(output, run)


def _write(
    placed: PlacedRecord, proof: TlogProof, signed: SignedCheckpoint, out: Path | None, *, force: bool
) -> ProofMade:
    """Write the record and its proof, each whole or not at all."""
    target = out if out is not None else Path(placed.record.audit_id + FILE_ENDING)
    record_file = target.with_suffix(".json")
    if record_file == target:
        raise Refused(f"{target}: the record goes into that file; name the proof otherwise, such as x{FILE_ENDING}")
    with new_file(record_file, overwrite=force) as record, new_file(target, overwrite=force) as evidence:
        record.file.write(placed.line)
        evidence.file.write(proof.encode())
        record.finish()
        evidence.finish()
    return ProofMade(
        log=placed.record.log,
        seq=placed.record.seq,
        audit_id=placed.record.audit_id,
        record=str(record_file),
        proof=str(target),
        origin=signed.checkpoint.origin,
        size=signed.checkpoint.size,
    )


def _report(output: Output, made: ProofMade) -> None:
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
