"""Accounting: two accountants that know nothing of each other agree, and a calibrated run keeps its promise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import PrivacyError
from fedrec.privacy.accounting import calibrate, composed_mu, gaussian_delta, gaussian_epsilon, pld_epsilon

KNOWN = {1.0: 3.731, 2.0: 1.994, 4.0: 1.081, 8.0: 0.600, 20.0: 0.290}
"""Noise multipliers of one Gaussian release at delta 1e-5 (Balle & Wang 2018), to three decimals."""


@pytest.mark.parametrize(("epsilon", "sigma"), KNOWN.items())
def test_known_noise_multipliers(epsilon: float, sigma: float) -> None:
    assert calibrate(epsilon, 1e-5, [1.0])[0] == pytest.approx(sigma, abs=6e-4)
    assert gaussian_epsilon(1 / sigma, 1e-5) == pytest.approx(epsilon, rel=2e-3)


@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("sigmas", [[5.0], [0.5], [2.0] * 10, [1.0, 3.0, 3.0, 8.0]])
def test_analytic_gaussian_and_pld_agree(sigmas: list[float], delta: float) -> None:
    analytic = gaussian_epsilon(composed_mu(sigmas), delta)
    pld = pld_epsilon(sigmas, delta)
    assert pld == pytest.approx(analytic, rel=1e-3, abs=1e-3)
    assert pld >= analytic - 1e-6  # pessimistic


def test_epsilon_inverts_delta() -> None:
    for mu in (0.05, 0.3, 1.0, 4.0, 20.0):
        for delta in (1e-12, 1e-5, 0.01):
            epsilon = gaussian_epsilon(mu, delta)
            assert epsilon == 0 or gaussian_delta(epsilon, mu) == pytest.approx(delta, rel=1e-6)


def test_delta_against_its_definition() -> None:
    """Delta is the largest difference P(S) - e^epsilon Q(S), a one-sided event for two Gaussians: integrated here."""
    epsilon, mu, step = 0.7, 1.3, 1e-4
    total = 0.0
    for at in range(-80_000, 120_000):
        x = (at + 0.5) * step
        p, q = math.exp(-((x - mu) ** 2) / 2), math.exp(-(x**2) / 2)
        total += max(p - math.exp(epsilon) * q, 0.0) * step / math.sqrt(2 * math.pi)
    assert gaussian_delta(epsilon, mu) == pytest.approx(total, rel=1e-4)


def test_nothing_released_costs_nothing() -> None:
    assert pld_epsilon([], 1e-5) == 0
    assert gaussian_epsilon(composed_mu([]), 1e-5) == 0
    assert gaussian_epsilon(1e-7, 1e-5) == 0  # delta alone covers it


@settings(max_examples=5, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=4), st.sampled_from([0.3, 1.0, 8.0]))
def test_calibrated_shares_spend_the_budget_and_not_more(weights: list[float], epsilon: float) -> None:
    shares = [weight / math.fsum(weights) for weight in weights]
    sigmas = calibrate(epsilon, 1e-5, shares)
    assert epsilon - 0.01 < pld_epsilon(sigmas, 1e-5) <= epsilon
    assert gaussian_epsilon(composed_mu(sigmas), 1e-5) <= epsilon * (1 + 1e-9)  # what the ledger's filter checks
    mu = composed_mu(sigmas)
    for sigma, share in zip(sigmas, shares, strict=True):
        assert sigma**-2 == pytest.approx(share * mu**2, rel=1e-9)


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.5, -0.5], [1.0, 0.0], [2.0]])
def test_shares_that_do_not_sum_to_one_are_refused(shares: list[float]) -> None:
    with pytest.raises(PrivacyError, match="sum to 1"):
        calibrate(1.0, 1e-5, shares)
