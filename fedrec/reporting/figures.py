"""Figures as people read them. Every function takes None and gives a dash."""

from __future__ import annotations

import math

DASH = "\N{EN DASH}"


def rate(value: float | None) -> str:
    """A metric in [0, 1], three decimals."""
    return DASH if value is None else f"{value:.3f}"


def interval(value: float | None, users: int) -> float | None:
    """Half the width of the 95 % interval of a rate over so many users, by the normal approximation of the binomial."""
    if value is None or users <= 0 or not 0 <= value <= 1:
        return None
    return 1.96 * math.sqrt(value * (1 - value) / users)


def epsilon(value: float | None) -> str:
    """Rounded up: a shown budget never claims more privacy than there is."""
    if value is None:
        return DASH
    step = 1000 if value < 100 else 1
    return f"{math.ceil(value * step - 1e-6) / step:g}"


def short(value: float) -> str:
    """A delta or the like: ``1e-5``, not ``1e-05``."""
    return f"{value:g}".replace("e-0", "e-")


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    if value is None:
        return DASH
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return DASH


def duration(seconds: float | None) -> str:
    """Seconds as ``4.2 s``, ``1 min 23 s`` or ``2 h 05 min``."""
    if seconds is None:
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None) -> str:
    """A count or a quantity."""
    if value is None:
        return DASH
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3g}"


def one_in(probability: float) -> str:
    """A small probability in words, never smaller than it is: 1e-5 is ``1 in 100,000``."""
    if probability <= 0:
        return "0"
    return f"1 in {number(math.floor(1 / probability + 1e-6))}"
