"""Tests that a faulty release fails, each aimed at one fault, and the rule that keeps all of them together honest.

A release is watched on *reserved coordinates*, which every client leaves zero, so that whoever sees them sees noise
alone; on canaries, whose clipped length is known; and on rows that are exactly zero. Each test gives a p-value: the
probability that a release as declared looks at least as bad. A deterministic finding has 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedrec.contribution import Floats

FALSE_ALARM = 0.001
"""The probability that any test objects to a release as declared is at most this."""


@dataclass(frozen=True)
class Finding:
    """One test.

    Attributes:
        name: what is tested, in a few words.
        p_value: under the declared mechanism.
        detail: what was seen.
    """

    name: str
    p_value: float
    detail: str


def too_little_noise(name: str, values: Floats, freedom: int | None = None) -> Finding:
    """Whether values that should be standard normal vary too little: the lower tail of chi-square, exact.

    Args:
        name: where the values were seen.
        values: in units of the declared deviation, of mean 0.
        freedom: degrees of freedom, where a mean was subtracted; else as many as values.
    """
    from scipy.stats import chi2

    n = values.size if freedom is None else freedom
    ratio = float(np.vdot(values, values)) / n
    detail = f"deviation {math.sqrt(ratio):.3f} of the declared one, on {n} values"
    return Finding(name, float(chi2.cdf(ratio * n, n)), detail)


def too_long(name: str, scores: Floats, length: float) -> Finding:
    """Whether contributions are longer than declared: their scores are N(length, 1) at most, tested by the mean.

    Args:
        name: what contributes.
        scores: in units of the declared deviation of the noise.
        length: the declared bound, in the same units.
    """
    from scipy.special import ndtr

    mean = float(scores.mean())
    beyond = (mean - length) * math.sqrt(len(scores))
    detail = f"{mean / length:.3f} of the declared bound, on {len(scores)} scores"
    return Finding(name, float(ndtr(-beyond)), detail)


def repeated_noise(name: str, rows: Floats) -> Finding:
    """Whether any two of several noise vectors ``[S, R]`` resemble each other, or are opposites.

    The squared cosine of two independent isotropic vectors is Beta(1/2, (R - 1)/2); the largest of all pairs is tested
    after Bonferroni.
    """
    from scipy.stats import beta

    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosines = np.abs(unit @ unit.T)[np.triu_indices(len(rows), 1)]
    largest = float(min(cosines.max(initial=0.0), 1.0))
    one = float(beta.sf(largest**2, 0.5, (rows.shape[1] - 1) / 2))
    detail = f"largest correlation {largest:.3f} of {len(cosines)} pairs, {rows.shape[1]} values each"
    return Finding(name, min(one * max(len(cosines), 1), 1.0), detail)


def bare_rows(zero: int, rows: int, chance: float) -> Finding:
    """Whether rows are exactly zero more often than noise makes them.

    Args:
        zero: rows without any value but zero.
        rows: all rows of the release.
        chance: the probability that noise leaves a row zero; 0 for noise in floating point.
    """
    from scipy.stats import binom

    probability = float(binom.sf(zero - 1, rows, chance)) if zero else 1.0
    return Finding("rows without noise", probability, f"{zero} of {rows} rows are exactly zero")


def adjusted(findings: Sequence[Finding]) -> list[float]:
    """The p-values after Holm 1979: the probability that all tests together object this strongly to a sound release."""
    order = sorted(range(len(findings)), key=lambda i: findings[i].p_value)
    found, worst = [1.0] * len(findings), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min((len(findings) - rank) * findings[i].p_value, 1.0))
        found[i] = worst
    return found
