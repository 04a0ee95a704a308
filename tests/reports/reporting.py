"""Making reports in tests: the log that records it, the report, its files."""

from __future__ import annotations

from pathlib import Path

from audit_async import AuditConfig, AuditLogger, AuditReader, Local
from audit_async.reports import Report, WrittenReport, make_report, write_report
from audit_async.tlog.signing_keys import Signer


def access_log(tmp_path: Path) -> AuditLogger:
    """Return the logger that records that reports are made."""
    return AuditLogger(AuditConfig(mode=Local(tmp_path / "access"), service_id="audit-cli", handle_signals=False))


async def reported(reader: AuditReader, tmp_path: Path, framework: str | Path = "soc2", **how: object) -> Report:
    """Return the report of what a reader reads."""
    async with access_log(tmp_path) as audit:
        return await make_report(reader, framework, audit=audit, accessed_by="carol", processes=1, **how)  # type: ignore[arg-type]


async def written(
    base_dir: Path, tmp_path: Path, framework: str | Path = "soc2", *, signers: tuple[Signer, ...] = (), **how: object
) -> tuple[Report, WrittenReport]:
    """Make a report and write it."""
    tmp_path.mkdir(exist_ok=True)
    report = await reported(AuditReader(base_dir), tmp_path, framework, **how)
    async with access_log(tmp_path) as audit:
        files = await write_report(report, tmp_path / "report.html", audit=audit, accessed_by="carol", signers=signers)
    return report, files
