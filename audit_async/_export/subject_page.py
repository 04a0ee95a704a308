"""What is recorded about a person, as a page that the person can read: one HTML file that loads nothing.

Every text comes from records, so all of it is escaped, and the page's own policy forbids scripts and requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from html import escape
from typing import Final

from audit_async.events import Record
from audit_async.events.recorded import event_members, recorded_time
from audit_async.privacy.sealed_text import SEALED

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1b1b1b }}
section {{ border-top: 1px solid #bbb; padding: .8rem 0; break-inside: avoid }}
h2 {{ font-size: 1rem; margin: 0 }}
dl {{ display: grid; grid-template-columns: minmax(8rem, 14rem) 1fr; gap: .1rem 1rem; margin: .4rem 0 0 }}
dt {{ color: #555; overflow-wrap: anywhere }}
dd {{ margin: 0; overflow-wrap: anywhere; white-space: pre-wrap }}
footer, p.note {{ color: #555; font-size: .9rem }}
@media (max-width: 40rem) {{ dl {{ grid-template-columns: 1fr }} dd {{ margin-bottom: .4rem }} }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="note">{note}</p>
"""


class SubjectPage:
    """The pieces of the page, in their order: the head, a section for each record, the end."""

    def __init__(self, subject_id: str, *, made: datetime) -> None:
        """Make a page about the person whom the records call `subject_id`; `made` is now."""
        self._subject_id: Final = subject_id
        self._made: Final = made

    def head(self) -> str:
        """Return the beginning of the page."""
        note = (
            f"Made {self._made:%Y-%m-%d %H:%M} UTC. Times are in UTC. {SEALED} is in place of what belongs to somebody "
            "else, or to nobody in particular."
        )
        return _HEAD.format(title=escape(f"What is recorded about {self._subject_id}"), note=escape(note))

    def section(self, record: Record) -> str:
        """Return what one record says."""
        return _section(record)

    def end(self, records: int) -> str:
        """Return the end of a page with so many records."""
        return f"<footer><p>{records} {'record' if records == 1 else 'records'}.</p></footer>\n</body>\n</html>\n"


def _section(record: Record) -> str:
    event = event_members(record.event)
    event_type = str(event.pop("event_type", ""))
    rows = [*_rows("", event), *_rows("context.", record.context)]
    members = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    when = recorded_time(record.timestamp)
    head = f"{when[:10]} {when[11:19]} &nbsp; {escape(event_type)}"
    place = f"{record.service_id}, record {record.seq} of {record.log}"
    return f"<section><h2>{head}</h2><dl>{members}<dt>recorded by</dt><dd>{escape(place)}</dd></dl></section>\n"


def _rows(prefix: str, members: dict[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in members.items():
        if isinstance(value, dict) and prefix.count(".") < 3:
            yield from _rows(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
