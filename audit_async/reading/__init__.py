"""Reading trails: finding logs, verifying, querying, following and exporting them.

This room only reads, and works beside a running writer without a lock. Its front door is `audit_async.reader`.
"""

from audit_async.reading.report import Finding, LogReport, Note, Progress, VerifyReport
from audit_async.reading.scope import Everything, LastRecords, Scope, SeqRange, TimeRange
from audit_async.reading.trail import Log, TrailUnreadable, find_logs
from audit_async.reading.verify import verify_trail

__all__ = [
    "Everything",
    "Finding",
    "LastRecords",
    "Log",
    "LogReport",
    "Note",
    "Progress",
    "Scope",
    "SeqRange",
    "TimeRange",
    "TrailUnreadable",
    "VerifyReport",
    "find_logs",
    "verify_trail",
]
