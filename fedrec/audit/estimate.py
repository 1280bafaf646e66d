"""From canaries' scores to epsilon: the one-shot estimate of Andrew et al. 2023, with one fitted variance.

Each canary is a client whose clipped vector is known: the clip norm times a unit vector, all of them orthogonal. Its
score is the released vector's component along its own unit vector: the canary's length plus noise, and the noises of
orthogonal canaries are independent. Canaries that took no part score noise alone, of mean 0. Length over deviation is
the parameter mu of Gaussian differential privacy (Dong, Roth & Su 2022), which is turned into epsilon exactly (Balle &
Wang 2018). (Andrew, Kairouz, Oh, Oprea, McMahan & Suriyakumar, "One-shot empirical privacy estimation for federated
learning".)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedrec.contribution import Floats
from fedrec.errors import PrivacyError
from fedrec.privacy.accounting import gaussian_epsilon

CONFIDENCE = 0.95
"""Of every interval that an audit prints."""


@dataclass(frozen=True)
class Estimate:
    """What canaries tell of a release's privacy.

    Attributes:
        epsilon, low, high: at the audit's delta, with a 95% interval; 0 where the canaries are not seen at all.
        mu, mu_low, mu_high: the Gaussian parameter that they stand for.
        canaries: that took part.
    """

    epsilon: float
    low: float
    high: float
    mu: float
    mu_low: float
    mu_high: float
    canaries: int


def estimate(inside: Floats, outside: Floats, delta: float) -> Estimate:
    """The estimate from the scores of canaries that took part and of some that did not.

    The variance is fitted to both: deviations from their mean for those inside, from the known mean 0 for the others.
    The interval rests on the scores being normal: the mean over the fitted deviation is then noncentral t, and its
    inverse hyperbolic sine is close to normal with a known variance (Laubscher 1960, "Normalizing the noncentral t and
    F distributions").

    Args:
        inside: scores of canaries that took part, ``[K]``, in any unit.
        outside: scores of those that did not, in the same unit; may be empty.
        delta: at which epsilon is wanted.

    Raises:
        PrivacyError: if there are not enough scores for a variance.
    """
    from scipy.special import ndtri

    k, freedom = len(inside), len(inside) + len(outside) - 1
    if k < 1 or freedom < 2:
        raise PrivacyError(f"{k} canaries are too few to fit a variance; take more with --canaries.")
    mean = float(inside.mean())
    squares = float(np.square(inside - mean).sum() + np.square(outside).sum())
    if squares == 0:
        raise PrivacyError("Every canary is found exactly, so that there is no noise to estimate.")
    mu = mean / math.sqrt(squares / freedom)
    scale, unit = math.sqrt(k / (2 * freedom)), 1 / math.sqrt(2 * freedom)
    reach = float(ndtri((1 + CONFIDENCE) / 2)) * unit
    low, high = (math.sinh(math.asinh(mu * scale) + side * reach) / scale for side in (-1, 1))
    epsilon, bottom, top = (gaussian_epsilon(max(value, 0.0), delta) for value in (mu, low, high))
    return Estimate(epsilon, bottom, top, mu, low, high, k)
