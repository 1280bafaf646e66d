from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config import DataConfig
from fedrec.data.ingest import MAX_GENRES, Events, Items, build, number
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.data.kcore import k_core
from fedrec.errors import DataError

PLAIN = DataConfig(name="table")


def events(rows: Sequence[tuple[str, str, float, float]]) -> Events:
    users, items, ratings, times = zip(*rows, strict=True)
    tokens = [np.array([value.encode() for value in column]) for column in (users, items)]
    return Events(tokens[0], tokens[1], np.array(ratings), np.array(times))


def test_ids_are_ordered_as_numbers_or_as_text() -> None:
    def order(*tokens: bytes) -> list[bytes]:
        ids, codes = number(np.array(tokens))
        assert ids[codes].tolist() == list(tokens)
        return [bytes(value) for value in ids]

    assert order(b"10", b"9", b"10", b"0") == [b"0", b"9", b"10"]
    assert order(b"99999999999999999", b"9") == [b"9", b"99999999999999999"]
    assert order(b"10", b"9", b"x") == [b"10", b"9", b"x"]
    assert order(b"07", b"7") == [b"07", b"7"]  # two users, not one
    assert order(b"9" * 30, b"1") == [b"1", b"9" * 30]


def test_events_are_ordered_by_time_and_then_as_in_the_file() -> None:
    data = build("x", events([("1", "7", 1, 5), ("2", "8", 1, 1), ("1", "8", 1, 5), ("1", "9", 1, 4)]), None, PLAIN)
    assert data.user(0).tolist() == [2, 0, 1]
    assert data.user(1).tolist() == [1]


def test_the_earliest_of_repeated_events_stays() -> None:
    rows = [("1", "7", 5, 9), ("1", "7", 3, 2), ("1", "8", 1, 3), ("1", "7", 4, 2), ("2", "7", 1, 1)]
    data = build("x", events(rows), None, PLAIN)
    assert data.duplicates == 2
    assert data.items.tolist() == [0, 1, 0]
    assert data.ratings is not None
    assert data.ratings.tolist() == [3, 1, 1]


def test_the_threshold_comes_before_the_duplicates_and_drops_users_without_a_positive() -> None:
    rows = [("1", "7", 2, 1), ("1", "7", 5, 2), ("2", "8", 1, 1), ("3", "8", 4, 1)]
    data = build("x", events(rows), None, DataConfig(name="table", min_rating=4))
    assert data.duplicates == 0
    assert data.ratings is not None
    assert data.ratings.tolist() == [5, 4]
    assert data.n_users == 2
    assert data.n_items == 2
    assert "users without a rating of at least 4 left out" in data.filters


def test_a_threshold_that_no_rating_reaches_says_the_highest() -> None:
    with pytest.raises(DataError, match=r"no rating reaches data.min_rating = 6 \(the highest is 5\)"):
        build("x", events([("1", "7", 5, 1)]), None, DataConfig(name="table", min_rating=6))


def test_the_catalogue_holds_the_items_of_the_file_and_of_the_events() -> None:
    items = Items(np.array([b"3", b"1"]), titles=["three", "one"], years=[2003, np.nan], genres=[["b", "a"], ["a"]])
    data = build("x", events([("1", "2", 1, 1), ("1", "3", 1, 2)]), items, PLAIN)
    catalogue = data.catalogue
    assert catalogue.ids.tolist() == ["1", "2", "3"]
    assert catalogue.titles is not None
    assert catalogue.titles.tolist() == ["one", "", "three"]
    assert catalogue.genres is not None
    assert catalogue.genres.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert data.items.tolist() == [1, 2]


def test_of_thousands_of_tags_the_most_frequent_stay() -> None:
    tags = [[f"rare-{n}", "often"] for n in range(2 * MAX_GENRES)]
    items = Items(np.array([str(n).encode() for n in range(len(tags))]), genres=tags)
    catalogue = build("x", events([("1", "1", 1, 1)]), items, PLAIN).catalogue
    assert len(catalogue.genre_names) == MAX_GENRES
    assert "often" in catalogue.genre_names


@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1), st.integers(1, 4))
def test_the_k_core_is_the_largest_part_in_which_all_have_k(pairs: set[tuple[int, int]], k: int) -> None:
    expected = set(pairs)
    while True:  # the definition, one weak node at a time
        users, items = [u for u, _ in expected], [i for _, i in expected]
        weak = next((p for p in sorted(expected) if users.count(p[0]) < k or items.count(p[1]) < k), None)
        if weak is None:
            break
        expected.remove(weak)
    counts = np.bincount([u for u, _ in pairs], minlength=10)
    data = Interactions(
        name="x",
        indptr=np.concatenate([[0], np.cumsum(counts)]),
        items=np.array([item for _, item in sorted(pairs)], dtype=np.int32),
        catalogue=Catalogue(np.arange(10).astype(np.str_)),
        user_ids=np.arange(10).astype(np.str_),
    )
    if not expected:
        with pytest.raises(DataError, match=f"k_core = {k} leaves no interaction"):
            k_core(data, k)
        return
    core = k_core(data, k)
    assert core.user_ids is not None
    kept = zip(core.user_ids[core.user_of_event], core.catalogue.ids[core.items], strict=True)
    assert {(int(user), int(item)) for user, item in kept} == expected
    assert core.counts.min() >= k
    assert np.bincount(core.items, minlength=core.n_items).min() >= k
    assert core.filters == (f"k-core {k}",)
    assert core.users.tolist() == list(range(core.n_users))
