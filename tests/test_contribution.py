"""Parts of a contribution: the coordinates that they list are the ones that they sum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.contribution import Dense, OuterTriangles, Part, Rows, pack_upper

N_ITEMS = 7


def ragged(rng: np.random.Generator, n_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Users' histories: some empty, none with an item twice, in no order."""
    counts = rng.integers(0, N_ITEMS + 1, n_users)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    items = [rng.choice(N_ITEMS, count, replace=False) for count in counts]
    return indptr, np.concatenate([*items, np.zeros(0, np.int64)]).astype(np.int32)


def parts(seed: int, n_users: int) -> dict[str, Part]:
    """One part of each kind, with values of every float type."""
    rng = np.random.default_rng(seed)
    indptr, items = ragged(rng, n_users)
    return {
        "rows": Rows(indptr, items, rng.normal(size=(len(items), 3)).astype(np.float32), N_ITEMS),
        "values": Rows(indptr, items, rng.normal(size=len(items)), N_ITEMS),
        "triangles": OuterTriangles(indptr, items, rng.normal(size=len(items)), N_ITEMS),
        "dense": Dense(rng.normal(size=(n_users, 2, 5)).astype(np.float32)),
    }


KINDS = list(parts(0, 1))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), n_users=st.integers(1, 6))
def test_the_entries_are_what_is_summed(kind: str, seed: int, n_users: int) -> None:
    part = parts(seed, n_users)[kind]
    weights = np.random.default_rng(seed + 1).uniform(0.1, 1, n_users)
    entries = part.entries(0, n_users)
    wanted = part.weighted_sum(weights)
    sums = np.bincount(entries.coordinates, weights[entries.users] * entries.values, minlength=wanted.size)
    np.testing.assert_allclose(sums, wanted.ravel(), atol=1e-9)
    norms = np.bincount(entries.users, entries.values**2, minlength=n_users)
    np.testing.assert_allclose(norms, part.squared_norms(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), n_users=st.integers(1, 6), data=st.data())
def test_entries_come_user_after_user_each_coordinate_once(
    kind: str, seed: int, n_users: int, data: st.DataObject
) -> None:
    part = parts(seed, n_users)[kind]
    whole = part.entries(0, n_users)
    assert (np.diff(whole.users) >= 0).all()
    np.testing.assert_array_equal(np.bincount(whole.users, minlength=n_users), part.counts())
    pairs = np.stack([whole.users, whole.coordinates])
    assert np.unique(pairs, axis=1).shape == pairs.shape
    first = data.draw(st.integers(0, n_users))
    last = data.draw(st.integers(first, n_users))
    some = part.entries(first, last)
    inside = (whole.users >= first) & (whole.users < last)
    for name in ("users", "coordinates", "values"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[inside])
        assert getattr(some, name).dtype == (np.float64 if name == "values" else np.int64)


def test_the_triangle_s_coordinates_are_those_of_the_packed_matrix() -> None:
    y = np.array([2.0, 3.0, 5.0, 7.0])
    part = OuterTriangles(np.array([0, 4]), np.array([3, 0, 2, 1]), y[[3, 0, 2, 1]], 4)
    entries = part.entries(0, 1)
    packed = np.zeros(6)
    packed[entries.coordinates] = entries.values
    np.testing.assert_array_equal(packed, pack_upper(np.outer(y, y)))
