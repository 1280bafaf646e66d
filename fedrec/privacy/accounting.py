"""Accounting: from privacy events to epsilon. The one module that imports ``dp_accounting``.

- The *report* is Google's: dp-accounting's privacy loss distribution (PLD) where all noise is Gaussian, its conversion
  of Rényi divergence (RDP) as soon as some is Skellam.
- The *filter* decides refusals, so it must hold when a later round's noise depends on earlier results. At sampling rate
  1 one number an event adds up: 1/σ² of Gaussians, which the analytic Gaussian (Balle & Wang 2018) turns into epsilon
  exactly (Dong, Roth & Su 2022; Smith & Thakurta 2022), or concentrated divergence where a Skellam is among them
  (Feldman & Zrnic 2021, "Individual privacy accounting via a Rényi filter"). Where steps are sampled, divergences add
  up order by order and the best order counts: it must not depend on results, as in a plan fixed before the first round.
- The *second* accountant checks the report.

Everything is add-or-remove at the declared sensitivity, never replace-one, which dp-accounting 0.6 gets wrong.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from fedrec.errors import PrivacyError
from fedrec.privacy import renyi
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent

PLD_INTERVAL = 1e-4
"""The privacy loss grid of the PLD accountant, or 1e-5 of epsilon if that is more; a finer one changes little."""

_PRV_ERROR = 0.005
"""How far Opacus's upper bound may lie above epsilon."""


def report_epsilon(events: Sequence[Event], delta: float) -> float:
    """Epsilon of the events at delta: the figure that is reported.

    Infinite where delta does not even cover the statistical distance of the noise.
    """
    if any(isinstance(event, SkellamEvent) for event in events):
        return rdp_epsilon(events, delta)
    if not events:
        return 0.0
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    interval = max(PLD_INTERVAL, 1e-5 * filter_epsilon(events, delta))
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=interval)
    for (sigma, rate), steps in sorted(_merged(events).items()):
        step = GaussianDpEvent(sigma)
        accountant.compose(SelfComposedDpEvent(step if rate == 1 else PoissonSampledDpEvent(rate, step), steps))
    return float(accountant.get_epsilon(delta))


USEFUL = 1000.0
"""Ten times the largest budget that an experiment may have."""


def useful_epsilon(events: Sequence[Event], delta: float) -> float | None:
    """`report_epsilon`; None above `USEFUL`, which promises nothing, and where accountants take for ever."""
    return report_epsilon(events, delta) if filter_epsilon(events, delta) <= USEFUL else None


def rdp_epsilon(events: Sequence[Event], delta: float) -> float:
    """Epsilon of the events at delta, all of them through RDP at the same orders and dp-accounting's conversion.

    So a Skellam and the continuous Gaussian can stand side by side.
    """
    if not events:
        return 0.0
    from dp_accounting.rdp import compute_epsilon

    curve = renyi.composed(events)
    return _with_distance(lambda left: float(compute_epsilon(renyi.ORDERS, curve, left)[0]), events, delta)


def filter_epsilon(events: Sequence[Event], delta: float) -> float:
    """Epsilon of the events at delta, also when the noise of one depends on what others released: for refusals."""
    if not any(isinstance(event, SkellamEvent) for event in events) and not _sampled(events):
        return gaussian_epsilon(math.sqrt(math.fsum(n * sigma**-2 for (sigma, _), n in _merged(events).items())), delta)
    curve = renyi.composed(events, renyi.divergence if _sampled(events) else renyi.concentrated)
    return _with_distance(lambda left: renyi.to_epsilon(curve, left), events, delta)


def second_epsilon(events: Sequence[Event], delta: float) -> tuple[str, float] | None:
    """Another accountant than `report_epsilon`'s, with its version, and its epsilon; None where there is none.

    Gaussians: the upper bound of Opacus's PRV accountant (Gopi, Lee & Wutschitz 2021), or without Opacus the analytic
    Gaussian at sampling rate 1. With a Skellam at rate 1: the paper's formulas, term by term at every order.
    """
    from fedrec import __version__

    if any(isinstance(event, SkellamEvent) for event in events):
        if _sampled(events):
            return None
        return f"fedrec {__version__} (RDP term by term)", _with_distance(_term_by_term(events), events, delta)
    if events and (prv := _prv_epsilon(events, delta)):
        return prv
    return None if _sampled(events) else (f"fedrec {__version__} (analytic Gaussian)", filter_epsilon(events, delta))


def accountant_of(events: Sequence[Event]) -> str:
    """The accountant that `report_epsilon` uses for these events, with its version."""
    from importlib.metadata import version

    method = "RDP" if any(isinstance(event, SkellamEvent) for event in events) else "PLD"
    return f"dp-accounting {version('dp-accounting')} ({method})"


def calibrate_events(epsilon: float, delta: float, events_of: Callable[[float], Sequence[Event]]) -> float:
    """The smallest noise multiplier, up to 1e-4 of itself, that spends at most epsilon at delta.

    Both the report and the filter stay within epsilon, so that what is calibrated here is not refused later.

    Args:
        epsilon: the budget.
        delta: the probability that the promise does not cover.
        events_of: what a noise multiplier costs; more noise must cost less.

    Raises:
        PrivacyError: if no noise is enough.
    """
    aim = epsilon
    while True:
        multiplier = _solve(aim, lambda m: filter_epsilon(events_of(m), delta))
        events = events_of(multiplier)
        report = report_epsilon(events, delta)
        if report <= epsilon:
            return multiplier
        # PLD lies a little above the analytic Gaussian: leave room for that, and 1e-5 more.
        aim = max((epsilon - (report - filter_epsilon(events, delta))) * (1 - 1e-5), aim / 2)


def _solve(epsilon: float, price: Callable[[float], float]) -> float:
    """The smallest noise multiplier whose price is at most epsilon, up to 1e-7 of itself."""
    low = high = 1.0
    while price(high) > epsilon:
        low, high = high, 2 * high
        if high > 1e9:
            raise PrivacyError(f"No noise brings epsilon to {epsilon:.4g}; raise privacy.epsilon or privacy.delta.")
    while low == high or price(low) <= epsilon:
        low, high = low / 2, low
    while high > low * (1 + 1e-7):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if price(middle) <= epsilon else (middle, high)
    return high


def _with_distance(epsilon_of: Callable[[float], float], events: Sequence[Event], delta: float) -> float:
    """Epsilon, where the noise is within some statistical distance D of what ``epsilon_of`` prices.

    Exchanging the noise on both sides of the promise adds (1 + e^epsilon) D to delta.
    """
    distance = math.fsum(event.distance for event in events if isinstance(event, SkellamEvent))
    assumed = epsilon_of(delta)
    while distance:
        left = delta - (1 + math.exp(min(assumed, 700.0))) * distance
        if left <= 0:
            return math.inf
        epsilon = epsilon_of(left)
        if epsilon <= assumed:
            return epsilon
        assumed = epsilon * (1 + 1e-9)
    return assumed


def _term_by_term(events: Sequence[Event]) -> Callable[[float], float]:
    """Epsilon by delta, in plain arithmetic at every integer order to 10,000; shares no code with the report's."""
    counted = Counter(events).items()
    divergences = []
    for alpha in range(2, 10_001):
        total = 0.0
        for event, count in counted:
            if isinstance(event, GaussianEvent):
                total += count * event.steps * alpha / (2 * event.noise_multiplier**2)
                continue
            mu, l2, l1 = event.variance, event.l2, event.l1
            rest = min(((2 * alpha - 1) * l2 * l2 + 6 * l1) / (4 * mu * mu), 3 * l1 / (2 * mu))
            total += count * (alpha * l2 * l2 / (2 * mu) + rest)
        divergences.append((alpha, total))

    def epsilon(delta: float) -> float:
        bounds = (r + math.log(1 - 1 / a) - (math.log(delta) + math.log(a)) / (a - 1) for a, r in divergences)
        return max(min(bounds), 0.0)

    return epsilon


def _prv_epsilon(events: Sequence[Event], delta: float) -> tuple[str, float] | None:
    """Opacus's figure for Gaussians, where Opacus is installed."""
    try:
        import opacus
        from opacus.accountants import PRVAccountant
    except ImportError:
        return None
    accountant = PRVAccountant()
    accountant.history = [(sigma, rate, steps) for (sigma, rate), steps in sorted(_merged(events).items())]
    # It takes log(1 - rate) at rate 1, and warns of the RDP orders that only size its grid.
    with np.errstate(divide="ignore"), warnings.catch_warnings(action="ignore", category=UserWarning):
        epsilon = accountant.get_epsilon(delta, eps_error=_PRV_ERROR)
    return f"opacus {opacus.__version__} (PRV, error {_PRV_ERROR:g})", float(epsilon)


def _sampled(events: Sequence[Event]) -> bool:
    return any(isinstance(event, GaussianEvent) and event.sampling_rate < 1 for event in events)


def _merged(events: Sequence[Event]) -> Counter[tuple[float, float]]:
    """Steps of the Gaussians, by noise multiplier and sampling rate."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        if isinstance(event, GaussianEvent):
            steps[event.noise_multiplier, event.sampling_rate] += event.steps
    return steps


# Gaussians at rate 1


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Delta of the Gaussian mechanism with sensitivity / noise = mu, at epsilon (Balle & Wang 2018, theorem 8)."""
    from scipy.special import log_ndtr

    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return max(math.exp(first) - math.exp(min(second, first)), 0.0)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a composition of Gaussians with Σ 1/σ² = mu² at delta."""
    if mu == 0:
        return 0.0
    from scipy.optimize import brentq

    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, high, xtol=1e-12, rtol=1e-12))


def composed_mu(noise_multipliers: Sequence[float]) -> float:
    """The Gaussian-DP parameter of a sequence of Gaussians, sqrt(Σ 1/σ²)."""
    return math.sqrt(math.fsum(sigma**-2 for sigma in noise_multipliers))
