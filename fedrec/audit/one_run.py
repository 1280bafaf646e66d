"""A lower bound on epsilon from one run (Steinke, Nasr & Jagielski 2023, "Privacy auditing with one (1) training run").

Each of m canaries takes part by a fair coin. Whoever sees the release guesses the coins of some. If the release is
(epsilon, delta)-differentially private, no guesser gets many more right than a coin of weight e^epsilon / (1 +
e^epsilon) would: more right guesses refute the epsilon. Nothing is assumed of the scores' distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrec.audit.estimate import CONFIDENCE
from fedrec.contribution import Floats


@dataclass(frozen=True)
class Bound:
    """What the guesses refute.

    Attributes:
        epsilon: the release has at least this epsilon at the audit's delta, with 95% confidence.
        canaries: each in by a fair coin.
        guesses: how many coins were guessed; fixed before anything was seen.
        correct: of these.
    """

    epsilon: float
    canaries: int
    guesses: int
    correct: int


def bound(scores: Floats, took_part: npt.NDArray[np.bool_], guesses: int, delta: float) -> Bound:
    """Guess "in" for the highest scores and "out" for the lowest, half of the guesses each.

    Args:
        scores: ``[m]``, higher for canaries that are more likely in.
        took_part: ``[m]``, the coins.
        guesses: how many; must not depend on the scores.
        delta: at which epsilon is bounded.
    """
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    correct = int(took_part[order[len(order) - half :]].sum() + (~took_part[order[:half]]).sum())
    return Bound(lower_bound(len(scores), 2 * half, correct, delta), len(scores), 2 * half, correct)


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The largest probability of at least so many right guesses under (epsilon, delta)-differential privacy.

    Theorem 5.2 of the paper: P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i, B binomial.
    """
    from scipy.special import expit
    from scipy.stats import binom

    rate = float(expit(epsilon))
    beta = float(binom.sf(correct - 1, guesses, rate))
    near = np.arange(1, correct + 1)
    steps = np.cumsum(binom.pmf(correct - near, guesses, rate)) / near
    return min(beta + 2 * canaries * delta * float(steps.max(initial=0.0)), 1.0)


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """The largest epsilon that so many right guesses refute at this confidence; 0 where they refute none."""

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon, delta) <= 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def guesses_for(canaries: int, mu: float, delta: float) -> int:
    """How many guesses promise the best bound if the release is as declared; known before it is seen.

    With as many guesses on either side, the highest scores are those above a quantile of the even mixture of N(0, 1)
    and N(mu, 1).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    best, most = 2, -1.0
    for half in sorted({max(round(canaries / 2 * 0.8**step), 1) for step in range(20)}):
        share = half / canaries

        def too_many(threshold: float, share: float = share) -> float:
            return float(ndtr(-threshold) + ndtr(mu - threshold)) / 2 - share

        threshold = brentq(too_many, -40.0, mu + 40.0)
        right = float(ndtr(mu - threshold)) / (2 * share)
        found = lower_bound(canaries, 2 * half, math.floor(2 * half * right), delta)
        if found > most:
            best, most = 2 * half, found
    return best
