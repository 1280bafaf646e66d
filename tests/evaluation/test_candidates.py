"""Candidates: never what a user met, uniform among the rest, the same for a user wherever it is."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data.interactions import Catalogue, Interactions
from fedrec.errors import DataError
from fedrec.evaluation.candidates import Unseen, check_published, distinct_below, draw_unseen, only_negatives
from fedrec.randomness import Key, Lane

N_ITEMS = 12


def build(histories: list[list[int]], n_items: int = N_ITEMS) -> Interactions:
    return Interactions(
        name="tiny",
        indptr=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        items=np.array([item for history in histories for item in history], np.int32),
        catalogue=Catalogue(np.arange(n_items).astype(str)),
    )


histories_strategy = st.lists(st.lists(st.integers(0, N_ITEMS - 1), unique=True), min_size=1, max_size=5)


@given(histories_strategy)
def test_unseen_lists_the_complement_in_order(histories: list[list[int]]) -> None:
    data = build(histories)
    unseen = Unseen.beside(data, data)  # a repeated item counts once
    for user, history in enumerate(histories):
        wanted = sorted(set(range(N_ITEMS)) - set(history))
        assert unseen.counts[user] == len(wanted)
        rows = np.full(len(wanted), user)
        assert unseen.item(rows, np.arange(len(wanted))).tolist() == wanted


@given(histories_strategy, st.integers(0, 15), st.integers(0, 2**31))
def test_drawn_negatives_are_distinct_and_never_in_the_history(
    histories: list[list[int]], wanted: int, seed: int
) -> None:
    data = build(histories)
    streams = Key(seed).streams(data.users, Lane.CANDIDATES)
    drawn = draw_unseen(Unseen.beside(data), streams, np.full(data.n_users, wanted))
    for row, history in zip(drawn, histories, strict=True):
        found = row[row >= 0].tolist()
        assert len(found) == len(set(found)) == min(wanted, N_ITEMS - len(history))
        assert not set(found) & set(history)


def test_a_user_draws_alike_alone_and_among_others() -> None:
    data = build([[1, 2], [3], [4, 5, 6]])

    def draws(part: Interactions) -> Any:
        streams = Key(3).streams(part.users, Lane.CANDIDATES)
        return draw_unseen(Unseen.beside(part), streams, np.full(part.n_users, 4))

    np.testing.assert_array_equal(draws(data.take(np.array([2])))[0], draws(data)[2])


def test_subsets_are_uniform() -> None:
    n = 20_000
    streams = Key(5).streams(np.arange(n), Lane.CANDIDATES)
    drawn = np.sort(distinct_below(streams, np.full(n, 2), np.full(n, 5)), axis=1)
    counts = np.bincount(drawn[:, 0] * 5 + drawn[:, 1])
    counts = counts[counts > 0]
    assert len(counts) == 10
    # chi-square with 9 degrees of freedom, false alarm rate 1e-6
    assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 45.1


def test_each_user_may_want_another_number() -> None:
    streams = Key(5).streams(np.arange(3), Lane.CANDIDATES)
    drawn = distinct_below(streams, np.array([0, 3, 1]), np.array([4, 3, 9]))
    assert (drawn >= 0).sum(axis=1).tolist() == [0, 3, 1]
    assert sorted(drawn[1].tolist()) == [0, 1, 2]


def test_published_negatives_lose_repeats_and_what_the_user_met() -> None:
    table = np.array([[4, 4, 2, 7, -1], [1, 2, 3, 4, 5]])
    cleaned = only_negatives(table, build([[2], [9]]), build([[8], [5]]))
    assert [sorted(row[row >= 0].tolist()) for row in cleaned] == [[4, 7], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((2, 3), np.int64), r"\[2, 3\] where integers \[1, n\]"),
        (np.zeros((1, 3)), "float64"),
        (np.array([[0, 99]]), "negative 1 of user 0 is item 99, outside the catalogue of 12"),
        (np.array([[-2]]), "use -1 where one is missing"),
    ],
)
def test_unfit_published_negatives_are_refused(table: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_published(table, 1, N_ITEMS)
