"""Rényi divergence (RDP) of privacy events, and the step from it to epsilon.

All orders are integers: the Skellam bound is proved for these alone, and what stands beside it gets the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from fedrec.contribution import Floats
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent

ORDERS: Floats = np.unique(np.r_[2:129, (128 * 1.02 ** np.arange(456)).round()])
"""The integers from 2 to 128, then 2% apart, to about 1e6."""

_SAMPLED_ORDER = 512
"""The largest order at which a sampled Gaussian is evaluated."""


def divergence(event: Event) -> Floats:
    """The event's divergence at `ORDERS`, infinite where it is not evaluated."""
    if isinstance(event, SkellamEvent):
        return skellam_rdp(ORDERS, event)
    return event.steps * _gaussian_rdp(event.noise_multiplier, event.sampling_rate)


def skellam_rdp(alpha: Floats, event: SkellamEvent) -> Floats:
    """The divergence of the Skellam mechanism, for integer orders alpha > 1.

    Agarwal, Kairouz & Liu 2021, corollary 3.6, for variance mu and integer vectors:
    alpha Δ₂² / (2 mu) + min{((2 alpha - 1) Δ₂² + 6 Δ₁) / (4 mu²), 3 Δ₁ / (2 mu)}.
    """
    mu, square = event.variance, event.l2**2
    correction = np.minimum(((2 * alpha - 1) * square + 6 * event.l1) / (4 * mu**2), 3 * event.l1 / (2 * mu))
    return np.asarray(alpha * square / (2 * mu) + correction)


def concentrated(event: Event) -> Floats:
    """The least multiple of the order that bounds the divergence at every integer order; rate 1 only.

    One number an event, so that what a sequence costs needs no order to be chosen before it ends.
    """
    if isinstance(event, GaussianEvent):
        return ORDERS * (event.steps / (2 * event.noise_multiplier**2))
    mu, square, l1 = event.variance, event.l2**2, event.l1
    # Over alpha, each branch of the minimum is monotone: its largest value is the one at 2, or the limit.
    first = max(3 * square + 6 * l1, 4 * square) / (8 * mu**2)
    return ORDERS * (square / (2 * mu) + min(first, 3 * l1 / (4 * mu)))


def composed(events: Sequence[Event], curve: Callable[[Event], Floats] = divergence) -> Floats:
    """The divergence of a sequence, at `ORDERS`."""
    total = np.zeros(len(ORDERS))
    for event, count in Counter(events).items():
        total += count * curve(event)
    return total


def to_epsilon(divergences: Floats, delta: float) -> float:
    """The least epsilon at delta over `ORDERS` (Canonne, Kamath & Steinke 2020, proposition 12)."""
    by_order = divergences + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(float(by_order.min()), 0.0)


@lru_cache(maxsize=256)
def _gaussian_rdp(sigma: float, rate: float) -> Floats:
    """One step at `ORDERS`: alpha / (2 sigma²), or where it is sampled, with B the binomial distribution's mass,
    ln(Σ_k B(k; alpha, rate) exp((k² - k) / (2 sigma²))) / (alpha - 1) (Mironov, Talwar & Zhang 2019).
    """
    if rate == 1:
        return ORDERS / (2 * sigma**2)
    curve = np.full(len(ORDERS), np.inf)
    near = ORDERS <= _SAMPLED_ORDER
    alpha, k = ORDERS[near, None].astype(np.int64), np.arange(2, _SAMPLED_ORDER + 1)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, _SAMPLED_ORDER + 1)))])
    rest = np.maximum(alpha - k, 0)
    mass = factorial[alpha] - factorial[k] - factorial[rest] + k * math.log(rate) + rest * math.log1p(-rate)
    exponent = (k**2 - k) / (2 * sigma**2)
    # The sum less 1, so that a divergence near 0 keeps its digits: ln(e^x - 1) = x + ln(1 - e^-x).
    terms = np.where(k <= alpha, mass + exponent + np.log(-np.expm1(-exponent)), -np.inf)
    curve[near] = np.logaddexp(0, np.logaddexp.reduce(terms, axis=1)) / (ORDERS[near] - 1)
    return curve
