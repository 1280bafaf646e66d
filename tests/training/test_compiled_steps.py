"""The compiled step of clipped interactions draws what NumPy draws and changes what NumPy changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

from fedrec.contribution import Part
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.randomness import Key
from fedrec.release import DpSgd
from fedrec.training import per_interaction
from fedrec.training.samples import public_vectors
from tests.cases import histories

N_ITEMS, D = 30, 9
KEY = Key(5).at(2)
CATALOGUE = Catalogue(np.arange(N_ITEMS).astype(str))


def shared(scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    arrays = {"table": rng.standard_normal((N_ITEMS, D)), "bias": rng.standard_normal(N_ITEMS)}
    return {name: (scale * array).astype(np.float32) for name, array in arrays.items()}


def dense(parts: dict[str, Part], users: Interactions) -> dict[str, Any]:
    each = np.eye(users.n_users)
    return {name: np.array([part.weighted_sum(one) for one in each]) for name, part in parts.items()}


def both(
    users: Interactions, plan: DpSgd, m: int, loss: Any, arrays: Any = None, scale: float = 1.0
) -> tuple[Any, Any]:
    """What the compiled step and the NumPy step learn."""
    arrays, vectors = shared(scale) if arrays is None else arrays, scale * public_vectors(users, D)
    fast = per_interaction.train(arrays, vectors, users, plan, m, loss, KEY, compiled=True)
    return fast, per_interaction.train(arrays, vectors, users, plan, m, loss, KEY)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=N_ITEMS), min_size=1, max_size=5),
    st.integers(1, 5),
    st.sampled_from([0.05, 0.5, 50.0]),
    st.sampled_from([0.3, 1.0]),
    st.sampled_from(["bpr", "bce"]),
)
def test_it_is_the_numpy_step(items: list[list[int]], m: int, clip_norm: float, rate: float, loss: str) -> None:
    """With thirty items, many a sample touches a row twice."""
    users = histories(CATALOGUE, items, first=3)
    plan = DpSgd(clip_norm, learning_rate=0.5, expected_batch=2, sampling_rate=rate, negatives="catalogue")
    fast, slow = both(users, plan, m, loss)
    for name, wanted in dense(slow, users).items():
        np.testing.assert_allclose(dense(fast, users)[name], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(fast[name].counts(), slow[name].counts())
        np.testing.assert_allclose(fast[name].squared_norms(), slow[name].squared_norms(), rtol=1e-5, atol=1e-9)


def test_all_at_once_is_one_by_one_to_the_last_bit() -> None:
    rng = np.random.default_rng(2)
    users = histories(CATALOGUE, [rng.permutation(N_ITEMS)[: n % 12].tolist() for n in range(40)])
    plan = DpSgd(0.5, negatives="catalogue")
    whole = dense(both(users, plan, 4, "bpr")[0], users)
    for place in range(users.n_users):
        alone = users.take(np.array([place]))
        for name, wanted in dense(both(alone, plan, 4, "bpr")[0], alone).items():
            np.testing.assert_array_equal(whole[name][place], wanted[0])


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_a_sample_that_overflows_costs_its_user_no_other(loss: str) -> None:
    users = histories(CATALOGUE, [[0, 1, 2, 3], [4]])
    plan = DpSgd(0.5, negatives="catalogue")
    arrays = shared()
    arrays["table"][1] = np.inf
    fast, slow = (dense(parts, users) for parts in both(users, plan, 2, loss, arrays))
    for name, wanted in slow.items():
        assert np.isfinite(fast[name]).all()
        np.testing.assert_allclose(fast[name], wanted, atol=1e-6)
    assert fast["bias"][0].any()


def test_large_scores_and_nobody_are_no_error() -> None:
    plan = DpSgd(0.5, negatives="catalogue")
    users = histories(CATALOGUE, [[0, 1], []])
    fast, slow = both(users, plan, 2, "bce", scale=1e3)
    for name, wanted in dense(slow, users).items():
        np.testing.assert_allclose(dense(fast, users)[name], wanted, atol=1e-6)
    for nobody in (histories(CATALOGUE, []), histories(CATALOGUE, [[], []])):
        assert not both(nobody, plan, 2, "bpr")[0]["table"].weighted_sum(np.ones(nobody.n_users)).any()
