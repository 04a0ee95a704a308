"""`audit-async forward`: the sidecar that ships the logs of a base directory to an engine."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import anyio
import anyio.to_thread
import typer

from audit_async._layout.lock_file import read_acknowledged
from audit_async._trail.log_files import Log, base_directory_of, find_logs
from audit_async.cli.arguments import Directory, Instance, Json, Service
from audit_async.cli.engine_url import refuse_password
from audit_async.cli.log_exchange import exchange_log
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Column, Output, Style
from audit_async.cli.writing import require_owner
from audit_async.config import AuditConfig, Local
from audit_async.events import AuditLogReplaced
from audit_async.forwarding import (
    Forwarder,
    Head,
    LogIdentity,
    ShippingFinding,
    ShippingState,
    ShippingStatus,
    Sink,
    open_sink,
)
from audit_async.logger import AuditLogger
from audit_async.logger.forwarding_records import record_finding, record_own

__all__ = ["FORWARDING_SERVICE", "register"]

#: The service in whose log the sidecar records what it finds.
FORWARDING_SERVICE: Final = "audit-forward"

EngineUrl = Annotated[
    str,
    typer.Option(
        "--to", metavar="URL", envvar="AUDIT_ENGINE_URL", show_default=False, show_envvar=True,
        help="The engine, as this host: postgres://ROLE@HOST/DATABASE?passfile=FILE, nats://HOST:4222?nkey=FILE or "
        "file:///DIRECTORY. A URL with a password is taken from the environment only.",
    ),
]  # fmt: skip
Tenant = Annotated[
    str,
    typer.Option("--tenant", metavar="NAME", envvar="AUDIT_TENANT", show_default=False, help="Whose logs they are."),
]
HostName = Annotated[
    str | None,
    typer.Option("--host", metavar="NAME", help="What this machine is called in the engine; its host name by default."),
]
CollectorKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--collector-key", metavar="VKEY",
        help="The verifier key of a collector that is trusted, as `audit-async keys show` prints it. May be repeated. "
        "With it a host and an engine that were both set back are noticed, and retention knows what is shipped.",
    ),
]  # fmt: skip
Once = Annotated[bool, typer.Option("--once", help="Ship what is durable by now, and end.")]
Status = Annotated[
    bool, typer.Option("--status", help="Show how far each log is shipped, and what is wrong; nothing is shipped.")
]
OwnLog = Annotated[
    Path | None,
    typer.Option(
        "--own-log", metavar="DIR", readable=False,
        help=f"The base directory of the log, of the service {FORWARDING_SERVICE}, that records what is found; the "
        "trail's own by default. It is shipped as well.",
    ),
]  # fmt: skip
NewLog = Annotated[
    str | None,
    typer.Option(
        "--new-log", metavar="SERVICE/INSTANCE",
        help="Put a log aside that the engine refuses, and begin a new one in its place that names what the engine "
        "has. Stop the service first. Needs --as and --reason, and is recorded.",
    ),
]  # fmt: skip
AsName = Annotated[str | None, typer.Option("--as", metavar="NAME", help="With --new-log: who asks for it.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="With --new-log: why.")]

_STYLES: Final[dict[ShippingState, Style]] = {
    ShippingState.CAUGHT_UP: "green",
    ShippingState.REFUSED: "red",
    ShippingState.UNAVAILABLE: "yellow",
    ShippingState.FULL: "yellow",
}
#: With `--once`: what is not shipped then.
_FAILED: Final = frozenset({ShippingState.UNAVAILABLE, ShippingState.FULL})


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        "forward",
        epilog="Example: audit-async forward /var/lib/audit --to postgres://audit_acme_host_web-1@db.example/audit "
        "--tenant acme --host web-1",
        short_help="Ship logs to an engine outside of this host.",
    )(forward)


@dataclass(frozen=True, kw_only=True)
class _Where:
    """What is shipped, and where to."""

    directory: Path
    url: str
    tenant: str
    host: str
    service: str | None
    instance: str | None
    collector_keys: Sequence[str]
    own_base_dir: Path

    def forwarder(self, sink: Sink, on_finding: Callable[[ShippingFinding], object] = lambda _: None) -> Forwarder:
        """Return what ships the logs."""
        return Forwarder(
            self.directory,
            sink,
            tenant=self.tenant,
            host=self.host,
            service=self.service,
            instance=self.instance,
            collector_keys=self.collector_keys,
            on_finding=on_finding,
        )

    def own_forwarder(self, sink: Sink) -> Forwarder | None:
        """Return what ships the log of the sidecar; None if it is one of the others."""
        if self.service is self.instance is None and self.directory.absolute() == self.own_base_dir.absolute():
            return None
        return Forwarder(self.own_base_dir, sink, tenant=self.tenant, host=self.host, service=FORWARDING_SERVICE)

    @asynccontextmanager
    async def own_log(self) -> AsyncIterator[AuditLogger]:
        """Open the log of the sidecar."""
        if self.own_base_dir.exists():
            require_owner(self.own_base_dir)
        config = AuditConfig(mode=Local(self.own_base_dir), service_id=FORWARDING_SERVICE, handle_signals=False)
        async with AuditLogger(config) as audit:
            yield audit

    def identity(self, log: Log) -> LogIdentity:
        """Return what a log is called in the engine."""
        return LogIdentity(
            tenant=self.tenant, service=log.service_id, host=self.host, instance=log.instance, log_id=log.log_id
        )


def forward(
    context: typer.Context,
    directory: Directory,
    *,
    to: EngineUrl,
    tenant: Tenant,
    host: HostName = None,
    service: Service = None,
    instance: Instance = None,
    collector_key: CollectorKeys = None,
    once: Once = False,
    status: Status = False,
    own_log: OwnLog = None,
    new_log: NewLog = None,
    as_name: AsName = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Ship the records of all logs in a directory to an engine, as they become durable, until SIGTERM.

    Each record is stored once: every append is on the condition of the head that the engine has, and nothing else is
    remembered, so the command may be killed at any moment, and run twice. Logs that appear later are shipped as well.
    While the engine can't be reached the logs are the buffer. A log that was rewritten, cut, set back or cloned is
    refused, and recorded in the log of the service audit-forward.

    Status 0: all is shipped; 1: a log is refused; 3: the engine does not answer or is full.
    """
    output = Output(as_json=as_json)
    refuse_password(context, "to", "--to", to)
    if sum((once, status, new_log is not None)) > 1:
        raise typer.BadParameter("--once, --status and --new-log exclude each other: each is a work of its own")
    if "" in {as_name, reason}:
        raise typer.BadParameter("--as and --reason are what an auditor will read; neither may be empty")
    if (new_log is not None) != (as_name is not None and reason is not None):
        raise typer.BadParameter("--new-log needs --as NAME and --reason TEXT, which are recorded, and they need it")
    where = _Where(
        directory=directory,
        url=to,
        tenant=tenant,
        host=host if host is not None else socket.gethostname(),
        service=service,
        instance=instance,
        collector_keys=collector_key or (),
        own_base_dir=own_log if own_log is not None else base_directory_of(directory),
    )

    async def run() -> ExitStatus:
        sink = open_sink(to, tenant=tenant)
        try:
            if new_log is not None:
                return await _replace(where, sink, output, _Replacement(new_log, as_name or "", reason or ""))
            if status:
                return _show(output, await where.forwarder(sink).look())
            if once:
                return _show(output, await _ship_once(where, sink))
            return await _ship(where, sink, output)
        finally:
            await sink.aclose()

    perform(output, run)


def _may_open_all() -> None:
    """Raise this process's limit of open files as far as it may: each log that is shipped keeps one open."""
    with suppress(ImportError, OSError, ValueError):  # not on Windows
        import resource  # noqa: PLC0415 - as above

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _ship(where: _Where, sink: Sink, output: Output) -> ExitStatus:
    """Ship until a signal comes."""
    _may_open_all()
    async with AsyncExitStack() as opened:
        audit = await opened.enter_async_context(where.own_log())
        forwarders = [where.forwarder(sink, partial(record_finding, audit)), where.own_forwarder(sink)]
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                for forwarder in forwarders:
                    if forwarder is not None:
                        tasks.start_soon(forwarder.run)
                output.message(f"audit-async: forwarding {where.directory} as host {where.host}")
                async for _signal in signals:
                    break
                tasks.cancel_scope.cancel()
    return ExitStatus.OK


async def _ship_once(where: _Where, sink: Sink) -> list[ShippingStatus]:
    """Ship what is there; what was found is recorded, and shipped as well."""
    found: list[ShippingFinding] = []
    statuses = await where.forwarder(sink, found.append).run_once()
    if found:
        async with where.own_log() as audit:
            for finding in found:
                await record_finding(audit, finding).durable()
        own = Forwarder(where.own_base_dir, sink, tenant=where.tenant, host=where.host, service=FORWARDING_SERVICE)
        await own.run_once()
    return statuses


class _Replacement(NamedTuple):
    """Which log is to be replaced, and who asks for it."""

    log: str
    as_name: str
    reason: str


async def _replace(where: _Where, sink: Sink, output: Output, wanted: _Replacement) -> ExitStatus:
    """Put a log aside, and begin a new one that says so."""
    service, _, instance = wanted.log.partition("/")
    [log] = await anyio.to_thread.run_sync(lambda: find_logs(where.directory, service=service, instance=instance))
    if not log.log_id:
        raise Refused(f"{log.directory}: log.json is missing or damaged, so nobody can say which log it is")
    engine = await sink.head(where.identity(log))
    local = await anyio.to_thread.run_sync(read_acknowledged, log.directory)
    event = AuditLogReplaced(
        log=log.name,
        old_log_id=log.log_id,
        directory=f"{log.instance}.{log.log_id}",
        reason=wanted.reason,
        requested_by=wanted.as_name,
        engine_seq=None if engine is None else engine.seq,
        engine_hash=None if engine is None else engine.hash,
        local_seq=None if local is None else local.seq,
        local_hash=None if local is None else local.hash.decode(),
    )

    async def record_first() -> None:
        async with where.own_log() as audit:
            await record_own(audit, event).durable()

    new = await exchange_log(log, event, before=record_first)
    if output.as_json:
        output.document({"old": event.directory, "old_log_id": log.log_id, "new_log_id": new, "engine": engine})
    else:
        output.line(Cell("replaced", "green"), f"  {log.name}; the old log is now {log.service_id}/{event.directory}")
        output.line(f"  the engine has it up to {_seq(engine)}; the new log's id is {new}")
    return ExitStatus.OK


def _show(output: Output, statuses: list[ShippingStatus]) -> ExitStatus:
    statuses = sorted(statuses, key=lambda one: (one.log.service, one.log.instance))
    if output.as_json:
        output.document({"logs": [_as_json(one) for one in statuses]})
    else:
        output.table(
            [Column("log"), Column("state"), Column("durable", right=True), Column("shipped", right=True),
             Column("lag", right=True), Column("confirmed", right=True)],
            [
                (f"{one.log.service}/{one.log.instance}", Cell(_state(one), _STYLES.get(one.state, "")),
                 f"{one.acknowledged_seq}" if one.acknowledged_seq >= 0 else "none", _seq(one.shipped),
                 f"{one.lag_records}", _seq(one.confirmed))
                for one in statuses
            ],
        )  # fmt: skip
        for one in statuses:
            if one.problem is not None:
                output.line(Cell(f"{one.log.service}/{one.log.instance}", "bold"), f": {one.problem}")
    if any(one.state is ShippingState.REFUSED for one in statuses):
        return ExitStatus.FINDINGS
    return ExitStatus.UNREADABLE if any(one.state in _FAILED for one in statuses) else ExitStatus.OK


def _as_json(one: ShippingStatus) -> dict[str, object]:
    return {
        "service": one.log.service,
        "instance": one.log.instance,
        "host": one.log.host,
        "log_id": one.log.log_id,
        "state": _state(one),
        "finding": None if one.finding is None else one.finding.kind,
        "problem": one.problem,
        "durable_seq": one.acknowledged_seq,
        "engine_seq": None if one.engine is None else one.engine.seq,
        "shipped_seq": None if one.shipped is None else one.shipped.seq,
        "confirmed_seq": None if one.confirmed is None else one.confirmed.seq,
        "lag_records": one.lag_records,
    }


def _state(one: ShippingStatus) -> str:
    return "behind" if one.state is ShippingState.STARTING else one.state.value


def _seq(head: Head | None) -> str:
    return "none" if head is None else str(head.seq)
