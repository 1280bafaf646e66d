"""The single tests: p-values are uniform for a sound release, small for a faulty one, and Holm keeps them together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from fedrec.audit.detectors import Finding, adjusted, bare_rows, repeated_noise, too_little_noise, too_long


def noise(draw: np.random.Generator) -> float:
    return too_little_noise("noise", draw.standard_normal((3, 50))).p_value


def fitted(draw: np.random.Generator) -> float:
    values = 7 + draw.standard_normal(40)
    return too_little_noise("noise", values - values.mean(), 39).p_value


def length(draw: np.random.Generator) -> float:
    return too_long("clip", 0.4 + draw.standard_normal(60), 0.4).p_value


def pair(draw: np.random.Generator) -> float:
    return repeated_noise("seeds", draw.standard_normal((2, 30)) * 5).p_value


@pytest.mark.parametrize("p_value", [noise, fitted, length, pair])
def test_p_values_of_a_sound_release_are_uniform(p_value: Callable[[np.random.Generator], float]) -> None:
    draw = np.random.default_rng(11)
    assert kstest([p_value(draw) for _ in range(2000)], "uniform").pvalue > 1e-3  # the seed is fixed


def test_of_many_pairs_the_p_value_is_no_smaller_than_uniform() -> None:
    draw = np.random.default_rng(12)
    found = np.array([repeated_noise("seeds", draw.standard_normal((8, 30))).p_value for _ in range(1000)])
    assert (found <= 0.05).mean() <= 0.07  # Bonferroni: .05 at most, and chance


def test_noise_that_is_too_small_objects_and_noise_that_is_too_large_does_not() -> None:
    values = np.random.default_rng(13).standard_normal(8192)
    assert too_little_noise("noise", 0.95 * values).p_value < 1e-6
    assert too_little_noise("noise", 1.05 * values).p_value > 0.99


def test_a_length_below_the_bound_is_no_fault() -> None:
    scores = np.random.default_rng(14).standard_normal(100)
    assert too_long("clip", scores, 1.0).p_value > 0.99
    assert too_long("clip", scores + 2.0, 1.0).p_value < 1e-9


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.01])
def test_noise_that_repeats_objects_whatever_its_sign_or_scale(factor: float) -> None:
    rows = np.random.default_rng(15).standard_normal((5, 100))
    rows[4] = factor * rows[1]
    assert repeated_noise("seeds", rows).p_value < 1e-9


def test_no_noise_at_all_repeats_nothing_and_is_too_little() -> None:
    assert repeated_noise("seeds", np.zeros((3, 10))).p_value == 1
    assert repeated_noise("seeds", np.ones((1, 10))).p_value == 1
    assert too_little_noise("noise", np.zeros(100)).p_value == 0


def test_a_zero_row_is_certain_in_floating_point_and_rare_on_integers() -> None:
    assert bare_rows(0, 1000, 0.0).p_value == 1
    assert bare_rows(1, 1000, 0.0).p_value == 0
    assert bare_rows(1, 1000, 1e-3).p_value == pytest.approx(1 - (1 - 1e-3) ** 1000)
    assert bare_rows(200, 1000, 1e-3).p_value < 1e-100


def test_holm_s_example() -> None:
    found = adjusted([Finding("", p, "") for p in (0.01, 0.04, 0.03, 0.005)])
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(values: list[float]) -> None:
    found = adjusted([Finding("", p, "") for p in values])
    assert all(p <= q <= 1 for p, q in zip(values, found, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
