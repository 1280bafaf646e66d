"""Privacy events: what a release declares, a ledger records and an accountant prices.

An event describes a mechanism, never just an epsilon, so that anyone can price it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fedrec.errors import LedgerError, PrivacyError

_LIMITS: dict[str, tuple[float, float]] = {
    "noise_multiplier": (1e-4, 1e12),
    "sampling_rate": (1e-9, 1.0),
    "steps": (1, 10**6),
    "variance": (1e-6, 1e30),
    "l2": (1e-6, 1e15),
    "l1": (1e-6, 1e30),
    "distance": (0.0, 1.0),
}
"""What an accountant is asked to price: a stranger's ledger must not keep it busy for ever."""


@dataclass(frozen=True)
class GaussianEvent:
    """Gaussian noise, composed with itself.

    Attributes:
        noise_multiplier: the noise's standard deviation over the L2 sensitivity.
        sampling_rate: the secret Poisson rate at which a unit takes part in a step; 1 claims no amplification.
        steps: how many times.

    Raises:
        PrivacyError: if a field is out of range.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class SkellamEvent:
    """Skellam noise on a sum of integer vectors, in integer units.

    Attributes:
        variance: of the noise on each coordinate of the sum that the promise counts on: the shares of the least cohort
            without its colluders.
        l2: the sensitivity of the sum in the L2 norm.
        l1: its sensitivity in the L1 norm.
        distance: a bound on the statistical distance of the noise from exact Skellam noise: that of one draw, times
            coordinates, times the shares that are counted on.

    Raises:
        PrivacyError: if a field is out of range.
    """

    variance: float
    l2: float
    l1: float
    distance: float = 0.0

    def __post_init__(self) -> None:
        _check(self)


Event = GaussianEvent | SkellamEvent

_KINDS: dict[str, type[Event]] = {"gaussian": GaussianEvent, "skellam": SkellamEvent}


def to_fields(event: Event) -> dict[str, str | int]:
    """The event as a ledger records it: decimals are strings that give the very same float back."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(event, cls))
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {"kind": kind, **{name: value if name == "steps" else repr(float(value)) for name, value in values.items()}}


def from_fields(record: Mapping[str, Any]) -> Event:
    """The event that `to_fields` recorded.

    Raises:
        LedgerError: naming the field that is missing, unknown, not in canonical form or out of range.
    """
    kind = record.get("kind")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise LedgerError(f"A recorded event has the kind {kind!r}; known: {', '.join(_KINDS)}.")
    wanted = {field.name for field in fields(cls)}
    for name in sorted(wanted ^ (set(record) - {"kind"})):
        raise LedgerError(f"A recorded {kind} event {'lacks' if name in wanted else 'has an unknown field'} '{name}'.")
    values = {name: _number(name, record[name]) for name in wanted}
    try:
        return cls(**values)
    except PrivacyError as error:
        raise LedgerError(f"A recorded {kind} event is out of range: {error}") from error


def _number(name: str, value: Any) -> Any:
    """A recorded number; one number has one form."""
    if name == "steps":
        if type(value) is int:
            return value
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if repr(number) == value and math.isfinite(number):
            return number
    raise LedgerError(f"A recorded event's '{name}' is {value!r}, which is not a number in canonical form.")


def _check(event: Event) -> None:
    for field in fields(event):
        value, (low, high) = getattr(event, field.name), _LIMITS[field.name]
        if not low <= value <= high:
            raise PrivacyError(f"'{field.name}' of a privacy event must lie in [{low:g}, {high:g}], not {value!r}.")
