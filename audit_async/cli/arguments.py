"""What may be written on the command line for times, ranges and heads, and what it means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from audit_async._query.asked_times import duration_of, time_of
from audit_async.status import Position

__all__ = [
    "Directory",
    "EventModules",
    "Host",
    "IdentityFiles",
    "Instance",
    "Json",
    "Service",
    "parse_duration",
    "parse_heads",
    "parse_seq_range",
    "parse_time",
]

# Every path is `readable=False`: whether it can be read is found out by reading it, which says what to do about it and
# ends with the status for what can't be read. The parser's own look would call it wrong usage.
Directory = Annotated[
    Path,
    typer.Argument(
        metavar="DIRECTORY",
        envvar="AUDIT_BASE_DIR",
        show_default=False,
        readable=False,
        help="The base directory of the trail, or the directory of one service or one log in it.",
    ),
]
Service = Annotated[str | None, typer.Option("--service", metavar="NAME", help="Only the logs of this service.")]
Instance = Annotated[str | None, typer.Option("--instance", metavar="NAME", help="Only the logs of this instance.")]
Host = Annotated[
    str | None, typer.Option("--host", metavar="NAME", help="In a collector's directory: only the logs of this host.")
]
IdentityFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        readable=False,
        help="An age identity (private key) that opens encrypted archives, as age-keygen writes it. May be repeated.",
    ),
]
EventModules = Annotated[
    list[str],
    typer.Option(
        "--module",
        metavar="MODULE",
        help="Import this module first, as event_modules of deliver.toml. May be repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, in ASCII, for a program.")]

_HEAD: Final = re.compile(r"(?:(?P<log>[^=]+)=)?(?P<seq>[0-9]{1,18}):(?P<hash>[0-9a-fA-F]{64})", re.ASCII)
_SEQ_RANGE: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})", re.ASCII)


def parse_time(text: str | None, option: str, *, now: datetime, end_of_day: bool = False) -> datetime | None:
    """Return the time that an option says: RFC 3339, a date, or an age such as `7d`; without a zone it is UTC.

    A date is the beginning of that day, with `end_of_day` that of the next. Raises `typer.BadParameter`.
    """
    if text is None:
        return None
    try:
        return time_of(text, now=now, end_of_day=end_of_day)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!a} {error}") from None


def parse_duration(text: str, option: str) -> timedelta:
    """Return how long `90s`, `30m`, `24h`, `7d` or `2w` is. Raises `typer.BadParameter`."""
    try:
        return duration_of(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!a} {error}") from None


def parse_seq_range(text: str) -> tuple[int, int]:
    """Return the first and last sequence number of `A-B`, or of a single `A`. Raises `typer.BadParameter`."""
    match = _SEQ_RANGE.fullmatch(f"{text}-{text}" if text.isascii() and text.isdecimal() else text)
    if match is None or int(match[1]) > int(match[2]):
        raise typer.BadParameter(f"--seq: {text!a} is no range; give the first and the last, such as 100-250")
    return int(match[1]), int(match[2])


def parse_heads(texts: Iterable[str], logs: Iterable[str]) -> dict[str, Position]:
    """Return the expected heads by log, from `SEQ:HASH` if there is one log, else from `LOG=SEQ:HASH`.

    Raises `typer.BadParameter`.
    """
    names = list(logs)
    heads: dict[str, Position] = {}
    for text in texts:
        match = _HEAD.fullmatch(text)
        if match is None:
            raise typer.BadParameter(
                f"--expected-head: {text[:80]!a} is no head; give SEQ:HASH or, of several logs, orders/00=SEQ:HASH; "
                "the hash has 64 hex digits"
            )
        name = match["log"]
        if name is None:
            if len(names) != 1:
                raise typer.BadParameter(
                    f"--expected-head: there are {len(names)} logs, so say of which: {names[0]}=SEQ:HASH"
                )
            name = names[0]
        if name not in names:
            raise typer.BadParameter(f"--expected-head: there is no log {name[:80]!a}; there are {', '.join(names)}")
        if name in heads:
            raise typer.BadParameter(f"--expected-head: two heads are given for {name}")
        heads[name] = Position(int(match["seq"]), match["hash"].lower())
    return heads
