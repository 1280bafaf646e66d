"""The graph: regular, connected, the same for everybody who saw the same adverts, and nobody's choice."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.secagg.graph import Graph


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(2, 60))
    return n, draw(st.integers(1, n - 1).filter(lambda k: n * k % 2 == 0))


@given(sizes(), st.binary(min_size=32, max_size=32))
def test_everybody_has_k_neighbours_and_neighbours_are_mutual(size: tuple[int, int], context: bytes) -> None:
    n, k = size
    graph = Graph.of(context, n, k)
    table = graph.table()
    adjacent = np.zeros((n, n), bool)
    for v in range(n):
        assert graph.neighbours(v) == table[v].tolist()
        assert np.all(np.diff(table[v]) > 0)
        adjacent[v, table[v]] = True
    assert adjacent.sum(axis=1).tolist() == [k] * n
    assert np.array_equal(adjacent, adjacent.T)
    assert not adjacent.diagonal().any()


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_with_as_many_neighbours_as_others_the_graph_is_complete(n: int) -> None:
    graph = Graph.of(b"", n, n - 1)
    assert [graph.neighbours(v) for v in range(n)] == [[w for w in range(n) if w != v] for v in range(n)]


@given(sizes(), st.binary(max_size=8))
def test_it_is_connected(size: tuple[int, int], context: bytes) -> None:
    n, k = size
    if k == 1:
        return  # pairs
    table = Graph.of(context, n, k).table()
    reached = {0}
    while len(more := reached | {int(w) for v in reached for w in table[v]}) > len(reached):
        reached = more
    assert len(reached) == n


def test_the_same_context_gives_the_same_graph_and_another_one_another() -> None:
    graphs = [Graph.of(context, 50, 10).table() for context in (b"a", b"a", b"b")]
    assert np.array_equal(graphs[0], graphs[1])
    assert not np.array_equal(graphs[0], graphs[2])


def test_every_pair_is_as_likely_to_meet() -> None:
    """Chi-square over the pairs of 4,000 seeded graphs of 12 with 4 neighbours each; fails at 1 in 10,000."""
    from scipy.stats import chi2

    counts = np.zeros((12, 12))
    for i in range(4000):
        for v, row in enumerate(Graph.of(hashlib.sha256(bytes([i % 256, i // 256])).digest(), 12, 4).table()):
            counts[v, row] += 1
    pairs = counts[np.triu_indices(12, 1)]
    statistic = ((pairs - pairs.mean()) ** 2 / pairs.mean()).sum()
    assert statistic < chi2.isf(1e-4, 65)
