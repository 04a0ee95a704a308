"""Write docs/events.md, the page of all built-in events: `python -m site_build.event_page`.

What the page says of an event is what its class says; a test fails if it is out of date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

from audit_async.events.catalogue import EventEntry, catalogue
from audit_async.events.registry import known_types

PAGE: Final = Path(__file__).parents[1] / "docs" / "events.md"
#: The modules in the order of the page, each with its heading.
_CATEGORIES: Final = {
    "authentication": "Authentication",
    "authorization": "Authorization",
    "accounts": "Accounts",
    "sessions": "Sessions",
    "roles_and_keys": "Roles and API keys",
    "resources": "Resources",
    "transactions": "Transactions that are recorded before COMMIT",
    "configuration": "Configuration",
    "data_access": "Customers' data",
    "compliance": "Compliance",
    "security": "Security incidents",
    "rpc": "Remote procedure calls",
    "jobs": "Background jobs",
    "command_runs": "Commands",
    "agents": "Agents",
    "web": "HTTP",
    "log": "Log records",
    "inference": "Inference on GPUs",
    "lifecycle": "The log itself",
}
_OPENING: Final = Path(__file__).with_name("event_page_opening.md")


def page() -> str:
    """Return the page."""
    by_module: dict[str, list[EventEntry]] = {}
    for entry in catalogue([cls for cls in known_types().values() if cls.__module__.startswith("audit_async.events.")]):
        by_module.setdefault(entry.module.rpartition(".")[2], []).append(entry)
    if by_module.keys() != _CATEGORIES.keys():
        raise ValueError(f"give each module of events a place: {by_module.keys() ^ _CATEGORIES.keys()}")
    return "\n".join(
        [
            _OPENING.read_text(encoding="utf-8"),
            *(line for name in _CATEGORIES for line in _section(name, by_module[name])),
        ]
    )


def _section(module: str, entries: list[EventEntry]) -> Iterator[str]:
    yield f"### {_CATEGORIES[module]}\n"
    text = inspect.cleandoc(import_module(f"audit_async.events.{module}").__doc__ or "")
    yield f"`audit_async.events.{module}`: {text[0].lower() if text[1].islower() else text[0]}{text[1:]}\n"
    yield "| event | members | what it says |"
    yield "| --- | --- | --- |"
    for entry in entries:
        own = {*entry.required, *entry.optional}
        name = f"**`{entry.event_type}`**" if entry.critical else f"`{entry.event_type}`"
        members = ", ".join(_member(entry, member) for member in entry.json_schema["properties"] if member in own)
        yield f"| {name} `{entry.name}` | {members} | {entry.summary.replace('|', chr(92) + '|')} |"
    yield ""


def _member(entry: EventEntry, member: str) -> str:
    text = f"`{member}`" + ("?" if member in entry.optional else "")
    inside = f"{member}.", f"{member}[", f"{member}{{"
    is_personal = any(path == member or path.startswith(inside) for path in entry.personal)
    return f"*{text}*" if is_personal else text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
