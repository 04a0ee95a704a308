"""Times and lengths of time as people write them: `2026-11-23T04:35:12Z`, `2026-11-23`, `24h`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["duration_of", "time_of"]

_AGO: Final = re.compile(r"([0-9]{1,7})\s*(s|m|min|h|d|w)", re.ASCII)
_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def time_of(text: str, *, now: datetime, end_of_day: bool = False) -> datetime:
    """Return the time that a text says: RFC 3339, a date, or an age such as `7d`; without a zone it is UTC.

    A date is the beginning of that day, with `end_of_day` that of the next. Raises `ValueError`, which says what would
    be a time.
    """
    wanted = text.strip()
    try:
        if ago := _AGO.fullmatch(wanted):
            return now - int(ago[1]) * _UNITS[ago[2]]
        time = datetime.fromisoformat(wanted)
        if end_of_day and _DATE.fullmatch(wanted):
            time += timedelta(days=1)
    except (ValueError, OverflowError):
        raise ValueError(
            "is no time; give 2026-11-23T04:35:12Z, 2026-11-23, or an age: 90s, 30m, 24h, 7d, 2w"
        ) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def duration_of(text: str) -> timedelta:
    """Return how long `90s`, `30m`, `24h`, `7d` or `2w` is. Raises `ValueError`."""
    match = _AGO.fullmatch(text.strip())
    if match is None:
        raise ValueError("is no length of time; give 90s, 30m, 24h, 7d or 2w")
    return int(match[1]) * _UNITS[match[2]]
