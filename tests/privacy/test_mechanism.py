"""The mechanism: clipping bounds every user, and the noise is as large as declared whoever adds it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.contribution import Contribution, Dense
from fedrec.errors import ContributionError, PrivacyError
from fedrec.privacy.mechanism import SERVER_PART, Mechanism, ShardSum, add_up, clip_and_sum, draw_noise
from fedrec.randomness import Key
from fedrec.release import Component, Release

RELEASE = Release("two", (Component("table", (100, 40), 2.0), Component("bias", (100,), 0.5)), share=1.0)
ZERO = {"table": np.zeros((100, 40)), "bias": np.zeros(100)}


def is_variance(values: Any, std: float) -> bool:
    """Whether a sample of normal values has this deviation; false of an honest one with probability 1e-6.

    n s² / std² is chi-square with n degrees of freedom: for n above 1000 normal within 4.9 deviations √(2n).
    """
    n = values.size
    return bool(n > 1000 and abs(np.vdot(values, values) / std**2 - n) < 4.9 * math.sqrt(2 * n))


def test_distributed_shares_sum_to_the_whole() -> None:
    mechanism = Mechanism(1.5, 2.0, "distributed", min_cohort=50)
    assert math.sqrt(50 * mechanism.share_std(1) ** 2) == pytest.approx(1.5 * 2.0)
    assert mechanism.share_std(50) == mechanism.total_std(50) == pytest.approx(3.0)
    assert mechanism.total_std(80) > 3.0  # more survivors than the least: more noise, never less


def test_local_and_central_noise() -> None:
    local, central = Mechanism(1.5, 2.0, "local", min_cohort=50), Mechanism(1.5, 2.0, "central", min_cohort=50)
    assert local.share_std(1) == pytest.approx(3.0)
    assert local.total_std(50) == local.share_std(50) == pytest.approx(3.0 * math.sqrt(50))
    assert central.share_std(50) == 0
    assert central.total_std(50) == central.total_std(1) == pytest.approx(3.0)


def test_without_noise_nothing_is_added() -> None:
    mechanism = Mechanism(0.0, math.inf)
    assert not mechanism.private
    assert mechanism.share_std(9) == mechanism.total_std(9) == 0


@pytest.mark.parametrize("wrong", [(-1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_mechanism_that_protects_nobody_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(PrivacyError):
        Mechanism(*wrong)


def test_an_empty_cohort_is_refused() -> None:
    with pytest.raises(PrivacyError, match="cohort"):
        Mechanism(1.0, 1.0, min_cohort=0)


def test_noise_has_the_declared_deviation_in_every_array() -> None:
    noised = draw_noise(RELEASE, 0.7, Key(1), 0)
    assert is_variance(noised["table"], 0.7)
    many = [draw_noise(RELEASE, 0.7, Key(1).at(round_), 0)["bias"] for round_ in range(20)]
    assert is_variance(np.concatenate(many), 0.7)


def test_clients_together_add_what_the_mechanism_declares() -> None:
    mechanism = Mechanism(1.5, 2.0, "distributed", min_cohort=30)
    total = sum(draw_noise(RELEASE, mechanism.share_std(1), Key(1), part)["table"] for part in range(30))
    assert is_variance(total, 3.0)


def test_noise_is_another_for_every_part_round_attempt_and_the_server() -> None:
    keys = [(Key(1), 0), (Key(1), 1), (Key(1), SERVER_PART), (Key(1).at(1), 0), (Key(1).at(1, 1), 0), (Key(2), 0)]
    drawn = [draw_noise(RELEASE, 1.0, key, part)["table"].ravel() for key, part in keys]
    drawn += [np.resize(draw_noise(RELEASE, 1.0, Key(1), 0)["bias"], drawn[0].size)[: drawn[0].size]]
    correlation = np.corrcoef(drawn[:-1]) - np.eye(len(keys))
    # 15 pairs, each of deviation 1/√4000: above 5 deviations with probability 1e-5 in all
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)
    again = draw_noise(RELEASE, 1.0, Key(1), 0)["table"].ravel()
    np.testing.assert_array_equal(drawn[0], again)


vectors = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3)


@settings(deadline=None)
@given(st.lists(vectors, min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_clipping_brings_every_user_under_the_clip_norm_and_leaves_short_vectors(
    users: list[list[float]], clip: float
) -> None:
    values = np.array(users)
    release = Release("r", (Component("a", (2,), 3.0), Component("b", (), 0.25)), share=1.0)
    contribution = Contribution({"a": Dense(values[:, :2]), "b": Dense(values[:, 2])}, len(users))
    mechanism = Mechanism(1.0, clip)
    scaled = values * np.array([3.0, 3.0, 0.25])
    norms = np.linalg.norm(scaled, axis=1)
    np.testing.assert_allclose(contribution.norms(release), norms, rtol=1e-9, atol=1e-150)  # squares underflow below
    weights = mechanism.weights(norms)
    assert np.all(weights * norms <= clip * (1 + 1e-12))
    assert np.all(weights[norms <= clip] == 1)
    long = norms > clip
    np.testing.assert_allclose((weights * norms)[long], clip, rtol=1e-9)
    found = clip_and_sum(contribution, release, mechanism)
    wanted = (weights[:, None] * scaled).sum(axis=0)
    np.testing.assert_allclose([*found.arrays["a"], found.arrays["b"]], wanted, rtol=1e-9, atol=1e-9)


def test_a_norm_that_is_not_finite_weighs_nothing() -> None:
    weights = Mechanism(1.0, 2.0).weights(np.array([1.0, 4.0, math.inf, math.nan, 0.0]))
    np.testing.assert_array_equal(weights, [1.0, 0.5, 0.0, 0.0, 1.0])


def test_values_too_large_for_a_norm_are_rejected_and_counted() -> None:
    release = Release("r", (Component("a", (2,)),), share=1.0)
    contribution = Contribution({"a": Dense(np.array([[1e200, 1.0], [0.3, 0.4]]))}, 2)
    found = clip_and_sum(contribution, release, Mechanism(1.0, 1.0))
    assert found.rejected == 1
    np.testing.assert_allclose(found.arrays["a"], [0.3, 0.4])


def test_a_sum_is_checked() -> None:
    good = ShardSum(ZERO, 3)
    assert add_up([good, good], RELEASE).n_users == 6
    nan = ShardSum({**ZERO, "bias": np.full(100, np.nan)}, 3)
    with pytest.raises(ContributionError, match="'bias' holds values that are not finite"):
        add_up([good, nan], RELEASE)
