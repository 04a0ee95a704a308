"""A log that signs, and the evidence for one of its records, checked without it. `python -m examples.prove_record`.

Needs `pip install 'audit-async[tlog]'`. In production the key is not made next to the log, and who checks a proof
has the verifier key from another source than the proof.
"""

import sys
from hashlib import sha256
from pathlib import Path

import anyio

from audit_async import AuditConfig, AuditLogger, Local, Transparency
from audit_async.events import DataDeleted, decode_record
from audit_async.reader import AuditReader
from audit_async.tlog import Policy, TlogProof, VerifierKey, load_signer, new_key, verify_proof, write_key

ORIGIN = "example.com/orders/00"


async def record_and_prove(directory: Path, key: Path) -> tuple[bytes, bytes]:
    """Record that a customer's data were deleted; return the record's line and the proof that it is in the log."""
    transparency = Transparency(key=key, origin=ORIGIN)
    config = AuditConfig(mode=Local(directory), service_id="orders", instance="00", transparency=transparency)
    async with AuditLogger(config) as audit:
        receipt = audit.emit(DataDeleted(customer_id="c-1", data_types=["orders"], reason="gdpr_art_17"))
        proof = await audit.prove(receipt)
    placed = await AuditReader(directory).record(audit_id=receipt.audit_id)
    return placed.line, proof.encode()


def check(line: bytes, proof: bytes, vkey: str) -> str:
    """Check a record's line and its proof, with nothing else but the log's verifier key; return what is proven."""
    record = decode_record(line)
    record_hash = sha256(line[:-76] + b"}").digest()  # of its bytes without the member `hash`, as the format says
    policy = Policy.of([VerifierKey.parse(vkey)])
    verified = verify_proof(TlogProof.parse(proof), index=record.seq, record_hash=record_hash, policy=policy)
    return f"record {record.seq} was in {verified.checkpoint.origin} when it had {verified.checkpoint.size} records"


def main(directory: Path) -> None:
    """Make a key below `directory` if there is none, record, prove, and check."""
    directory.mkdir(parents=True, exist_ok=True)
    key = directory / "key.pem"
    if not key.exists():
        write_key(key, new_key())
    vkey = str(load_signer(key, origin=ORIGIN).key)  # what everybody may know
    line, proof = anyio.run(record_and_prove, directory / "audit", key)
    print(check(line, proof, vkey))
    (directory / "record.json").write_bytes(line)
    (directory / "record.tlog-proof").write_bytes(proof)
    print(f"the same: cd {directory}; audit-async verify-proof record.json record.tlog-proof --vkey {vkey}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "./proven"))
