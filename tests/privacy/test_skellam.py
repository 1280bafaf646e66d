"""Skellam noise: the sampler's distance from the distribution is computed, and its draws pass for the distribution."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedrec.errors import PrivacyError
from fedrec.privacy import skellam
from fedrec.privacy.stream import U64, SecureWords, SeededWords

ONE = 2**600
"""Probabilities are integers in this unit where they are compared."""


def seeded(seed: int) -> SeededWords:
    return SeededWords(np.random.default_rng(seed))


@dataclass
class Script:
    """Words that are given."""

    given: list[int]

    def words(self, n: int) -> U64:
        taken, self.given = self.given[:n], self.given[n:]
        return np.array(taken, np.uint64)


def p_value(drawn: npt.NDArray[np.int64], variance: float) -> float:
    """Chi-square of draws against the Skellam distribution, in cells of at least 25 expected draws."""
    low, high = int(drawn.min()), int(drawn.max())
    edges = np.append(np.arange(low, high + 1), np.inf)
    below = np.append(stats.skellam.cdf(edges[:-1], variance / 2, variance / 2), 1.0)
    kept, last = [], 0.0
    for edge, probability in zip(edges, below, strict=True):
        if (probability - last) * len(drawn) >= 25 and (1 - probability) * len(drawn) >= 25:
            kept.append((edge, probability))
            last = probability
    cells = np.searchsorted([edge for edge, _ in kept], drawn)
    expected = np.diff([0.0, *(probability for _, probability in kept), 1.0]) * len(drawn)
    return float(stats.chisquare(np.bincount(cells, minlength=len(expected)), expected).pvalue)


def exact_probabilities(variance: float, last: int) -> list[int]:
    """P(|X| = k), k = 0 … last, as the correlation of two Poisson distributions; right to 2**-500 or so."""
    top, bottom = (variance / 2).as_integer_ratio()
    weights = [ONE]
    while weights[-1] or len(weights) <= variance:
        weights.append(weights[-1] * top // (bottom * len(weights)))
    total = sum(weights) ** 2
    pairs = (sum(a * b for a, b in zip(weights, weights[k:], strict=False)) for k in range(last + 1))
    return [pair * (2 if k else 1) * ONE // total for k, pair in enumerate(pairs)]


def table_probabilities(variance: float) -> list[int]:
    """P(|X| = k) of the sampler, read from its table."""
    table = skellam._table(variance)
    rest = [int.from_bytes(table.rest[24 * k : 24 * k + 24], "big") for k in range(len(table.top))]
    cumulative = [(int(top) << 192 | low) << 344 for top, low in zip(table.top, rest, strict=True)]
    return [above - below for below, above in itertools.pairwise([0, *cumulative, ONE])]


@pytest.mark.parametrize("variance", [1e-30, 0.01, 0.7, 12.0, 333.3, 800.0])
def test_the_stated_distance_bounds_the_computed_one(variance: float) -> None:
    table = table_probabilities(variance)
    exact = exact_probabilities(variance, len(table) - 1)
    beyond = ONE - sum(exact)
    distance = (sum(abs(a - b) for a, b in zip(table, exact, strict=True)) + beyond) / 2 / ONE
    assert sum(table) == ONE
    assert 0 < distance <= skellam.distance(variance)


@given(st.floats(0, 2.0**38))
def test_the_distance_is_at_most_the_constant_for_every_variance(variance: float) -> None:
    assert skellam.distance(variance) <= skellam.DISTANCE


@pytest.mark.parametrize("variance", [0.003, 0.5, 7.3, 900.0, 1500.0**2])
@pytest.mark.parametrize("sampler", ["table", "seeded"])
def test_draws_pass_for_the_distribution(variance: float, sampler: str) -> None:
    """Chi-square of 100,000 draws, fixed seed."""
    if sampler == "table":
        drawn = skellam.draw(variance, 100_000, seeded(1))
    else:
        drawn = skellam.draw_seeded(variance, 100_000, np.random.default_rng(1))
    assert drawn.dtype == np.int64
    assert p_value(drawn, variance) > 1e-3


def test_secure_draws_pass_for_the_distribution() -> None:
    """Chi-square of 100,000 draws; false alarm 1e-6."""
    assert p_value(skellam.draw(40.0, 100_000, SecureWords()), 40.0) > 1e-6


def test_the_chi_square_finds_a_wrong_variance() -> None:
    assert p_value(skellam.draw(42.0, 100_000, seeded(1)), 40.0) < 1e-6


def test_shares_add_up_to_the_declared_noise() -> None:
    """50 shares of a fiftieth; fixed seed."""
    words = seeded(2)
    total = sum((skellam.draw(90.0 / 50, 50_000, words) for _ in range(50)), np.zeros(50_000, np.int64))
    assert p_value(total, 90.0) > 1e-3


def test_a_large_variance_is_drawn_as_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skellam, "_TABLE_VARIANCE", 16.0)
    assert skellam._tables(100.0) == 8
    assert p_value(skellam.draw(100.0, 100_000, seeded(3)), 100.0) > 1e-3
    assert skellam.distance(100.0) == 8 * skellam.distance(12.5)


def test_coordinates_are_independent_of_each_other() -> None:
    """Correlation of neighbours and of sizes with signs, fixed seed: within 4 standard deviations."""
    drawn = skellam.draw(25.0, 200_000, seeded(4)).astype(float)
    for other in (np.roll(drawn, 1), np.roll(drawn, 64), np.abs(np.roll(drawn, 1))):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 4 / math.sqrt(len(drawn))


@pytest.mark.parametrize("k", [0, 1, 5, 60, -1])
def test_a_word_on_a_boundary_is_settled_by_the_bits_that_follow(k: int) -> None:
    """A uniform number below the k-th cumulative probability gives at most k, one at or above it more than k."""
    variance = 30.0
    table = skellam._table(variance)
    k %= len(table.top)
    boundary = int.from_bytes(table.rest[24 * k : 24 * k + 24], "big")
    for low, wanted in ((boundary - 1, k), (boundary, k + 1), (boundary + 1, k + 1)):
        rest = [low >> 128, low >> 64 & (2**64 - 1), low & (2**64 - 1)]
        script = Script([int(table.top[k]), *rest, 0])
        assert skellam.draw(variance, 1, script).tolist() == [wanted]
        assert not script.given  # all five were used: the word, three to settle it, one of signs


def test_several_boundaries_may_share_a_word() -> None:
    """Beyond 9 standard deviations all cumulative probabilities begin with 64 ones."""
    table = skellam._table(30.0)
    shared = np.flatnonzero(table.top == table.top[-1])
    assert len(shared) > 10
    ones = 2**64 - 1
    assert skellam.draw(30.0, 1, Script([ones, ones, ones, ones, 0])).tolist() == [len(table.top)]
    assert skellam.draw(30.0, 1, Script([ones, 0, 0, 0, 0])).tolist() == [shared[0]]


@given(st.lists(st.integers(0, 2**64 - 2**40), min_size=1, max_size=20), st.sampled_from([0.2, 30.0, 4e4]))
def test_a_draw_inverts_the_table(words: list[int], variance: float) -> None:
    """Without ties, which these words do not hit but with probability below 1e-12."""
    table = skellam._table(variance)
    found = table.find(np.array(words, np.uint64), SecureWords())
    for word, size in zip(words, found, strict=True):
        assert size == sum(int(top) <= word for top in table.top)


def test_signs_come_with_either_bit() -> None:
    assert skellam.draw(30.0, 2, Script([2**63, 2**63, 0b10000000])).tolist() == [
        -skellam.draw(30.0, 1, Script([2**63, 0]))[0],
        skellam.draw(30.0, 1, Script([2**63, 0]))[0],
    ]


@pytest.mark.parametrize("variance", [0.0, 5e-324, 1e-200, 1e-70])
def test_next_to_no_variance_gives_zero(variance: float) -> None:
    assert not skellam.draw(variance, 1000, SecureWords()).any()


def test_no_draw_at_all() -> None:
    assert skellam.draw(30.0, 0, SecureWords()).shape == (0,)


@pytest.mark.parametrize("variance", [-1.0, -1e-300, math.nan, math.inf, 2.0**38 * 1.01])
def test_a_variance_without_a_sampler_is_refused(variance: float) -> None:
    with pytest.raises(PrivacyError, match="Skellam noise"):
        skellam.draw(variance, 1, SecureWords())
    with pytest.raises(PrivacyError, match="Skellam noise"):
        skellam.distance(variance)


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf, 1.1e15])
def test_a_seeded_variance_out_of_range_is_refused(variance: float) -> None:
    with pytest.raises(PrivacyError, match="Seeded Skellam"):
        skellam.draw_seeded(variance, 1, np.random.default_rng(1))


def test_seeded_draws_repeat_in_the_shape_that_is_asked_for() -> None:
    one, two = (skellam.draw_seeded(1e15, (3, 5), np.random.default_rng(7)) for _ in range(2))
    assert one.shape == (3, 5)
    np.testing.assert_array_equal(one, two)
    assert 0.3 < np.abs(one).mean() / math.sqrt(1e15) < 1.5


@pytest.mark.parametrize("probability", [1e-3, 1e-12])
@pytest.mark.parametrize("variance", [0.01, 1.0, 50.0, 1e4, 1e8])
def test_reach_bounds_the_tail(variance: float, probability: float) -> None:
    k = skellam.reach(variance, probability)
    tail = 2 * float(stats.skellam.sf(k, variance / 2, variance / 2))
    assert tail <= probability
    assert k <= 1.3 * float(stats.skellam.isf(probability / 2, variance / 2, variance / 2)) + 2  # and not much more


def test_reach_of_no_noise_is_zero() -> None:
    assert skellam.reach(0.0, 1e-12) == 0
    assert skellam.reach(5e-324, 1e-12) == 0
