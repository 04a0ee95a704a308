"""A chart of horizontal bars as SVG: an axis for each unit, the value next to each bar, spread and target on it.

Whoever does not see it is read its title and its figures.
Written by hand, since a plotting library of tens of megabytes for bars is out of proportion. The colours follow the
reader's light or dark theme. Bars are in the order given; if they differ by more than a factor of fifty the axis is
logarithmic, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_LABEL = 420  # width of the subjects' column
_BARS = 480
_VALUE = 150
_ROW = 26
_WIDTH = _LABEL + _BARS + _VALUE
_STYLE = """
svg{font:13px system-ui,sans-serif}.ground{fill:#fff}
text{fill:#1f2328}.small{font-size:11px;fill:#59636e}.title{font-weight:600;font-size:14px}
.bar{fill:#2f6fb3}.missed{fill:#b35900}.grid{stroke:#d1d9e0}.spread{stroke:#1f2328}.target{stroke:#1a7f37}
@media(prefers-color-scheme:dark){.ground{fill:#0d1117}text{fill:#e6edf3}.small{fill:#9198a1}
.bar{fill:#4a8fd8}.missed{fill:#d07a26}.grid{stroke:#30363d}.spread{stroke:#e6edf3}.target{stroke:#3fb950}}
"""


class Bar(NamedTuple):
    """One figure."""

    label: str
    value: float
    low: float | None = None  #: the spread: from here
    high: float | None = None  #: to here
    target: float | None = None
    missed: bool = False  #: the value is on the wrong side of the target


class Panel(NamedTuple):
    """Figures that share an axis."""

    title: str
    unit: str
    bars: tuple[Bar, ...]


def draw(panels: Sequence[Panel], footnote: str, title: str = "") -> str:
    """Return the chart as the text of an SVG file; the first panel's title is the chart's if it has none."""
    parts: list[str] = []
    top = 12
    for panel in panels:
        top = _draw_panel(panel, top, parts)
    legend = "thin line: the spread; green: the target; orange: it is missed"
    parts.append(f'<text class="small" x="12" y="{top + 14}">{escape(footnote)}; {legend}</text>')
    height = top + 28
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-labelledby="title figures">\n'
        f'<title id="title">{escape(title or panels[0].title)}</title>\n'
        f'<desc id="figures">{escape(" ".join(map(_described, panels)))}</desc>\n'
        f'<style>{_STYLE}</style>\n<rect class="ground" width="{_WIDTH}" height="{height}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _described(panel: Panel) -> str:
    """Return the figures of a panel as a sentence."""
    unit = f" {panel.unit}" if panel.unit else ""
    return f"{panel.title}: " + "; ".join(f"{bar.label}: {_short(bar.value)}{unit}" for bar in panel.bars) + "."


class _Axis(NamedTuple):
    """From values to places; `start` is the value at the left end."""

    start: float
    end: float
    logarithmic: bool

    def at(self, value: float) -> float:
        if self.logarithmic:
            part = math.log(max(value, self.start) / self.start) / math.log(self.end / self.start)
        else:
            part = (value - self.start) / (self.end - self.start)
        return _LABEL + _BARS * min(max(part, 0.0), 1.0)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            return [10.0**n for n in range(round(math.log10(self.start)), round(math.log10(self.end)) + 1)]
        step = _round_up(self.end / 5)
        return [step * n for n in range(int(self.end / step * 1.0001) + 1)]


def _axis(bars: Sequence[Bar]) -> _Axis:
    shown = [number for bar in bars for number in (bar.value, bar.high, bar.target) if number is not None]
    most = max(shown)
    least = min((bar.value for bar in bars if bar.value > 0), default=0.0)
    if least and most / least > 50:
        return _Axis(10.0 ** math.floor(math.log10(least) - 0.1), 10.0 ** math.ceil(math.log10(most)), logarithmic=True)
    return _Axis(0.0, most * 1.02 or 1.0, logarithmic=False)


def _round_up(number: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= number)


def _draw_panel(panel: Panel, top: int, parts: list[str]) -> int:
    """Draw one panel below `top`; return the lower edge."""
    axis = _axis(panel.bars)
    bars_top, bottom = top + 32, top + 32 + _ROW * len(panel.bars)
    scale = ", logarithmic" if axis.logarithmic else ""
    parts.append(f'<text class="title" x="12" y="{top + 16}">{escape(panel.title)}</text>')
    for tick in axis.ticks():
        x = axis.at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{bars_top}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{_short(tick)}</text>')
    parts.append(
        f'<text class="small" x="{_LABEL + _BARS}" y="{bottom + 30}" text-anchor="end">'
        f"{escape(panel.unit or 'ratio')}{scale}</text>"
    )
    for number, bar in enumerate(panel.bars):
        _draw_bar(bar, axis, bars_top + _ROW * number, parts)
    return bottom + 44


def _draw_bar(bar: Bar, axis: _Axis, top: int, parts: list[str]) -> None:
    left, right, middle = axis.at(axis.start), axis.at(bar.value), top + _ROW / 2
    label = bar.label if len(bar.label) <= 60 else bar.label[:59] + "…"
    parts.append(f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>')
    kind = "bar missed" if bar.missed else "bar"
    parts.append(
        f'<rect class="{kind}" x="{left}" y="{top + 4}" width="{max(right - left, 1):.1f}" height="{_ROW - 8}"/>'
    )
    end = right
    if bar.low is not None and bar.high is not None and bar.low < bar.high:
        low, end = axis.at(bar.low), axis.at(bar.high)
        parts.append(f'<path class="spread" fill="none" d="M{low:.1f} {middle - 3}v6m0-3H{end:.1f}m0-3v6"/>')
    if bar.target is not None:
        x = axis.at(bar.target)
        parts.append(
            f'<line class="target" stroke-width="2" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 1}" y2="{top + _ROW - 1}"/>'
        )
        end = max(end, x)
    parts.append(f'<text x="{max(end, right) + 7:.1f}" y="{middle + 4}">{_short(bar.value)}</text>')


def _short(number: float) -> str:
    """Return a number with three significant digits."""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            scale = 1e3 if name == "k" else size
            return f"{float(f'{number / scale:.3g}'):g} {name}"
    return f"{float(f'{number:.3g}'):g}"
