"""`audit-async alerts`: alert rules, checked and tried before a deliverer uses them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from audit_async.cli.arguments import EventModules, Json
from audit_async.cli.filters import PeriodFilters
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, count_of
from audit_async.delivery.alerts import (
    AlertRule,
    RuleTrial,
    notes_on,
    read_rules,
    starter_rules,
    starter_rules_text,
    try_rules,
)
from audit_async.delivery.event_modules import import_event_modules
from audit_async.events import AuditAlertRaised
from audit_async.events.recorded import recorded_time

__all__ = ["register"]

RulesFile = Annotated[
    Path, typer.Argument(metavar="RULES", show_default=False, help="A TOML file with rules; `-` for the starter set.")
]


class CheckedRules(msgspec.Struct, frozen=True, kw_only=True):
    """What `alerts check` says."""

    rules: list[AlertRule]
    notes: list[str]  #: what is probably a mistake


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Write, check and try the rules that raise alerts.")
    app.add_typer(group, name="alerts")
    group.command(
        "starter",
        epilog="Example: audit-async alerts starter > alerts.toml",
        short_help="Print the starter set of rules, with their reasons.",
    )(starter)
    group.command("check", epilog="Example: audit-async alerts check alerts.toml", short_help="Check a file of rules.")(
        check
    )
    group.command(
        "test",
        epilog="Example: audit-async alerts test alerts.toml ./audit --since 7d",
        short_help="Show what rules would have raised.",
    )(try_on_trail)


def starter() -> None:
    """Print the starter set of rules, with the reason for each, as a file to begin with."""
    sys.stdout.write(starter_rules_text())


def check(
    rules: RulesFile,
    *,
    module: EventModules = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """Check a file of rules: everything that the deliverer would refuse is named. Exit status 2 if something is.

    Types and members that no known event has are noted; they may be those of your own events, which `--module` makes
    known.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        import_event_modules(module)
        read = _read(rules)
        notes = notes_on(read)
        if as_json:
            output.document(CheckedRules(rules=read, notes=notes))
        else:
            for note in notes:
                output.line(f"note: {note}")
            output.line(f"{count_of(len(read), 'rule')}, all of them right")
        return ExitStatus.OK

    perform(output, run)


@with_option_groups
def try_on_trail(rules: RulesFile, at: ReadableLogs, *, filters: PeriodFilters, as_json: Json = False) -> None:
    """Show what rules would have raised on the records of a trail, in the order of time.

    Nothing is recorded, and a running deliverer is not touched. The records of deliverers (`audit-deliver`) are left
    out, as a deliverer does.
    """
    query = filters.query()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        read = _read(rules)
        trial = await try_rules(read, at.reader(), query)
        if as_json:
            output.document(trial)
        else:
            _show(output, read, trial)
        return ExitStatus.OK

    perform(output, run)


def _read(rules: Path) -> list[AlertRule]:
    return starter_rules() if str(rules) == "-" else read_rules(rules)


def _show(output: Output, rules: list[AlertRule], trial: RuleTrial) -> None:
    for alert in trial.alerts:
        output.row(*_cells(alert))
    for alert in trial.silent_now:
        output.row(*_cells(alert))
    output.line(
        f"{count_of(trial.records, 'record')}, {count_of(len(trial.alerts), 'alert')} of "
        f"{count_of(len(trial.by_rule), 'rule')} (of {len(rules)})"
    )


def _cells(alert: AuditAlertRaised) -> tuple[Cell | str, ...]:
    group = " ".join(f"{path}={value}" for path, value in (alert.group or {}).items())
    what = {"match": f"{alert.count} x", "silence": "silent", "overflow": "overflow"}[alert.kind]
    record = "" if alert.seq is None else f" seq {alert.seq}"
    return (
        recorded_time(alert.last_at),
        "  ",
        Cell(alert.rule, "bold"),
        f"  {alert.severity}  {what}  {alert.log}{record}",
        f"  {group}" if group else "",
    )
