"""Local training: the vectorised step of many users is each user's own plain loop, draw for draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.config import TrainingConfig
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.randomness import Key, Lane, below, bits
from fedrec.training import batches, local
from fedrec.training.local import LocalResult, draw_negatives, train

Loss = Literal["bpr", "bce"]
Floats = npt.NDArray[np.float64]

N_ITEMS, D = 12, 3
KEY = Key(5).at(2)


def of(histories: list[list[int]], n_items: int = N_ITEMS, first: int = 0) -> Interactions:
    return Interactions(
        name="made up",
        indptr=np.concatenate([[0], np.cumsum([len(history) for history in histories], dtype=np.int64)]),
        items=np.array([item for history in histories for item in history], np.int32),
        catalogue=Catalogue(np.arange(n_items).astype(str)),
        users=np.arange(first, first + len(histories), dtype=np.int64),
    )


def shared(n_items: int = N_ITEMS) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((n_items, D)).astype(np.float32), rng.standard_normal(n_items).astype(np.float32)


def personal(n_users: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((n_users, D)).astype(np.float32)


def dense(result: LocalResult) -> list[tuple[Floats, Floats, Floats]]:
    """Each user's changes of the whole table and bias, and its vector."""
    n = len(result.personal)
    return [
        (
            result.items.weighted_sum(np.eye(n)[user]),
            result.bias.weighted_sum(np.eye(n)[user]),
            result.personal[user].astype(np.float64),
        )
        for user in range(n)
    ]


def assert_alike(found: Sequence[tuple[Floats, ...]], wanted: Sequence[tuple[Floats, ...]], atol: float) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def plain_loop(users: Interactions, config: TrainingConfig, loss: Loss, key: Key) -> Sequence[tuple[Floats, ...]]:
    """Every user's training in plain Python and float64, from the same draws: the slow truth."""
    vectors, biases = shared(users.n_items)
    starts = personal(users.n_users)
    learned = []
    for position, number in enumerate(users.users):
        history = users.user(position).tolist()
        others = [item for item in range(users.n_items) if item not in history]
        table, bias = vectors.astype(np.float64), biases.astype(np.float64)
        p = starts[position].astype(np.float64)
        order_stream, negative_stream = (key.streams(np.array([number]), lane) for lane in (Lane.ORDER, Lane.NEGATIVES))
        drawn = 0
        for epoch in range(config.epochs if others else 0):
            words = [int(bits(order_stream, np.array([epoch * len(history) + at]))[0]) for at in range(len(history))]
            order = sorted(range(len(history)), key=lambda at, words=words: words[at] >> 20)  # type: ignore[misc]
            for start in range(0, len(history), config.batch_size):
                g_table, g_bias, g_p = np.zeros_like(table), np.zeros_like(bias), np.zeros_like(p)
                for at in order[start : start + config.batch_size]:
                    item = history[at]
                    negatives = []
                    for _ in range(config.negatives):
                        rank = below(negative_stream, np.array([drawn]), np.array([len(others)]))[0]
                        negatives.append(others[rank])
                        drawn += 1
                    s_pos = p @ table[item] + bias[item]
                    for j, negative in enumerate(negatives):
                        s_neg = p @ table[negative] + bias[negative]
                        if loss == "bpr":
                            up, down = -sigmoid(s_neg - s_pos), sigmoid(s_neg - s_pos)
                        else:
                            up, down = (sigmoid(s_pos) - 1 if j == 0 else 0.0), sigmoid(s_neg)
                        g_p += up * table[item] + down * table[negative]
                        g_table[item] += up * p
                        g_table[negative] += down * p
                        g_bias[item] += up
                        g_bias[negative] += down
                    for row in (item, *negatives):
                        g_table[row] += config.regularisation * table[row]
                        g_bias[row] += config.regularisation * bias[row]
                    g_p += config.regularisation * p
                table -= config.learning_rate * g_table
                bias -= config.learning_rate * g_bias
                p = p - config.learning_rate * g_p
        learned.append((table - vectors, bias - biases, p))
    return learned


HISTORIES = [[3, 1, 4, 0, 5, 9, 2], [7], [], list(range(N_ITEMS)), list(range(1, N_ITEMS)), [11, 0]]
"""Also: one item, none, all items, all but one (so that one negative repeats in every batch)."""


@pytest.mark.parametrize("loss", ["bpr", "bce"])
@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(),
        TrainingConfig(epochs=3, batch_size=2, learning_rate=0.1),
        TrainingConfig(epochs=2, batch_size=3, negatives=4, learning_rate=0.1, regularisation=0.05),
    ],
    ids=["one batch", "several epochs and batches", "several negatives, regularised"],
)
def test_the_vectorised_step_is_the_plain_loop(config: TrainingConfig, loss: Loss) -> None:
    users = of(HISTORIES, first=17)
    found = train(*shared(), personal(len(HISTORIES)), users, config, loss, KEY)
    assert_alike(dense(found), plain_loop(users, config, loss, KEY), atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 6), unique=True, max_size=7), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(["bpr", "bce"]),
)
def test_the_vectorised_step_is_the_plain_loop_on_any_histories(
    histories: list[list[int]], epochs: int, batch: int, negatives: int, loss: Loss
) -> None:
    config = TrainingConfig(epochs=epochs, batch_size=batch, negatives=negatives, learning_rate=0.1)
    users = of(histories, n_items=7)
    found = train(*shared(7), personal(len(histories)), users, config, loss, KEY)
    assert_alike(dense(found), plain_loop(users, config, loss, KEY), atol=5e-6)


def many(n_users: int = 60, n_items: int = 40) -> Interactions:
    rng = np.random.default_rng(3)
    return of([rng.permutation(n_items)[: rng.integers(0, n_items + 1)].tolist() for _ in range(n_users)], n_items)


CONFIG = TrainingConfig(epochs=2, batch_size=4, negatives=2)


def test_all_at_once_equals_one_by_one() -> None:
    users = many()
    starts = personal(users.n_users)
    together = dense(train(*shared(40), starts, users, CONFIG, "bpr", KEY))
    alone = [
        dense(train(*shared(40), starts[[user]], users.take(np.array([user])), CONFIG, "bpr", KEY))[0]
        for user in range(users.n_users)
    ]
    assert_alike(together, alone, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 9, 40])
def test_how_many_are_computed_together_does_not_matter(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    users = many()
    args: Any = (*shared(40), personal(users.n_users), users, CONFIG, "bce", KEY)
    whole, calls = train(*args), len(batches.calls(users.counts, CONFIG))
    monkeypatch.setattr(batches, "_AT_ONCE", at_once)
    assert len(batches.calls(users.counts, CONFIG)) > calls + 5
    parts = train(*args)
    assert_alike(dense(parts), dense(whole), atol=1e-6)
    np.testing.assert_array_equal(parts.items.counts(), whole.items.counts())


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 3), st.integers(1, 9), st.integers(1, 60))
def test_every_positive_is_in_one_batch_of_its_user_in_order(
    counts: list[int], epochs: int, batch: int, at_once: int
) -> None:
    config = TrainingConfig(epochs=epochs, batch_size=batch, negatives=2)
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_AT_ONCE", at_once)
        calls = batches.calls(np.diff(indptr), config)
    found: list[list[int]] = [[] for _ in counts]
    step = touch = 0
    for call in calls:
        assert call.steps == slice(step, step + len(call.users))
        assert call.touches == slice(touch, touch + 3 * call.width * len(call.users))
        assert (call.sizes <= call.width).all()
        assert (2 * call.sizes > call.width).all()
        assert len(call.users) == len(set(call.users.tolist())) <= max(1, at_once // call.width)
        step, touch = call.steps.stop, call.touches.stop
        for user, first, size in zip(call.users, call.first, call.sizes, strict=True):
            assert size == batch or (len(found[user]) + size) % counts[user] == 0
            found[user].extend(range(first, first + size))
    for user, count in enumerate(counts):
        begin = int(indptr[user]) * epochs
        assert found[user] == list(range(begin, begin + count * epochs))


def test_nothing_given_is_changed() -> None:
    users = of(HISTORIES)
    table, bias = shared()
    starts = personal(len(HISTORIES))
    for array in (table, bias, starts):
        array.flags.writeable = False
    train(table, bias, starts, users, CONFIG, "bpr", KEY)


def test_a_user_with_nothing_to_compare_learns_nothing() -> None:
    users = of([[], list(range(N_ITEMS))])
    found = train(*shared(), personal(2), users, CONFIG, "bpr", KEY)
    assert not found.items.squared_norms().any()
    assert not found.bias.squared_norms().any()
    np.testing.assert_array_equal(found.personal, personal(2))


def test_nobody_is_no_error() -> None:
    found = train(*shared(), personal(0), of([]), CONFIG, "bpr", KEY)
    assert found.personal.shape == (0, D)
    assert found.items.weighted_sum(np.zeros(0)).shape == (N_ITEMS, D)


def test_scores_that_overflow_a_sigmoid_stay_finite() -> None:
    table, bias = shared()
    found = train(1e3 * table, 1e3 * bias, personal(1), of([[0, 1, 2]]), TrainingConfig(), "bce", KEY)
    assert np.isfinite(found.items.squared_norms()).all()


def test_negatives_are_uniform_over_what_the_user_did_not_meet() -> None:
    """Chi-square with 8 degrees of freedom above 43 has probability 1e-6; five users together 5e-6."""
    met = [0, 3, 11]
    users = of([met[at:] + met[:at] for at in (0, 1, 2)] + [list(range(3)), list(range(9, 12))])
    draws = 20_000
    user, item = draw_negatives(users, np.full(5, draws), KEY)
    for position in range(5):
        counts = np.bincount(item[user == position], minlength=N_ITEMS)
        others = np.setdiff1d(np.arange(N_ITEMS), users.user(position))
        assert counts.sum() == draws == counts[others].sum()
        expected = draws / len(others)
        assert ((counts[others] - expected) ** 2 / expected).sum() < 43


def test_negatives_never_are_the_users_own_and_hit_everything_else() -> None:
    users = many()
    user, item = draw_negatives(users, np.where(users.counts < 40, 2000, 0), KEY)
    hit = np.zeros((users.n_users, 40), np.bool_)
    hit[user, item] = True
    # an item missing among 2000 draws from at most 40: below 1e-22 each, and there are below 2400
    for position in np.flatnonzero(users.counts < 40).tolist():
        np.testing.assert_array_equal(np.flatnonzero(~hit[position]), np.sort(users.user(position)))


def test_negatives_belong_to_the_user_and_to_the_round() -> None:
    users = many()
    draws = np.where(users.counts < 40, 30, 0)
    user, item = draw_negatives(users, draws, KEY)
    some = np.array([7, 3])
    assert (draws[some] > 0).all()
    alone_user, alone_item = draw_negatives(users.take(some), draws[some], KEY)
    for position, number in enumerate(some):
        np.testing.assert_array_equal(alone_item[alone_user == position], item[user == number])
    for other in (KEY.at(3), KEY.at(2, 1), Key(6).at(2)):
        same = (draw_negatives(users, draws, other)[1] == item).mean()
        assert same < 0.2  # by chance 1/20 or so of some 1500 draws


def test_the_order_is_a_permutation_in_every_epoch_and_always_another() -> None:
    users = many()
    orders = [
        *local.ordered(users, 4, KEY),
        *local.ordered(users, 1, KEY.at(3)),
        *local.ordered(users, 1, KEY.at(2, 1)),
    ]
    for order in orders:
        np.testing.assert_array_equal(users.user_of_event[order], users.user_of_event)
        np.testing.assert_array_equal(np.sort(order), np.arange(users.n_events))
    for at, order in enumerate(orders):
        for other in orders[:at]:
            # a permutation has one fixed point on average, with variance 1: 60 users, 8 deviations
            assert (order == other).sum() < 60 + 8 * np.sqrt(60)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 15)), max_size=40), st.integers(4, 62))
def test_ascending_is_a_stable_sort_also_where_bits_are_cut_off(pairs: list[tuple[int, int]], bits_: int) -> None:
    pairs.sort(key=lambda pair: pair[0])
    groups, values = np.array(pairs, np.int64).reshape(-1, 2).T
    for shift in (0, bits_ - 4):  # what tells values apart is among the lowest bits, or the highest
        found = batches.ascending(groups, values << shift, bits_)
        np.testing.assert_array_equal(found, np.lexsort((values, groups)))
