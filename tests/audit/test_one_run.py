"""The one-run bound: equal to an independent implementation, valid, and tight for what it is made for."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.audit.one_run import bound, guesses_for, lower_bound, p_value
from fedrec.privacy.accounting import gaussian_epsilon

JAX_PRIVACY = [
    # canaries, guesses, correct, delta, lower bound at 95%
    (1000, 100, 80, 1e-5, 0.955319),
    (1000, 100, 100, 1e-5, 3.465376),
    (2000, 500, 400, 1e-6, 1.198510),
    (500, 40, 25, 1e-5, 0.0),
    (1000, 134, 130, 1e-5, 2.625512),
    (5000, 1000, 560, 1e-7, 0.134487),
]
"""Of jax-privacy 2.0.0: ``CanaryScoreAuditor(inside, outside).epsilon_one_run(0.05, delta,
threshold_strategy=Explicit(0.5))``, scores 1 for every guess, as many of them inside as correct, and 0 for the rest."""


@pytest.mark.parametrize(("canaries", "guesses", "correct", "delta", "wanted"), JAX_PRIVACY)
def test_bounds_are_those_of_jax_privacy(
    canaries: int, guesses: int, correct: int, delta: float, wanted: float
) -> None:
    assert lower_bound(canaries, guesses, correct, delta) == pytest.approx(wanted, abs=2e-6)


@settings(deadline=None)
@given(st.integers(1, 200), st.data())
def test_the_p_value_is_monotone(guesses: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, guesses - 1))
    delta = data.draw(st.sampled_from([0.0, 1e-6, 1e-3]))
    epsilons = np.linspace(0, 6, 7)
    values = [p_value(500, guesses, correct, epsilon, delta) for epsilon in epsilons]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(values))  # more is allowed
    assert p_value(500, guesses, correct + 1, 1.0, delta) <= p_value(500, guesses, correct, 1.0, delta) * (1 + 1e-9)
    assert p_value(500, guesses, correct, 1.0, 0.0) <= p_value(500, guesses, correct, 1.0, delta)


def test_without_delta_it_is_the_binomial_tail() -> None:
    rate = math.e / (1 + math.e)
    assert p_value(50, 3, 2, 1.0, 0.0) == pytest.approx(3 * rate**2 * (1 - rate) + rate**3)
    assert p_value(50, 3, 0, 1.0, 1e-3) == 1


def test_the_bound_is_valid_and_close_for_randomised_response() -> None:
    """Coins told truly with probability e/(1 + e) are 1-private, and nothing is closer to it."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(200):
        coins = draw.integers(2, size=1000) == 1
        told = coins ^ (draw.random(1000) > math.e / (1 + math.e))
        found.append(bound(told + draw.random(1000) / 2, coins, 1000, 0.0).epsilon)
    assert (np.array(found) > 1).sum() <= 18  # binomial(200, .05): more with probability 5e-3; the seed is fixed
    assert np.mean(found) > 0.8


@pytest.mark.parametrize("epsilon_of", [0.5, 0.92, 1.67])
def test_the_bound_lies_above_the_truth_in_at_most_18_of_200_seeds(epsilon_of: float) -> None:
    mu, delta = epsilon_of, 1e-5
    truth, guesses = gaussian_epsilon(mu, delta), guesses_for(1000, mu, delta)
    draw = np.random.default_rng(1)
    found = []
    for _ in range(200):
        coins = draw.integers(2, size=1000) == 1
        found.append(bound(mu * coins + draw.standard_normal(1000), coins, guesses, delta).epsilon)
    assert (np.array(found) > truth).sum() <= 18
    assert np.mean(found) > 0.25 * truth  # it tells something


def test_what_does_not_hang_on_the_coins_bounds_nothing() -> None:
    draw = np.random.default_rng(2)
    found = [bound(draw.standard_normal(500), draw.integers(2, size=500) == 1, 100, 1e-5).epsilon for _ in range(100)]
    assert (np.array(found) > 0).sum() <= 14  # binomial(100, .05): more with probability 2e-4


def test_guesses_are_the_extreme_scores_and_an_even_number_of_them() -> None:
    scores = np.arange(10.0)
    coins = scores >= 5
    found = bound(scores, coins, 5, 0.0)
    assert (found.canaries, found.guesses, found.correct) == (10, 4, 4)
    assert bound(scores, ~coins, 4, 0.0).correct == 0


def test_more_leakage_is_met_with_fewer_guesses_than_none() -> None:
    assert 2 <= guesses_for(1000, 1.0, 1e-5) <= 1000
    assert guesses_for(1000, 1.0, 1e-5) % 2 == 0
    assert guesses_for(10, 50.0, 1e-5) >= 8  # everything is plain to see
