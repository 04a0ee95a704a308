"""`audit-async verify`: whether a trail is what was written."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from audit_async._verify.findings import Note
from audit_async._verify.verified_before import FULL_EVERY
from audit_async._verify.verify_report import LogReport, VerifyReport
from audit_async._verify.verify_scope import Everything, LastRecords, Scope, SeqRange, TimeRange
from audit_async.cli.arguments import Json, parse_duration, parse_heads, parse_seq_range, parse_time
from audit_async.cli.filters import Since, Until
from audit_async.cli.option_groups import with_option_groups
from audit_async.cli.place import ReadableLogs
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Cell, Column, Output, byte_size, count_of
from audit_async.cli.trusted import Published, Trust
from audit_async.reader import AuditReader, CheckedIndex

__all__ = ["register"]

#: Findings and notes that a person is shown; all of them are in the JSON.
_SHOWN: Final = 100
#: Logs that are named in a note on several of them.
_NAMED: Final = 2


Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, metavar="N", help="Processes that check segments; one a core by default."),
]

ExpectedHeads = Annotated[
    list[str] | None,
    typer.Option(
        "--expected-head",
        metavar="[LOG=]SEQ:HASH",
        help="A head that was kept elsewhere: the only way, without signatures, to see that a log's end was cut "
        "off or rewritten. May be repeated.",
    ),
]
Checkpoints = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        readable=False,
        help="With --vkey or --policy: a signed checkpoint that was kept elsewhere, which shows a log that came "
        "back from an older backup. May be repeated.",
    ),
]
KeysOf = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="STORE",
        readable=False,
        help="Also check that this key store has, or has destroyed, each key that a record is sealed under, and is "
        "no older than the logs. Needs no master key; reads everything once more.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ScopeChoice:
    """The options that say which part of each log is checked."""

    last: Annotated[
        int | None, typer.Option("--last", min=1, metavar="N", help="Only the last N records of each log.")
    ] = None
    seq: Annotated[str | None, typer.Option("--seq", metavar="A-B", help="Only these sequence numbers.")] = None
    since: Since = None
    until: Until = None
    skip_encrypted: Annotated[
        bool,
        typer.Option(
            "--skip-encrypted",
            help="Call a trail valid whose encrypted archives no --identity opens: of these the files are checked, and "
            "the records are not.",
        ),
    ] = False

    def scope(self) -> Scope:
        """Return the scope; raises `typer.BadParameter` if the options contradict each other."""
        if sum(option is not None for option in (self.last, self.seq, self.since or self.until)) > 1:
            raise typer.BadParameter("--last, --seq and --since/--until say different things; give one of them")
        if self.last is not None:
            return LastRecords(self.last)
        if self.seq is not None:
            return SeqRange(*parse_seq_range(self.seq))
        if self.since is None and self.until is None:
            return Everything()
        now = datetime.now(UTC)
        start = parse_time(self.since, "--since", now=now) or datetime.min.replace(tzinfo=UTC)
        end = parse_time(self.until, "--until", now=now, end_of_day=True) or datetime.max.replace(tzinfo=UTC)
        if start >= end:
            raise typer.BadParameter("--until is not later than --since")
        return TimeRange(start, end)


@dataclass(frozen=True, kw_only=True)
class StateChoice:
    """The options that say what need not be read again."""

    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="FILE",
            readable=False,
            help="Continue from what was verified before, and keep it in this file, outside of the trail: reads what "
            "is new or was changed, and finds a log that was cut off or replaced since.",
        ),
    ] = None
    full: Annotated[bool, typer.Option("--full", help="With --state: read everything all the same.")] = False
    full_every: Annotated[
        str | None,
        typer.Option(
            "--full-every", metavar="AGE", help="With --state: read everything if the last time is longer ago. [7d]"
        ),
    ] = None

    def every_with(self, scope: Scope) -> timedelta:
        """Return how often everything is read; raises `typer.BadParameter` if the options contradict each other."""
        if self.state is not None and not isinstance(scope, Everything):
            raise typer.BadParameter("--state is of whole logs; --last, --seq, --since and --until don't go with it")
        if self.state is None and (self.full or self.full_every is not None):
            raise typer.BadParameter("--full and --full-every belong to --state; without it everything is read")
        return FULL_EVERY if self.full_every is None else parse_duration(self.full_every, "--full-every")


@dataclass(frozen=True, kw_only=True)
class WorkChoice:
    """The options that say how much is done, and by how many."""

    processes: Processes = None
    index: Annotated[
        bool,
        typer.Option(
            "--index",
            help="Also compare the index files with the records. They are a cache: one that is wrong hides records "
            "from queries, and says nothing about the log.",
        ),
    ] = False


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        "verify",
        epilog="Example: audit-async verify ./audit --expected-head orders/00=41:5f0c.... What is new since the last "
        "time: audit-async verify /mnt/audit --state /var/lib/audit-verify/state. With its keys: audit-async verify "
        "./audit --keys /var/lib/orders-keys",
        short_help="Check that nothing was changed, removed or inserted.",
    )(verify)


@with_option_groups
def verify(
    at: ReadableLogs,
    *,
    expected_head: ExpectedHeads = None,
    trust: Trust,
    checkpoint: Checkpoints = None,
    published: Published = None,
    scope: ScopeChoice,
    state: StateChoice,
    keys: KeysOf = None,
    work: WorkChoice,
    as_json: Json = False,
) -> None:
    """Check every record, link, segment, checksum and manifest.

    It needs no lock and works next to a running service. Keep the heads that it shows somewhere else, and give them to
    --expected-head the next time. With --vkey or --policy the records must also lead to every signed checkpoint.

    Exit status: 0 valid, 1 something was found, 2 wrong arguments, 3 something can't be read or an index is wrong.
    """
    if trust.is_given or checkpoint or published is not None:
        trust.require()
    wanted = scope.scope()
    if keys is not None and not isinstance(wanted, Everything):
        raise typer.BadParameter("--keys is of whole logs; --last, --seq, --since and --until don't go with it")
    full_every = state.every_with(wanted)
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        policy = trust.policy() if trust.is_given else None
        reader = at.reader()
        with output.meter("verifying") as meter:
            report = await reader.verify(
                wanted,
                expected_heads=parse_heads(expected_head or (), [log.name for log in reader.logs()]),
                policy=policy,
                known_checkpoints={str(path): path.read_bytes() for path in checkpoint or ()},
                published=published,
                state=state.state,
                full=state.full,
                full_every=full_every,
                skip_encrypted=scope.skip_encrypted,
                processes=work.processes,
                verify_keys=keys,
                progress=lambda progress: meter.show(progress.bytes_done, progress.bytes_total),
            )
        indexes = await _check_index(reader, output, work.processes) if work.index else None
        _show(output, report, indexes)
        if report.findings:
            return ExitStatus.FINDINGS
        wrong = any(index.problem for index in indexes or ())
        return ExitStatus.UNREADABLE if report.unreadable or wrong else ExitStatus.OK

    perform(output, run)


async def _check_index(reader: AuditReader, output: Output, processes: int | None) -> list[CheckedIndex]:
    with output.meter("comparing the index") as meter:
        async with aclosing(reader.check_index(processes=processes, progress=meter.show)) as checked:
            return [index async for index in checked]


def _show(output: Output, report: VerifyReport, indexes: list[CheckedIndex] | None) -> None:
    if output.as_json:
        added = {} if indexes is None else {"index": [msgspec.to_builtins(index) for index in indexes]}
        output.document(report.to_dict() | added)
        return
    records = sum(log.records for log in report.logs)
    read = byte_size(sum(log.bytes for log in report.logs))
    absent = {note.log for note in report.notes if note.kind == "not_here"}
    if report.valid and all(log.log in absent for log in report.logs):
        output.line(Cell("nothing to verify", "yellow"), "  no log has a record of what was asked for.")
    elif report.valid:
        output.line(
            Cell("valid", "green"), f"  {count_of(records, 'record')}, {read}: every hash and every link holds."
        )
        _before(output, report)
    elif not report.findings:
        pieces = count_of(len(report.unreadable), "piece")
        text = f"  {pieces} of the trail can't be read; of the rest {records:,} records hold, {read}."
        output.line(Cell("NOT verified", "yellow"), text)
    else:
        found = count_of(sum(log.findings for log in report.logs), "finding")
        output.line(Cell("NOT valid", "red"), f"  {found}; of the records {records:,} hold, {read}.")
        output.line()
        _findings(output, report)
    if report.unreadable:
        output.line()
        _unreadable(output, report)
    output.line()
    _logs(output, report.logs)
    _notes(output, report.notes)
    if indexes is not None:
        output.line()
        _indexes(output, indexes)


def _indexes(output: Output, indexes: list[CheckedIndex]) -> None:
    """Say whether the index files fit their segments; whether the log holds is said before."""
    wrong = [index for index in indexes if index.problem is not None]
    there = sum(index.index_bytes > 0 for index in indexes)
    without = f"; {count_of(len(indexes) - there, 'segment')} without one" if there < len(indexes) else ""
    if not wrong:
        output.line(f"Index: {count_of(there, 'file')} with all that is in the records, and nothing else{without}.")
        return
    output.line(Cell(f"Index: {len(wrong)} of {count_of(there, 'file')} must be made again{without}:", "yellow"))
    output.table(
        [Column("log"), Column("segment"), Column("what is wrong with its index")],
        [[index.log, index.segment, Cell(index.problem or "", "yellow")] for index in wrong[:_SHOWN]],
    )
    _more(output, len(wrong))
    output.line("The index is a cache: this says nothing about the log. Run audit-async index --again.")


def _before(output: Output, report: VerifyReport) -> None:
    """Say which of the logs were not read from their beginning: that is not what `valid` alone says."""
    times = sorted(log.verified_before for log in report.logs if log.verified_before is not None)
    if times:
        logs = f" of {len(times)} of {len(report.logs)} logs" if len(report.logs) > 1 else ""
        line = f"  verified before: {times[0]}; older records{logs} were not read again (--full reads them)."
        output.line(Cell(line, "yellow"))


def _findings(output: Output, report: VerifyReport) -> None:
    columns = [
        Column("log"), Column("segment"), Column("line", right=True), Column("seq", right=True),
        Column("byte", right=True), Column("what is wrong"),
    ]  # fmt: skip
    output.table(
        columns,
        [
            [
                found.log,
                found.segment or "",
                _number(found.line),
                _number(found.seq),
                _number(found.byte_offset),
                Cell(found.reason, "red"),
            ]
            for found in report.findings[:_SHOWN]
        ],
    )
    _more(output, len(report.findings))


def _unreadable(output: Output, report: VerifyReport) -> None:
    pieces: list[list[Cell | str]] = [
        [piece.log, piece.file, Cell(piece.reason, "yellow")] for piece in report.unreadable[:_SHOWN]
    ]
    output.table([Column("log"), Column("can't be read"), Column("why")], pieces)
    _more(output, len(report.unreadable))


def _logs(output: Output, logs: tuple[LogReport, ...]) -> None:
    """Show each log's head, unshortened: it is what is to be kept elsewhere."""
    output.line(Cell("Heads to keep elsewhere, for --expected-head the next time:", "bold"))
    for log in logs:
        if log.head is None:
            output.line(f"  {log.log}: none")
            continue
        output.whole(f"  {log.log}={log.head.seq}:{log.head.hash}")
        span = f"{(log.first_timestamp or '')[:19]} to {(log.last_timestamp or '')[:19]}".replace("T", " ")
        output.line(
            Cell(f"    {count_of(log.records, 'record')} in {count_of(log.segments, 'segment')}, {span}", "dim")
        )


def _notes(output: Output, notes: tuple[Note, ...]) -> None:
    if not notes:
        return
    output.line()
    output.line(Cell("What else to know:", "bold"))
    logs_by_text: dict[tuple[int | None, str], list[str]] = {}  # what applies to several logs is said once
    for note in notes:
        logs_by_text.setdefault((note.seq, note.text), []).append(note.log)
    rows: list[tuple[Cell | str, str]] = []
    for (seq, text), logs in logs_by_text.items():
        of = ", ".join(logs) if len(logs) <= _NAMED else f"{len(logs)} logs"
        rows.append((Cell(of if seq is None else f"{of}, seq {seq}", "yellow"), text))
    output.pairs(rows[:_SHOWN])
    _more(output, len(rows))


def _more(output: Output, number: int) -> None:
    if number > _SHOWN:
        output.line(f"  ... and {number - _SHOWN:,} more; --json has them all.")


def _number(number: int | None) -> str:
    return "" if number is None else str(number)
