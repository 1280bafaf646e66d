"""A contribution of rank one a user: what it lists is what it sums, in NumPy, on a phone and compiled."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.contribution import Rows
from fedrec.training.outer import Outer

N_ITEMS = 7

COMPILED = [False] + [True] * (find_spec("numba") is not None)


def part(seed: int, n_users: int, shape: tuple[int, ...], compiled: bool) -> Outer:
    """Users of no row among them."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, N_ITEMS + 1, n_users)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    items = np.concatenate([*(rng.choice(N_ITEMS, count, replace=False) for count in counts), np.zeros(0, np.int64)])
    vectors = rng.normal(size=(n_users, *shape)).astype(np.float32)
    return Outer(indptr, items.astype(np.int32), rng.normal(size=len(items)), vectors, N_ITEMS, compiled)


def as_rows(outer: Outer) -> Rows:
    numbers = outer.numbers.reshape(-1, *[1] * (outer.vectors.ndim - 1))
    return Rows(outer.indptr, outer.items, numbers * np.repeat(outer.vectors, np.diff(outer.indptr), axis=0), N_ITEMS)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("shape", [(3,), ()])
@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_users=st.integers(1, 6), data=st.data())
def test_it_says_what_its_rows_say(
    compiled: bool, shape: tuple[int, ...], seed: int, n_users: int, data: st.DataObject
) -> None:
    outer = part(seed, n_users, shape, compiled)
    rows = as_rows(outer)
    weights = np.random.default_rng(seed + 1).uniform(0, 1, n_users)
    weights[data.draw(st.integers(0, n_users - 1))] = 0
    np.testing.assert_allclose(outer.squared_norms(), rows.squared_norms(), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(outer.weighted_sum(weights), rows.weighted_sum(weights), atol=1e-6)
    assert outer.weighted_sum(weights).shape == (N_ITEMS, *shape)
    np.testing.assert_array_equal(outer.counts(), rows.counts())
    first = data.draw(st.integers(0, n_users))
    last = data.draw(st.integers(first, n_users))
    mine, theirs = outer.entries(first, last), rows.entries(first, last)
    np.testing.assert_array_equal(mine.users, theirs.users)
    np.testing.assert_array_equal(mine.coordinates, theirs.coordinates)
    np.testing.assert_allclose(mine.values, theirs.values, rtol=1e-6)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("n_users", [1, 3])
def test_a_user_of_weight_zero_need_not_be_finite(compiled: bool, n_users: int) -> None:
    indptr, items = np.arange(n_users + 1), np.zeros(n_users, np.int32)
    numbers, vectors = np.ones(n_users), np.ones((n_users, 2), np.float32)
    numbers[0], vectors[0] = np.inf, np.nan
    weights = np.ones(n_users)
    weights[0] = 0
    outer = Outer(indptr, items, numbers, vectors, N_ITEMS, compiled)
    assert outer.weighted_sum(weights).sum() == 2 * (n_users - 1)
    assert not np.isfinite(outer.squared_norms()[0])
