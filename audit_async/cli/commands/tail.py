"""`audit-async tail`: the last records, and new ones as they are written."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import msgspec
import typer

from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.event_types import check_types
from audit_async.cli.filters import EventFilters
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.record_view import OnDamageChoice, RecordLines, RecordView
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Output
from audit_async.reader import AuditReader

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "tail", epilog="Example: audit-async tail -f ./audit", short_help="Show the last records, and follow with -f."
    )(tail)


@with_option_groups
def tail(
    logs: ReadableLogs,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new records as they are written.")] = False,
    number: Annotated[int, typer.Option("-n", "--number", min=0, metavar="N", help="How many old ones to show.")] = 10,
    filters: EventFilters,
    view: RecordView,
    damage: OnDamageChoice,
    keys: KeyOptions,
    access: Access,
    as_json: Json = False,
) -> None:
    """Show the last records and, with -f, new ones about a tenth of a second after they were written. Ctrl-C ends it.

    A record is shown once the writer has handed it to the operating system; whether it is on stable storage already
    can't be seen from outside.
    """
    wanted = filters.query()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        with keys.opened(logs.directory) as key_store:
            return await show(logs.reader(key_store))

    async def show(reader: AuditReader) -> ExitStatus:
        lines = await RecordLines.of(reader, output, view)
        async with access.recording(reader, keys) as audit:
            await check_types(reader, wanted, output, may_come=follow)
            if follow:
                records = reader.follow(
                    query=wanted, last=number, audit=audit, accessed_by=access.as_name, on_damage=damage.on_damage
                )
                await lines.write_all(records, at_once=True)
            elif number:
                last = msgspec.structs.replace(wanted, newest_first=True, limit=number)
                newest = reader.query(last, audit=audit, accessed_by=access.as_name, on_damage=damage.on_damage)
                async with aclosing(newest) as found:
                    for record in [record async for record in found][::-1]:
                        lines.write(record)
        return ExitStatus.OK

    perform(output, run)
