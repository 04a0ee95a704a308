"""`audit-async events`: which events there are, built-in ones and a service's own, and whether a change of them fits.

The events of a service are found by importing the module that defines them, as the service does: its code runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from audit_async.cli.arguments import Json
from audit_async.cli.event_types import recorded_type
from audit_async.cli.run import ExitStatus, Refused, perform
from audit_async.cli.terminal import Cell, Column, Output, count_of
from audit_async.errors import InvalidEvent
from audit_async.events.base import AuditEvent
from audit_async.events.catalogue import CatalogueChange, EventEntry, catalogue, find_changes
from audit_async.events.registry import known_types

__all__ = ["register"]

Modules = Annotated[
    list[str],
    typer.Option(
        "--module",
        metavar="MODULE",
        help="Import this module, such as app.events, and show the events that it defines or imports, "
        "instead of the built-in ones. May be repeated.",
    ),
]
_BUILT_IN: Final = "audit_async.events."
_LIBRARY: Final = "audit_async."


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """A catalogue as a file: what `events schema` writes, and `events check` reads."""

    catalogue: int = 1  #: the version of this form
    events: list[EventEntry]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What `events check` has found."""

    compatible: bool
    changes: list[CatalogueChange]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Show types of events and their JSON Schemas; check changes.")
    app.add_typer(group, name="events")
    group.command(
        "list",
        epilog="Example: audit-async events list --module app.events",
        short_help="List the types of events.",
    )(list_events)
    group.command(
        "show", epilog="Example: audit-async events show auth.failure", short_help="Show one type and its members."
    )(show)
    group.command(
        "schema",
        epilog="Example: audit-async events schema --module app.events > events.json",
        short_help="Write the JSON Schema of one type, or the catalogue of all.",
    )(schema)
    group.command(
        "check",
        epilog="Example: audit-async events check events.json --module app.events",
        short_help="Check that records written before are still read; for CI.",
    )(check)


def list_events(*, module: Modules = [], as_json: Json = False) -> None:  # noqa: B006 - typer copies it
    """List the types of events, with what each is about.

    Critical events, marked with *, are durable at once in hybrid mode.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        entries = _entries(module)
        if as_json:
            for entry in entries:
                output.json_row(entry)
            return ExitStatus.OK
        columns = (Column("type", whole=True), Column("what it says"))
        rows = [(entry.event_type + (" *" if entry.critical else ""), _first_sentence(entry)) for entry in entries]
        output.table(columns, rows)
        output.line(f"{count_of(len(entries), 'type')}; * critical")
        return ExitStatus.OK

    perform(output, run)


def show(
    name: Annotated[
        str, typer.Argument(metavar="TYPE", help="A type, such as auth.failure, or the name of its class.")
    ],
    *,
    module: Modules = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """Show one type: its class, version, members, and which of them are personal."""
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        entry = _entry(name, _entries(module))
        if as_json:
            output.document(entry)
            return ExitStatus.OK
        output.line(Cell(entry.event_type, "bold"))
        output.line(entry.summary)
        output.pairs(
            [
                ("class", f"{entry.module}.{entry.name}"),
                ("version", str(entry.version)),
                ("critical", "yes" if entry.critical else "no"),
            ]
        )
        columns = (Column("member", whole=True), Column("type"), Column(""))
        output.table(columns, [_member(entry, member) for member in (*entry.required, *entry.optional)])
        if inner := [path for path in entry.personal if path not in {*entry.required, *entry.optional}]:
            output.line(f"personal as well: {', '.join(inner)}")
        return ExitStatus.OK

    perform(output, run)


def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="A type, or the name of its class; all if it is left out.")
    ] = None,
    *,
    module: Modules = [],  # noqa: B006 - typer copies it
) -> None:
    """Write the JSON Schema of one type, or the catalogue of all: keep that in a file for `events check`."""
    output = Output(as_json=True)

    async def run() -> ExitStatus:
        entries = _entries(module)
        output.document(Catalogue(events=entries) if name is None else _entry(name, entries).json_schema)
        return ExitStatus.OK

    perform(output, run)


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `events schema` has written before the change.")],
    *,
    module: Modules = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """Compare the events as they are with a catalogue from before; the exit status is 1 if a change does not fit.

    It fits if records of before are still events of their types, and the event_version was raised: new optional
    members, members that became optional, and types that take more values.
    """
    output = Output(as_json=as_json)

    async def run() -> ExitStatus:
        changes = find_changes(_read(file).events, _entries(module))
        fits = all(change.is_compatible for change in changes)
        if as_json:
            output.document(Checked(compatible=fits, changes=changes))
        else:
            for change in changes:
                where = f"{change.event_type}: {change.member}".removesuffix(": ")
                mark = Cell("fits     ", "green") if change.is_compatible else Cell("does not ", "red")
                output.line(mark, f"{where} {change.what}")
            output.line(count_of(len(changes), "change") if changes else "no change")
        return ExitStatus.OK if fits else ExitStatus.FINDINGS

    perform(output, run)


def _entries(modules: Sequence[str]) -> list[EventEntry]:
    for module in modules:
        _import(module)
    try:
        return catalogue([cls for cls in known_types().values() if _is_asked_for(cls, own=bool(modules))])
    except TypeError as error:
        raise Refused(f"an event has a member that JSON Schema can't describe: {error}") from error


def _is_asked_for(cls: type[AuditEvent], *, own: bool) -> bool:
    return not cls.__module__.startswith(_LIBRARY) if own else cls.__module__.startswith(_BUILT_IN)


def _import(module: str) -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the service's own code is in the current directory
    try:
        import_module(module)
    except InvalidEvent as error:
        raise Refused(f"--module {module}: {error}") from error
    except ImportError as error:
        raise Refused(f"--module {module} can't be imported: {error}; is this the directory to be in?") from error
    except Exception as error:
        # Only the class: what the service's own code says may hold anything.
        raise Refused(f"--module {module} can't be imported: it raises {type(error).__name__}") from error


def _entry(name: str, entries: Sequence[EventEntry]) -> EventEntry:
    wanted = recorded_type(name)
    for entry in entries:
        if entry.event_type == wanted:
            return entry
    raise Refused(f"{name!a} is no type here; audit-async events list shows them, with --module also a service's own")


def _first_sentence(entry: EventEntry) -> str:
    return entry.summary.partition(". ")[0].partition("; ")[0].rstrip(".")


def _member(entry: EventEntry, member: str) -> tuple[str, str, str]:
    remarks = ["optional"] if member in entry.optional else []
    if any(path == member or path.startswith((f"{member}[", f"{member}{{")) for path in entry.personal):
        remarks.append("personal")
    return member, _type_text(entry.json_schema["properties"][member]), ", ".join(remarks)


def _type_text(schema: dict[str, object]) -> str:
    """Return a type as people read it."""
    match schema:
        case {"$ref": str(reference)}:
            return reference.rpartition("/")[2]
        case {"anyOf": list(choices)}:
            texts = [_type_text(choice) for choice in choices]
            return " | ".join(text for text in texts if text != "null")
        case {"enum": list(values)}:
            return " | ".join(map(str, values))
        case {"type": "array", "items": dict(item)}:
            return f"list of {_type_text(item)}"
        case {"type": "object", "additionalProperties": dict(value)}:
            return f"object of {_type_text(value)}"
        case {"type": str(type_)}:
            return type_
    return "any"


def _read(file: Path) -> Catalogue:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Catalogue)
    except msgspec.MsgspecError as error:
        raise Refused(f"{file} is no catalogue of events; make one with: audit-async events schema > FILE") from error
