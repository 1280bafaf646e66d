"""What a data set looks like: counts, density, quantiles and the long tail."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Interactions

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Portrait:
    """A data set in numbers.

    Attributes:
        density: the share of all user-item pairs that met.
        per_user: quantiles (``QUANTILES``) of events a user.
        per_item: quantiles of events an item.
        top_share: the share of events that fall on the most popular 1 % and 10 % of items.
        unseen: items without an event.
        begin: the first event's day, or None without times.
        end: the last event's day.
        sorted_counts: events an item, the most popular first, ``[n_items]``.
    """

    density: float
    per_user: tuple[float, ...]
    per_item: tuple[float, ...]
    top_share: tuple[float, float]
    unseen: int
    begin: str | None
    end: str | None
    sorted_counts: npt.NDArray[np.int64]

    @staticmethod
    def of(data: Interactions) -> Portrait:
        """The portrait of any data set, even an empty one."""
        counts = np.sort(np.bincount(data.items, minlength=data.n_items))[::-1]
        total = max(data.n_events, 1)
        shares = [float(counts[: max(round(part * len(counts)), 1)].sum() / total) for part in (0.01, 0.1)]
        timed = data.times is not None and len(data.times) > 0
        return Portrait(
            density=data.n_events / max(data.n_users * data.n_items, 1),
            per_user=_quantiles(data.counts),
            per_item=_quantiles(counts),
            top_share=(shares[0], shares[1]),
            unseen=int((counts == 0).sum()),
            begin=_day(int(data.times.min())) if timed and data.times is not None else None,
            end=_day(int(data.times.max())) if timed and data.times is not None else None,
            sorted_counts=counts,
        )


def _quantiles(counts: npt.NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(counts, QUANTILES)) if len(counts) else ()


def _day(seconds: int) -> str:
    """The day in UTC; a number that is no plausible time, such as an ordinal or milliseconds, as it is."""
    if not 10**8 <= seconds < 10**11:
        return str(seconds)
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()


def long_tail(sorted_counts: npt.NDArray[np.int64], width: int = 72, height: int = 10) -> list[str]:
    """The popularity curve as lines of block characters: items by rank to the right, events upwards.

    Both axes are logarithmic, since a power law is a straight line then.

    Args:
        sorted_counts: events an item, the most popular first, ``[n_items]``.
        width: columns of the plot itself.
        height: lines of the plot itself.
    """
    n = len(sorted_counts)
    if n == 0 or sorted_counts[0] == 0:
        return ["(no events)"]
    edges = np.unique(np.round(np.geomspace(1, n + 1, width + 1)).astype(np.int64))
    ranks = np.geomspace(1, n, width)
    place = np.clip(np.searchsorted(edges, ranks, side="right") - 1, 0, len(edges) - 2)
    means = np.add.reduceat(sorted_counts, edges[:-1] - 1) / np.diff(edges)
    top = np.log10(sorted_counts[0] + 1.0)
    level = np.round(np.log10(means[place] + 1.0) / top * height * 8).astype(int)
    labels = {height - 1: f"{sorted_counts[0]:,}", 0: "1"}
    middle = height // 2
    labels[middle] = f"{10 ** (top * (middle + 1) / height) - 1:,.0f}"
    margin = max(len(label) for label in labels.values())
    lines = []
    for row in range(height - 1, -1, -1):
        blocks = "".join(_EIGHTHS[value] for value in np.clip(level - 8 * row, 0, 8))
        lines.append(f"{labels.get(row, ''):>{margin}} │{blocks.rstrip()}")
    lines.append(" " * margin + " └" + "─" * width)
    return [*lines, " " * (margin + 2) + _rank_axis(n, width)]


def _rank_axis(n: int, width: int) -> str:
    """Ranks under the plot: the powers of ten that have room, and the last."""
    axis, last = [" "] * width, f"{n:,}"
    rank = 1
    while rank <= n:
        label = f"{rank:,}"
        start = round((width - 1) * np.log(rank) / np.log(n)) if n > 1 else 0
        if start + len(label) < width - len(last):
            axis[start : start + len(label)] = label
        rank *= 10
    if n > 1:
        axis[width - len(last) :] = last
    return "".join(axis)
