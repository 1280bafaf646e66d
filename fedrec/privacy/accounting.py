"""Accounting: from mechanism events to epsilon. The one module that imports ``dp_accounting``.

Every event is a Gaussian at sampling rate 1: no amplification by client sampling is claimed, since the server sees
the cohort. Two accountants, one purpose each:

- the *filter* decides refusals: the squared Gaussian-DP parameters mu² = Σ 1/σ² of a sequence add up even when a later
  round's noise depends on earlier results (Dong, Roth & Su 2022; Smith & Thakurta 2022), and the analytic Gaussian
  (Balle & Wang 2018) turns mu into epsilon exactly;
- the *report* is dp-accounting's privacy loss distribution (PLD) of the recorded events, pessimistic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from fedrec.errors import PrivacyError

PLD_INTERVAL = 1e-4
"""The privacy loss grid of the PLD accountant; a finer one changes epsilon by less than 1e-3."""


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


def pld_epsilon(noise_multipliers: Sequence[float], delta: float) -> float:
    """Epsilon of a sequence of Gaussian events by dp-accounting's PLD accountant (zero-out: add-or-remove)."""
    if not noise_multipliers:
        return 0.0
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=PLD_INTERVAL)
    for sigma, count in sorted(Counter(noise_multipliers).items()):
        accountant.compose(SelfComposedDpEvent(GaussianDpEvent(sigma), count))
    return float(accountant.get_epsilon(delta))


def accountant_version() -> str:
    """The accountant that `pld_epsilon` uses, for reports."""
    from importlib.metadata import version

    return f"dp-accounting {version('dp-accounting')} (PLD, interval {PLD_INTERVAL:g})"


def calibrate(epsilon: float, delta: float, shares: Sequence[float]) -> list[float]:
    """Noise multipliers of rounds that together spend epsilon at delta, each its share of Σ 1/σ².

    The PLD figure of the result is at most epsilon, and above epsilon minus a hundredth.

    Raises:
        PrivacyError: if the shares are not positive and do not sum to 1.
    """
    if min(shares) <= 0 or not math.isclose(math.fsum(shares), 1.0, rel_tol=1e-9):
        raise PrivacyError(f"Budget shares must be positive and sum to 1, not {list(shares)}.")
    aim = epsilon
    while True:
        mu = _mu_for(aim, delta)
        sigmas = [1 / (mu * math.sqrt(share)) for share in shares]
        over = pld_epsilon(sigmas, delta) - epsilon
        if over <= 0:
            return sigmas
        aim -= 1.01 * over


def _mu_for(epsilon: float, delta: float) -> float:
    """The Gaussian-DP parameter that gives exactly epsilon at delta."""
    from scipy.optimize import brentq

    high = 1.0
    while gaussian_delta(epsilon, high) < delta:
        high *= 2
    return float(brentq(lambda mu: gaussian_delta(epsilon, mu) - delta, 1e-9, high, xtol=1e-14, rtol=1e-13))
