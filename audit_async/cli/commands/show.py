"""`audit-async show`: one record, whole."""

from __future__ import annotations

import typer

from audit_async.cli.access import Access
from audit_async.cli.arguments import Json
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import RecordAt
from audit_async.cli.record_view import write_record
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Output

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "show", epilog="Example: audit-async show 41 ./audit --log orders/00", short_help="Show one record whole."
    )(show)


@with_option_groups
def show(choice: RecordAt, *, keys: KeyOptions, access: Access, as_json: Json = False) -> None:
    """Show one record whole: every member, where it is, and the hashes of the records next to it.

    Exit status 1 if a record next to it does not fit.
    """
    choice.require_valid()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        with keys.opened(choice.directory) as key_store:
            placed = await choice.look_up(choice.reader(key_store), access, keys)
        if as_json:
            output.document(placed.to_dict())
        else:
            write_record(output, placed)
        return ExitStatus.OK if placed.is_linked else ExitStatus.FINDINGS

    perform(output, run)
