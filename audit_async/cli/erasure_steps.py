"""The steps of erasures that wait, for `audit-async erase`: request, approve, cancel, execute, and showing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer

from audit_async._query.sealing_logs import seals
from audit_async._trail.log_files import Log
from audit_async.cli.key_options import KeyOptions
from audit_async.cli.run import ExitStatus
from audit_async.cli.terminal import Cell, Column, Output, count_of
from audit_async.cli.writing import OWN_SERVICE, base_directory, config_for, own_base_directory, require_owner
from audit_async.config import AuditConfig, Local
from audit_async.errors import LogLocked
from audit_async.logger import AuditLogger

if TYPE_CHECKING:
    from audit_async.privacy.erasure_requests import ErasureRequest
    from audit_async.privacy.subjects import Subject

__all__ = ["Requested", "StepOptions", "in_free_log", "show_waiting", "take_step"]

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """What to do with erasures that wait; at most one of these."""

    request: Annotated[
        bool, typer.Option("--request", help="Request it: it waits, as the rules of the key store say.")
    ] = False
    approve: Annotated[
        str | None,
        typer.Option("--approve", metavar="ID", help="Approve a request, of the person that --subject names again."),
    ] = None
    cancel: Annotated[
        str | None, typer.Option("--cancel", metavar="ID", help="Cancel a request; nothing is destroyed.")
    ] = None
    due: Annotated[bool, typer.Option("--due", help="Execute now what has waited long enough.")] = False
    waiting: Annotated[bool, typer.Option("--waiting", help="Show what waits, until when, and for what.")] = False

    def chosen(self) -> str | None:
        """Return the name of the one that is given, None if none is; raises `typer.BadParameter` for several."""
        given = [field.name for field in fields(self) if getattr(self, field.name)]
        if len(given) > 1:
            raise typer.BadParameter(f"--{given[0]} and --{given[1]} are different steps; give one")
        return given[0] if given else None


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a request, and the request after it."""

    step: str
    recorded_in: str
    request: ErasureRequest | None


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """What was executed."""

    erasures: int
    keys: int
    kept_keys: int
    waiting_for: list[str]
    recorded_in: str


async def take_step(  # the parts of a step
    output: Output,
    logs: list[Log],
    keys: KeyOptions,
    steps: StepOptions,
    *,
    person: Subject | None,
    by: str,
    reason: str,
) -> ExitStatus:
    """Do one step with a log that no service writes, and show what came of it."""
    step = steps.chosen()

    async def take(audit: AuditLogger) -> ErasureRequest | Executed | None:
        if step == "due":
            done = await audit.execute_erasures()
            return Executed(
                erasures=len(done),
                keys=sum(one.keys for one in done),
                kept_keys=sum(one.kept_keys for one in done),
                waiting_for=sorted({name for one in done for name in one.waiting_for}),
                recorded_in="",
            )
        if steps.cancel is not None:
            await audit.cancel_erasure(steps.cancel, reason=reason, cancelled_by=by)
            return None
        assert person is not None  # noqa: S101 - the command has asked for it
        tenant = person.tenant or None
        if steps.approve is not None:
            return await audit.approve_erasure(
                steps.approve, person.id, kind=person.kind, tenant=tenant, approved_by=by
            )
        return await audit.request_erasure(person.id, kind=person.kind, tenant=tenant, reason=reason, requested_by=by)

    result, name = await in_free_log(logs, keys, person, take)
    if isinstance(result, Executed):
        return _show_executed(output, msgspec.structs.replace(result, recorded_in=name))
    done = {"request": "requested", "approve": "approved", "cancel": "cancelled"}[step or "request"]
    if output.as_json:
        output.document(Requested(step=done, recorded_in=name, request=result))
        return ExitStatus.OK
    output.line(Cell(done, "yellow" if result is not None else "green"), f"  recorded in {name}")
    if result is not None:
        output.line(f"Nothing is erased yet. Request {result.request_id} {_waits_for(result)}.")
    return ExitStatus.OK


async def in_free_log(
    logs: list[Log], keys: KeyOptions, person: Subject | None, call: Callable[[AuditLogger], Awaitable[_T]]
) -> tuple[_T, str]:
    """Return what a call returns that is recorded in the first log that no service writes, and that log's name."""
    for config, name in _configurations(logs, keys, person):
        try:
            async with AuditLogger(config) as audit:
                return await call(audit), name
        except LogLocked:
            continue  # a service writes it; the key store is the same all the same
    raise AssertionError  # the command line's own log takes a free slot


def _configurations(logs: list[Log], keys: KeyOptions, person: Subject | None) -> Iterator[tuple[AuditConfig, str]]:
    """Yield the logs that may record it, each with its name: those that seal, then the command line's own."""
    privacy = keys.privacy()
    if privacy is not None and person is not None and person.tenant:
        # Or a tenant would be refused. Which member of the context names it is of no account: no event has one here.
        privacy = msgspec.structs.replace(privacy, tenant_binding="tenant")
    base_dir = own_base_directory(logs[0], "erase on the host that has the key store, and the log itself")
    for log in logs:
        if log.service_id != OWN_SERVICE and seals(log):
            require_owner(log.directory)
            yield msgspec.structs.replace(config_for(log), privacy=privacy), log.name
    require_owner(base_dir)
    yield AuditConfig(mode=Local(base_dir), service_id=OWN_SERVICE, privacy=privacy), OWN_SERVICE


def show_waiting(output: Output, logs: list[Log], keys: KeyOptions) -> ExitStatus:
    """Show the requests of a key store, which is only read."""
    with keys.opened(base_directory(logs[0])) as store:
        assert store is not None  # noqa: S101 - there is a --key-store
        waiting = store.requests.waiting()
    if output.as_json:
        output.document({"waiting": waiting})
        return ExitStatus.OK
    if not waiting:
        output.line("No erasure waits.")
        return ExitStatus.OK
    rows = [
        [one.request_id, f"{one.requested_at:%Y-%m-%d %H:%M}", one.requested_by, one.reason, _waits_for(one)]
        for one in waiting
    ]
    output.table([Column(title) for title in ("request", "requested", "by", "reason", "state")], rows)
    return ExitStatus.OK


def _waits_for(request: ErasureRequest) -> str:
    if request.is_executing:
        return "is being executed"
    until = f"waits until {request.not_before:%Y-%m-%d %H:%M} UTC"
    if request.needs_approval and not request.is_approved:
        return f"{until}, and for an approval"
    return until if request.approved_by is None else f"{until}, approved by {request.approved_by}"


def _show_executed(output: Output, executed: Executed) -> ExitStatus:
    if output.as_json:
        output.document(executed)
    else:
        output.line(
            Cell("executed", "green"),
            f"  {count_of(executed.erasures, 'erasure')}, {count_of(executed.keys, 'key')} destroyed, recorded in "
            f"{executed.recorded_in}",
        )
        if executed.kept_keys:
            output.line(f"{count_of(executed.kept_keys, 'key')} kept, by the rules too young; request those again.")
        if executed.waiting_for:
            output.line(Cell("waiting", "yellow"), f"  Not confirmed yet by {', '.join(executed.waiting_for)}.")
    return ExitStatus.UNREADABLE if executed.waiting_for else ExitStatus.OK
