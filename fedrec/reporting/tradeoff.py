"""The privacy-utility plot: a hit rate against epsilon on a log scale, with "none" at the right end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedrec.reporting import chart, figures

if TYPE_CHECKING:
    from markupsafe import Markup

REFERENCE = "popularity at the same epsilon"
"""The name of the grey reference curve."""

_TICKS = 8
"""Up to so many distinct epsilons are ticks themselves; beyond that ticks are round numbers."""


@dataclass(frozen=True)
class Measure:
    """One run's point: its epsilon (None: no privacy), its rate, and whose it is."""

    epsilon: float | None
    rate: float
    name: str

    @property
    def label(self) -> str:
        at = "no privacy" if self.epsilon is None else f"epsilon {figures.epsilon(self.epsilon)}"
        return f"{self.name}: {at}, {self.rate:.3f}"


def plot(title: str, description: str, label: str, curves: Mapping[str, Sequence[Measure]], width: int) -> Markup:
    """The chart.

    Every measure is a point. A line joins the means at each epsilon, dashed from the largest epsilon to none.

    Args:
        title: what it shows.
        description: what is to be seen in it.
        label: of the vertical axis.
        curves: by name; `REFERENCE` is drawn in grey.
        width: of the drawing in px.
    """
    everything = [measure for measures in curves.values() for measure in measures]
    finite = [measure.epsilon for measure in everything if measure.epsilon]
    x, none_at = epsilon_axis(finite, none=len(finite) < len(everything))
    y = chart.linear(label, [measure.rate for measure in everything], from_zero=True)
    series = []
    tone = 0
    for name, measures in curves.items():
        tone = tone if name == REFERENCE else 1 + tone % chart.TONES
        series += _curve(name, measures, chart.GREY if name == REFERENCE else tone, none_at)
    return chart.render(title, description, x, y, series, width=width)


def _curve(name: str, measures: Sequence[Measure], tone: int, none_at: float) -> list[chart.Series]:
    points = [chart.Point(_place(one, none_at), one.rate, one.label) for one in measures]
    means = _means(points)
    finite = tuple(point for point in means if point.x < none_at - 1e-6)
    series = [chart.Series("", finite, tone, markers=False, dashed=tone == chart.GREY)]
    if finite and len(finite) < len(means):
        series.append(chart.Series("", (finite[-1], means[-1]), tone, markers=False, dashed=True))
    return [*series, chart.Series(name, tuple(points), tone, line=False)]


def _means(points: Sequence[chart.Point]) -> tuple[chart.Point, ...]:
    """The mean of the points at one epsilon; runs calibrated to one budget differ in the fourth digit or so."""
    held: defaultdict[int, list[chart.Point]] = defaultdict(list)
    for point in points:
        held[round(point.x * 100)].append(point)
    groups = [held[key] for key in sorted(held)]
    return tuple(chart.Point(sum(p.x for p in g) / len(g), sum(p.y for p in g) / len(g)) for g in groups)


def _place(measure: Measure, none_at: float) -> float:
    return none_at if not measure.epsilon else math.log10(measure.epsilon)


def epsilon_axis(finite: Sequence[float], none: bool) -> tuple[chart.Axis, float]:
    """A log axis, and the place of "none" to the right of the largest epsilon."""
    low, high = (math.log10(min(finite)), math.log10(max(finite))) if finite else (0.0, 0.0)
    span = high - low if high - low > 0.1 else 1.0
    none_at = high + 0.25 * span
    distinct = {f"{epsilon:.3g}": math.log10(epsilon) for epsilon in sorted(finite)}
    if len(distinct) > _TICKS:
        powers = range(math.floor(low), math.ceil(high) + 1)
        round_ones = [(factor * 10.0**power) for power in powers for factor in (1, 2, 5)]
        distinct = {f"{one:g}": math.log10(one) for one in round_ones if low - 0.01 <= math.log10(one) <= high + 0.01}
    ticks = [(at, text) for text, at in distinct.items()]
    if none:
        ticks.append((none_at, "none"))
    return chart.Axis(
        "Epsilon (log scale)", low - 0.06 * span, (none_at if none else high) + 0.03 * span, tuple(ticks)
    ), none_at
