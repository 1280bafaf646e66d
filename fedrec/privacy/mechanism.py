"""The privacy contract of a round in one frozen value, and the functions that carry it out: clip, sum, noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedrec.contribution import Contribution, Floats, Release
from fedrec.errors import PrivacyError
from fedrec.randomness import Key, Lane

Trust = Literal["distributed", "local", "central"]

SEEDED = "seeded, simulation only: no guarantee"
"""The noise source of a simulation: whoever knows the seed can subtract the noise."""

SERVER_PART = 2**63
"""The noise stream of the server under trust ``central``; shards count from 0."""


@dataclass(frozen=True)
class Mechanism:
    """Clip every user's vector to ``clip_norm``, sum, and add Gaussian noise to every coordinate.

    Attributes:
        noise_multiplier: noise standard deviation of the sum over the clip norm (0: no privacy).
        clip_norm: the bound on a user's joint L2 norm (infinite: no clip, only without noise).
        trust: ``distributed``: each client adds a share and only the sum is seen; ``local``: each client adds all of
            the noise; ``central``: the server sees clipped vectors and adds the noise.
        min_cohort: the least number of users in a sum; shares are sized for it, so more survivors mean more noise.
        unit: what one change of the data set is.
        adjacency: ``zero-out``: one user's data contribution becomes zero, its noise share stays.

    Guarantees:
        The released sum is a Gaussian mechanism with this noise multiplier, for one user against whoever sees the sum
        (``distributed``, ``central``) or any single vector (``local``), *if* the noise source is secret and exact.
        Seeded noise is neither: simulations mark it `SEEDED`.
    """

    noise_multiplier: float
    clip_norm: float
    trust: Trust = "distributed"
    min_cohort: int = 1
    unit: Literal["user"] = "user"
    adjacency: Literal["zero-out"] = "zero-out"

    def __post_init__(self) -> None:
        if self.noise_multiplier < 0 or not self.clip_norm > 0 or self.min_cohort < 1:
            raise PrivacyError(f"A mechanism needs noise >= 0, a positive clip norm and a cohort, not {self}.")
        if self.noise_multiplier > 0 and math.isinf(self.clip_norm):
            raise PrivacyError("Noise without a clip norm protects nobody: set privacy.clip_norm.")

    @property
    def private(self) -> bool:
        return self.noise_multiplier > 0

    def share_std(self, n_users: int) -> float:
        """Standard deviation of what ``n_users`` clients add together, drawn as one."""
        if self.trust == "central" or not self.private:
            return 0.0
        per_user = 1.0 if self.trust == "local" else 1.0 / self.min_cohort
        return self.noise_multiplier * self.clip_norm * math.sqrt(n_users * per_user)

    def total_std(self, n_users: int) -> float:
        """Standard deviation of the noise in a finished sum over ``n_users`` users."""
        if self.trust == "central" and self.private:
            return self.noise_multiplier * self.clip_norm
        return self.share_std(n_users)

    def weights(self, norms: Floats) -> Floats:
        """The factor that brings each user's norm under the clip norm, ``[C]``; 0 for a norm that is not finite."""
        usable = np.isfinite(norms)
        bounded = np.minimum(1.0, self.clip_norm / np.maximum(np.where(usable, norms, 1.0), 1e-300))
        return np.where(usable, bounded, 0.0)


@dataclass(frozen=True)
class ShardSum:
    """What leaves a client or a shard of them: the noised sum of clipped vectors, in the release's scaled units.

    Attributes:
        arrays: float64, by component.
        n_users: users in the sum, also those that contributed zero.
        rejected: users whose vector was not finite and entered as zero.
    """

    arrays: Mapping[str, Floats]
    n_users: int
    rejected: int = 0


def clip_and_sum(contribution: Contribution, release: Release, mechanism: Mechanism) -> ShardSum:
    """Clip each of C users to the clip norm and sum in float64; no noise yet, so this never leaves a client."""
    with np.errstate(invalid="ignore", over="ignore"):  # a norm that is not finite is counted below
        norms = contribution.norms(release)
    sums = contribution.weighted_sum(release, mechanism.weights(norms))
    return ShardSum(sums, contribution.n_users, int((~np.isfinite(norms)).sum()))


def add_noise(arrays: Mapping[str, Floats], release: Release, std: float, key: Key, part: int) -> dict[str, Floats]:
    """Independent Gaussian noise on every coordinate of every array (none where std is 0)."""
    if std == 0:
        return dict(arrays)
    generator = key.generator(Lane.NOISE, part)
    noised = {}
    for component in release.components:
        noise = generator.standard_normal(component.shape)
        noise *= std
        noise += arrays[component.name]
        noised[component.name] = noise
    return noised


def add_up(shards: Sequence[ShardSum], release: Release) -> ShardSum:
    """The sum of checked shard sums, in the order given, which every engine makes the order of users.

    Raises:
        ContributionError: if the sum has wrong names, shapes or values that are not finite.
    """
    arrays = {c.name: np.zeros(c.shape) for c in release.components}
    for shard in shards:
        for name in arrays:
            arrays[name] += shard.arrays[name]
    release.check(arrays)
    return ShardSum(arrays, sum(shard.n_users for shard in shards), sum(shard.rejected for shard in shards))
