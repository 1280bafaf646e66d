"""Robust aggregation: one vector out of many, of which some may be lies, where each can be seen.

Seen means: without privacy, or under trust ``local``, where every vector carries all of its own noise and whatever is
made of them is post-processing. Under ``distributed`` and ``central`` trust the noise is sized for a *sum*, which one
user moves by the clip norm; a median or a selection moves by as much as the vectors are apart, so that nothing would be
proved there, and it is refused.

A sender is bounded twice. Its vector has a norm that a clipped and noised one can have, or it is left out; and of those
that are left, the rules below do not let `CORRUPT` of them decide alone. All assume that honest vectors have something
in common, and histories have little: an item that few have met is zero in most vectors, and to a median zero *is* the
truth. What each rule costs on real data, and what it misses, is measured by ``simulations/poisoning.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedrec.contribution import Floats
from fedrec.errors import ConfigError, ContributionError
from fedrec.privacy.mechanism import Mechanism, ShardSum, opened
from fedrec.release import Release

Rule = Literal["trimmed-mean", "median", "krum"]

CORRUPT = 0.1
"""The share of senders that may lie, as secure aggregation assumes it too."""

_REJECTED = math.log(1e9)
"""An honest vector is left out with probability 1e-9 at most."""

_WIDTH = 2**14
"""Coordinates that are compared at once; bounds the memory beside the vectors themselves."""


def norm_bound(release: Release, mechanism: Mechanism, n_users: int) -> float:
    """The largest L2 norm, in the release's scaled units, of a clipped and noised sum over ``n_users`` honest users.

    Noise of deviation s on d coordinates has a squared norm above s² (d + 2 √(d t) + 2 t) with probability e^-t at most
    (Laurent & Massart 2000, lemma 1), t = ln 10⁹. That is proved for Gaussian noise; Skellam noise of variance v, in
    integer units, has the kurtosis 3 + 1/v, and v is far above 1,000 wherever a vector carries all of its noise. It is
    infinite where no bound is declared: without privacy, and where each step of local training carries the noise.
    """
    if mechanism.inside is not None or not mechanism.private:
        return math.inf
    grid, d = mechanism.grid, release.size
    clipped = mechanism.clip_norm if grid is None else grid.l2 / grid.scale
    noise = mechanism.share_std(n_users) * math.sqrt(d + 2 * math.sqrt(d * _REJECTED) + 2 * _REJECTED)
    return n_users * clipped * (1 + 1e-9) + noise


def check_norm(shard: ShardSum, release: Release, mechanism: Mechanism) -> None:
    """Refuse a vector, or a sum, whose norm no honest users can have sent.

    Args:
        shard: in the release's scaled units.
        release: what was asked for.
        mechanism: under which it was clipped and noised.

    Raises:
        ContributionError: naming both norms.
    """
    bound = norm_bound(release, mechanism, shard.n_users)
    if math.isinf(bound):
        return
    norm = math.sqrt(math.fsum(float(np.vdot(array, array)) for array in shard.arrays.values()))
    if not norm <= bound:
        raise ContributionError(
            f"'{release.name}': what was sent for {shard.n_users} users has the norm {norm:.4g}, and clipped vectors "
            f"with their noise reach {bound:.4g}: a client sent something else."
        )


def readable(shard: ShardSum, release: Release, mechanism: Mechanism) -> ShardSum:
    """One visible shard in the release's scaled units, float64, checked for itself.

    Raises:
        ContributionError: for wrong names, shapes or values, or a vector that no honest client sends.
    """
    release.check(shard.arrays, mechanism.wire)
    if mechanism.grid is not None:
        shard = opened(shard, release, mechanism, mechanism.grid)
    check_norm(shard, release, mechanism)
    return shard


def plausible(shards: Sequence[ShardSum], release: Release, mechanism: Mechanism) -> list[ShardSum]:
    """The visible shards that an honest client can have sent, each `readable`; the others are left out."""
    kept = []
    for shard in shards:
        try:
            kept.append(readable(shard, release, mechanism))
        except ContributionError:
            continue
    return kept


def combine(shards: Sequence[ShardSum], release: Release, mechanism: Mechanism, rule: Rule) -> tuple[ShardSum, float]:
    """The robust mean of single users' vectors, in the units of a sum: times their number.

    Args:
        shards: one a user, as `plausible` left them.
        release: what was asked for.
        mechanism: under which each vector was clipped and noised.
        rule: ``trimmed-mean``: in every coordinate, without the ⌈`CORRUPT` n⌉ largest and as many smallest (Yin et al.
            2018); ``median``: in every coordinate; without noise, of the means of groups so small that most are honest
            (Yin et al. 2018; Chen, Su & Xu 2017 for groups); ``krum``: the mean without the ⌈`CORRUPT` n⌉ vectors that
            are furthest from their neighbours (multi-Krum; Blanchard et al. 2017).

    Returns:
        The total, and the standard deviation of the noise in each of its coordinates: that of n vectors that are noise
        alone. It is asymptotic, and the better the more the noise outweighs what vectors differ in.

    Guarantees: with at most `CORRUPT` of five or more vectors chosen by an adversary who sees all others, every
        coordinate of a trimmed mean or median stays within the range of the honest vectors', or honest groups' means.
        Nothing is promised of how far the promoted item of a patient adversary rises within that range.

    Raises:
        ConfigError: where vectors carry but shares of the noise, or a shard holds several users, who cannot be told
            apart.
    """
    if mechanism.private and mechanism.trust != "local":
        raise ConfigError(
            f"federation.aggregation = '{rule}' moves by more than a clip norm when one user changes, and under "
            f"privacy.trust = '{mechanism.trust}' the noise covers no more: set 'sum', or privacy.trust = 'local'."
        )
    several = max((shard.n_users for shard in shards), default=1)
    if several != 1:
        raise ConfigError(
            f"federation.aggregation = '{rule}' compares single users, and a node sent the sum over {several}: give "
            "every user a node of its own (engine.nodes), or set 'sum'."
        )
    vectors, n = [release.flatten(shard.arrays) for shard in shards], len(shards)
    wrong = math.ceil(CORRUPT * n)
    if rule == "krum":
        kept = _krum(vectors, min(wrong, max((n - 3) // 2, 0)))
        mean, factor = _mean([vectors[i] for i in kept]), 1 / math.sqrt(len(kept))
    elif rule == "median":
        # With noise on it no coordinate is zero, and a lie weighs less alone than in the mean of a group.
        size = 1 if mechanism.private else max(n // (2 * wrong + 1), 1)
        groups = np.array_split(np.arange(n), n // size)
        means = [_mean([vectors[i] for i in group]) for group in groups]
        mean = np.concatenate([np.median(block, axis=0) for block in _blocks(means)])
        factor = _median_factor(n)
    else:
        cut = min(wrong, (n - 1) // 2)
        mean = np.concatenate([_trimmed(block, cut) for block in _blocks(vectors)])
        factor = _trimmed_factor(cut / n) / math.sqrt(n)
    rejected = sum(shard.rejected for shard in shards)
    return ShardSum(release.split(n * mean), n, rejected), n * factor * mechanism.share_std(1)


def _mean(vectors: Sequence[Floats]) -> Floats:
    """Their mean, added in the order given."""
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total / len(vectors)


def _blocks(vectors: Sequence[Floats]) -> Iterator[npt.NDArray[np.float64]]:
    """Some coordinates of all vectors at a time, ``[n, w]``."""
    for start in range(0, len(vectors[0]), _WIDTH):
        yield np.stack([vector[start : start + _WIDTH] for vector in vectors])


def _trimmed(block: Floats, cut: int) -> Floats:
    """The mean of each column without its ``cut`` largest and smallest."""
    ordered = np.partition(block, (cut, len(block) - cut - 1), axis=0)
    return np.asarray(ordered[cut : len(block) - cut].mean(axis=0))


def _krum(vectors: Sequence[Floats], wrong: int) -> list[int]:
    """All but the ``wrong`` vectors with the largest sum of squared distances to their n - wrong - 2 nearest others."""
    n = len(vectors)
    products = np.zeros((n, n))
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is further away than anything
        for block in _blocks(vectors):
            products += block @ block.T
        squares = np.diag(products)
        distances = squares[:, None] + squares - 2 * products
        distances[~np.isfinite(distances)] = np.inf
        np.fill_diagonal(distances, np.inf)
        scores = np.sort(distances, axis=1)[:, : max(n - wrong - 2, 0)].sum(axis=1)
    return sorted(np.argsort(scores, kind="stable")[: n - wrong].tolist())


def _median_factor(n: int) -> float:
    """Deviation of the median of n standard normal values: √(π / 2n) for many, 1 for one."""
    return math.sqrt(math.pi / (2 * (n - 1) + math.pi))


def _trimmed_factor(share: float) -> float:
    """√n times the deviation of the mean of n standard normal values without this share at either end (Huber 1981)."""
    from statistics import NormalDist  # no device needs it

    if share == 0:
        return 1.0
    edge, inner = NormalDist().inv_cdf(1 - share), 1 - 2 * share
    within = inner - 2 * edge * NormalDist().pdf(edge)
    return math.sqrt(within + 2 * share * edge**2) / inner
