"""`audit-async hosts`: what a collector has of each host, who is silent, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from anyio import to_thread
from typer.core import TyperGroup

from audit_async.cli.arguments import Json, parse_duration
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Column, Output, count_of
from audit_async.cli.writing import require_owner
from audit_async.config import AuditConfig, Local
from audit_async.events import AuditFindingAcknowledged
from audit_async.forwarding.collected_logs import STALE, LogAtCollector, State, logs_of
from audit_async.forwarding.collector_root import (
    COLLECTOR_SERVICE,
    FINDINGS_LOG,
    CollectorStatus,
    Finding,
    acknowledge,
    open_findings,
    read_status,
    require_root,
)
from audit_async.logger import AuditLogger
from audit_async.logger.forwarding_records import record_own

__all__ = ["register"]

Root = Annotated[
    Path, typer.Argument(metavar="ROOT", readable=False, show_default=False, help="The collector's directory.")
]


class _DefaultsToList(TyperGroup):
    """`hosts ROOT` is `hosts list ROOT`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - click's, of which typer may have a copy
        return super().resolve_command(ctx, args if args[0] in self.commands else ["list", *args])


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        cls=_DefaultsToList,
        no_args_is_help=True,
        help="Show what a collector has of each host; acknowledge what it found. `hosts ROOT` is `hosts list ROOT`.",
    )
    app.add_typer(group, name="hosts")
    group.command(
        "list",
        epilog="Example: audit-async hosts /srv/audit --silent-after 1h",
        short_help="Show head, lag, last record and findings of each log.",
    )(list_logs)
    group.command(
        "ack",
        epilog="Example: audit-async hosts ack /srv/audit acme/web-1/orders/00.6f1d… --by alice "
        "--reason 'new disk, ticket 4711'",
        short_help="Acknowledge findings, with a name and a reason.",
    )(ack)


def list_logs(
    root: Root,
    *,
    silent_after: Annotated[
        str, typer.Option("--silent-after", metavar="DURATION", help="When a host that does not show itself is silent.")
    ] = "1d",
    problems: Annotated[
        bool, typer.Option("--problems", help="Only logs of silent hosts, with findings, or behind.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show every log of a collector: its head, how far it is behind, when records last came, and what was found.

    A log is idle if it is quiet and its host is there: other logs of it have received records, or its forwarder has
    shown itself, which it does each hour. A host is silent if neither is so. Ends with status 1 if a host is silent, a
    finding is not acknowledged, or the collector is not running.
    """
    output = Output(as_json=as_json)
    quiet = parse_duration(silent_after, "--silent-after")

    def look() -> tuple[CollectorStatus, list[LogAtCollector], list[Finding]]:
        require_root(root)
        status = read_status(root)
        if status is None:
            raise Refused(f"{root}: no collector has written its status yet; run: audit-async collect")
        findings = open_findings(root)
        return status, logs_of(status, findings, quiet), findings

    async def run() -> ExitStatus:
        status, logs, findings = await to_thread.run_sync(look)
        stale = datetime.now(UTC) - status.updated_at > STALE
        wrong = stale or bool(findings) or bool(status.error) or any(log.state == "silent" for log in logs)
        shown = [log for log in logs if not problems or _is_problem(log)]
        if as_json:
            output.document(
                {
                    "collector": status.collector,
                    "updated_at": status.updated_at,
                    "running": not stale,
                    "error": status.error,
                    "logs": shown,
                    "findings": findings,
                }
            )
        else:
            _show(output, status, shown, findings, stale=stale)
        return ExitStatus.FINDINGS if wrong else ExitStatus.OK

    perform(output, run)


def ack(
    root: Root,
    log: Annotated[
        str, typer.Argument(metavar="LOG", show_default=False, help="The log, as `hosts` names it, or the host.")
    ],
    *,
    by: Annotated[str, typer.Option("--by", metavar="NAME", show_default=False, help="Who has looked at it.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", show_default=False, help="What it was.")],
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Only findings of this kind, such as log_replaced.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Acknowledge the findings of a log or of a host: they are not shown any more until something else is found.

    Recorded, with name and reason, in the log audit-collect below ROOT/.findings.
    """
    output = Output(as_json=as_json)
    if not by.strip() or not reason.strip():
        raise typer.BadParameter("--by and --reason are what an auditor will read: give both")

    async def run() -> ExitStatus:
        await to_thread.run_sync(require_root, root)
        require_owner(root)
        found = [
            one
            for one in await to_thread.run_sync(open_findings, root)
            if log in {one.log, one.host} and kind in {None, one.kind}
        ]
        if not found:
            raise Refused(f"{root}: nothing was found of {log!a} that is not acknowledged; see: audit-async hosts")
        # Recorded first: what is acknowledged in no log would not be known to have been found.
        config = AuditConfig(mode=Local(root / FINDINGS_LOG), service_id=COLLECTOR_SERVICE)
        async with AuditLogger(config) as audit:
            for one in found:
                await record_own(
                    audit,
                    AuditFindingAcknowledged(
                        log=one.log,
                        kind=one.kind,
                        reason=reason,
                        acknowledged_by=by,
                        seq=one.seq if one.seq >= 0 else None,
                    ),
                )
        await to_thread.run_sync(lambda: acknowledge(root, found, by=by, reason=reason))
        if as_json:
            output.document({"acknowledged": found})
        else:
            for one in found:
                output.line(Cell("acknowledged", "green"), f"  {one.kind.replace('_', ' ')}  {one.log}")
        return ExitStatus.OK

    perform(output, run)


def _is_problem(log: LogAtCollector) -> bool:
    return log.state == "silent" or log.findings > 0 or log.behind_records > 0


def _show(
    output: Output, status: CollectorStatus, logs: Sequence[LogAtCollector], findings: Sequence[Finding], *, stale: bool
) -> None:
    styles: dict[State, Any] = {"live": "green", "idle": "dim", "silent": "red"}
    columns = [Column("host"), Column("log"), Column("head", right=True), Column("behind", right=True),
               Column("last record", right=True), Column("state"), Column("found", right=True)]  # fmt: skip
    rows = [
        [
            log.host,
            f"{log.service}/{log.instance}",
            str(log.seq),
            str(log.behind_records),
            "never" if log.behind_s is None else f"{_duration(log.behind_s)} ago",
            Cell(log.state, styles[log.state]),
            Cell(str(log.findings), "red") if log.findings else "",
        ]
        for log in logs
    ]
    if rows:
        output.table(columns, rows)
        output.line()
    for finding in findings:
        output.line(Cell(finding.kind.replace("_", " "), "red"), f"  {finding.log}: {finding.reason}")
    hosts = {(log.tenant, log.host) for log in logs}
    silent = {(log.tenant, log.host) for log in logs if log.state == "silent"}
    output.line(f"{count_of(len(logs), 'log')} of {count_of(len(hosts), 'host')}, {len(silent)} silent")
    if status.error:
        output.line(Cell("the last round failed", "red"), f"  {status.error}")
    if stale:
        at = f"{status.updated_at:%Y-%m-%d %H:%M:%S} UTC"
        output.line(Cell("the collector is not running", "red"), f"  its last status is of {at}")


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
