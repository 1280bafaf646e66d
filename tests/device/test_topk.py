"""The k best items: exactly those of a sort, and nearly those from a table of bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.device.topk import ByteTable, FloatTable, best


@given(st.integers(0, 2**32 - 1), st.integers(1, 900), st.integers(1, 40), st.sampled_from([2, 50, 10**6]))
def test_they_are_the_first_of_a_sort(seed: int, n: int, k: int, levels: int) -> None:
    """Of two levels, most scores are equal; some items are excluded."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, n).astype(np.float32)
    scores[rng.random(n) < rng.random()] = -np.inf
    order = np.lexsort((np.arange(n), -scores))
    wanted = [item for item in order.tolist() if np.isfinite(scores[item])][:k]
    assert best(scores, k).tolist() == wanted


def table(n: int = 6_007, d: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    items = rng.standard_normal((n, d)).astype(np.float32)
    items[5] = 0
    return items, rng.standard_normal(n).astype(np.float32), rng.standard_normal((100, d)).astype(np.float32)


def test_a_float_table_is_exact_and_leaves_out_what_it_is_told() -> None:
    items, bias, users = table()
    known = FloatTable.of(items, bias)
    for user in users:
        scores = items @ user + bias
        excluded = np.argsort(-scores)[:7]
        wanted = np.argsort(-scores)[7:27]
        assert known.top(user, 20, excluded).tolist() == wanted.tolist()


def test_bytes_are_a_quarter_and_find_nearly_the_same() -> None:
    """Mean recall of 100 lists of 20; it was .985, with a standard error of .003."""
    items, bias, users = table()
    exact, small = FloatTable.of(items, bias), ByteTable.of(items, bias)
    assert small.columns.nbytes * 4 == exact.columns.nbytes
    none = np.zeros(0, np.int64)
    found = [len(np.intersect1d(exact.top(user, 20, none), small.top(user, 20, none))) for user in users]
    assert np.mean(found) / 20 > 0.96
    widened = small.columns.T * small.scales[:, None]
    assert np.all(np.abs(widened - items) <= np.abs(items).max(axis=1, keepdims=True) / 253)


def test_numba_and_numpy_read_the_same_bytes() -> None:
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    items, bias, users = table()
    small = ByteTable.of(items, bias)
    assert small.compiled
    for user in users[:5]:
        np.testing.assert_allclose(small.scores(user), replace(small, compiled=False).scores(user), atol=1e-5)
