"""`audit-async replay`: a sink gets records once more; the same as `audit-async deliver --replay-from`."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
import typer

from audit_async.cli.arguments import Instance, Json, Service
from audit_async.cli.commands.deliver import Config, DirectoryOrConfigured, replay_start, replayed
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Output
from audit_async.delivery.deliver_settings import read_deliver_settings

__all__ = ["register"]

From = Annotated[
    str,
    typer.Option(
        "--from", metavar="SEQ|TIME", show_default=False,
        help="Deliver again from this record on, of one log, or from this time on, of all; `end` leaves out what is "
        "there.",
    ),
]  # fmt: skip
SinkName = Annotated[str, typer.Option("--sink", metavar="NAME", show_default=False, help="The sink that gets them.")]
AsName = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who asks for it.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "replay",
        epilog="Example: audit-async replay --config deliver.toml --from 2026-11-29T12:00:00Z --sink siem --as NAME",
        short_help="Deliver records to a sink once more.",
    )(replay)


def replay(
    directory: DirectoryOrConfigured = None,
    *,
    config: Config,
    start: From,
    sink: SinkName,
    service: Service = None,
    instance: Instance = None,
    as_name: AsName = None,
    as_json: Json = False,
) -> None:
    """Set back how far a sink has the logs, so that `audit-async deliver` sends records to it once more.

    Stop the deliverer first, and start it afterwards. The records have the same audit_id as the first time. It is
    recorded, as audit.delivery_replayed, who asked for it. The same as `audit-async deliver --replay-from`.

    Status 0: it is set; 3: the deliverer runs, or there is no such log or record.
    """
    output = Output(as_json=as_json)
    chosen = replay_start(start, "--from")

    async def run() -> ExitStatus:
        settings = await anyio.to_thread.run_sync(read_deliver_settings, config)
        return await replayed(
            output, settings, sink, chosen, directory, service=service, instance=instance, requested_by=as_name
        )

    perform(output, run)
