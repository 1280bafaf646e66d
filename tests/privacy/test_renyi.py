"""Rényi divergence: the bounds hold against divergences computed from the distributions themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from fedrec.privacy.events import GaussianEvent, SkellamEvent
from fedrec.privacy.renyi import ORDERS, composed, concentrated, divergence, skellam_rdp, to_epsilon

SKELLAMS = st.builds(SkellamEvent, st.floats(0.1, 1e9), st.floats(0.1, 1e4), st.floats(0.1, 1e6))


def exact_skellam(alpha: int, variance: float, shift: int) -> float:
    """The divergence between Skellam noise and the same noise shifted, summed over the integers."""
    reach = int(60 * math.sqrt(variance) + 40 + alpha * shift * 2)
    x = np.arange(-reach, reach + 1)
    log_p = np.log(special.ive(np.abs(x), variance))  # e^-v I_k(v)
    with np.errstate(invalid="ignore"):
        log_q = np.log(special.ive(np.abs(x - shift), variance))
        terms = alpha * log_q + (1 - alpha) * log_p
    return float(special.logsumexp(terms[np.isfinite(terms)]) / (alpha - 1))


@pytest.mark.filterwarnings("ignore:divide by zero")  # log of a probability that underflows
@pytest.mark.parametrize("shift", [1, 3, 20])
@pytest.mark.parametrize("variance", [3.0, 50.0, 2000.0])
@pytest.mark.parametrize("alpha", [2, 3, 8])
def test_the_skellam_bound_is_above_the_divergence(alpha: int, variance: float, shift: int) -> None:
    exact = exact_skellam(alpha, variance, shift)
    (bound,) = skellam_rdp(np.array([float(alpha)]), SkellamEvent(variance, shift, shift))
    assert 0 < exact <= bound
    if variance > 100 * shift:
        assert bound < 1.01 * exact


def test_the_skellam_bound_by_hand() -> None:
    """Order 3, variance 10, l2 = 2, l1 = 3: 12/20 + min{(20 + 18)/400, 9/20}."""
    assert skellam_rdp(np.array([3.0]), SkellamEvent(10.0, 2.0, 3.0)) == pytest.approx([0.6 + 0.095])
    assert skellam_rdp(np.array([3.0]), SkellamEvent(0.1, 2.0, 3.0)) == pytest.approx([60 + 45])  # the other branch


@given(SKELLAMS)
def test_a_skellam_is_never_below_the_gaussian_of_its_variance(event: SkellamEvent) -> None:
    assert (divergence(event) >= ORDERS * event.l2**2 / (2 * event.variance)).all()


@given(SKELLAMS)
def test_concentrated_divergence_bounds_every_order(event: SkellamEvent) -> None:
    assert (concentrated(event) >= divergence(event) * (1 - 1e-12)).all()


def test_concentrated_divergence_of_a_gaussian_is_its_divergence() -> None:
    event = GaussianEvent(0.7, steps=5)
    np.testing.assert_allclose(concentrated(event), divergence(event))


@pytest.mark.parametrize(("sigma", "rate"), [(0.5, 0.3), (1.0, 0.01), (3.0, 1e-3), (20.0, 1e-6), (0.1, 0.9)])
def test_a_sampled_gaussian_has_the_divergence_that_google_computes(sigma: float, rate: float) -> None:
    """Orders as large as 512; tiny divergences lose digits there, not here."""
    near = ORDERS <= 512
    accountant = RdpAccountant(ORDERS[near], NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), 4))
    ours = divergence(GaussianEvent(sigma, rate, 4))
    np.testing.assert_allclose(ours[near], accountant._rdp, rtol=1e-6, atol=1e-11)
    assert np.isinf(ours[~near]).all()


def test_a_sampled_gaussian_of_order_two_by_hand() -> None:
    """A_2 = 1 + q² (e^{1/σ²} - 1)."""
    assert divergence(GaussianEvent(2.0, 1e-5))[0] == pytest.approx(1e-10 * math.expm1(0.25), rel=1e-9)


@given(st.lists(st.sampled_from([GaussianEvent(2.0), GaussianEvent(1.0, 0.1, 3), SkellamEvent(9.0, 2.0, 4.0)])))
def test_divergences_add_up(events: list[GaussianEvent | SkellamEvent]) -> None:
    one_by_one = sum((divergence(event) for event in events), np.zeros(len(ORDERS)))
    np.testing.assert_allclose(composed(events), one_by_one)


def test_conversion_to_epsilon_at_its_best_order() -> None:
    """A Gaussian of noise 4 at delta 1e-5: no integer order does better than the grid."""
    delta = 1e-5
    best = min(a / 32 + math.log(1 - 1 / a) - (math.log(delta) + math.log(a)) / (a - 1) for a in range(2, 1000))
    assert to_epsilon(divergence(GaussianEvent(4.0)), delta) == pytest.approx(best, rel=1e-12)
    assert to_epsilon(np.zeros(len(ORDERS)), delta) == 0


def test_orders_are_integers_above_one() -> None:
    assert ORDERS.min() == 2
    np.testing.assert_array_equal(ORDERS, ORDERS.round())
    assert (np.diff(ORDERS) > 0).all()
