"""Frameworks: which controls a report goes through, and which records and topics of a trail speak for each.

Each is a TOML file, those of this package as well as a user's own. The words in them are this project's, never the
text of a standard, which may be under copyright.
"""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, NoReturn

import msgspec
from msgspec import Meta

from audit_async.config.toml_file import read_toml
from audit_async.config.wording import did_you_mean, unknown
from audit_async.errors import ConfigError
from audit_async.reports.topics import TOPICS

__all__ = ["Control", "Framework", "RetentionClause", "framework_names", "load_framework"]

_DIRECTORY: Final = Path(str(files("audit_async.reports"))) / "frameworks"
_ENDING: Final = ".toml"

_Line = Annotated[str, Meta(min_length=1, max_length=300)]
_Paragraph = Annotated[str, Meta(min_length=1, max_length=4000)]
_Type = Annotated[str, Meta(min_length=1, max_length=200)]


class RetentionClause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long a framework has records kept.

    Args:
        clause: The id of what asks for it.
        says: What it asks for, in words of one's own.
        days: The least number of days; None if the framework gives no number.
    """

    clause: _Line
    says: _Paragraph
    days: Annotated[int, Meta(ge=1, le=36_500)] | None = None


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One control, and what of a trail speaks for it.

    Args:
        id: As the framework numbers it.
        title: What it is about, in words of one's own.
        asks: What it asks for, as far as a trail can have to do with it; in words of one's own.
        cannot_show: What no audit trail can show for it.
        events: Types of events that speak for it; `*` and `?` are wildcards.
        topics: What else of the trail speaks for it, by the names of topics such as `integrity` or `retention`.
    """

    id: _Line
    title: _Line
    asks: _Paragraph
    cannot_show: _Paragraph
    events: tuple[_Type, ...] = ()
    topics: tuple[_Line, ...] = ()


class Framework(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The controls of a framework that a report goes through, in order.

    Args:
        id: A short name, such as `pci_dss`.
        name: As people call it.
        version: The edition that the ids are of.
        source: Where it is published.
        about: What part of it this covers, and what it leaves out.
        retention: For how long it has records kept.
        controls: The controls; each id once.
    """

    id: Annotated[str, Meta(pattern=r"\A[a-z0-9_.-]{1,64}\Z")]
    name: _Line
    version: _Line
    source: _Line
    about: _Paragraph
    retention: RetentionClause
    controls: Annotated[tuple[Control, ...], Meta(min_length=1, max_length=500)] = msgspec.field(name="control")


def framework_names() -> tuple[str, ...]:
    """Return the frameworks that are in the package, sorted."""
    return tuple(sorted(path.stem for path in _DIRECTORY.glob(f"*{_ENDING}")))


def load_framework(which: str | os.PathLike[str]) -> Framework:
    """Return a framework: one of `framework_names()`, or that of a TOML file.

    Args:
        which: A name such as `pci_dss`; or a path, which is anything with a slash or with the ending `.toml`.

    Raises:
        ConfigError: There is no such framework, or the file is wrong: the message names the place in it.
    """
    text = os.fspath(which)
    if isinstance(which, str) and not text.endswith(_ENDING) and "/" not in text and os.sep not in text:
        if text not in framework_names():
            raise ConfigError("framework", unknown("framework", text, framework_names()))
        return _checked(read_toml(_DIRECTORY / f"{text}{_ENDING}"), text)
    return _checked(read_toml(text), text)


def _checked(table: dict[str, object], place: str) -> Framework:
    """Return the framework that a table says; raises `ConfigError`, which names `place` and what is wrong in it."""
    try:
        framework = msgspec.convert(table, Framework)
    except msgspec.ValidationError as error:
        _refuse(place, table, str(error))
    ids = set[str]()
    for number, control in enumerate(framework.controls, start=1):
        where = f"{place}: control {number} ({control.id})"
        if control.id in ids:
            raise ConfigError(where, "its id was given to a control before; give each control once")
        ids.add(control.id)
        for topic in control.topics:
            if topic not in TOPICS:
                raise ConfigError(f"{where}, topics", unknown("topic", topic, TOPICS))
        if not control.events and not control.topics:
            raise ConfigError(where, "nothing of a trail speaks for it; give events, topics or both")
    return framework


_PLACE: Final = re.compile(r"^(?P<what>.*) - at `\$(?P<path>.*)`$", re.DOTALL)
_INDEX: Final = re.compile(r"^\.control\[(?P<index>\d+)\]")


def _refuse(place: str, table: dict[str, object], message: str) -> NoReturn:
    """Raise `ConfigError` for what msgspec says of a table, with the control by its number and id."""
    found = _PLACE.match(message)
    what, path = (found["what"], found["path"]) if found is not None else (message, "")
    where = place
    if (index := _INDEX.match(path)) is not None:
        number, controls = int(index["index"]), table.get("control")
        control = controls[number] if isinstance(controls, list) else None
        named = f" ({control['id']:.80})" if isinstance(control, dict) and isinstance(control.get("id"), str) else ""
        where, path = f"{place}: control {number + 1}{named}", path[index.end() :]
    where += f", {path.lstrip('.')}" if path else ""
    if (field := re.search(r"unknown field `(.*)`", what)) is not None:
        known = Control.__struct_fields__ if "control " in where else Framework.__struct_encode_fields__
        what += did_you_mean(field[1], known)
    raise ConfigError(where, f"{what[:1].lower()}{what[1:]}")
