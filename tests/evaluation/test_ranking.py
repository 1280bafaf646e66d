"""Ranks and lists against a plain sort of all candidates, and fairness among equal scores."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.interactions import Catalogue, Interactions
from fedrec.errors import DataError, FedrecError
from fedrec.evaluation.ranking import block_of_scores, full_ranks, sampled_ranks, top_lists
from fedrec.randomness import Key, Lane, bits

N_ITEMS = 9


def build(histories: list[list[int]], n_items: int = N_ITEMS) -> Interactions:
    return Interactions(
        name="tiny",
        indptr=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        items=np.array([item for history in histories for item in history], np.int32),
        catalogue=Catalogue(np.arange(n_items).astype(str)),
    )


@st.composite
def cases(draw: Any) -> tuple[Any, list[list[int]], list[list[int]], list[list[int]]]:
    """Small integer scores (many ties); each user's items dealt into met, held out, negatives and the rest."""
    n_users = draw(st.integers(1, 4))
    scores = draw(st.lists(st.lists(st.integers(0, 3), min_size=N_ITEMS, max_size=N_ITEMS), min_size=4, max_size=4))
    met, held, negatives = [], [], []
    for _ in range(n_users):
        roles = draw(st.lists(st.integers(0, 3), min_size=N_ITEMS - 1, max_size=N_ITEMS - 1))
        roles = [1, *roles]
        dealt = [[item for item, role in enumerate(roles) if role == wanted] for wanted in range(3)]
        met.append(dealt[0])
        held.append(dealt[1])
        negatives.append(dealt[2] + [-1] * (N_ITEMS - len(dealt[2])))
    return np.array(scores[:n_users], np.float32), met, held, negatives


def sorted_candidates(scores: Any, user: int, stream: Any, items: list[int]) -> list[int]:
    """Best first: greater scores, then smaller draws."""
    draws = bits(np.array([stream]), np.arange(N_ITEMS))
    return sorted(items, key=lambda item: (-scores[user, item], draws[item]))


@given(cases(), st.integers(0, 1000), st.integers(1, 12))
@settings(max_examples=200)
def test_ranks_and_lists_agree_with_a_plain_sort(case: Any, seed: int, k: int) -> None:
    scores, met, held, negatives = case
    profiles, held_out = build(met), build(held)
    ties = Key(seed).streams(profiles.users, Lane.TIES)
    block = block_of_scores(lambda _: scores, profiles)
    ranks = full_ranks(block, held_out, ties)
    sampled = sampled_ranks(block, held_out, np.array(negatives), ranks, ties)
    lists = top_lists(block, k, ties)
    for user in range(len(met)):
        own = slice(held_out.indptr[user], held_out.indptr[user + 1])
        order = sorted_candidates(scores, user, ties[user], [i for i in range(N_ITEMS) if i not in met[user]])
        assert ranks[own].tolist() == [order.index(item) for item in held[user]]
        assert sorted(lists[user][lists[user] >= 0].tolist()) == sorted(order[:k])
        few = [item for item in negatives[user] if item >= 0] + held[user]
        order = sorted_candidates(scores, user, ties[user], few)
        assert sampled[own].tolist() == [order.index(item) for item in held[user]]


def test_constant_scores_get_chance() -> None:
    n_users, n_items, k = 4000, 50, 10
    held = build([[user % n_items] for user in range(n_users)], n_items)
    ties = Key(11).streams(held.users, Lane.TIES)
    scores = np.zeros((n_users, n_items), np.float32)
    ranks = full_ranks(scores, held, ties)
    counts = np.bincount(ranks, minlength=n_items)
    # Ranks are uniform: chi-square with 49 degrees of freedom, false alarm rate 1e-6.
    assert ((counts - 80.0) ** 2 / 80.0).sum() < 116.0
    lists = top_lists(scores, k, ties)
    np.testing.assert_array_equal((lists == held.items[:, None]).any(axis=1), ranks < k)
    # Every item is listed about 800 times: five standard deviations each, false alarm rate below 3e-5.
    assert np.all(np.abs(np.bincount(lists.ravel(), minlength=n_items) - 800.0) < 5 * np.sqrt(800 * 0.8))


def test_equal_held_out_items_take_different_ranks() -> None:
    held = build([list(range(5))])
    ranks = full_ranks(np.zeros((1, N_ITEMS)), held, Key(1).streams(held.users, Lane.TIES))
    assert len(set(ranks.tolist())) == 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = np.zeros((2, N_ITEMS), np.float32)
    scores[1, 3] = bad
    with pytest.raises(FedrecError, match=r"score of user 1 for item 3 is .*diverged"):
        block_of_scores(lambda _: scores, build([[0], [1]]))


@pytest.mark.parametrize("scores", [np.zeros((2, 3)), np.zeros(N_ITEMS), np.full((2, N_ITEMS), "a")])
def test_scores_of_another_shape_are_refused(scores: Any) -> None:
    with pytest.raises(FedrecError, match=r"where numbers \[2, 9\] are needed"):
        block_of_scores(lambda _: scores, build([[0], [1]]))


def test_the_scorer_keeps_its_own_array() -> None:
    scores = np.zeros((1, N_ITEMS), np.float32)
    block = block_of_scores(lambda _: scores, build([[2]]))
    assert np.isneginf(block[0, 2])
    assert not scores.any()
    shared: Any = np.broadcast_to(np.arange(N_ITEMS), (2, N_ITEMS))  # read-only, integers, one row for all
    assert block_of_scores(lambda _: shared, build([[2], [3]]))[0, 3] == 3


def test_scores_that_stand_column_by_column_are_ranked_alike() -> None:
    scores = np.random.default_rng(0).random((3, N_ITEMS))
    profiles = build([[0, 2], [1], [4]])
    one = block_of_scores(lambda _: scores, profiles)
    other = block_of_scores(lambda _: np.asfortranarray(scores), profiles)
    np.testing.assert_array_equal(one, other)
    assert np.isneginf(one).sum() == profiles.n_events


def test_a_held_out_item_in_the_history_is_refused() -> None:
    block = block_of_scores(lambda _: np.zeros((1, N_ITEMS)), build([[2, 4]]))
    with pytest.raises(DataError, match="held-out item of user 0 is also in that user's history"):
        full_ranks(block, build([[4]]), Key(1).streams(np.zeros(1, np.int64), Lane.TIES))
