"""Reports for auditors: control by control of a framework, what a trail shows, and what it can't show.

    async def monthly(audit: AuditLogger) -> None:
        report = await make_report(AuditReader("./audit"), "soc2", audit=audit, accessed_by="carol")
        await write_report(report, "soc2.html", audit=audit, accessed_by="carol")

A report is a page that prints as a document, and the same as JSON. `audit-async report` makes and checks it on the
command line. It is evidence, no audit opinion, and no legal advice.

| module | subject |
| --- | --- |
| `framework` | frameworks: controls, and which records and topics speak for each; the TOML files in `frameworks/` |
| `topics` | what a trail shows about itself, whatever the framework |
| `trail_evidence` | one pass over the records: counts and examples, in bounded memory |
| `period_coverage` | what of the period was not counted, because it can't be read or is not there any more |
| `assessment` | what that means for each control, in sentences |
| `report_maker` | `make_report`: verify, read, assess |
| `report_document` | the report as data: its JSON and the schema of it |
| `report_page` | the report as a page, of `page_elements` |
| `report_files` | writing, signing and checking the files |
"""

from audit_async.reports.framework import Control, Framework, RetentionClause, framework_names, load_framework
from audit_async.reports.report_document import (
    ControlReport,
    Example,
    FrameworkFacts,
    LogFacts,
    Making,
    Period,
    Report,
    RetentionFacts,
    TopicReport,
    TypeCount,
    VerificationFacts,
    report_schema,
)
from audit_async.reports.report_files import CheckedReport, InvalidReport, WrittenReport, check_report, write_report
from audit_async.reports.report_maker import make_report

__all__ = [
    "CheckedReport",
    "Control",
    "ControlReport",
    "Example",
    "Framework",
    "FrameworkFacts",
    "InvalidReport",
    "LogFacts",
    "Making",
    "Period",
    "Report",
    "RetentionClause",
    "RetentionFacts",
    "TopicReport",
    "TypeCount",
    "VerificationFacts",
    "WrittenReport",
    "check_report",
    "framework_names",
    "load_framework",
    "make_report",
    "report_schema",
    "write_report",
]
