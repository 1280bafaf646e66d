"""Splits: a partition, in order, without leakage, and the same for a user wherever it is."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config import SplitConfig
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.data.splits import Split, merge, split
from fedrec.errors import ConfigError, DataError
from fedrec.randomness import Key

KEY = Key(7)
N_ITEMS = 30


def build(histories: list[list[tuple[int, int]]], *, with_times: bool = True) -> Interactions:
    """Interactions from (item, time) pairs, one list a user."""
    ordered = [sorted(history, key=lambda event: event[1]) for history in histories]
    flat = [event for history in ordered for event in history]
    return Interactions(
        name="tiny",
        indptr=np.concatenate([[0], np.cumsum([len(history) for history in ordered])]).astype(np.int64),
        items=np.array([item for item, _ in flat], np.int32),
        catalogue=Catalogue(np.arange(N_ITEMS).astype(str)),
        ratings=np.array([item % 5 for item, _ in flat], np.float32),
        times=np.array([time for _, time in flat], np.int64) if with_times else None,
    )


@st.composite
def datasets(draw: Any) -> Interactions:
    history = st.lists(
        st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, 40)), max_size=12, unique_by=lambda e: e[0]
    )
    histories = draw(st.lists(history, max_size=6))
    # one user who can always be split, at distinct times
    certain = [(item, 5 * item) for item in range(12)]
    return build([*histories, certain], with_times=draw(st.booleans()))


def pairs(part: Interactions) -> set[tuple[int, int]]:
    return set(zip(part.users[part.user_of_event].tolist(), part.items.tolist(), strict=True))


def configs() -> st.SearchStrategy[SplitConfig]:
    return st.builds(
        SplitConfig,
        name=st.sampled_from(["leave-one-out", "random", "time"]),
        fraction=st.floats(0.1, 0.49),
    )


def split_or_none(data: Interactions, config: SplitConfig) -> Split | None:
    try:
        return split(data, config, KEY)
    except (ConfigError, DataError):
        assert config.name == "time"  # only times may be missing, or too few
        return None


@given(datasets(), configs())
def test_the_parts_are_a_partition(data: Interactions, config: SplitConfig) -> None:
    parts = split_or_none(data, config)
    if parts is None:
        return
    three = [pairs(part) for part in (parts.train, parts.validation, parts.test)]
    assert set.union(*three) == pairs(data)
    assert sum(len(part) for part in three) == data.n_events
    assert pairs(parts.history_for_test(np.arange(data.n_users))) == three[0] | three[1]
    for part in (parts.train, parts.validation, parts.test):
        assert part.ratings is not None
        np.testing.assert_array_equal(part.ratings, part.items % 5)  # columns stay beside their items


@given(datasets(), configs())
def test_nothing_held_out_is_earlier_than_what_is_trained_on(data: Interactions, config: SplitConfig) -> None:
    parts = split_or_none(data, config)
    if parts is None or data.times is None or config.name == "random":
        return
    assert parts.train.times is not None
    assert parts.validation.times is not None
    assert parts.test.times is not None
    for user in range(data.n_users):
        rows = [part.times[part.user_of_event == user] for part in (parts.train, parts.validation, parts.test)]  # type: ignore[index]  # checked above
        for earlier, later in ((0, 1), (1, 2), (0, 2)):
            if len(rows[earlier]) and len(rows[later]):
                assert rows[earlier].max() <= rows[later].min()
    if config.name == "time":
        assert parts.train.times.max(initial=-1) < parts.validation.times.min()
        assert parts.validation.times.max() < parts.test.times.min()


@given(datasets(), st.sampled_from(["leave-one-out", "random"]), st.floats(0.1, 0.49))
def test_each_user_keeps_a_history_or_everything(data: Interactions, name: Any, fraction: float) -> None:
    parts = split(data, SplitConfig(name=name, fraction=fraction), KEY)
    held = np.where(data.counts >= 3, 1, 0)
    if name == "random":
        held *= np.maximum(1, np.floor(fraction * data.counts)).astype(np.int64)
    np.testing.assert_array_equal(parts.validation.counts, held)
    np.testing.assert_array_equal(parts.test.counts, held)
    assert np.all(parts.train.counts[data.counts > 0] > 0)


@given(datasets(), st.sampled_from(["leave-one-out", "random"]))
def test_a_user_is_split_alike_alone_and_among_others(data: Interactions, name: Any) -> None:
    config = SplitConfig(name=name)
    alone = split(data.take(np.array([data.n_users - 1])), config, KEY)
    whole = split(data, config, KEY)
    np.testing.assert_array_equal(alone.test.items, whole.test.user(data.n_users - 1))
    np.testing.assert_array_equal(alone.validation.items, whole.validation.user(data.n_users - 1))


@given(datasets(), configs())
def test_history_for_test_is_in_the_order_of_time(data: Interactions, config: SplitConfig) -> None:
    parts = split_or_none(data, config)
    if parts is None or data.times is None:
        return
    history = parts.history_for_test(np.arange(data.n_users))
    assert history.times is not None
    same_user = np.diff(history.user_of_event) == 0
    assert np.all(np.diff(history.times)[same_user] >= 0)


def test_leave_one_out_by_hand() -> None:
    data = build([[(3, 10), (1, 30), (2, 20), (9, 40)], [(5, 1), (6, 2)], [(7, 1)], []])
    parts = split(data, SplitConfig(), KEY)
    assert (parts.test.items.tolist(), parts.validation.items.tolist()) == ([9], [1])
    assert parts.train.items.tolist() == [3, 2, 5, 6, 7]
    assert parts.test.counts.tolist() == [1, 0, 0, 0]
    assert parts.history_for_test(np.array([0])).user(0).tolist() == [3, 2, 1]
    assert parts.note == ""


def test_time_by_hand() -> None:
    data = build([[(item, item) for item in range(8)], [(20, 8), (21, 9)]])
    parts = split(data, SplitConfig(name="time", fraction=0.2), KEY)
    assert parts.train.items.tolist() == [0, 1, 2, 3, 4, 5]
    assert parts.validation.items.tolist() == [6, 7]
    assert parts.test.items.tolist() == [20, 21]


def test_equal_times_are_settled_by_a_draw_and_the_note_says_so() -> None:
    histories = [[(item, 1) for item in range(20)] + [(25, 2)] for _ in range(200)]
    parts = split(build(histories), SplitConfig(), KEY)
    assert set(parts.test.items.tolist()) == {25}
    assert parts.note == "Equal times: for 200 of 200 users a draw chose among their last interactions."
    # Uniform over the 20 equal events: chi-square with 19 degrees of freedom, false alarm rate 1e-6.
    counts = np.bincount(parts.validation.items, minlength=20)[:20]
    assert ((counts - 10.0) ** 2 / 10.0).sum() < 66.8


def test_without_times_the_note_says_so() -> None:
    parts = split(build([[(1, 0), (2, 0), (3, 0)]], with_times=False), SplitConfig(), KEY)
    assert parts.note.startswith("No times: for 1 of 1 users")


def test_random_depends_on_the_seed_alone() -> None:
    data = build([[(item, item) for item in range(30)] for _ in range(20)])
    config = SplitConfig(name="random", fraction=0.2)
    first, again, other = (split(data, config, key).test.items for key in (Key(1), Key(1), Key(2)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_time_cut_refuses_data_without_times() -> None:
    with pytest.raises(ConfigError, match=r"split.name = 'time' needs times and 'tiny' has none"):
        split(build([[(1, 0), (2, 0), (3, 0)]], with_times=False), SplitConfig(name="time"), KEY)


@pytest.mark.parametrize("name", ["leave-one-out", "random"])
def test_data_that_cannot_be_split_is_refused(name: Any) -> None:
    with pytest.raises(DataError, match="leaves nothing for validation, as no user has three"):
        split(build([[(1, 0)], [(2, 0), (4, 1)]]), SplitConfig(name=name), KEY)


def test_a_time_cut_through_one_instant_is_refused() -> None:
    with pytest.raises(DataError, match="too few distinct values"):
        split(build([[(item, 5) for item in range(9)]]), SplitConfig(name="time"), KEY)


def test_parts_of_different_users_are_refused() -> None:
    data = build([[(1, 0)], [(2, 0)]])
    with pytest.raises(DataError, match="does not hold the users"):
        Split(data, data.take(np.array([1])), data)


def test_merge_puts_equal_times_in_the_order_of_the_parts() -> None:
    first, second = build([[(1, 5), (2, 7)]]), build([[(3, 5), (4, 6)]])
    assert merge(first, second).items.tolist() == [1, 3, 4, 2]


@given(datasets(), st.sampled_from(["leave-one-out", "random"]), st.integers(1, 4))
def test_it_does_not_matter_how_many_users_are_put_in_order_at_once(data: Interactions, name: Any, users: int) -> None:
    whole = split(data, SplitConfig(name=name), KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrec.data.splits._USERS", users)
        blocks = split(data, SplitConfig(name=name), KEY)
    assert blocks.note == whole.note
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(blocks, part).items, getattr(whole, part).items)
        np.testing.assert_array_equal(getattr(blocks, part).indptr, getattr(whole, part).indptr)
