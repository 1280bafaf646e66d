"""Who sees what of a federation, and which epsilon holds against them.

An observer who knows some clients' shares of the noise can subtract them: against it, only the other shares count. The
shares of a sum are independent and of equal variance, and both Gaussian and Skellam noise are closed under sums, so the
noise of h shares is the declared one with its variance multiplied by h over the number of shares that is declared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fedrec.privacy import accounting
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent

UNITS = ("user", "interaction")
"""What one change of the data set can be."""

Epsilons = Mapping[str, float | None]
"""Epsilon by unit; None where nothing is bounded."""


@dataclass(frozen=True)
class Charge:
    """What one charged release promises, and to whom.

    Attributes:
        trust: ``distributed``, ``local`` or ``central``.
        min_cohort: the least number of users in the sum.
        colluders: users of the minimum cohort whose shares the declared events leave out.
        events: the declared event, by unit.
    """

    trust: str
    min_cohort: int
    colluders: int
    events: Mapping[str, Event]

    @property
    def inside(self) -> bool:
        """Whether local training carried the noise: that alone promises something at one unit only."""
        return len(self.events) < len(UNITS)

    def against(self, unit: str, known: int) -> Event | None:
        """What the release costs against an observer of the sum who knows the noise of so many clients.

        None where that is all of it, or nothing is promised at the unit. Under trust ``central`` nobody but the server
        knows any. Noise inside of local training is priced as declared, whoever looks on: what later steps release
        depends on it, and a silo's users share it.
        """
        event, left = self.events.get(unit), self.min_cohort - known
        if event is None or self.trust == "central" or self.inside:
            return event
        if left < 1:
            return None
        more = left if self.trust == "local" else left / (self.min_cohort - self.colluders)
        if isinstance(event, SkellamEvent):
            return replace(event, variance=event.variance * more, distance=min(event.distance * more, 1.0))
        return replace(event, noise_multiplier=event.noise_multiplier * math.sqrt(more))


@dataclass(frozen=True)
class View:
    """One observer.

    Attributes:
        observer: who.
        sees: what reaches it.
        epsilon: what the run promises against it, by unit; empty where there is nothing to hide.
        why: what the figure counts, or why there is none.
    """

    observer: str
    sees: str
    epsilon: Epsilons
    why: str


@dataclass(frozen=True)
class Coalition:
    """Colluding clients of the least cohort, and what holds against them.

    Attributes:
        colluders: how many clients tell each other, or the server, their noise.
        share: their part of the least cohort.
        epsilon: by unit.
    """

    colluders: int
    share: float
    epsilon: Epsilons


def views(charges: Sequence[Charge], delta: float) -> tuple[View, ...]:
    """What is promised against every kind of observer; empty without charges."""
    if not charges:
        return ()
    first = charges[0]
    server = {"distributed": _server_of_sums, "local": _server_of_vectors, "central": _trusted_server}
    return (*server[first.trust](charges, delta), *_outsiders(charges, delta))


def coalitions(charges: Sequence[Charge], delta: float) -> tuple[Coalition, ...]:
    """How the promise weakens as more clients collude with whoever sees the sums; trust ``distributed`` alone."""
    if not charges or charges[0].trust != "distributed":
        return ()
    least = min(charge.min_cohort for charge in charges)
    sizes = {0, 1, max(charge.colluders for charge in charges), least // 10, least // 2}
    return tuple(Coalition(n, n / least, _epsilons(charges, delta, known=n)) for n in sorted(sizes) if n < least)


def declared(charges: Sequence[Charge], delta: float) -> dict[str, float | None]:
    """Epsilon as the charges declare it, by unit, from the accountant of reports."""
    return {unit: report(_stated(charges, unit), delta) if _promised(charges, unit) else None for unit in UNITS}


def _promised(charges: Sequence[Charge], unit: str) -> bool:
    return all(unit in charge.events for charge in charges)


def _stated(charges: Sequence[Charge], unit: str) -> tuple[Event, ...]:
    return tuple(charge.events[unit] for charge in charges if unit in charge.events)


@lru_cache(maxsize=64)
def report(events: tuple[Event, ...], delta: float) -> float | None:
    """`accounting.report_epsilon`; None where it is infinite."""
    return _finite(accounting.report_epsilon(events, delta))


def second(events: Sequence[Event], delta: float) -> tuple[str, float | None] | None:
    """`accounting.second_epsilon`: another accountant's name and its epsilon, None where that is infinite."""
    found = accounting.second_epsilon(events, delta)
    return None if found is None else (found[0], _finite(found[1]))


def _epsilons(charges: Sequence[Charge], delta: float, known: int) -> dict[str, float | None]:
    """Epsilon by unit against an observer of every sum who knows the noise of so many clients."""
    found = {}
    for unit in UNITS:
        events = tuple(event for charge in charges if (event := charge.against(unit, known)) is not None)
        epsilon_of = report if events == _stated(charges, unit) else _other
        found[unit] = epsilon_of(events, delta) if len(events) == len(charges) else None
    return found


@lru_cache(maxsize=64)
def _other(events: tuple[Event, ...], delta: float) -> float | None:
    """Epsilon of what no ledger declares: exact for Gaussians at rate 1 too, and many times faster than PLD."""
    plain = all(isinstance(event, GaussianEvent) and event.sampling_rate == 1 for event in events)
    epsilon_of = accounting.filter_epsilon if plain else accounting.report_epsilon
    return _finite(epsilon_of(events, delta))


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _server_of_sums(charges: Sequence[Charge], delta: float) -> tuple[View, ...]:
    sees = "every sum, opened once the least cohort is in it; who was asked, who answered; no single vector"
    alone = View("the server", sees, _epsilons(charges, delta, 0), "every share of the least cohort counts")
    most = max(charge.colluders for charge in charges)
    if not most:
        return (alone,)
    return (
        alone,
        View(
            f"the server with {most} client{'' if most == 1 else 's'}",
            "the same, and these clients' shares of the noise",
            declared(charges, delta),
            "what is declared: the noise is sized for this many colluders",
        ),
    )


def _server_of_vectors(charges: Sequence[Charge], delta: float) -> tuple[View, ...]:
    return (
        View(
            "the server",
            "every client's vector, clipped and noised on the device; who was asked, who answered",
            declared(charges, delta),
            "each vector carries all of the noise, so nobody else's noise is relied on",
        ),
    )


def _trusted_server(charges: Sequence[Charge], delta: float) -> tuple[View, ...]:  # noqa: ARG001 - as its siblings
    return (
        View(
            "the server",
            "every client's clipped vector, before any noise",
            dict.fromkeys(UNITS),
            "nothing is hidden from it: it is trusted",
        ),
    )


def _outsiders(charges: Sequence[Charge], delta: float) -> tuple[View, ...]:
    central = charges[0].trust == "central"
    own, whole = "every share of the least cohort but its own", "every share of the least cohort"
    if central:
        own = whole = "the server's noise, which it does not know"
    if charges[0].inside:
        own = whole = "no noise of others, since each client's is inside of its training"
    return (
        View(
            "another client",
            "every shared model that it receives, and its own share of the noise",
            _epsilons(charges, delta, 1),
            f"counts {own}",
        ),
        View(
            "the public",
            "the final model, and the sums if they are published",
            _epsilons(charges, delta, 0),
            f"counts {whole}, over all releases: the final model alone shows no more",
        ),
        View(
            "the device itself",
            "everything of its own: its history, its vectors, its share of the noise",
            {},
            "nothing is hidden from the device that it is about",
        ),
    )
