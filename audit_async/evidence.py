"""Checking selective evidence: a file with some records of a log, each with the proof that it is in the log.

    def show(file: str, vkey: str) -> None:
        for log in verify_evidence(file, Policy.of([VerifierKey.parse(vkey)])):  # both from `audit_async.tlog`
            for record in log.records:
                print(log.verified.checkpoint.origin, record.seq, record.timestamp, record.disclosed)

The file is made by `AuditReader.export("evidence.zip", "bundle", query, evidence="selective")`, or by
`audit-async export ... --evidence selective`; on the command line `audit-async verify-proof` checks it. The evidence
for one record alone is checked by `audit_async.tlog.verify_proof`. It needs the extra `tlog`.
"""

from audit_async._export.evidence_check import (
    Disclosed,
    InvalidEvidence,
    ProvenLog,
    ProvenRecord,
    verify_evidence,
)

__all__ = ["Disclosed", "InvalidEvidence", "ProvenLog", "ProvenRecord", "verify_evidence"]
