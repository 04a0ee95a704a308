"""`audit-async query`, `tail` and `show`: looking at records."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final

import anyio.to_thread
import msgspec
import typer

from audit_async._query.audit_query import AuditQuery
from audit_async._query.cursor import encode_cursor
from audit_async.cli.access import recording
from audit_async.cli.arguments import AccessLog, AsName, Directory, Instance, Json, Service
from audit_async.cli.filters import (
    Actor,
    AfterSeq,
    Context,
    Critical,
    Limit,
    NewestFirst,
    Resource,
    Since,
    Text,
    Types,
    Until,
    build_query,
)
from audit_async.cli.record_view import RecordLines, as_object, write_record
from audit_async.cli.run import ExitStatus, perform
from audit_async.cli.terminal import Output, count_of
from audit_async.events.recorded import Record
from audit_async.reader import AuditReader

__all__ = ["register"]

SkipDamage = Annotated[
    bool,
    typer.Option("--skip-damage", help="Leave damaged records out and say how many, instead of stopping at the first."),
]

_AUDIT_ID: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]+", re.ASCII)
#: Records that are shown before what is flushed: often for whoever waits, seldom for speed.
_FLUSHED_AFTER: Final = 100


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        "query",
        epilog="Example: audit-async query ./audit --type 'auth.*' --actor mallory --since 24h",
        short_help="Find records by actor, resource, type, time and text.",
    )(query)
    app.command(
        "tail", epilog="Example: audit-async tail -f ./audit", short_help="Show the last records, and follow with -f."
    )(tail)
    app.command(
        "show", epilog="Example: audit-async show 41 ./audit --log orders/00", short_help="Show one record whole."
    )(show)


def query(
    directory: Directory,
    *,
    service: Service = None,
    instance: Instance = None,
    actor: Actor = None,
    resource: Resource = None,
    types: Types = None,
    since: Since = None,
    until: Until = None,
    critical: Critical = None,
    context: Context = None,
    text: Text = None,
    after_seq: AfterSeq = None,
    limit: Limit = None,
    newest_first: NewestFirst = False,
    no_index: Annotated[bool, typer.Option("--no-index", help="Read the records alone, and make no index.")] = False,
    skip_damage: SkipDamage = False,
    as_name: AsName = None,
    access_log: AccessLog = None,
    as_json: Json = False,
) -> None:
    """Find records; what is shown was checked by its own hash, whether the chain holds is for verify.

    Several logs are merged by time. With --json each record is a line of NDJSON, in ASCII: the same data, but not the
    recorded bytes, which export --format ndjson has.
    """
    wanted = build_query(
        actor=actor,
        resource=resource,
        types=types,
        since=since,
        until=until,
        critical=critical,
        context=context,
        text=text,
        after_seq=after_seq,
        limit=limit,
        newest_first=newest_first,
    )
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = AuditReader(directory, service=service, instance=instance)
        lines = await _lines_for(reader, output)
        async with recording(reader, as_name, access_log) as audit:
            records = reader.query(
                wanted,
                audit=audit,
                accessed_by=as_name,
                use_index=not no_index,
                on_damage="skip" if skip_damage else "raise",
            )
            await _write_all(records, lines, output)
        if not as_json:
            output.flush()
            output.message(count_of(lines.written, "record"), "dim")
        return ExitStatus.OK

    perform(output, run)


def tail(
    directory: Directory,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new records as they are written.")] = False,
    number: Annotated[int, typer.Option("-n", "--number", min=0, metavar="N", help="How many old ones to show.")] = 10,
    service: Service = None,
    instance: Instance = None,
    actor: Actor = None,
    resource: Resource = None,
    types: Types = None,
    critical: Critical = None,
    context: Context = None,
    text: Text = None,
    skip_damage: SkipDamage = False,
    as_name: AsName = None,
    access_log: AccessLog = None,
    as_json: Json = False,
) -> None:
    """Show the last records and, with -f, new ones about a tenth of a second after they were written. Ctrl-C ends it.

    A record is shown once the writer has handed it to the operating system; from outside nobody can see whether it is
    on stable storage already.
    """
    wanted = build_query(actor=actor, resource=resource, types=types, critical=critical, context=context, text=text)
    output = Output(as_json=as_json)
    on_damage: Final = "skip" if skip_damage else "raise"

    async def run() -> ExitStatus:
        reader = AuditReader(directory, service=service, instance=instance)
        lines = await _lines_for(reader, output)
        async with recording(reader, as_name, access_log) as audit:
            # What is written while the old records are looked for is left to the following, so none is lost between.
            ends = await _ends(reader) if follow else None
            old: list[Record] = []
            if number:
                last = msgspec.structs.replace(wanted, newest_first=True, limit=number)
                newest = reader.query(last, audit=audit, accessed_by=as_name, on_damage=on_damage)
                async with aclosing(newest) as records:
                    old = [record async for record in records][::-1]
            for record in old:
                if ends is None or record.seq <= ends.get(record.log, -1):
                    lines.write(record)
            output.flush()
            if ends is not None:
                after = encode_cursor(wanted, ends)
                new = reader.follow(query=wanted, after=after, audit=audit, accessed_by=as_name, on_damage=on_damage)
                await _write_all(new, lines, output, at_once=True)
        return ExitStatus.OK

    perform(output, run)


def show(
    which: Annotated[
        str, typer.Argument(metavar="SEQ", show_default=False, help="A sequence number, or a record's audit_id.")
    ],
    directory: Directory,
    *,
    log: Annotated[
        str | None, typer.Option("--log", metavar="LOG", help="The log, such as orders/00, where there are several.")
    ] = None,
    as_name: AsName = None,
    access_log: AccessLog = None,
    as_json: Json = False,
) -> None:
    """Show one record whole: every member, where it stands, and the hashes of the records beside it."""
    is_seq = which.isascii() and which.isdecimal() and len(which) <= 18
    if not is_seq and not _AUDIT_ID.fullmatch(which):
        raise typer.BadParameter(f"{which[:80]!a} is no sequence number and no audit_id such as 5f0c1e9b7a3d2c48-29")
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        reader = AuditReader(directory)
        async with recording(reader, as_name, access_log) as audit:
            placed = await reader.record(
                int(which) if is_seq else None,
                audit_id=None if is_seq else which,
                log=log,
                audit=audit,
                accessed_by=as_name,
            )
        if as_json:
            output.document(
                {
                    "record": as_object(placed.record),
                    "segment": placed.segment,
                    "byte_offset": placed.byte_offset,
                    "previous": placed.previous._asdict() if placed.previous is not None else None,
                    "next": placed.next._asdict() if placed.next is not None else None,
                    "is_linked": placed.is_linked,
                }
            )
        else:
            write_record(output, placed)
        return ExitStatus.OK if placed.is_linked else ExitStatus.FINDINGS

    perform(output, run)


async def _ends(reader: AuditReader) -> dict[str, int]:
    """Return the sequence number of each log's last record."""
    ends: dict[str, int] = {}
    for log in await anyio.to_thread.run_sync(reader.logs):
        newest = AuditReader(log.directory).query(AuditQuery(newest_first=True, limit=1), on_damage="skip")
        async with aclosing(newest) as records:
            ends[log.name] = max([record.seq async for record in records], default=-1)
    return ends


async def _lines_for(reader: AuditReader, output: Output) -> RecordLines:
    logs = await anyio.to_thread.run_sync(reader.logs)
    return RecordLines(output, several_logs=len(logs) > 1)


async def _write_all(
    records: AsyncGenerator[Record, None], lines: RecordLines, output: Output, *, at_once: bool = False
) -> None:
    """Write records as they come; with `at_once` nobody has to wait for the next one to see this one."""
    async with aclosing(records):
        async for record in records:
            lines.write(record)
            if at_once or lines.written % _FLUSHED_AFTER == 0:
                output.flush()
