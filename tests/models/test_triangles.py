"""The compiled sum of Gram statistics has the same bits as the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

from fedrec.contribution import OuterTriangles
from fedrec.models import triangles
from fedrec.models.compiled_triangles import weighted_sum
from fedrec.models.triangles import Triangles

SIZE = 11


def part(seed: int, n_users: int) -> Triangles:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, SIZE + 1, n_users)
    columns = np.concatenate([*(rng.choice(SIZE, count, replace=False) for count in counts), np.zeros(0, np.int64)])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Triangles(indptr, columns.astype(np.int64), rng.normal(size=len(columns)).astype(np.float32), SIZE)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_the_sum_has_the_same_bits(seed: int, n_users: int) -> None:
    given_part = part(seed, n_users)
    weights = np.random.default_rng(seed + 1).uniform(0, 1, n_users)
    weights[0] = 0
    wanted = OuterTriangles.weighted_sum(given_part, weights)
    np.testing.assert_array_equal(weighted_sum(given_part, weights), wanted)


def test_a_user_of_weight_zero_need_not_be_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triangles, "_FEW", 1)
    values = np.array([np.inf, np.nan, 1, 2], np.float32)
    two = Triangles(np.array([0, 2, 4]), np.array([0, 1, 1, 0]), values, 3)
    np.testing.assert_array_equal(two.weighted_sum(np.array([0.0, 1.0])), [2.0, 0.0, 0.0])
