"""The privacy contract of a round in one frozen value, and the functions that carry it out: clip, sum, noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from fedrec.contribution import Contribution, Floats
from fedrec.errors import ContributionError, PrivacyError
from fedrec.privacy import skellam
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent
from fedrec.privacy.grid import Grid, Uniforms, discrete_sum, from_ring, to_ring
from fedrec.privacy.stream import SecureWords
from fedrec.randomness import Key, Lane
from fedrec.release import DpSgd, Release

Trust = Literal["distributed", "local", "central"]
Unit = Literal["user", "interaction"]

SEEDED = "seeded, simulation only: no guarantee"
"""The noise source of a simulation: whoever knows the seed can subtract the noise."""

SECURE = "ChaCha20 keyed by the operating system, exact to the stated distance"
"""The noise source of devices."""

SECURE_FLOAT = "ChaCha20 keyed by the operating system, floating point in local training: not formally covered"
"""The noise source of devices whose every step of training is noised."""

_REACH = 12.0
"""Standard deviations of noise that a sum may hold beyond what all clipped vectors reach."""

SERVER_PART = 2**63
"""The noise stream of the server under trust ``central``; shards count from 0."""


@dataclass(frozen=True)
class Mechanism:
    """Clip every user's vector to ``clip_norm``, sum, and add noise to every coordinate.

    Attributes:
        noise_multiplier: noise standard deviation of the sum over its sensitivity (0: no privacy).
        clip_norm: the bound on a user's joint L2 norm (infinite: no clip, only without noise).
        trust: ``distributed``: each client adds a share and only the sum is seen; ``local``: each client adds all of
            the noise; ``central``: the server sees clipped vectors and adds the noise.
        min_cohort: the least number of users in a sum; shares are sized for it, so more survivors mean more noise.
        colluders: users of the minimum cohort whose shares do not count.
        unit: what one change of the data set is.
        interaction: how far one interaction can move a user's clipped vector; None where nothing is proved but twice
            the clip norm.
        grid: how vectors become integers for Skellam noise; None adds Gaussian noise in floating point.
        bits: the ring of the integers, 32 or 64.
        inside: local training that carried all of the noise in every step: what it learned is summed as it is, and
            noise multiplier and clip norm are those of a step.
        adjacency: ``zero-out``: the data contribution of one user, or of one interaction, becomes zero; the noise
            share stays.

    Guarantees:
        The released sum is a Gaussian or Skellam mechanism with the declared `events`, against whoever sees the sum
        (``distributed``, ``central``) or any single vector (``local``), *if* the noise source is secret and exact.
        Seeded noise is neither, and floating-point noise is not exact: simulations mark it `SEEDED`.
    """

    noise_multiplier: float
    clip_norm: float
    trust: Trust = "distributed"
    min_cohort: int = 1
    colluders: int = 0
    unit: Unit = "user"
    interaction: float | None = None
    grid: Grid | None = None
    bits: int = 0
    inside: DpSgd | None = None
    adjacency: Literal["zero-out"] = "zero-out"

    def __post_init__(self) -> None:
        if self.noise_multiplier < 0 or not self.clip_norm > 0 or not 0 <= self.colluders < self.min_cohort:
            raise PrivacyError(f"A mechanism needs noise >= 0, a positive clip norm and honest clients, not {self}.")
        if self.noise_multiplier > 0 and math.isinf(self.clip_norm):
            raise PrivacyError("Noise without a clip norm protects nobody: set privacy.clip_norm.")
        if self.private and self.unit == "interaction" and self.interaction is None:
            raise PrivacyError("No bound is proved on what one interaction changes here: set privacy.unit = 'user'.")

    @property
    def private(self) -> bool:
        return self.noise_multiplier > 0

    @property
    def wire(self) -> npt.DTypeLike:
        """What a client sends: ring elements, or float64, so that the order of sums moves but their last bits."""
        return np.float64 if self.grid is None else np.dtype(f"uint{self.bits}")

    @property
    def sensitivity(self) -> float:
        """How far one unit moves the sum: what the noise multiplier multiplies."""
        return self._interaction if self.unit == "interaction" else self.clip_norm

    @property
    def _interaction(self) -> float:
        """One interaction replaces a user's clipped vector by another: never assumed to be smaller than proved."""
        return 2 * self.clip_norm if self.interaction is None else min(2 * self.clip_norm, self.interaction)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise that the promise counts on, in the sum of the least cohort."""
        return self.noise_multiplier * self.sensitivity

    def share_std(self, n_users: int) -> float:
        """Standard deviation of what ``n_users`` clients add together, drawn as one."""
        if self.trust == "central" or not self.private:
            return 0.0
        if self.inside is not None:  # a silo of n users speaks for each of them
            return self.inside.update_std * (n_users if self.inside.sample == "history" else math.sqrt(n_users))
        per_user = 1.0 if self.trust == "local" else 1.0 / (self.min_cohort - self.colluders)
        return self.noise_std * math.sqrt(n_users * per_user)

    def total_std(self, n_users: int) -> float:
        """Standard deviation of the noise in a finished sum over ``n_users`` users."""
        if self.trust == "central" and self.private:
            return self.noise_std
        return self.share_std(n_users)

    def events(self) -> dict[str, Event]:
        """What one release costs, by unit: one noise, two guarantees."""
        if not self.private:
            return {}
        if self.inside is not None:
            return {self.unit: GaussianEvent(self.noise_multiplier, self.inside.sampling_rate, self.inside.steps)}
        if self.grid is None:
            std = self.noise_std
            return {
                "user": GaussianEvent(std / self.clip_norm),
                "interaction": GaussianEvent(std / self._interaction),
            }
        grid, variance = self.grid, (self.noise_std * self.grid.scale) ** 2
        # Each of the honest shares of the least cohort is drawn coordinate by coordinate.
        honest = 1 if self.trust == "local" else self.min_cohort - self.colluders
        distance = honest * grid.dimension * skellam.DISTANCE
        moved = grid.difference(self._interaction)
        return {
            "user": SkellamEvent(variance, grid.l2, grid.l1, distance),
            "interaction": SkellamEvent(variance, moved, grid.l1_of(moved), distance),
        }

    def weights(self, norms: Floats) -> Floats:
        """The factor that brings each user's norm under the clip norm, ``[C]``; 0 for a norm that is not finite."""
        usable = np.isfinite(norms)
        if self.inside is not None:
            return usable.astype(np.float64)
        bounded = np.minimum(1.0, self.clip_norm / np.maximum(np.where(usable, norms, 1.0), 1e-300))
        return np.where(usable, bounded, 0.0)


@dataclass(frozen=True)
class ShardSum:
    """What leaves a client or a shard of them: the noised sum of clipped vectors, in the release's scaled units.

    Attributes:
        arrays: by component, float64, or ring elements (uint32, uint64) where the mechanism has a grid.
        n_users: users in the sum, also those that contributed zero.
        rejected: users whose vector was not finite and entered as zero.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    n_users: int
    rejected: int = 0


def clip_and_sum(contribution: Contribution, release: Release, mechanism: Mechanism) -> ShardSum:
    """Clip each of C users to the clip norm and sum in float64; no noise yet, so this never leaves a client."""
    weights, rejected = _clip(contribution, release, mechanism)
    return ShardSum(contribution.weighted_sum(release, weights), contribution.n_users, rejected)


def clip_and_sum_integers(
    contribution: Contribution, release: Release, mechanism: Mechanism, grid: Grid, uniforms: Uniforms
) -> ShardSum:
    """Clip each of C users, round it to the grid and sum, int64; no noise yet, so this never leaves a client."""
    weights, rejected = _clip(contribution, release, mechanism)
    flat = discrete_sum(contribution, release, weights, grid, uniforms)
    return ShardSum(release.split(flat), contribution.n_users, rejected)


def _clip(contribution: Contribution, release: Release, mechanism: Mechanism) -> tuple[Floats, int]:
    """Each user's weight ``[C]``, and how many were not finite."""
    with np.errstate(invalid="ignore", over="ignore"):  # a norm that is not finite is counted below
        norms = contribution.norms(release)
    return mechanism.weights(norms), int((~np.isfinite(norms)).sum())


def draw_noise(release: Release, std: float, key: Key, part: int) -> dict[str, Floats]:
    """Independent Gaussian noise for every coordinate of every array."""
    generator, drawn = key.generator(Lane.NOISE, part), {}
    for component in release.components:
        drawn[component.name] = generator.standard_normal(component.shape)
        drawn[component.name] *= std
    return drawn


def add_noise(arrays: Mapping[str, Floats], noise: dict[str, Floats]) -> dict[str, Floats]:
    """The arrays with their noise, in the noise's memory."""
    return {name: np.add(array, noise[name], out=noise[name]) for name, array in arrays.items()}


def mask_ready(total: ShardSum, release: Release, mechanism: Mechanism, grid: Grid, noise: IntegerNoise) -> ShardSum:
    """A shard's integers with its share of Skellam noise, as ring elements: what a client sends, or masks and sends."""
    flat = release.flatten(total.arrays)
    flat += noise((mechanism.share_std(total.n_users) * grid.scale) ** 2, len(flat))
    return replace(total, arrays=release.split(to_ring(flat, mechanism.bits)))


class IntegerNoise(Protocol):
    """Skellam noise of a variance, int64 ``[n]``."""

    def __call__(self, variance: float, n: int) -> npt.NDArray[np.int64]: ...


def secure_noise(variance: float, n: int) -> npt.NDArray[np.int64]:
    """Exact Skellam noise from a stream that the operating system keyed."""
    return skellam.draw(variance, n, SecureWords())


def seeded_noise(key: Key, part: int) -> IntegerNoise:
    """The noise of a shard of a simulation."""

    def noise(variance: float, n: int) -> npt.NDArray[np.int64]:
        return skellam.draw_seeded(variance, n, key.generator(Lane.NOISE, part))

    return noise


def opened(total: ShardSum, release: Release, mechanism: Mechanism, grid: Grid) -> ShardSum:
    """The finished ring sum in the release's units.

    Raises:
        ContributionError: if a value is outside what honest clients and their noise can reach.
    """
    values = from_ring(release.flatten(total.arrays), mechanism.bits)
    reach = total.n_users * grid.l2 + _REACH * mechanism.share_std(total.n_users) * grid.scale
    if np.abs(values).max(initial=0) > reach:
        raise ContributionError(
            f"'{release.name}': the sum holds a value beyond what {total.n_users} clipped vectors and their noise can "
            "reach: a client sent something else, or the ring overflowed."
        )
    return replace(total, arrays=release.split(values / grid.scale))


def add_up(shards: Sequence[ShardSum], release: Release, dtype: npt.DTypeLike = np.float64) -> ShardSum:
    """The sum of checked shard sums, in the order given, which every engine makes the order of users.

    The sum of one is that one, not a copy.

    Raises:
        ContributionError: if the sum has wrong names, shapes or values that are not finite.
    """
    if len(shards) == 1:
        release.check(shards[0].arrays, dtype)
        return shards[0]
    arrays: dict[str, npt.NDArray[Any]] = {}
    for component in release.components:
        arrays[component.name] = np.zeros(component.shape, dtype)
        for shard in shards:
            arrays[component.name] += shard.arrays[component.name]  # ring elements wrap
    release.check(arrays, dtype)
    return ShardSum(arrays, sum(shard.n_users for shard in shards), sum(shard.rejected for shard in shards))
