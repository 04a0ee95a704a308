"""Write the table of docs/ocsf.md, how each built-in event is delivered in OCSF: `python -m site_build.ocsf_page`.

What the page says of an event is what the code does; a test fails if it is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audit_async.delivery.siem_formats.ocsf_classes import SEVERITIES
from audit_async.delivery.siem_formats.ocsf_mapping import BUILT_IN, OcsfMapping
from audit_async.events.registry import known_types

PAGE: Final = Path(__file__).parents[1] / "docs" / "ocsf.md"
_MARK: Final = "<!-- The table is made by `python -m site_build.ocsf_page`. -->\n"


def page() -> str:
    """Return the page: what is written before the mark, and the table."""
    opening = PAGE.read_text(encoding="utf-8").partition(_MARK)[0]
    return "\n".join([opening + _MARK, *_rows()]) + "\n"


def _rows() -> Iterator[str]:
    yield "| event | class | activity | severity | members that have a place |"
    yield "| --- | --- | --- | --- | --- |"
    classes = known_types()
    for event_type, mapping in sorted(BUILT_IN.items()):
        named = mapping.ocsf_class
        activity = f"{mapping.activity} {mapping.activity_name}{_status(mapping)}"
        members = _members(mapping, classes[event_type].__struct_fields__)
        yield (
            f"| `{event_type}` | {named.uid} {named.caption} | {activity} | {SEVERITIES[mapping.severity]} "
            f"| {', '.join(members) or '-'} |"
        )


def _status(mapping: OcsfMapping) -> str:
    return {1: ", Success", 2: ", Failure", None: ""}[mapping.status]


def _members(mapping: OcsfMapping, fields: tuple[str, ...]) -> Iterator[str]:
    for field in fields:
        rule = mapping.members.get(field)
        if rule is not None:
            yield f"`{field}` → `{rule.target}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
