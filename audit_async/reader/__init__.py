"""The front door for reading: `AuditReader`, which verifies, queries, follows and exports trails.

    reader = AuditReader("./audit")
    async for record in reader.query(AuditQuery(event_types=("auth.*",), actor="mallory")):
        print(record.timestamp, record.event)

It needs no lock, changes nothing but the index (a cache), and works while the logs are being written. What blocks
(files, hashing, the index) runs in worker threads and processes, never on the event loop.

Everything that applications need is imported from this package; its modules are implementation details:

| module | subject |
| --- | --- |
| `audit_reader` | `AuditReader`: what can be asked, and what each call promises |
| `answering` | one question: who asks, what is passed over, what is recorded and reported at its end |
| `record_streams` | its answer as a stream: records, new records, record batches |
| `trail_verification` | which of the verifications is wanted |
| `index_runs` | indexing segments, and comparing indexes, in several processes |
"""

from audit_async._export.partition_files import PartitionReport
from audit_async._export.record_export import Evidence, ExportFailed, ExportFormat, ExportReport
from audit_async._layout.age_files import ArchiveEncrypted, Identities
from audit_async._query.answers import Page
from audit_async._query.audit_query import AuditQuery, Glob, InvalidQuery
from audit_async._query.index_check import CheckedIndex
from audit_async._query.lookup import PlacedRecord, RecordNotFound
from audit_async._query.term_index import IndexedSegment
from audit_async._trail.log_files import Log, TrailUnreadable
from audit_async._verify.findings import Finding, Note
from audit_async._verify.verify_report import LogReport, Progress, VerifyReport
from audit_async._verify.verify_scope import Everything, LastRecords, Scope, SeqRange, TimeRange
from audit_async.errors import LogCorrupted
from audit_async.events import NotARecord, Record
from audit_async.reader.answering import OnDamage
from audit_async.reader.audit_reader import AuditReader
from audit_async.status import Position

__all__ = [
    "ArchiveEncrypted",
    "AuditQuery",
    "AuditReader",
    "CheckedIndex",
    "Everything",
    "Evidence",
    "ExportFailed",
    "ExportFormat",
    "ExportReport",
    "Finding",
    "Glob",
    "Identities",
    "IndexedSegment",
    "InvalidQuery",
    "LastRecords",
    "Log",
    "LogCorrupted",
    "LogReport",
    "NotARecord",
    "Note",
    "OnDamage",
    "Page",
    "PartitionReport",
    "PlacedRecord",
    "Position",
    "Progress",
    "Record",
    "RecordNotFound",
    "Scope",
    "SeqRange",
    "TimeRange",
    "TrailUnreadable",
    "VerifyReport",
]
