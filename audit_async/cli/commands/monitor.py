"""`audit-async monitor`: watching a published log from another machine, and keeping what it has shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal

import anyio
import msgspec
import typer
from anyio import to_thread

from audit_async._export.export_file import ExportFailed, new_file
from audit_async._verify.signed_trail import published_at
from audit_async.cli.arguments import Json
from audit_async.cli.cosignatures import Cosigned, cosigned_by
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Output, Style
from audit_async.cli.trusted import Trust
from audit_async.errors import AuditError
from audit_async.tlog.failures import (
    InconsistentLog,
    InvalidSignature,
    LogRolledBack,
    Malformed,
    QuorumNotMet,
    SourceFailed,
    TilesDamaged,
)
from audit_async.tlog.log_monitor import Observation, Seen, load_seen, observe, save_seen
from audit_async.tlog.policy import Policy
from audit_async.tlog.tiles import FileReader

__all__ = ["register"]

_DEFAULT_EVERY_S: Final = 60.0

#: - `first`: nothing to compare with yet
#: - `grown`, `unchanged`: the log is still the one that was there before
#: - `fork`, `rollback`: it is not; the evidence was kept
#: - `not_accepted`: no accepted key has signed the checkpoint
#: - `not_cosigned`: too few witnesses have cosigned it, perhaps not yet
#: - `damaged`: something that is published is not what its place demands
#: - `unreachable`: nothing could be read
Outcome = Literal[
    "first", "grown", "unchanged", "fork", "rollback", "not_accepted", "not_cosigned", "damaged", "unreachable"
]

_STYLES: Final[dict[Outcome, Style]] = {
    "first": "yellow",
    "grown": "green",
    "unchanged": "dim",
    "not_cosigned": "yellow",
}
#: What nothing that comes later can repair.
_FINAL: Final = frozenset[Outcome]({"fork", "rollback", "not_accepted"})


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has shown."""

    time: str  #: by this machine's clock
    outcome: Outcome
    origin: str | None = None
    size: int | None = None
    new_records: int | None = None  #: since the look before; all of them at the first one
    cosigned_by: list[Cosigned] = []
    reason: str | None = None
    evidence: list[str] = []  #: files with the notes that contradict each other

    @property
    def status(self) -> ExitStatus:
        """How a command ends that looked once."""
        if self.outcome in {"first", "grown", "unchanged"}:
            return ExitStatus.OK
        return ExitStatus.UNREADABLE if self.outcome == "unreachable" else ExitStatus.FINDINGS


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        "monitor",
        epilog="Example: audit-async monitor https://log.example/orders --vkey ... --state orders.seen",
        short_help="Watch a published log from elsewhere: is it still the one that it was?",
    )(monitor)


@with_option_groups
def monitor(
    source: Annotated[
        str, typer.Argument(metavar="URL|DIR", show_default=False, help="Where the log publishes its checkpoint.")
    ],
    *,
    state: Annotated[
        Path, typer.Option("--state", metavar="FILE", help="What was seen, kept from one run to the next.")
    ],
    trust: Trust,
    every: Annotated[
        float, typer.Option("--every", min=0.1, max=86_400, metavar="SECONDS", help="Time from one look to the next.")
    ] = _DEFAULT_EVERY_S,
    once: Annotated[bool, typer.Option("--once", help="Look once, for cron or a timer.")] = False,
    entries: Annotated[
        bool, typer.Option("--entries", help="Also read the hash of every new record, and compare all tiles.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Watch a published log: each checkpoint must be signed as the policy says, and follow from the largest one seen.

    Ends with exit status 1 on a fork, a rollback or a foreign signature; the two notes that contradict each other are
    kept next to the state, which stays at what was seen before. Other trouble is reported and tried again; with
    --once it is the exit status. Run it on a machine that the log's operator does not run. With --json each look is a
    line.
    """
    trust.require()
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        policy = trust.policy()
        read_file = published_at(source)
        while True:
            watch = partial(_look, read_file, policy, state, entries=entries)
            look = await to_thread.run_sync(watch, abandon_on_cancel=True)
            _report(output, look)
            if once or look.outcome in _FINAL:
                return look.status
            output.flush()
            await anyio.sleep(every)

    perform(output, run)


def _look(read_file: FileReader, policy: Policy, state: Path, *, entries: bool) -> Look:
    """Look once, and remember what was seen; blocks. Raises if the state can't be read or kept."""
    seen = load_seen(state)
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    try:
        observation = observe(read_file, policy, seen, entries=entries)
        if observation.seen != seen:
            save_seen(state, observation.seen, after=seen, read_file=read_file)
    except InconsistentLog as error:
        kept = [str(path) for path in _keep(error.evidence, state)]
        outcome: Outcome = "rollback" if isinstance(error, LogRolledBack) else "fork"
        return Look(time=now, outcome=outcome, reason=str(error), evidence=kept)
    except (InvalidSignature, QuorumNotMet, TilesDamaged, Malformed, SourceFailed) as error:
        return Look(time=now, outcome=_outcome_of(error), reason=str(error))
    return _good(now, observation, seen)


def _good(now: str, observation: Observation, seen: Seen | None) -> Look:
    latest, previous = observation.latest, observation.previous
    new_records = latest.checkpoint.size - (previous.size if previous is not None else 0)
    return Look(
        time=now,
        outcome="first" if seen is None else "grown" if new_records else "unchanged",
        origin=latest.checkpoint.origin,
        size=latest.checkpoint.size,
        new_records=new_records,
        cosigned_by=cosigned_by(latest),
    )


def _outcome_of(error: AuditError) -> Outcome:
    if isinstance(error, InvalidSignature):
        return "not_accepted"
    if isinstance(error, QuorumNotMet):
        return "not_cosigned"
    return "unreachable" if isinstance(error, SourceFailed) else "damaged"


def _keep(evidence: tuple[bytes, ...], state: Path) -> Iterator[Path]:
    """Write notes next to the state, each under a name of its own, so that none ever takes the place of another."""
    for note in evidence:
        path = state.with_name(f"{state.name}.evidence-{sha256(note).hexdigest()[:16]}")
        with suppress(ExportFailed), new_file(path, overwrite=False) as file:  # kept by an earlier run
            file.file.write(note)
            file.finish()
        yield path


def _report(output: Output, look: Look) -> None:
    if output.as_json:
        output.json_row(look)
        return
    outcome = Cell(look.outcome.replace("_", " "), _STYLES.get(look.outcome, "red"))
    if look.reason is not None:
        output.line(Cell(look.time, "dim"), "  ", outcome, f"  {look.reason}")
        for path in look.evidence:
            output.whole(f"  evidence: {path}")
        return
    witnesses = ", ".join([f"{cosigned.name} at {cosigned.time}" for cosigned in look.cosigned_by])
    new = f"{look.new_records:,} of them new" if look.outcome != "first" else "nothing to compare them with yet"
    output.line(
        Cell(look.time, "dim"),
        "  ",
        outcome,
        f"  {look.origin}: {look.size:,} records, {new}",
        f"; cosigned by {witnesses}" if witnesses else "",
    )
