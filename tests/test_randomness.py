"""Counter-based randomness: the published generator, uniform, independent, and pure in its arguments.

Statistical bounds hold for an honest generator with probability above 1 - 1e-5 each; all seeds are fixed.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.randomness import Key, Lane, below, bits, mix64, normal, uniform

N = 100_000
Floats = npt.NDArray[np.float64]


KEY = Key(1)


def draws(key: Key = KEY, lane: Lane = Lane.NEGATIVES, user: int = 3, n: int = N) -> Floats:
    return uniform(key.streams(np.array([user]), lane), np.arange(n))


def test_known_answers_of_splitmix64() -> None:
    """The first outputs of SplitMix64 with seed 0, as in the reference implementation of Vigna."""
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [hex(word) for word in bits(np.zeros(1, np.uint64), np.arange(4)).tolist()] == [hex(word) for word in known]
    assert mix64(np.zeros(1, np.uint64))[0] == 0


def test_known_answers_of_streams() -> None:
    """Pins the layout: a change here changes every result that was ever recorded."""
    stream = Key(42).at(3, 1).streams(np.array([0, 7]), Lane.ORDER)
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    state = 0
    for word in (42, 3, 1, 4):
        state = mix((state + golden + word) & mask)
    assert stream.tolist() == [mix((state + mix((user + golden) & mask)) & mask) for user in (0, 7)]


def test_mix_is_a_bijection_on_a_sample() -> None:
    words = mix64(np.arange(N, dtype=np.uint64))
    assert len(np.unique(words)) == N


def test_lanes_have_different_numbers() -> None:
    assert len({int(lane) for lane in Lane}) == len(Lane.__members__)


@pytest.mark.parametrize("key", [Key(0), Key(1), Key(2**63 - 1).at(9, 2)])
def test_draws_of_one_user_are_uniform(key: Key) -> None:
    """Kolmogorov and Smirnov: √n D above 2.47 has probability 1e-5 (2 exp(-2 t²))."""
    values = np.sort(draws(key))
    assert values[0] >= 0
    assert values[-1] < 1
    grid = np.arange(N + 1) / N
    distance = max(np.abs(values - grid[1:]).max(), np.abs(values - grid[:-1]).max())
    assert math.sqrt(N) * distance < 2.47


def test_first_draws_of_many_users_are_uniform() -> None:
    """Chi-square with 255 degrees of freedom: above 362 with probability 1e-5."""
    values = uniform(Key(1).streams(np.arange(N), Lane.COHORT), np.array([0]))
    counts = np.bincount((256 * values).astype(int), minlength=256)
    assert ((counts - N / 256) ** 2 / (N / 256)).sum() < 362


def test_every_bit_is_a_fair_coin() -> None:
    """Sixty-four bits, each within 5.4 deviations: 1e-7 a bit."""
    words = bits(Key(1).streams(np.array([3]), Lane.TIES), np.arange(N))
    for bit in range(64):
        ones = int(((words >> np.uint64(bit)) & np.uint64(1)).sum())
        assert abs(ones - N / 2) < 5.4 * math.sqrt(N) / 2


def test_streams_are_independent() -> None:
    """Seeds, rounds, attempts, lanes and users: pairs correlate below 5.7 deviations, 1e-8 a pair, 210 pairs; also
    shifted by one, as two streams could be the same sequence at another place."""
    many = [
        *(draws(Key(seed)) for seed in (1, 2, 3)),
        *(draws(Key(1, round_)) for round_ in (1, 2, 3)),
        *(draws(Key(1, 0, attempt)) for attempt in (1, 2)),
        *(draws(lane=lane) for lane in Lane if lane is not Lane.NEGATIVES),
        *(draws(user=user) for user in (0, 1, 4)),
    ]
    bound = 5.7 / math.sqrt(N - 1)
    for one, other in itertools.combinations(many, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < bound
        assert abs(np.corrcoef(one[1:], other[:-1])[0, 1]) < bound
        assert abs(np.corrcoef(one[:-1], other[1:])[0, 1]) < bound
    for one in many:
        assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < bound


def test_neighbouring_users_and_draws_are_independent() -> None:
    values = uniform(Key(1).streams(np.arange(1000), Lane.NEGATIVES)[:, None], np.arange(100)[None])
    bound = 5 / math.sqrt(99_000)
    assert abs(np.corrcoef(values[1:].ravel(), values[:-1].ravel())[0, 1]) < bound
    assert abs(np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1]) < bound


def test_round_and_attempt_do_not_trade_places() -> None:
    keys = [Key(seed, round_, attempt) for seed, round_, attempt in itertools.product(range(4), repeat=3)]
    starts = [int(key.streams(np.array([0]), lane)[0]) for key in keys for lane in Lane]
    assert len(set(starts)) == len(starts)


@given(st.integers(0, 2**63 - 1), st.integers(0, 1000), st.integers(0, 9), st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_draw_is_pure_whoever_is_drawn_beside(seed: int, round_: int, attempt: int, user: int, counter: int) -> None:
    key = Key(seed).at(round_, attempt)
    assert key == Key(seed, round_, attempt)
    alone = bits(key.streams(np.array([user]), Lane.ORDER), np.array([counter]))[0]
    beside = bits(key.streams(np.array([5, user, 9]), Lane.ORDER)[:, None], np.array([[1, counter]]))
    assert beside.shape == (3, 2)
    assert beside[1, 1] == alone


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 100])
def test_integers_are_uniform_below_their_bound(bound: int) -> None:
    """Chi-square within its mean plus 6 deviations plus 12: probability below 1e-5 for 1 to 99 degrees of freedom."""
    values = below(Key(1).streams(np.array([3]), Lane.SPLIT), np.arange(N), np.array([bound]))
    counts = np.bincount(values, minlength=bound)
    assert len(counts) == bound
    assert ((counts - N / bound) ** 2 / (N / bound)).sum() < bound - 1 + 6 * math.sqrt(2 * (bound - 1)) + 12


def test_integers_reach_both_ends_of_a_large_bound_and_zero_gives_zero() -> None:
    stream = Key(1).streams(np.array([3]), Lane.SPLIT)
    values = below(stream, np.arange(N), np.array([2**31 - 1]))
    assert 0 <= values.min() < 2**31 * 2e-4 < 2**31 * (1 - 2e-4) < values.max() < 2**31 - 1
    assert not below(stream, np.arange(9), np.array([0])).any()


def test_normal_draws_are_normal() -> None:
    """Kolmogorov and Smirnov as above, and neighbours uncorrelated."""
    from scipy.stats import norm

    values = normal(Key(1).streams(np.array([3]), Lane.SYNTHETIC), np.arange(N))
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 5 / math.sqrt(N)
    expected = norm.cdf(np.sort(values))
    grid = np.arange(N + 1) / N
    assert math.sqrt(N) * max(np.abs(expected - grid[1:]).max(), np.abs(expected - grid[:-1]).max()) < 2.47


def test_generators_are_pure_and_apart() -> None:
    drawn = [
        generator.random(1000)
        for generator in (
            Key(1).generator(Lane.NOISE),
            Key(1).generator(Lane.NOISE, 1),
            Key(1).generator(Lane.NOISE, 2**63),
            Key(1).at(1).generator(Lane.NOISE),
            Key(1).at(0, 1).generator(Lane.NOISE),
            Key(2).generator(Lane.NOISE),
            Key(1).generator(Lane.INIT),
        )
    ]
    for one, other in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5.5 / math.sqrt(1000)
    np.testing.assert_array_equal(drawn[0], Key(1).generator(Lane.NOISE).random(1000))
