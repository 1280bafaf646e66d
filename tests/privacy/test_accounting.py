"""Accounting: two accountants that know nothing of each other agree, and a calibrated run keeps its promise."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedrec
from fedrec.errors import PrivacyError
from fedrec.privacy.accounting import (
    accountant_of,
    calibrate_events,
    composed_mu,
    filter_epsilon,
    gaussian_delta,
    gaussian_epsilon,
    rdp_epsilon,
    report_epsilon,
    second_epsilon,
)
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent
from fedrec.privacy.grid import Grid
from fedrec.privacy.skellam import DISTANCE
from tests.cases import calibrated, gaussians

KNOWN = {1.0: 3.731, 2.0: 1.994, 4.0: 1.081, 8.0: 0.600, 20.0: 0.290}
"""Noise multipliers of one Gaussian release at delta 1e-5 (Balle & Wang 2018), to three decimals."""


@pytest.mark.parametrize(("epsilon", "sigma"), KNOWN.items())
def test_known_noise_multipliers(epsilon: float, sigma: float) -> None:
    assert calibrated(epsilon, [1.0])[0] == pytest.approx(sigma, abs=6e-4)
    assert gaussian_epsilon(1 / sigma, 1e-5) == pytest.approx(epsilon, rel=2e-3)


@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("sigmas", [[5.0], [0.5], [2.0] * 10, [1.0, 3.0, 3.0, 8.0]])
def test_analytic_gaussian_and_pld_agree(sigmas: list[float], delta: float) -> None:
    analytic = gaussian_epsilon(composed_mu(sigmas), delta)
    pld = report_epsilon(gaussians(sigmas), delta)
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
    assert report_epsilon([], 1e-5) == 0
    assert gaussian_epsilon(composed_mu([]), 1e-5) == 0
    assert gaussian_epsilon(1e-7, 1e-5) == 0  # delta alone covers it


@settings(max_examples=3, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=4), st.sampled_from([0.3, 1.0, 8.0]))
def test_calibrated_shares_spend_the_budget_and_not_more(weights: list[float], epsilon: float) -> None:
    shares = [weight / math.fsum(weights) for weight in weights]
    sigmas = calibrated(epsilon, shares)
    assert epsilon - 0.01 < report_epsilon(gaussians(sigmas), 1e-5) <= epsilon
    assert gaussian_epsilon(composed_mu(sigmas), 1e-5) <= epsilon * (1 + 1e-9)  # what the ledger's filter checks
    mu = composed_mu(sigmas)
    for sigma, share in zip(sigmas, shares, strict=True):
        assert sigma**-2 == pytest.approx(share * mu**2, rel=1e-9)


# Events of every kind

RANGE = [
    (sigma, rate, steps) for sigma in (0.3, 0.5, 1.0, 2.0, 5.0) for rate in (1.0, 0.5, 0.01) for steps in (1, 10, 60)
]
QUICK = [(0.5, 1.0, 1), (2.0, 1.0, 60), (5.0, 0.01, 60)]


def prv_minus_pld(events: list[Event], delta: float = 1e-5) -> float:
    pytest.importorskip("opacus")
    second = second_epsilon(events, delta)
    assert second is not None
    name, epsilon = second
    assert name.startswith("opacus 1.")
    return epsilon - report_epsilon(events, delta)


def skellam(dimension: int, multiplier: float, n_users: int, resolution: float = 64.0) -> SkellamEvent:
    """What a release with a noise multiplier declares, its distance added up over coordinates and shares."""
    grid = Grid(dimension, 1.0, resolution)
    return SkellamEvent((multiplier * grid.scale) ** 2, grid.l2, grid.l1, n_users * dimension * DISTANCE)


@pytest.mark.parametrize(("sigma", "rate", "steps"), QUICK)
def test_opacus_agrees_with_google(sigma: float, rate: float, steps: int) -> None:
    assert -0.002 < prv_minus_pld([GaussianEvent(sigma, rate, steps)]) < 0.015


def test_opacus_agrees_with_google_on_a_mixture() -> None:
    events: list[Event] = [GaussianEvent(3.0, 0.01), *[GaussianEvent(4.0)] * 3, GaussianEvent(3.0, 0.3, 7)]
    assert -0.002 < prv_minus_pld(events) < 0.015


@pytest.mark.slow
@pytest.mark.parametrize(("sigma", "rate", "steps"), RANGE)
def test_opacus_agrees_with_google_over_the_whole_range(sigma: float, rate: float, steps: int) -> None:
    assert -0.002 < prv_minus_pld([GaussianEvent(sigma, rate, steps)]) < 0.015


@pytest.mark.parametrize(("sigma", "steps"), [(0.3, 60), (0.05, 1), (0.5, 10), (5.0, 60), (100.0, 1)])
def test_the_analytic_gaussian_agrees_with_google_to_a_thousandth(sigma: float, steps: int) -> None:
    """Also where epsilon is in the hundreds and the privacy loss grid is coarser."""
    events = [GaussianEvent(sigma, steps=steps)]
    assert filter_epsilon(events, 1e-5) == pytest.approx(report_epsilon(events, 1e-5), rel=1e-3)


@pytest.mark.parametrize("dimension", [1682, 53_824, 1_415_403])
@pytest.mark.parametrize("n_users", [50, 1000])
@pytest.mark.parametrize(("epsilon", "sigma"), [(0.5, 7.03), (1.0, 3.731), (8.0, 0.600)])
@pytest.mark.parametrize("rounds", [1, 30])
def test_skellam_costs_at_most_two_percent_more_than_the_gaussian(
    dimension: int, n_users: int, epsilon: float, sigma: float, rounds: int
) -> None:
    """And never less, at the default resolution and under the same conversion."""
    multiplier = sigma * math.sqrt(rounds)
    integers = rdp_epsilon([skellam(dimension, multiplier, n_users)] * rounds, 1e-5)
    continuous = rdp_epsilon([GaussianEvent(multiplier)] * rounds, 1e-5)
    assert continuous <= integers <= 1.02 * continuous
    assert epsilon < continuous < 1.12 * epsilon  # what the conversion itself costs


def test_a_coarse_grid_costs_more() -> None:
    fine, coarse = (report_epsilon([skellam(1682, 1.0, 100, r)], 1e-5) for r in (64.0, 1.0))
    assert coarse > 1.1 * fine


MIXED: list[Event] = [GaussianEvent(2.0), skellam(1682, 2.0, 100), GaussianEvent(3.0, 0.1, 5)]


@pytest.mark.parametrize(
    "events",
    [
        [GaussianEvent(2.0)] * 3,
        [GaussianEvent(3.0, 0.5, 10), GaussianEvent(4.0)],
        [skellam(1682, 1.0, 100)] * 2,
        [skellam(1682, 1.0, 100, 1.0), GaussianEvent(4.0)],
        MIXED,
    ],
)
@pytest.mark.parametrize("delta", [1e-3, 1e-9])
def test_the_filter_is_not_below_the_report(events: list[Event], delta: float) -> None:
    """But for what PLD rounds up, and of the same order of magnitude."""
    report = report_epsilon(events, delta)
    assert report * (1 - 1e-3) <= filter_epsilon(events, delta) <= 1.3 * report


@given(st.lists(st.sampled_from([*MIXED, GaussianEvent(9.0)]), min_size=1, max_size=5))
def test_more_events_cost_more_and_their_order_nothing(events: list[Event]) -> None:
    whole = filter_epsilon(events, 1e-6)
    assert whole == pytest.approx(filter_epsilon(events[::-1], 1e-6), rel=1e-12)
    assert filter_epsilon(events[1:], 1e-6) <= whole
    assert filter_epsilon(events, 1e-7) >= whole


def test_steps_are_repeated_events() -> None:
    steps, repeated = [GaussianEvent(2.0, 0.2, 3)], [GaussianEvent(2.0, 0.2)] * 3
    for epsilon in (report_epsilon, filter_epsilon, rdp_epsilon):
        assert epsilon(steps, 1e-5) == pytest.approx(epsilon(repeated, 1e-5), rel=1e-9)


def test_no_event_costs_nothing() -> None:
    assert report_epsilon([], 1e-5) == rdp_epsilon([], 1e-5) == filter_epsilon([], 1e-5) == 0
    assert second_epsilon([], 1e-5) == ("fedrec " + fedrec.__version__ + " (analytic Gaussian)", 0.0)


@pytest.mark.parametrize("price", [report_epsilon, rdp_epsilon, filter_epsilon])
def test_delta_pays_for_the_noise_s_distance(price: Callable[[Sequence[Event], float], float]) -> None:
    """Epsilon is that of the delta which is left, (1 + e^epsilon) times the distance taken off."""
    exact, delta = SkellamEvent(1e8, 1e3, 1e4), 1e-5
    far = replace(exact, distance=1e-7)
    epsilon = price([far, far], delta)
    left = delta - (1 + math.exp(epsilon)) * 2e-7
    assert price([exact, exact], delta) < price([exact, exact], left) <= epsilon
    assert epsilon < price([exact, exact], left) * 1.01
    assert price([replace(exact, distance=1e-5)] * 2, delta) == math.inf


def test_second_accountants() -> None:
    sampled, integers = GaussianEvent(1.0, 0.1), skellam(1682, 1.0, 100)
    second = second_epsilon([integers, GaussianEvent(2.0, steps=2)], 1e-5)
    assert second is not None
    assert second[0] == f"fedrec {fedrec.__version__} (RDP term by term)"
    assert second[1] == pytest.approx(report_epsilon([integers, GaussianEvent(2.0, steps=2)], 1e-5), rel=1e-6)
    assert second_epsilon([integers, sampled], 1e-5) is None


def test_without_opacus_the_analytic_gaussian_is_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    second = second_epsilon([GaussianEvent(2.0)], 1e-5)
    assert second is not None
    assert second[0].endswith("(analytic Gaussian)")
    assert second[1] == pytest.approx(report_epsilon([GaussianEvent(2.0)], 1e-5), rel=1e-3)
    assert second_epsilon([GaussianEvent(2.0, 0.5)], 1e-5) is None


def test_the_accountant_is_named_with_its_version() -> None:
    assert accountant_of([GaussianEvent(2.0)]) == f"dp-accounting {version('dp-accounting')} (PLD)"
    assert accountant_of(MIXED) == f"dp-accounting {version('dp-accounting')} (RDP)"


CALIBRATED: dict[str, Callable[[float], list[Event]]] = {
    "gaussian": lambda m: [GaussianEvent(m), GaussianEvent(2 * m)],
    "skellam": lambda m: [skellam(53_824, m, 100)] * 3,
    "sampled": lambda m: [GaussianEvent(m, 0.05, 20)],
}


@pytest.mark.parametrize(
    ("kind", "epsilon"), [("gaussian", 0.3), ("gaussian", 4.0), ("skellam", 0.3), ("skellam", 8.0), ("sampled", 1.0)]
)
def test_the_calibrated_noise_is_the_smallest_that_stays_within_the_budget(kind: str, epsilon: float) -> None:
    events_of = CALIBRATED[kind]
    multiplier = calibrate_events(epsilon, 1e-5, events_of)

    def price(m: float) -> float:
        return max(report_epsilon(events_of(m), 1e-5), filter_epsilon(events_of(m), 1e-5))

    assert price(multiplier) <= epsilon < price(multiplier * (1 - 1e-4))


def test_noise_that_can_never_be_enough_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"No noise brings epsilon to 1; raise privacy\.epsilon"):
        calibrate_events(1.0, 1e-5, lambda m: [SkellamEvent(m**2, 1.0, 1.0, distance=1e-5)])
