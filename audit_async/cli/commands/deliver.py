"""`audit-async deliver`: the process that delivers logs to SIEMs, syslog, webhooks and files."""

from __future__ import annotations

import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import anyio
import anyio.to_thread
import typer

from audit_async._layout.lock_file import read_acknowledged
from audit_async.cli.arguments import Instance, Json, Service, parse_time
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.run import ExitStatus, describe, perform
from audit_async.cli.terminal import Cell, Column, Output, Style
from audit_async.cli.writing import require_owner
from audit_async.delivery import Deliverer, DelivererRuns, DeliverSettings, DeliveryState, DeliveryStatus
from audit_async.delivery.deliver_settings import AlertSettings, read_deliver_settings
from audit_async.delivery.deliverable_record import OWN_SERVICE, DeliveredLog
from audit_async.delivery.deliverer import base_dir_of, logs_of
from audit_async.delivery.position_file import Position, SinkDirectory
from audit_async.delivery.reconciliation import Reconciled, reconcile
from audit_async.delivery.replay_position import Replayed, ReplayStart, replay, sink_of
from audit_async.delivery.status_file import read_status_file
from audit_async.errors import AuditError, ConfigError
from audit_async.tlog.failures import KeyUnavailable

__all__ = ["Config", "DirectoryOrConfigured", "register", "replay_start", "replayed"]

DirectoryOrConfigured = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DIRECTORY]", envvar="AUDIT_BASE_DIR", show_default=False, readable=False,
        help="The base directory of the trail; base_dir of the configuration by default.",
    ),
]  # fmt: skip
Config = Annotated[
    Path,
    typer.Option("--config", metavar="FILE", show_default=False, readable=False, help="The sinks: deliver.toml."),
]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen", metavar="HOST:PORT", help="Answer /metrics, for Prometheus, and /health, such as 127.0.0.1:9465."
    ),
]
SinkName = Annotated[str | None, typer.Option("--sink", metavar="NAME", help="Only this sink.")]

_STYLES: Final[dict[str, Style]] = {
    DeliveryState.CAUGHT_UP.value: "green",
    DeliveryState.RETRYING.value: "yellow",
    DeliveryState.STATE_UNUSABLE.value: "yellow",
    **{state.value: "red" for state in DeliveryState if state.needs_a_person},
}
_ON_ITS_WAY: Final = (DeliveryState.STARTING, DeliveryState.DELIVERING)
_STOPPED: Final = "not running"


@dataclass(frozen=True, kw_only=True)
class Works:
    """What is done instead of delivering until a signal comes."""

    once: Annotated[bool, typer.Option("--once", help="Deliver what is durable by now, and end.")] = False
    status: Annotated[
        bool, typer.Option("--status", help="Show how far each sink has each log; nothing is delivered.")
    ] = False
    check: Annotated[bool, typer.Option("--check", help="Check the configuration; nothing is delivered.")] = False
    reconcile: Annotated[
        bool,
        typer.Option("--reconcile", help="Compare what each sink says it has with the trail; what lacks is recorded."),
    ] = False
    replay_from: Annotated[
        str | None,
        typer.Option(
            "--replay-from", metavar="SEQ|TIME",
            help="Deliver again from this record on, of one log, or from this time on, of all; `end` leaves out what "
            "is there. Needs --sink, stop the deliverer first, and start it afterwards. It is recorded.",
        ),
    ] = None  # fmt: skip
    as_name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="With --replay-from: who asks.")] = None

    def check_together(self, sink: str | None, listen: str | None) -> None:
        """Raise `BadParameter` if one option makes another one meaningless."""
        chosen = (self.once, self.status, self.check, self.reconcile, self.replay_from is not None)
        if sum(chosen) > 1:
            raise typer.BadParameter("--once, --status, --check, --reconcile and --replay-from exclude each other")
        if self.replay_from is not None and sink is None:
            raise typer.BadParameter("--replay-from needs --sink NAME: positions are those of one sink")
        if sink is not None and self.replay_from is None and not self.reconcile:
            raise typer.BadParameter("--sink goes with --replay-from and --reconcile; all sinks are delivered to")
        if listen is not None and any(chosen):
            raise typer.BadParameter("--listen is for a deliverer that goes on running")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "deliver",
        epilog="Example: audit-async deliver --config /etc/audit-async/deliver.toml --listen 127.0.0.1:9465. "
        "Again from noon on: audit-async deliver --config deliver.toml --replay-from 2026-11-29T12:00:00Z --sink siem",
        short_help="Deliver records to SIEMs, syslog, webhooks and files.",
    )(deliver)


@with_option_groups
def deliver(
    directory: DirectoryOrConfigured = None,
    *,
    config: Config,
    works: Works,
    sink: SinkName = None,
    service: Service = None,
    instance: Instance = None,
    listen: Listen = None,
    as_json: Json = False,
) -> None:
    """Deliver the records of all logs to the sinks of a file, as they become durable, until SIGTERM.

    At least once and in order: how far a sink has a log is stored after the receiver's answer, so the command may be
    killed at any moment, and a record that then comes twice has the same audit_id. A receiver that fails is tried
    again, at growing intervals; a record that it refuses alone is set aside, and recorded.

    Status 0: all is delivered, or nothing is wrong; 1: something is refused, or lacks; 3: a receiver does not answer.
    """
    output = Output(as_json=as_json)
    works.check_together(sink, listen)
    if (service is not None or instance is not None) and works.replay_from is None:
        raise typer.BadParameter("--service and --instance go with --replay-from; a sink has `services` of its own")
    address = None if listen is None else _address(listen)
    start = None if works.replay_from is None else replay_start(works.replay_from, "--replay-from")

    async def run() -> ExitStatus:
        settings = await anyio.to_thread.run_sync(read_deliver_settings, config)
        trail = base_dir_of(settings, directory)
        if works.check:
            _show_check(output, settings, trail)
            missing = await anyio.to_thread.run_sync(_trail_missing, trail)
            for problem in [*missing, *await anyio.to_thread.run_sync(_secrets_missing, settings)]:
                output.message(f"audit-async: {problem}", "yellow")
            return ExitStatus.OK
        if works.status:
            return _show(output, await anyio.to_thread.run_sync(_statuses, settings, trail))
        if works.reconcile:
            if sink is not None:
                sink_of(settings, sink)
            return _show_reconciled(output, await reconcile(settings, sink=sink, base_dir=trail))
        if start is not None:
            return await replayed(
                output, settings, sink or "", start, trail, service=service, instance=instance,
                requested_by=works.as_name,
            )  # fmt: skip
        await anyio.to_thread.run_sync(_require_owner, Path(settings.own_log or trail))
        deliverer = Deliverer(settings, base_dir=trail)
        if works.once:
            statuses = await deliverer.run_once()
            return _show(output, [(one, one.state.value) for one in statuses])
        return await _deliver(deliverer, output, address, f"{trail} to {', '.join(one.name for one in settings.sinks)}")

    perform(output, run)


def _require_owner(own_base: Path) -> None:
    """Raise `Refused` if the own log's files would not belong to the owner of the base directory."""
    if own_base.exists():
        require_owner(own_base)


async def replayed(
    output: Output,
    settings: DeliverSettings,
    sink: str,
    start: ReplayStart,
    directory: Path | None,
    *,
    service: str | None,
    instance: str | None,
    requested_by: str | None,
) -> ExitStatus:
    """Set the positions of a sink, and show them; for this command and for `replay`."""
    trail = base_dir_of(settings, directory)
    sink_of(settings, sink)
    await anyio.to_thread.run_sync(_require_owner, Path(settings.own_log or trail))
    moved = await replay(
        settings, sink, start, base_dir=trail, service=service, instance=instance, requested_by=requested_by
    )
    return _show_replayed(output, sink, moved)


async def _deliver(deliverer: Deliverer, output: Output, address: tuple[str, int] | None, what: str) -> ExitStatus:
    """Deliver until a signal comes."""
    async with AsyncExitStack() as opened:
        signals = opened.enter_context(anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT))
        where = ""
        if address is not None:
            from audit_async.delivery.delivery_metrics import answering  # noqa: PLC0415 - needs an extra

            where = await opened.enter_async_context(answering(*address, lambda: deliverer.statuses))
        failed: list[Exception] = []

        async def run() -> None:
            try:
                await deliverer.run()
            except (DelivererRuns, OSError) as error:
                failed.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            output.message(
                f"audit-async: delivering {what}" + (f"; metrics at http://{where}/metrics" if where else "")
            )
            async for _signal in signals:
                break
            tasks.cancel_scope.cancel()
    if failed:
        raise failed[0]
    return ExitStatus.OK


# -- what is shown ------------------------------------------------------------------------------------------------


def _statuses(settings: DeliverSettings, trail: Path) -> list[tuple[DeliveryStatus, str]]:
    """Return how far each sink has each log, by the stored positions, and what the deliverer said last."""
    state_dir = Path(settings.state_dir)
    written = read_status_file(state_dir)
    known = {} if written is None else {(one.sink, one.log.log_id): one for one in written.statuses}
    found = []
    for sink in settings.sinks:
        directory = SinkDirectory(state_dir, sink.name)
        running = directory.is_locked()
        for log in logs_of(trail):
            if not log.log_id or (sink.services and log.service_id not in sink.services):
                continue
            if isinstance(sink, AlertSettings) and log.service_id == OWN_SERVICE:
                continue  # an alert must not raise the next one, so this sink never reads that log
            position = directory.read(log.log_id) or Position(log_id=log.log_id, log=log.name)
            head = read_acknowledged(log.directory)
            last = known.get((sink.name, log.log_id))
            status = DeliveryStatus(
                sink=sink.name,
                log=DeliveredLog(log_id=log.log_id, service=log.service_id, instance=log.instance, host=""),
                state=DeliveryState.STARTING if last is None else last.state,
                seq=position.seq,
                acknowledged_seq=-1 if head is None else head.seq,
                delivered=position.delivered,
                set_aside=position.set_aside,
                failures=0 if last is None else last.failures,
                waiting_since=None if last is None else last.waiting_since,
                problem=None if last is None else last.problem,
            )
            # What it wrote last is of some seconds ago; what the positions say is of now.
            caught_up = not status.lag_records and (not running or status.state in _ON_ITS_WAY)
            shown = DeliveryState.CAUGHT_UP.value if caught_up else status.state.value if running else _STOPPED
            found.append((status, shown))
    return found


def _show(output: Output, found: list[tuple[DeliveryStatus, str]]) -> ExitStatus:
    found = sorted(found, key=lambda one: (one[0].sink, one[0].log.name))
    if output.as_json:
        output.document({"deliveries": [_as_json(status, state) for status, state in found], "at": time.time()})
    else:
        output.grouped_table(
            [Column("sink"), Column("log"), Column("state"), Column("durable", right=True),
             Column("position", right=True), Column("lag", right=True), Column("set aside", right=True)],
            [
                (one.sink, one.log.name, Cell(state, _STYLES.get(state, "")), _seq(one.acknowledged_seq), _seq(one.seq),
                 f"{one.lag_records}", f"{one.set_aside}")
                for one, state in found
            ],
        )  # fmt: skip
        for one, state in found:
            if one.problem is not None and state != DeliveryState.CAUGHT_UP.value:
                output.line(Cell(f"{one.sink}: {one.log.name}", "bold"), f": {one.problem}")
    if any(one.state.needs_a_person for one, _ in found):
        return ExitStatus.FINDINGS
    failing = {DeliveryState.RETRYING, DeliveryState.STATE_UNUSABLE}
    return ExitStatus.UNREADABLE if any(one.state in failing for one, _ in found) else ExitStatus.OK


def _as_json(one: DeliveryStatus, state: str) -> dict[str, object]:
    return {
        "sink": one.sink,
        "service": one.log.service,
        "instance": one.log.instance,
        "log_id": one.log.log_id,
        "state": state,
        "durable_seq": one.acknowledged_seq,
        "position_seq": one.seq,
        "lag_records": one.lag_records,
        "waiting_since": one.waiting_since,
        "delivered": one.delivered,
        "set_aside": one.set_aside,
        "problem": one.problem,
    }


def _trail_missing(trail: Path) -> list[str]:
    """Say what is the matter with a directory that has no log: a deliverer would wait there for one, without a word."""
    try:
        logs_of(trail)
    except (AuditError, OSError) as error:
        return [f"base_dir: {describe(error)}; a deliverer waits there for a log"]
    return []


def _secrets_missing(settings: DeliverSettings) -> list[str]:
    """Say which secrets can't be read here; the deliverer's unit may well have what this shell has not."""
    sources = [
        (sink.name, member, source)
        for sink in settings.sinks
        for member in ("url", "token", "hmac_key")
        if (source := getattr(sink, member, None)) is not None
        and (member != "url" or source.startswith(("env:", "credential:")))
    ]
    if not sources:
        return []
    try:
        from audit_async.tlog.signing_keys import read_secret  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        needed = f"it needs {error.name}; install it with: pip install 'audit-async[cli,deliver]'"
        raise ConfigError(f"sink.{sources[0][0]}.type", needed) from error
    missing = []
    for sink, member, source in sources:
        try:
            read_secret(source.removeprefix("file:"))
        except KeyUnavailable as error:
            missing.append(f"sink {sink}: {member} can't be read by this process: {error}")
    return missing


def _show_check(output: Output, settings: DeliverSettings, trail: Path) -> None:
    sinks = [(sink.name, str(sink.__struct_config__.tag), sink.format) for sink in settings.sinks]
    if output.as_json:
        output.document(
            {
                "base_dir": str(trail),
                "sinks": [dict(zip(("name", "type", "format"), one, strict=True)) for one in sinks],
            }
        )
    else:
        output.table([Column("sink"), Column("type"), Column("format")], sinks)


def _show_replayed(output: Output, sink: str, moved: list[Replayed]) -> ExitStatus:
    if output.as_json:
        output.document({"sink": sink, "logs": moved})
    for one in moved if not output.as_json else ():
        output.line(
            Cell(one.log, "bold"), f"  {sink} gets it from record {one.from_seq} on; it had {_seq(one.before_seq)}"
        )
    return ExitStatus.OK


def _show_reconciled(output: Output, found: list[Reconciled]) -> ExitStatus:
    if output.as_json:
        output.document({"sinks": found})
    else:
        output.grouped_table(
            [Column("sink"), Column("log"), Column("sent", right=True), Column("found", right=True), Column("result")],
            [
                (one.sink, one.log or "all", f"{one.sent}", "" if one.found is None else f"{one.found}", _verdict(one))
                for one in found
            ],
        )
        for one in found:
            if one.problem is not None:
                output.line(Cell(f"{one.sink}: {one.log or 'all'}", "bold"), f": {one.problem}")
    return ExitStatus.FINDINGS if any(one.differs for one in found) else ExitStatus.OK


def _verdict(one: Reconciled) -> Cell:
    if one.differs:
        return Cell("lacks some" if one.missing_seq is None else f"lacks record {one.missing_seq}", "red")
    if one.found is None:
        return Cell("not known", "yellow")
    return Cell("has all", "green")


def _seq(seq: int) -> str:
    return "none" if seq < 0 else str(seq)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter("--listen: give HOST:PORT, such as 127.0.0.1:9465")
    return host.strip("[]"), int(port)


def replay_start(text: str, option: str) -> ReplayStart:
    """Return what `--replay-from`, or `--from`, names; raises `BadParameter`."""
    if text == "end":
        return text
    if text.isdecimal() and text.isascii():
        return int(text[:18])
    found = parse_time(text, option, now=datetime.now(UTC))
    assert found is not None  # noqa: S101 - of a text that is given
    return found
