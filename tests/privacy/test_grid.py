"""The grid: rounded vectors stay within their bounds whatever is rounded, and say on average what was to be said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrec.contribution import Contribution, Dense, OuterTriangles, Rows
from fedrec.errors import ContributionError, PrivacyError
from fedrec.privacy import grid as module
from fedrec.privacy import skellam
from fedrec.privacy.grid import (
    OVERFLOW,
    Grid,
    SecureUniforms,
    SeededUniforms,
    Uniforms,
    discrete_sum,
    from_ring,
    to_ring,
)
from fedrec.privacy.stream import SecureWords
from fedrec.randomness import Key, Lane
from fedrec.release import Component, Release

Vector = npt.NDArray[np.float64]


def streams(n: int, seed: int = 0) -> SeededUniforms:
    return SeededUniforms(Key(seed).streams(np.arange(n), Lane.INIT))


def rounded(
    vectors: npt.ArrayLike, grid: Grid, uniforms: Uniforms | None = None, scale: float = 1.0
) -> npt.NDArray[np.int64]:
    """Each vector's integers, ``[C, d]``: the sum over that user alone."""
    given_ = np.atleast_2d(np.asarray(vectors, np.float64))
    contribution = Contribution({"x": Dense(given_)}, len(given_))
    release = Release("test", (Component("x", (given_.shape[1],), scale),), share=1.0)
    uniforms = uniforms or streams(len(given_))
    alone = np.eye(len(given_))
    return np.stack([discrete_sum(contribution, release, weights, grid, uniforms) for weights in alone])


@dataclass
class Counting:
    """Uniform draws, and how often each user was asked about."""

    inner: SeededUniforms
    asked: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def __call__(self, users: npt.NDArray[np.int64], coordinates: npt.NDArray[np.int64], attempt: int, /) -> Vector:
        self.asked.append(np.unique(users))
        return self.inner(users, coordinates, attempt)


# The bounds


def test_the_norm_bound_is_that_of_the_paper() -> None:
    """d = 400, sC = 64 · 20 = 1280: 1280² + 100 + 1280 + 10 is below (1280 + 20)²."""
    grid = Grid(dimension=400, clip_norm=0.5)
    assert grid.scale == 2560
    assert grid.l2 == pytest.approx(math.sqrt(1_639_790), rel=1e-14)
    assert grid.l1 == pytest.approx(20 * grid.l2)
    assert Grid(1, 1.0, resolution=0.1).l1 == pytest.approx(Grid(1, 1.0, resolution=0.1).l2 ** 2)  # less than a unit


@settings(deadline=None)
@given(
    vector=st.lists(st.floats(-1, 1), min_size=1, max_size=40),
    halves=st.booleans(),
    resolution=st.sampled_from([0.3, 1.0, 7.0, 64.0]),
    clip=st.sampled_from([1e-3, 1.0, 250.0]),
    seed=st.integers(0, 1000),
)
def test_no_rounding_leaves_its_bounds(
    vector: Sequence[float], halves: bool, resolution: float, clip: float, seed: int
) -> None:
    """Vectors of norm up to the clip; ``halves`` are as far from integers as can be, where rounding errs the most."""
    grid = Grid(len(vector), clip, resolution)
    x = np.array(vector)
    x *= clip / max(1.0, float(np.linalg.norm(x)))
    if halves:
        x = (np.floor(np.abs(x * grid.scale)) - 0.5).clip(0) / grid.scale * np.sign(x)
    (integers,) = rounded(x, grid, streams(1, seed))
    assert (integers**2).sum() <= grid.l2**2
    assert np.abs(integers).sum() <= grid.l1 * (1 + 1e-12)
    assert np.linalg.norm(integers - x * grid.scale) <= grid.error * (1 + 1e-9)
    assert (np.abs(integers - x * grid.scale) < 1).all()


@settings(deadline=None)
@given(
    vectors=st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=30),
    resolution=st.sampled_from([1.0, 64.0]),
    seed=st.integers(0, 1000),
)
def test_two_rounded_vectors_are_no_further_apart_than_stated(
    vectors: list[tuple[float, float]], resolution: float, seed: int
) -> None:
    grid = Grid(len(vectors), 1.0, resolution)
    pair = np.array(vectors).T
    pair /= np.maximum(1.0, np.linalg.norm(pair, axis=1, keepdims=True))
    one, two = rounded(pair, grid, streams(2, seed))
    sensitivity = float(np.linalg.norm(pair[0] - pair[1]))
    assert np.linalg.norm(one - two) <= grid.difference(sensitivity) * (1 + 1e-12)


def first_up_then_down(users: npt.NDArray[np.int64], _: npt.NDArray[np.int64], attempt: int, /) -> Vector:
    """Draws that round everything up at first, then everything down."""
    return np.full(len(users), 0.0 if attempt == 0 else 1 - 2**-53)


def test_a_rounding_that_errs_too_much_is_drawn_again() -> None:
    """100 coordinates of .01 units, all rounded up: the error is 9.9, the bound 6.7."""
    grid = Grid(100, 1.0, resolution=1.0)
    x = np.full(100, 0.01 / grid.scale)
    assert grid.error < 9.9 < grid.l2
    assert not rounded(x, grid, first_up_then_down).any()


def test_a_rounding_that_is_too_long_is_drawn_again() -> None:
    """100 coordinates of 1.5 units, all rounded up: the norm is 20, the bound 18.2, the error 5, its bound 6.7."""
    grid = Grid(100, 1.0, resolution=1.6)
    x = np.full(100, 1.5 / grid.scale)
    assert grid.l2 < 20
    np.testing.assert_array_equal(rounded(x, grid, first_up_then_down), np.ones((1, 100)))


def test_a_difference_is_never_more_than_two_bounds() -> None:
    grid = Grid(100, 1.0)
    assert grid.difference(5.0) == 2 * grid.l2
    assert grid.difference(0.1) == pytest.approx(0.1 * grid.scale + 2 * grid.error)


@pytest.mark.parametrize("d", [1, 2, 30, 5000])
def test_a_clipped_vector_is_soon_accepted(d: int) -> None:
    """Users with half-integers at the clip norm; fixed seed. Proved is a probability of .39."""
    grid = Grid(d, 1.0, resolution=1.0)
    integer_units = np.full(d, math.floor(grid.scale / math.sqrt(d) + 0.5) - 0.5)
    x = integer_units / grid.scale
    users = 4000 if d <= 30 else 200
    counting = Counting(streams(users))
    contribution = Contribution({"x": Dense(np.tile(x, (users, 1)))}, users)
    discrete_sum(contribution, Release("test", (Component("x", (d,)),), 1.0), np.ones(users), grid, counting)
    assert users / sum(len(asked) for asked in counting.asked) >= 0.39


@pytest.mark.parametrize(("dimension", "clip", "resolution"), [(0, 1.0, 1.0), (3, 0.0, 1.0), (3, math.inf, 1.0)])
def test_a_senseless_grid_is_refused(dimension: int, clip: float, resolution: float) -> None:
    with pytest.raises(PrivacyError, match="positive"):
        Grid(dimension, clip, resolution)


def test_a_grid_too_fine_to_count_exactly_is_refused() -> None:
    with pytest.raises(PrivacyError, match="lower the resolution"):
        Grid(10**6, 1.0, resolution=1e5)
    with pytest.raises(PrivacyError, match="positive"):
        Grid(10**6, math.nan)


# The average


def test_rounding_is_unbiased() -> None:
    """Each coordinate's mean over 20,000 users is its value; fixed seed, all 12 within 4.5 standard deviations."""
    grid = Grid(12, 1.0, resolution=3.0)
    x = np.random.default_rng(5).normal(size=12)
    x *= 0.7 / np.linalg.norm(x)
    users = 20_000
    contribution = Contribution({"x": Dense(np.tile(x, (users, 1)))}, users)
    total = discrete_sum(
        contribution, Release("test", (Component("x", (12,)),), 1.0), np.ones(users), grid, streams(users)
    )
    scaled = x * grid.scale
    fraction = scaled - np.floor(scaled)
    deviations = (total / users - scaled) / np.sqrt(fraction * (1 - fraction) / users)
    assert np.abs(deviations).max() < 4.5


def test_what_is_integer_already_stays() -> None:
    grid = Grid(4, 1.0, resolution=8.0)
    x = np.array([3, -2, 0, 5]) / grid.scale
    assert rounded(x, grid).tolist() == [[3, -2, 0, 5]]


def test_scales_and_weights_multiply() -> None:
    grid = Grid(3, 10.0, resolution=100.0)
    x = np.array([[1.0, -2.0, 3.0]])
    contribution = Contribution({"x": Dense(x)}, 1)
    release = Release("test", (Component("x", (3,), scale=0.25),), 1.0)
    total = discrete_sum(contribution, release, np.array([0.5]), grid, streams(1))
    np.testing.assert_allclose(total, x[0] * grid.scale / 8, atol=1)


# Where a user runs


def mixed(seed: int, n_users: int) -> tuple[Contribution, Release]:
    """Every kind of part in one release."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, n_users)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    items = np.concatenate([*(rng.choice(6, count, replace=False) for count in counts), np.zeros(0, np.int64)])
    contribution = Contribution(
        {
            "table": Rows(indptr, items.astype(np.int64), rng.normal(size=(len(items), 3)).astype(np.float32), 6),
            "gram": OuterTriangles(indptr, items.astype(np.int64), rng.normal(size=len(items)), 6),
            "head": Dense(rng.normal(size=(n_users, 2))),
        },
        n_users,
    )
    components = (Component("table", (6, 3)), Component("gram", (15,), 2.0), Component("head", (2,), 0.5))
    return contribution, Release("mixed", components, 1.0)


def clipped(contribution: Contribution, release: Release) -> Vector:
    """Weights that bring every user's norm to at most 1."""
    return np.minimum(1.0, 1.0 / np.maximum(contribution.norms(release), 1e-9))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n_users=st.integers(1, 8), block=st.sampled_from([1, 20, 2**20]))
def test_all_users_at_once_are_the_sum_of_one_by_one(seed: int, n_users: int, block: int) -> None:
    contribution, release = mixed(seed, n_users)
    grid = Grid(release.size, 1.0, resolution=2.0)
    weights, uniforms = clipped(contribution, release), streams(n_users, seed)
    single = [discrete_sum(contribution, release, weights * row, grid, uniforms) for row in np.eye(n_users)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        together = discrete_sum(contribution, release, weights, grid, uniforms)
    np.testing.assert_array_equal(together, np.sum(single, axis=0))
    unrounded = release.flatten(contribution.weighted_sum(release, weights)) * grid.scale
    assert np.abs(together - unrounded).max() < n_users
    assert all(math.sqrt((one**2).sum()) <= grid.l2 for one in single)
    assert not together[unrounded == 0].any()  # a coordinate that nobody touches


def test_a_user_rounds_alike_in_any_shard() -> None:
    """Position 0 of one shard and position 2 of another are the same user when their streams are."""
    release = mixed(9, 3)[1]
    grid = Grid(release.size, 1.0, resolution=1.0)
    last = Contribution(
        {
            "table": Rows(np.array([0, 4]), np.arange(4), np.ones((4, 3)) / 9, 6),
            "gram": OuterTriangles(np.array([0, 4]), np.arange(4), np.ones(4) / 9, 6),
            "head": Dense(np.ones((1, 2)) / 9),
        },
        1,
    )
    key = Key(4)
    alone = discrete_sum(last, release, np.ones(1), grid, SeededUniforms(key.streams(np.array([17]), Lane.INIT)))
    both = Contribution(
        {
            "table": Rows(np.array([0, 0, 0, 4]), np.arange(4), np.ones((4, 3)) / 9, 6),
            "gram": OuterTriangles(np.array([0, 0, 0, 4]), np.arange(4), np.ones(4) / 9, 6),
            "head": Dense(np.concatenate([np.zeros((2, 2)), np.ones((1, 2)) / 9])),
        },
        3,
    )
    uniforms = SeededUniforms(key.streams(np.array([3, 5, 17]), Lane.INIT))
    np.testing.assert_array_equal(discrete_sum(both, release, np.ones(3), grid, uniforms), alone)


def test_nobody_adds_nothing() -> None:
    contribution, release = mixed(1, 3)
    grid = Grid(release.size, 1.0)
    assert not discrete_sum(contribution, release, np.zeros(3), grid, streams(3)).any()


# What cannot be rounded


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_user_of_weight_zero_adds_nothing_whatever_its_values(value: float) -> None:
    grid = Grid(3, 1.0)
    x = np.array([[value, value, 1.0], [0.1, 0.2, 0.3]])
    contribution, release = Contribution({"x": Dense(x)}, 2), Release("test", (Component("x", (3,)),), 1.0)
    both = discrete_sum(contribution, release, np.array([0.0, 1.0]), grid, streams(2))
    np.testing.assert_allclose(both, x[1] * grid.scale, atol=1)


@pytest.mark.parametrize("value", [1.2, -7.0, 1e30, 1e300, math.inf, math.nan])
def test_a_vector_that_is_not_clipped_is_refused(value: float) -> None:
    with pytest.raises(ContributionError, match="user 0 of the contribution is not within the clip norm"):
        rounded([value, 0.0], Grid(2, 1.0))


def test_another_release_s_grid_is_refused() -> None:
    with pytest.raises(PrivacyError, match="has 3 coordinates, its grid 4"):
        rounded([0.1, 0.2, 0.3], Grid(4, 1.0))


# Randomness


def test_an_attempt_and_a_coordinate_have_draws_of_their_own() -> None:
    uniforms, users = streams(2), np.zeros(5, np.int64)
    draws = [uniforms(users + user, np.arange(5), attempt) for user in (0, 1) for attempt in (0, 1, 2)]
    assert len(np.unique(np.concatenate(draws))) == 30
    np.testing.assert_array_equal(uniforms(users, np.arange(5), 1)[3:], uniforms(users[3:], np.arange(3, 5), 1))


def test_secure_draws_are_uniform_on_the_unit_interval() -> None:
    """Kolmogorov and Smirnov over 50,000 draws; false alarm 1e-6."""
    drawn = SecureUniforms(SecureWords())(np.zeros(50_000, np.int64), np.arange(50_000), 0)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert stats.kstest(drawn, "uniform").pvalue > 1e-6


def test_secure_rounding_stays_within_the_bounds() -> None:
    x = np.random.default_rng(2).normal(size=50)
    x /= np.linalg.norm(x)
    grid = Grid(50, 1.0, resolution=1.0)
    for _ in range(50):
        (integers,) = rounded(x, grid, SecureUniforms(SecureWords()))
        assert (integers**2).sum() <= grid.l2**2


# The ring


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1), st.sampled_from([32, 64]))
def test_the_ring_gives_back_what_fits(values: list[int], bits: int) -> None:
    given_ = np.array(values, np.int64)
    ring = to_ring(given_, bits)
    assert ring.dtype == (np.uint32 if bits == 32 else np.uint64)
    np.testing.assert_array_equal(from_ring(ring, bits), given_)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=20))
def test_a_sum_in_the_ring_is_right_when_it_fits_though_its_parts_wrap(values: list[int]) -> None:
    parts = np.array([*values, 77 - sum(values)], np.int64)
    ring = to_ring(parts, 32)
    assert from_ring(ring.sum(dtype=np.uint32, keepdims=True), 32).tolist() == [77]


def test_a_sum_of_another_type_is_refused() -> None:
    with pytest.raises(ContributionError, match="arrived as uint64, not as uint32"):
        from_ring(np.zeros(3, np.uint64), 32)
    with pytest.raises(PrivacyError, match="32 or 64 bits, not 16"):
        to_ring(np.zeros(3, np.int64), 16)


def test_the_ring_holds_every_sum_but_with_the_stated_probability() -> None:
    """The hard bound on the users' part, and the noise's tail over all coordinates by Skellam's own distribution."""
    grid = Grid(53_824, 1.0)
    std = 3.0 * grid.scale
    assert grid.bits(1000, std) == 32
    users = int((2**31 - skellam.reach(std**2, OVERFLOW / grid.dimension)) / grid.l2)
    assert grid.bits(users, std) == 32
    assert grid.bits(users + 1, std) == 64
    room = 2**31 - users * grid.l2
    assert grid.dimension * 2 * stats.skellam.sf(room, std**2 / 2, std**2 / 2) <= OVERFLOW


def test_a_sum_that_no_ring_holds_is_refused() -> None:
    with pytest.raises(PrivacyError, match="does not fit into 64 bits"):
        Grid(4, 1.0).bits(2**60, 1.0)
    with pytest.raises(PrivacyError, match="finite standard deviation"):
        Grid(4, 1.0).bits(1, math.nan)
