"""The dials: at 0 the pure order of scores, and the further up, the more of what they are named after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedrec.data.interactions import Catalogue
from fedrec.device.rerank import popularity, rerank, self_information, vectors
from fedrec.errors import UsageError
from fedrec.models.base import Shared
from fedrec.models.history import unit_rows

Array = np.ndarray[Any, np.dtype[Any]]


@st.composite
def candidates(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """Scores from the highest on, unit rows and self-information."""
    m = draw(st.integers(1, 30))
    made = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = unit_rows(made.standard_normal((m, 4)) + made.standard_normal((1, 4)))
    return np.sort(made.standard_normal(m))[::-1], rows, made.exponential(size=m)


dials = st.floats(0, 1)


@given(candidates(), st.integers(1, 40))
def test_with_both_dials_at_zero_the_list_is_the_order_of_scores(given_: tuple[Array, Array, Array], k: int) -> None:
    scores, rows, bits = given_
    np.testing.assert_array_equal(rerank(scores, k, 0.0, 0.0, rows, bits), np.arange(len(scores))[:k])


@given(candidates(), st.integers(1, 40), dials, dials)
def test_a_list_is_of_distinct_candidates_at_any_dial(
    given_: tuple[Array, Array, Array], k: int, diversity: float, novelty: float
) -> None:
    listed = rerank(given_[0], k, diversity, novelty, given_[1], given_[2])
    assert len(set(listed.tolist())) == len(listed) == min(k, len(given_[0]))
    assert set(listed.tolist()) <= set(range(len(given_[0])))


@given(candidates(), st.integers(1, 20), dials, dials)
def test_more_novelty_never_lists_what_is_better_known(
    given_: tuple[Array, Array, Array], k: int, one: float, other: float
) -> None:
    """The sum of a list's bits never falls as the dial rises: the list maximises (1 - n) · relevance + n · bits."""
    scores, rows, bits = given_
    low, high = sorted((one, other))
    assume(high - low > 1e-6)
    told = [bits[rerank(scores, k, 0.0, dial, rows, bits)].sum() for dial in (low, high)]
    assert told[1] >= told[0] - 1e-9


@given(candidates(), dials, dials)
def test_more_diversity_never_puts_a_more_similar_item_second(
    given_: tuple[Array, Array, Array], one: float, other: float
) -> None:
    scores, rows, bits = given_
    assume(len(scores) > 1)
    low, high = sorted((one, other))
    assume(high - low > 1e-6 and low < 0.998)  # at 1, scores do not even choose the first
    second = [rerank(scores, 2, dial, 0.0, rows, bits)[1] for dial in (low, min(high, 0.999))]
    less, more = (rows[second] @ rows[0]).clip(0)
    assert more <= less + 1e-6


def test_diversity_takes_one_of_each_kind_before_a_second_of_any() -> None:
    rows = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    scores = np.linspace(1, 0, 12)
    none = np.zeros(12)
    assert set(rerank(scores, 3, 0.0, 0.0, rows, none) // 4) == {0}
    assert set(rerank(scores, 3, 0.7, 0.0, rows, none) // 4) == {0, 1, 2}


@pytest.mark.parametrize("dial", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", ["diversity", "novelty"])
def test_a_dial_outside_of_its_range_is_refused(name: str, dial: float) -> None:
    values = {"diversity": 0.0, "novelty": 0.0, name: dial}
    with pytest.raises(UsageError, match=f"The dial '{name}' goes from 0 to 1"):
        rerank(np.ones(3), 2, values["diversity"], values["novelty"], np.eye(3, dtype=np.float32), np.ones(3))


CATALOGUE = Catalogue(
    np.array(["a", "b", "c"]), genre_names=("x", "y"), genres=np.array([[1, 0], [1, 0], [0, 1]], np.float32)
)
EVERY = np.arange(3)


def test_items_are_compared_by_the_model_s_factors_and_else_by_features() -> None:
    table = np.array([[2, 0], [0, 3], [4, 0]], np.float32)
    both: list[Shared] = [{"table": table}, {"factor": table, "items": EVERY}]
    for shared in both:
        rows = vectors(shared, CATALOGUE, EVERY)
        np.testing.assert_allclose(rows @ rows.T, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    rows = vectors({"popularity": np.ones(3, np.float32)}, CATALOGUE, EVERY)
    np.testing.assert_allclose(rows @ rows.T, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    some = vectors({"factor": table[:2], "items": np.array([2, 0])}, CATALOGUE, EVERY)
    np.testing.assert_allclose(some, [[0, 1], [0, 0], [1, 0]])
    assert not vectors({}, Catalogue(CATALOGUE.ids), EVERY).any()


@pytest.mark.parametrize(
    "shared",
    [
        {"popularity": np.array([4, 1, -2], np.float32)},
        {"popularity": np.log([4, 1, 0.1]).astype(np.float32), "items": np.array([0])},
        {"item_weight": np.array([0.5, 1, 0], np.float32), "bias": np.array([0, 5, 0], np.float32)},
        {"item_weight": np.ones(3, np.float32), "bias": np.array([2, 1, 0], np.float32)},
    ],
    ids=["noised popularity", "gram", "mf from a spectral start", "mf from a random start"],
)
def test_what_everybody_meets_tells_little(shared: dict[str, Array]) -> None:
    met = popularity(shared, 3)
    assert met is not None
    assert (met > 0).all()
    bits = self_information(shared, 3)
    assert np.isfinite(bits).all()
    assert bits[0] < bits[1] <= bits[2]
    assert np.exp2(-bits).sum() == pytest.approx(1)


@pytest.mark.parametrize("shared", [{}, {"bias": np.zeros(3, np.float32)}, {"popularity": -np.ones(3, np.float32)}])
def test_where_nothing_is_known_all_are_alike(shared: dict[str, Array]) -> None:
    assert popularity(shared, 3) is None
    assert not self_information(shared, 3).any()
