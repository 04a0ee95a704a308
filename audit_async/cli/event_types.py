"""What may be given as `--type`: a recorded type, a pattern of types, or the name of an event's class.

A misspelt type finds nothing, and "0 records" would read like an answer. So a type that this program does not know has
to be in the trail.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Final

import anyio.from_thread
import anyio.to_thread

from audit_async._query.audit_query import AuditQuery, InvalidQuery
from audit_async._query.search import Search
from audit_async._query.segment_scan import Damage
from audit_async._trail.log_files import Log
from audit_async.cli.terminal import Output
from audit_async.events.registry import known_types
from audit_async.reader import AuditReader

__all__ = ["check_types", "recorded_type"]

#: The pieces of a quarter of a mebibyte that are read to find a type that is not known: a second's work.
_MOST_PIECES: Final = 4000


def recorded_type(name: str) -> str:
    """Return the type of an event class of that name, such as `auth.failure` for `AuthFailure`; others as they are."""
    types = known_types()
    if name in types:
        return name
    return next((tag for tag, cls in types.items() if cls.__name__ == name), name)


async def check_types(reader: AuditReader, query: AuditQuery, output: Output, *, may_come: bool = False) -> None:
    """Check that each type of a query is known, or is in the trail; raises `InvalidQuery` if one is neither.

    There is only a note if the trail is too large to be searched for it, and with `may_come`, which is for following:
    the type may be new.
    """
    known = known_types()
    unknown = [pattern for pattern in query.event_types if not any(fnmatchcase(tag, pattern) for tag in known)]
    if not unknown:
        return
    logs = await anyio.to_thread.run_sync(reader.logs)
    for pattern in unknown:
        is_there = await anyio.to_thread.run_sync(_is_recorded, logs, pattern)
        if is_there:
            continue
        if is_there is None or may_come:
            text = f"--type: {pattern[:80]!a} is no type that this program knows; {_hint(pattern, known)}"
            output.message(f"audit-async: {text}", "yellow")
        else:
            raise InvalidQuery("event_types", f"{pattern[:80]!a} is no type of this trail; {_hint(pattern, known)}")


def _is_recorded(logs: list[Log], pattern: str) -> bool | None:
    """Return whether there is a record of such a type; None if that would take too long to find out."""
    query = AuditQuery(event_types=(pattern,), newest_first=True, limit=1)
    pieces = 0
    with closing(Search(logs, query, Damage(skip=True), use_index=False).run()) as found:
        for one in found:
            if one is not None:
                return True
            pieces += 1
            if pieces >= _MOST_PIECES:
                return None
            anyio.from_thread.check_cancelled()
    return False


def _hint(pattern: str, known: Iterable[str]) -> str:
    """Return what may have been meant."""
    known = sorted(known)
    categories = sorted({tag.partition(".")[0] for tag in known})
    if (category := pattern.rstrip(".").lower()) in categories:
        return f"it is a category: give '{category}.*' for all its types"
    if close := difflib.get_close_matches(pattern[:80].lower(), known, n=1):
        return f"did you mean {close[0]}?"
    events = {tag.partition(".")[2]: tag for tag in known}
    if close := difflib.get_close_matches(pattern[:80].lower(), events, n=1):
        return f"did you mean {events[close[0]]}?"
    if close := difflib.get_close_matches(category.partition(".")[0][:80], categories, n=1):
        return f"did you mean '{close[0]}.*'?"
    return (
        f"types begin with {', '.join(f'{category}.' for category in categories[:-1])} or {categories[-1]}., and "
        "`audit-async stats DIRECTORY` shows those of the trail"
    )
