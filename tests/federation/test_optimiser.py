"""The server optimizer by hand, and a shrink that never makes a step longer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config import FederationConfig
from fedrec.federation.optimiser import shrunk_mean, step

FIRST, SECOND = {"a": np.array([1.0, -2.0])}, {"a": np.array([0.5, 4.0])}


def test_sgd_is_the_rate_times_the_mean() -> None:
    steps, memory = step(FIRST, {}, FederationConfig(server_learning_rate=0.3))
    np.testing.assert_allclose(steps["a"], [0.3, -0.6])
    assert memory == {}


def test_momentum_by_hand() -> None:
    config = FederationConfig(server_learning_rate=2.0, server_momentum=0.9)
    steps, memory = step(FIRST, {}, config)
    np.testing.assert_allclose(steps["a"], [2.0, -4.0])
    steps, memory = step(SECOND, memory, config)
    np.testing.assert_allclose(steps["a"], [2 * (0.9 * 1 + 0.5), 2 * (0.9 * -2 + 4)])
    np.testing.assert_allclose(memory["a.velocity"], [1.4, 2.2])


def test_adam_by_hand() -> None:
    """Reddi et al. 2021, algorithm 2 with beta .9 and .99, tau .001 and no bias correction."""
    config = FederationConfig(server_optimizer="adam", server_learning_rate=0.1)
    steps, memory = step(FIRST, {}, config)
    wanted = [0.1 * 0.1 * 1 / (math.sqrt(0.01 * 1) + 1e-3), 0.1 * 0.1 * -2 / (math.sqrt(0.01 * 4) + 1e-3)]
    np.testing.assert_allclose(steps["a"], wanted)
    steps, memory = step(SECOND, memory, config)
    m = [0.9 * 0.1 * 1 + 0.1 * 0.5, 0.9 * 0.1 * -2 + 0.1 * 4]
    v = [0.99 * 0.01 * 1 + 0.01 * 0.25, 0.99 * 0.01 * 4 + 0.01 * 16]
    np.testing.assert_allclose(steps["a"], [0.1 * m[i] / (math.sqrt(v[i]) + 1e-3) for i in range(2)])
    np.testing.assert_allclose(memory["a.first"], m)
    np.testing.assert_allclose(memory["a.second"], v)


@pytest.mark.parametrize("options", [{}, {"server_momentum": 0.5}, {"server_optimizer": "adam"}])
def test_a_step_is_pure_and_each_array_has_its_own_memory(options: dict[str, object]) -> None:
    config = FederationConfig.model_validate(options)
    mean = {"a": np.array([1.0]), "b": np.array([[2.0, 3.0]])}
    for array in mean.values():
        array.flags.writeable = False
    _, memory = step(mean, {}, config)
    for array in memory.values():
        array.flags.writeable = False
    first, second = (step(mean, memory, config)[0] for _ in range(2))
    alone, _ = step({"b": mean["b"]}, {name: array for name, array in memory.items() if name[0] == "b"}, config)
    np.testing.assert_array_equal(first["a"], second["a"])
    np.testing.assert_array_equal(first["b"], alone["b"])


@given(st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 6)), min_size=1, max_size=20), st.floats(0, 1e3))
def test_shrinking_scales_and_never_lengthens(values: list[float], noise_std: float) -> None:
    total = np.array(values)
    found = shrunk_mean(total, noise_std, 4)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= np.linalg.norm(total) / 4
    power = float(total @ total)
    factor = max(0.0, 1 - noise_std**2 * len(values) / power) if power > 0 else 0.0
    np.testing.assert_allclose(found, factor * total / 4)
    np.testing.assert_array_equal(total, values)


def test_without_noise_nothing_is_shrunk() -> None:
    np.testing.assert_array_equal(shrunk_mean(FIRST["a"], 0.0, 2), FIRST["a"] / 2)


def test_pure_noise_mostly_vanishes_and_a_signal_stays() -> None:
    """The factor is above 0.1 for pure noise of 2000 values only where chi-square exceeds its mean by 7 deviations:
    below 1e-9 a draw."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        noise = 3.0 * rng.standard_normal(2000)
        assert np.linalg.norm(shrunk_mean(noise, 3.0, 1)) < 0.1 * np.linalg.norm(noise)
        signal = shrunk_mean(noise + 30.0, 3.0, 1)
        assert np.linalg.norm(signal) > 0.98 * np.linalg.norm(noise + 30.0)
