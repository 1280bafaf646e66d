"""Users and events taken out of interactions: the same as by plain loops, and without copies where none is needed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data.interactions import Catalogue, Interactions

N_ITEMS = 12


def build(histories: list[list[int]]) -> Interactions:
    """One list of items a user; the times tell an event from every other."""
    items = [item for history in histories for item in history]
    return Interactions(
        name="tiny",
        indptr=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        items=np.array(items, np.int32),
        catalogue=Catalogue(np.arange(N_ITEMS).astype(str)),
        times=np.arange(len(items), dtype=np.uint32),
        users=100 + np.arange(len(histories)),
        user_ids=np.array([f"user {number}" for number in range(len(histories))]),
    )


def datasets() -> st.SearchStrategy[Interactions]:
    history = st.lists(st.integers(0, N_ITEMS - 1), max_size=6, unique=True)
    return st.lists(history, min_size=1, max_size=8).map(build)


@given(datasets(), st.data())
def test_users_are_taken_with_all_that_is_theirs(data: Interactions, draw: st.DataObject) -> None:
    any_order = st.lists(st.integers(0, data.n_users - 1))
    neighbours = st.tuples(st.integers(0, data.n_users), st.integers(0, data.n_users)).map(
        lambda ends: list(range(*ends))
    )
    positions = draw.draw(any_order | neighbours)
    taken = data.take(np.array(positions, np.int64))
    assert taken.users.tolist() == [100 + position for position in positions]
    assert taken.user_ids is not None
    assert taken.user_ids.tolist() == [f"user {position}" for position in positions]
    for row, position in enumerate(positions):
        np.testing.assert_array_equal(taken.user(row), data.user(position))
    events = [event for at in positions for event in range(data.indptr[at], data.indptr[at + 1])]
    assert taken.times is not None
    assert taken.times.tolist() == events
    assert taken.times.dtype == np.uint32


@given(datasets(), st.data())
def test_events_are_kept_and_every_user_stays(data: Interactions, draw: st.DataObject) -> None:
    keep = np.array(draw.draw(st.lists(st.booleans(), min_size=data.n_events, max_size=data.n_events)), np.bool_)
    kept = data.where(keep)
    assert kept.n_users == data.n_users
    for user in range(data.n_users):
        mine = slice(data.indptr[user], data.indptr[user + 1])
        np.testing.assert_array_equal(kept.user(user), data.items[mine][keep[mine]])


def test_neighbours_share_the_arrays_and_everyone_is_the_same_object() -> None:
    data = build([[1, 2], [], [3], [4, 5, 6]])
    assert data.take(np.arange(4)) is data
    some = data.take(np.array([1, 2, 3]))
    assert np.shares_memory(some.items, data.items)
    assert not np.shares_memory(data.take(np.array([1, 3])).items, data.items)
