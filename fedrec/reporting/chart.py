"""Small line and scatter charts as inline SVG: no script, no font, no image; colours come from the page's variables.

A chart names itself (``<title>``, ``<desc>``) for those who cannot see it, tells its series apart by shape as well as
by colour, and says each point's value in a tooltip. Every text that comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

GREY = 0
"""The tone of references, such as popularity or a budget; series use 1 to `TONES`."""

TONES = 6
_CHAR = 7.2  # width of an average character at the charts' 12 px, in px
_LINE = 18.0  # px between two lines of the legend
_MARGIN = 14.0


@dataclass(frozen=True)
class Point:
    """A point, and what its tooltip says."""

    x: float
    y: float
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        name: in the legend; "" leaves it out (a continuation of another series).
        points: in the order in which a line joins them.
        tone: the colour, `GREY` or 1 to `TONES`; the marker's shape follows it.
        line: join the points.
        markers: show the points.
        dashed: draw the line dashed.
    """

    name: str
    points: tuple[Point, ...]
    tone: int = 1
    line: bool = True
    markers: bool = True
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: its label with the unit, its ends, and where ticks stand with what they say."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def linear(label: str, values: Sequence[float], *, whole: bool = False, from_zero: bool = False) -> Axis:
    """An axis around some values, none negative, with round ticks (1, 2 or 5 times a power of ten).

    Args:
        label: with the unit.
        values: what must fit; none gives 0 to 1.
        whole: ticks at integers only, ends at the first and last value.
        from_zero: start at 0.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low = min(low, 0.0) if from_zero else low
    if high - low <= max(1e-6 * abs(high), 1e-9):  # or so near that no label could tell them apart
        around = 1.0 if whole or abs(high) <= 1e-9 else 0.5 * abs(high)
        low, high = max(low - around, 0.0), high + around
    step = _round_step((high - low) / (10 if whole else 5))
    if whole:
        step = max(1.0, step)
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        low, high = first * step, last * step
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    form = f".{digits}f" if digits <= 6 else ".6g"
    ticks = tuple((k * step, f"{k * step:{form}}") for k in range(first, last + 1))
    return Axis(label, low, high, ticks)


def render(title: str, description: str, x: Axis, y: Axis, series: Sequence[Series], *, width: int = 360) -> Markup:
    """The chart as an ``<svg>`` element that fits the width of its place.

    Args:
        title: what it shows.
        description: what is to be seen in it, in a sentence, for those who cannot see it.
        x: the horizontal axis.
        y: the vertical axis.
        series: in the order of the legend.
        width: of the drawing in px; text keeps 12 px at this width.
    """
    legend, legend_height = _legend([s for s in series if s.name], width)
    left = 20 + _CHAR * max((len(text) for _, text in y.ticks), default=1) + 8
    top, right, bottom = legend_height + 26, width - _MARGIN, legend_height + 26 + round(0.46 * width)
    height = bottom + 42

    def place(point: Point) -> tuple[float, float]:
        return left + x.share(point.x) * (right - left), bottom - y.share(point.y) * (bottom - top)

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img">').format(width, height),
        Markup("<title>{}</title><desc>{}</desc>").format(title, description),
        legend,
        _grid(x, y, (left, right, top, bottom)),
        *(_line(one, place) for one in series if one.line),
        *(_markers(one, place) for one in series if one.markers),
        Markup("</svg>"),
    ]
    return Markup("\n").join(part for part in parts if part)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= least * (1 - 1e-9)), 10 * power)


def _grid(x: Axis, y: Axis, box: tuple[float, float, float, float]) -> Markup:
    left, right, top, bottom = box
    parts = []
    for value, text in y.ticks:
        at = bottom - y.share(value) * (bottom - top)
        parts.append(_segment("grid", left, at, right, at))
        parts.append(_text("tick end", left - 8, at + 4, text))
    drawn = -math.inf
    for value, text in x.ticks:
        at = left + x.share(value) * (right - left)
        parts.append(_segment("axis", at, bottom, at, bottom + 4))
        half = _CHAR * len(text) / 2
        if at - half > drawn + 4:  # two labels never overlap
            edge = at + half > right + _MARGIN
            parts.append(
                _text("tick end" if edge else "tick mid", right + _MARGIN - 2 if edge else at, bottom + 18, text)
            )
            drawn = at + half
    parts.append(_segment("axis", left, bottom, right, bottom))
    parts.append(_text("label mid", (left + right) / 2, bottom + 36, x.label))
    parts.append(_text("label", 4, top - 12, y.label))
    return Markup("").join(parts)


def _legend(named: Sequence[Series], width: float) -> tuple[Markup, float]:
    """The legend's lines, wrapped, and their height in px; one series needs none, the title names it."""
    if len(named) < 2:
        return Markup(""), 0.0
    parts, column, row = [], 4.0, 12.0
    for one in named:
        name = shorten(one.name, int((width - 40) / _CHAR))
        needed = 28 + _CHAR * len(name) + 20
        if column > 4 and column + needed > width:
            column, row = 4.0, row + _LINE
        if one.line:
            parts.append(_segment(_stroke(one), column, row - 4, column + 22, row - 4))
        if one.markers:
            parts.append(_marker(one.tone, column + 11, row - 4, ""))
        parts.append(_text("label", column + 28, row, name))
        column += needed
    return Markup("").join(parts), row + 10


def _line(series: Series, place: Callable[[Point], tuple[float, float]]) -> Markup:
    if len(series.points) < 2:
        return Markup("")
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(place, series.points))
    return Markup('<polyline class="{}" points="{}"/>').format(_stroke(series), path)


def _markers(series: Series, place: Callable[[Point], tuple[float, float]]) -> Markup:
    return Markup("").join(_marker(series.tone, *place(point), point.label) for point in series.points)


def _marker(tone: int, x: float, y: float, label: str) -> Markup:
    """Circle, square, triangle, diamond … by tone, so that colour is not needed to tell them apart."""
    shapes = (
        "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0z",
        "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
        "M-3.6,-3.6h7.2v7.2h-7.2z",
        "M0,-4.6L4.4,3.4H-4.4z",
        "M0,-5L5,0L0,5L-5,0z",
        "M0,4.6L4.4,-3.4H-4.4z",
        "M-4.5,-1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",
    )
    tooltip = Markup("<title>{}</title>").format(label) if label else Markup("")
    where = f"translate({x:.1f},{y:.1f})"
    drawing = Markup('<path class="mark tone-{}" transform="{}" d="{}">{}</path>')
    return drawing.format(tone, where, shapes[tone % len(shapes)], tooltip)


def _stroke(series: Series) -> str:
    return f"line tone-{series.tone}{' dashed' if series.dashed else ''}"


def _segment(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    ends = [f"{value:.1f}" for value in (x1, y1, x2, y2)]
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, *ends)


def _text(kind: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, f"{x:.1f}", f"{y:.1f}", escape(text))


def shorten(text: str, most: int) -> str:
    """At most so many characters, with an ellipsis where something was cut."""
    return text if len(text) <= most else text[: max(1, most - 1)] + "…"
