"""From clipped vectors to integers: scale, round at random, add in a ring, and the bounds that the accountant needs.

Every user's vector is multiplied by `Grid.scale` and each coordinate rounded up or down at random, without bias; a
rounding whose norm is above `Grid.l2` is drawn again (the conditional rounding of Kairouz, Liu & Steinke 2021, "The
distributed discrete Gaussian mechanism for federated learning with secure aggregation"). So one user moves the integer
sum by at most `Grid.l2`, whatever the draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedrec import randomness
from fedrec.contribution import Contribution, Entries, Floats, Ints
from fedrec.errors import ContributionError, PrivacyError
from fedrec.privacy import skellam
from fedrec.privacy.stream import U64, Words
from fedrec.release import Release

OVERFLOW = 2.0**-40
"""The probability that any coordinate of a release leaves the ring is at most this."""

_L2_LIMIT = 2.0**26
"""Squared norms up to 2**52 are exact in float64; a larger sum of integers is never rounded below it."""

_ATTEMPTS = 128
"""A clipped vector's rounding is accepted with probability .39 at least: all of these fail with 2**-92."""

_BLOCK = 2**20
"""Coordinates that are rounded at once; bounds the memory, but for a single user with more."""


@dataclass(frozen=True)
class Grid:
    """How vectors become integers.

    Attributes:
        dimension: coordinates of the release, d.
        clip_norm: the bound on a user's joint L2 norm in the release's scaled units, C.
        resolution: how many integer units a coordinate of size C / sqrt(d) has.

    Raises:
        PrivacyError: if a field is not positive and finite, or the integers would be too large to count exactly.
    """

    dimension: int
    clip_norm: float
    resolution: float = 64.0

    def __post_init__(self) -> None:
        if self.dimension < 1 or not (0 < self.clip_norm < math.inf and 0 < self.resolution < math.inf):
            raise PrivacyError(f"A grid needs a positive dimension, clip norm and resolution, not {self}.")
        if not (self.l2 < _L2_LIMIT and 0 < self.scale < math.inf):
            raise PrivacyError(f"{self} gives vectors of norm {self.l2:.3g}, too large to round; lower the resolution.")

    @staticmethod
    def fine(dimension: int, clip_norm: float, sensitivity: float, resolution: float) -> Grid:
        """The grid on which what one unit moves, not the clip norm, has the resolution."""
        return Grid(dimension, clip_norm, resolution * clip_norm / sensitivity)

    @property
    def scale(self) -> float:
        """Integer units in one of the release's."""
        return self.resolution * math.sqrt(self.dimension) / self.clip_norm

    @property
    def l2(self) -> float:
        """The bound on the L2 norm of every rounded vector.

        The root of min{(sC + √d)², s²C² + d/4 + √(2 ln(1/β)) (sC + √d/2)} for scale s. A rounding meets the second
        bound with probability 1 - β at least; the public β = e^-½ makes its root 1.
        """
        scaled, d = self.resolution * math.sqrt(self.dimension), self.dimension
        return math.sqrt(min((scaled + math.sqrt(d)) ** 2, scaled**2 + d / 4 + scaled + math.sqrt(d) / 2))

    @property
    def l1(self) -> float:
        """The bound on the L1 norm of every rounded vector, as in `l1_of`."""
        return self.l1_of(self.l2)

    @property
    def error(self) -> float:
        """The bound on the L2 norm of every rounding error.

        The squared error is a sum of d independent terms in [0, 1] with mean d/4 at most; d/4 + 2 √d is exceeded with
        probability e^-8 at most (Hoeffding 1963).
        """
        return math.sqrt(min(self.dimension, self.dimension / 4 + 2 * math.sqrt(self.dimension)))

    def l1_of(self, l2: float) -> float:
        """The largest L1 norm of an integer vector with this L2 norm: |n| <= n², and Cauchy and Schwarz."""
        return min(l2**2, math.sqrt(self.dimension) * l2)

    def difference(self, sensitivity: float) -> float:
        """How far two rounded vectors can be apart, in integer units, when the vectors are ``sensitivity`` apart."""
        return min(self.scale * sensitivity + 2 * self.error, 2 * self.l2)

    def bits(self, n_users: int, std: float) -> int:
        """The ring 2**32 or 2**64 that a noised sum leaves with probability at most `OVERFLOW`.

        Args:
            n_users: vectors in the sum; each is counted with `l2` on every coordinate.
            std: standard deviation of the Skellam noise on a coordinate of the sum, in integer units.

        Raises:
            PrivacyError: if not even 2**64 suffices.
        """
        if not 0 <= std < math.inf:
            raise PrivacyError(f"Noise needs a finite standard deviation of 0 or more, not {std!r}.")
        noise = skellam.reach(std**2, OVERFLOW / self.dimension)
        for bits in (32, 64):
            if n_users * self.l2 + noise < 2 ** (bits - 1):
                return bits
        raise PrivacyError(
            f"A sum over {n_users} users with noise of {std:.3g} does not fit into 64 bits; lower privacy.resolution."
        )


class Uniforms(Protocol):
    """What decides which way a coordinate is rounded."""

    def __call__(self, users: Ints, coordinates: Ints, attempt: int, /) -> Floats:
        """Uniform draws on [0, 1) for these coordinates of these users, float64 ``[R]``.

        Args:
            users: ``[R]``, positions in the contribution.
            coordinates: ``[R]``, positions in the release's vector.
            attempt: from 0; each has draws of its own.
        """
        ...


@dataclass(frozen=True, eq=False)
class SeededUniforms:
    """Draws that depend on the user's stream, the coordinate and the attempt alone: the same wherever the user runs.

    Attributes:
        streams: uint64 ``[C]``, one a user of the contribution.
    """

    streams: U64

    def __call__(self, users: Ints, coordinates: Ints, attempt: int, /) -> Floats:
        return randomness.uniform(self.streams[users], coordinates + (attempt << 40))


@dataclass(frozen=True)
class SecureUniforms:
    """Draws from a stream of words; every one is new."""

    words: Words

    def __call__(self, users: Ints, _coordinates: Ints, _attempt: int, /) -> Floats:
        return (self.words.words(len(users)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def discrete_sum(
    contribution: Contribution, release: Release, weights: Floats, grid: Grid, uniforms: Uniforms
) -> npt.NDArray[np.int64]:
    """The sum over users of their weighted, scaled and rounded vectors.

    Args:
        contribution: of C users.
        release: its components' order is that of the vector.
        weights: ``[C]``, which bring every user's norm under the clip norm; a user of weight 0 adds nothing.
        grid: how vectors become integers.
        uniforms: which way coordinates are rounded.

    Returns:
        int64 ``[d]``: the components in order, each in C order.

    Guarantees:
        Each user adds an integer vector of norm at most ``grid.l2``, at most ``grid.error`` from its scaled one. The
        check is exact and does not rely on the weights. Coordinates that no user touches are exactly zero.

    Raises:
        PrivacyError: if the grid is another release's.
        ContributionError: if a user's vector is not clipped, so that no rounding of it is accepted.
    """
    if grid.dimension != release.size:
        raise PrivacyError(f"'{release.name}' has {release.size} coordinates, its grid {grid.dimension}.")
    total = np.zeros(grid.dimension, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is never accepted
        for first, last in itertools.pairwise(_blocks(contribution, release)):
            block = _scaled(contribution, release, weights, grid, first, last)
            for accepted, integers in _rounded(block, contribution.n_users, grid, uniforms):
                sums = np.bincount(accepted, integers, grid.dimension)  # exact: far below 2**53
                total += sums.astype(np.int64)
    return total


def to_ring(values: npt.NDArray[np.int64], bits: int) -> npt.NDArray[Any]:
    """Integers modulo 2**bits, as uint32 or uint64, whose addition wraps."""
    return values.astype(_unsigned(bits))


def from_ring(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int64]:
    """The integers in [-2**(bits - 1), 2**(bits - 1)) that ring elements stand for."""
    if values.dtype != _unsigned(bits):
        raise ContributionError(f"A sum modulo 2**{bits} arrived as {values.dtype}, not as uint{bits}.")
    return values.view(np.int32 if bits == 32 else np.int64).astype(np.int64)


def _unsigned(bits: int) -> np.dtype[Any]:
    if bits not in (32, 64):
        raise PrivacyError(f"A ring has 32 or 64 bits, not {bits}.")
    return np.dtype(f"u{bits // 8}")


def _blocks(contribution: Contribution, release: Release) -> Ints:
    """Edges between blocks of whole users, with about `_BLOCK` coordinates each."""
    counts = np.zeros(contribution.n_users, np.int64)
    for component in release.components:
        counts += contribution.parts[component.name].counts()
    before = np.cumsum(counts) - counts
    edges = np.searchsorted(before, np.arange(0, counts.sum() + 1, _BLOCK))
    return np.unique(np.append(edges, contribution.n_users))


def _scaled(
    contribution: Contribution, release: Release, weights: Floats, grid: Grid, first: int, last: int
) -> Entries:
    """The touched coordinates of some users, in the release's vector and in integer units, not yet rounded."""
    users, coordinates, values = [], [], []
    offset = 0
    for component in release.components:
        entries = contribution.parts[component.name].entries(first, last)
        if not weights[first:last].all():  # what is not finite would stay so
            kept = weights[entries.users] != 0
            entries = Entries(entries.users[kept], entries.coordinates[kept], entries.values[kept])
        users.append(entries.users)
        coordinates.append(entries.coordinates + offset)
        values.append(entries.values * (grid.scale * component.scale * weights)[entries.users])
        offset += component.size
    return Entries(np.concatenate(users), np.concatenate(coordinates), np.concatenate(values))


def _rounded(block: Entries, n_users: int, grid: Grid, uniforms: Uniforms) -> Iterator[tuple[Ints, Floats]]:
    """Accepted coordinates and their integers, of fewer and fewer users."""
    for attempt in range(_ATTEMPTS):
        if not len(block.users):
            return
        down = np.floor(block.values)
        up = uniforms(block.users, block.coordinates, attempt) < block.values - down
        integers = down + up
        norms = np.bincount(block.users, integers**2, n_users)
        errors = np.bincount(block.users, (integers - block.values) ** 2, n_users)
        # The errors' sum is off by less than 1e-9 of itself: room for that keeps the bound certain.
        rejected = ~((norms <= grid.l2**2) & (errors <= grid.error**2 * (1 - 1e-9)))[block.users]
        if not rejected.any():
            yield block.coordinates, integers
            return
        yield block.coordinates[~rejected], integers[~rejected]
        block = Entries(block.users[rejected], block.coordinates[rejected], block.values[rejected])
    raise ContributionError(
        f"The vector of user {block.users[0]} of the contribution is not within the clip norm {grid.clip_norm:g}: none "
        f"of {_ATTEMPTS} roundings stayed within the norm {grid.l2:.6g}."
    )
