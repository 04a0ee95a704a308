"""`audit-async collect`: receiving a tenant's logs from an engine into ordinary log directories."""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import msgspec
import typer
from anyio import to_thread

from audit_async.cli.arguments import Json
from audit_async.cli.engine_url import refuse_password
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, count_of
from audit_async.config import AuditConfig, Local
from audit_async.events import AuditCollectionFinding
from audit_async.forwarding.collector import Collector, Round, Shard
from audit_async.forwarding.collector_root import (
    COLLECTOR_SERVICE,
    FINDINGS_LOG,
    Finding,
    open_findings,
    prepare_root,
)
from audit_async.forwarding.sinks import open_sink
from audit_async.logger import AuditLogger
from audit_async.logger.forwarding_records import record_own

if TYPE_CHECKING:
    from audit_async.tlog.signing_keys import Signer

__all__ = ["register"]

_SHARD: Final = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})", re.ASCII)


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a round has done, as `--json` prints it."""

    logs: int
    records: int
    findings: tuple[Finding, ...]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "collect",
        epilog="Example: audit-async collect /srv/audit --from postgres://collector@db/audit?passfile=FILE "
        "--tenant acme --key key.pem",
        short_help="Receive the logs of all hosts from an engine, and check every record.",
    )(collect)


@dataclass(frozen=True, kw_only=True)
class From:
    """The options that say what is received."""

    engine: Annotated[
        str,
        typer.Option(
            "--from", metavar="URL", envvar="AUDIT_ENGINE_URL", show_default=False, show_envvar=True,
            help="The engine, with a collector's rights: postgres://…, nats://… or file:///DIR. A URL with a password "
            "is taken from the environment only.",
        ),
    ]  # fmt: skip
    tenant: Annotated[
        str,
        typer.Option(
            "--tenant", metavar="NAME", envvar="AUDIT_TENANT", show_default=False, help="Whose logs they are."
        ),
    ]
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Only part I of N of the hosts; the parts share the work.")
    ] = "1/1"

    def part(self) -> Shard:
        """Return the part of the hosts. Raises `typer.BadParameter`."""
        part = _SHARD.fullmatch(self.shard)
        if part is None or int(part[1]) > int(part[2]):
            raise typer.BadParameter(
                f"--shard: {self.shard[:20]!a} is none; give a part and how many there are, such as 1/3"
            )
        return Shard(int(part[1]), int(part[2]))


@dataclass(frozen=True, kw_only=True)
class Confirming:
    """The options that say how hosts learn what is here."""

    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="SOURCE",
            help="The key that heads are confirmed with, so that hosts may delete what is here: a file that "
            "`audit-async keys new` has made, credential:NAME or env:VARIABLE. Without one nothing is confirmed.",
        ),
    ] = None  # fmt: skip
    passphrase_from: Annotated[
        str | None, typer.Option("--passphrase-from", metavar="SOURCE", help="Where the key's passphrase comes from.")
    ] = None
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The name to confirm under; by default this machine's."),
    ] = None
    log_key: Annotated[
        list[str] | None,
        typer.Option(
            "--log-key", metavar="VKEY",
            help="The verifier key of a log that signs: its checkpoints are cosigned with --key, if they are of the "
            "records that came. Repeat it for each log.",
        ),
    ] = None  # fmt: skip
    copies: Annotated[
        int,
        typer.Option(
            "--copies",
            min=1,
            max=99,
            help="In how many places a record is once it is here, this one included. A bucket that `bucket push` is "
            "run for on this directory is counted by itself.",
        ),
    ] = 1

    async def signer(self) -> Signer | None:
        """Return what signs, None if nothing is confirmed. Raises `KeyUnavailable`."""
        if self.key is None:
            if self.log_key:
                raise typer.BadParameter(
                    "--log-key: checkpoints are cosigned with the collector's key; give --key as well"
                )
            return None
        from audit_async.tlog.signing_keys import load_signer  # noqa: PLC0415 - needs the extra tlog

        origin = self.name if self.name is not None else socket.gethostname()
        return await to_thread.run_sync(partial(load_signer, self.key, origin=origin, passphrase=self.passphrase_from))


@with_option_groups
def collect(
    context: typer.Context,
    root: Annotated[
        Path,
        typer.Argument(metavar="ROOT", readable=False, show_default=False, help="The collector's directory."),
    ],
    *,
    source: From,
    once: Annotated[bool, typer.Option("--once", help="Receive what is there, and end.")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, max=3600, metavar="SECONDS", help="Pause between two rounds.")
    ] = 1.0,
    confirming: Confirming,
    as_json: Json = False,
) -> None:
    """Receive a tenant's logs into ROOT/TENANT/HOST/SERVICE/INSTANCE.LOG_ID/, for every other command.

    Each record's hash and link are checked before it is stored, and what is stored is on stable storage before it is
    confirmed. May be killed at any time: it goes on from what its files say. What is wrong with one log is a finding,
    recorded in the log audit-collect below ROOT/.findings, and affects that log alone; `audit-async hosts ROOT` shows
    it. With --once findings that nobody has acknowledged end in status 1.
    """
    refuse_password(context, "engine", "--from", source.engine)
    part = source.part()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        signer = await confirming.signer()
        await to_thread.run_sync(prepare_root, root)
        sink = open_sink(source.engine, tenant=source.tenant)
        config = AuditConfig(mode=Local(root / FINDINGS_LOG), service_id=COLLECTOR_SERVICE)
        try:
            async with (
                AuditLogger(config) as audit,
                Collector(
                    root, sink, tenant=source.tenant, signer=signer, copies=confirming.copies, shard=part,
                    log_keys=confirming.log_key or (),
                    report=_recording(audit),
                ) as collector,
            ):  # fmt: skip
                if not once:
                    await collector.run(pause_s=every)
                return await _collect_once(collector, output, root)
        finally:
            with anyio.CancelScope(shield=True):
                await sink.aclose()

    perform(output, run)


async def _collect_once(collector: Collector, output: Output, root: Path) -> ExitStatus:
    done: Round = await collector.collect()
    unseen = await to_thread.run_sync(open_findings, root)
    if output.as_json:
        output.document(Collected(logs=done.logs, records=done.records, findings=tuple(unseen)))
    else:
        output.line(Cell("collected", "green"), f"  {count_of(done.records, 'record')} of {count_of(done.logs, 'log')}")
        if unseen:
            output.line(Cell(count_of(len(unseen), "finding"), "red"), f"  see: audit-async hosts {root}")
    return ExitStatus.FINDINGS if unseen else ExitStatus.OK


def _recording(audit: AuditLogger) -> Callable[[Finding], Awaitable[None]]:
    """Return what records a finding, durably."""

    async def report(finding: Finding) -> None:
        await record_own(
            audit,
            AuditCollectionFinding(
                log=finding.log, kind=finding.kind, reason=finding.reason, seq=finding.seq if finding.seq >= 0 else None
            ),
        )

    return report
