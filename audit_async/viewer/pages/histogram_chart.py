"""Matches over time as a drawing: the geometry of an SVG, and where each bar leads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from audit_async.events.recorded import recorded_time
from audit_async.viewer.pages.match_counts import Histogram

__all__ = ["Chart", "chart_of"]

WIDTH: Final = 960
HEIGHT: Final = 88
_GAP: Final = 2
_WIDEST: Final = 60  # of a bar, if there are few


class Column(NamedTuple):
    """A bar, in units of the drawing."""

    x: float
    width: float
    y: float
    height: float
    failed_y: float
    failed_height: float
    label: str
    url: str


class Chart(NamedTuple):
    """The drawing."""

    width: int
    height: int
    columns: list[Column]
    ticks: list[str]  #: below the drawing, at equal distances
    step: str  #: how much time a bar is
    highest: int
    not_counted_width: float  #: from the left; 0 if everything was counted


def chart_of(histogram: Histogram, url_of: Callable[[str, str], str]) -> Chart:
    """Return the drawing of a histogram; `url_of` makes the address of a span of time."""
    bars, step = histogram.bars, histogram.bars[0].end - histogram.bars[0].start
    each = WIDTH / len(bars)
    columns = []
    for at, bar in enumerate(bars):
        if not bar.count:
            continue
        height = max(3.0, HEIGHT * bar.count / histogram.highest)
        failed = height * bar.failures / bar.count
        label = f"{_short(bar.start, step)} UTC: {bar.count:,} record{'s' if bar.count != 1 else ''}"
        if bar.failures:
            label += f", {bar.failures:,} failed"
        url = url_of(recorded_time(bar.start), recorded_time(bar.end))
        width = min(max(1.0, each - _GAP), _WIDEST)
        x, width = round((at + 0.5) * each - width / 2, 2), round(width, 2)
        columns.append(
            Column(x, width, round(HEIGHT - height, 2), round(height, 2), round(HEIGHT - failed, 2), round(failed, 2),
                   label, url)
        )  # fmt: skip
    uncounted = 0.0
    if histogram.not_counted_before is not None:
        whole = (bars[-1].end - bars[0].start).total_seconds()
        uncounted = WIDTH * max(0.0, (histogram.not_counted_before - bars[0].start).total_seconds()) / whole
    ticks = [bars[at * len(bars) // 4].start for at in range(4)] if len(bars) >= 8 else [bars[0].start]
    return Chart(
        WIDTH,
        HEIGHT,
        columns,
        [_short(tick, step) for tick in ticks],
        _words(step),
        histogram.highest,
        round(uncounted, 2),
    )


def _short(moment: datetime, step: timedelta) -> str:
    if step >= timedelta(days=1):
        return f"{moment:%Y-%m-%d}"
    return f"{moment:%m-%d %H:%M}" if step >= timedelta(minutes=1) else f"{moment:%m-%d %H:%M:%S}"


def _words(step: timedelta) -> str:
    seconds = int(step.total_seconds())
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return unit if seconds == size else f"{seconds // size} {unit}s"
    return "second" if seconds == 1 else f"{seconds} seconds"
