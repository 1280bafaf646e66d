"""Compiled local training learns what the NumPy reference learns, and the number of workers changes no bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.config import TrainingConfig
from fedrec.contribution import Contribution, Part
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.privacy.mechanism import Mechanism, clip_and_sum
from fedrec.randomness import Key
from fedrec.release import Component, Release
from fedrec.training import local
from fedrec.training.local import Learned, Loss

compiled = pytest.importorskip("fedrec.training.compiled", reason="the extra 'fast' is not installed")

D = 5
KEY = Key(5).at(2)
CONFIGS = (
    TrainingConfig(),
    TrainingConfig(epochs=3, batch_size=2, learning_rate=0.1),
    TrainingConfig(epochs=2, batch_size=7, negatives=3, learning_rate=0.1),
)


def of(histories: list[list[int]], n_items: int, first: int = 0) -> Interactions:
    return Interactions(
        name="made up",
        indptr=np.concatenate([[0], np.cumsum([len(history) for history in histories], dtype=np.int64)]),
        items=np.array([item for history in histories for item in history], np.int32),
        catalogue=Catalogue(np.arange(n_items).astype(str)),
        users=np.arange(first, first + len(histories), dtype=np.int64),
    )


def many(n_users: int = 70, n_items: int = 40) -> Interactions:
    """Among them users of no item and of all items."""
    rng = np.random.default_rng(3)
    histories = [rng.permutation(n_items)[: rng.integers(0, n_items + 1)].tolist() for _ in range(n_users - 2)]
    return of([*histories, [], list(range(n_items))], n_items, first=9)


def starting(users: Interactions, d: int = D) -> tuple[npt.NDArray[np.float32], ...]:
    """Item vectors, item biases and user vectors."""
    rng = np.random.default_rng(1)
    shapes = ((users.n_items, d), (users.n_items,), (users.n_users, d))
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def dense(part: Part, n_users: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Each user's values as `entries` lists them, ``[C, *shape]``."""
    found, entries = np.zeros((n_users, int(np.prod(shape)))), part.entries(0, n_users)
    np.testing.assert_array_equal(np.bincount(entries.users, minlength=n_users), part.counts())
    assert np.all(np.diff(entries.users) >= 0)
    assert len(np.unique(entries.users * found.shape[1] + entries.coordinates)) == len(entries.users)
    found[entries.users, entries.coordinates] = entries.values
    return found.reshape(n_users, *shape)


def assert_alike(found: Learned, wanted: Learned, users: Interactions, d: int = D, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.personal, wanted.personal, rtol=1e-6, atol=atol)
    weights = np.random.default_rng(4).random(users.n_users)
    for name, shape in (("items", (users.n_items, d)), ("bias", (users.n_items,))):
        part, other = getattr(found, name), getattr(wanted, name)
        values = dense(part, users.n_users, shape)
        np.testing.assert_allclose(values, dense(other, users.n_users, shape), rtol=1e-6, atol=atol)
        squares = np.square(values).reshape(users.n_users, -1).sum(axis=1)
        np.testing.assert_allclose(part.squared_norms(), squares, rtol=1e-5, atol=1e-12)
        total = np.tensordot(weights, values, axes=1)
        np.testing.assert_allclose(part.weighted_sum(weights), total, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("loss", ["bpr", "bce"])
@pytest.mark.parametrize("config", CONFIGS, ids=["one batch", "epochs and batches", "several negatives"])
def test_what_is_learned_is_the_reference_s(config: TrainingConfig, loss: Loss) -> None:
    users = many()
    args: Any = (*starting(users), users, config, loss, KEY)
    assert_alike(compiled.train(*args), local.train(*args), users, atol=3e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 6), unique=True, max_size=7), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from(["bpr", "bce"]),
    st.integers(0, 2**32),
)
def test_on_any_histories_too(
    histories: list[list[int]], epochs: int, batch: int, negatives: int, d: int, loss: Loss, seed: int
) -> None:
    config = TrainingConfig(epochs=epochs, batch_size=batch, negatives=negatives, learning_rate=0.1)
    users = of(histories, n_items=7)
    args: Any = (*starting(users, d), users, config, loss, Key(seed))
    assert_alike(compiled.train(*args), local.train(*args), users, d, atol=5e-6)


def test_negatives_are_the_reference_s_for_long_histories_in_a_large_catalogue() -> None:
    rng, n_items = np.random.default_rng(8), 5_000
    crowded = np.concatenate([np.arange(900), rng.choice(np.arange(900, n_items), 300, replace=False)])
    last = np.arange(n_items - 1000, n_items)
    histories = [crowded, rng.permutation(n_items)[:2_000], np.arange(4_998), np.arange(2, n_items), last, last[-1:]]
    users = of([history.tolist() for history in histories], n_items)
    config = TrainingConfig(negatives=3)
    found = compiled.train(*starting(users), users, config, "bpr", KEY).items.touches.touched
    negatives = found.reshape(-1, 4)[:, 1:].ravel()
    np.testing.assert_array_equal(negatives, local.draw_negatives(users, 3 * users.counts, KEY)[1])


RELEASE = Release("mf", (Component("items", (40, D)), Component("bias", (40,))), share=1.0, optimise=True)
MECHANISM = Mechanism(noise_multiplier=1.0, clip_norm=0.3, min_cohort=1)


@pytest.mark.parametrize("workers", [2, 3, 16])
@pytest.mark.parametrize("config", CONFIGS, ids=["one batch", "epochs and batches", "several negatives"])
def test_any_number_of_workers_gives_the_same_bits(config: TrainingConfig, workers: int) -> None:
    users = many()
    sums = []
    for threads in (1, workers):
        learned = compiled.train(*starting(users), users, config, "bpr", KEY, threads)
        contribution = Contribution({"items": learned.items, "bias": learned.bias}, users.n_users)
        sums.append((learned.personal, *clip_and_sum(contribution, RELEASE, MECHANISM).arrays.values()))
    for one, other in zip(*sums, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("config", CONFIGS, ids=["one batch", "epochs and batches", "several negatives"])
def test_a_user_learns_the_same_bits_alone_and_among_others(config: TrainingConfig) -> None:
    users = many()
    table, bias, personal = starting(users)
    together = compiled.train(table, bias, personal, users, config, "bce", KEY)
    for position in range(users.n_users):
        one = users.take(np.array([position]))
        alone = compiled.train(table, bias, personal[[position]], one, config, "bce", KEY)
        np.testing.assert_array_equal(alone.personal[0], together.personal[position])
        for mine, ours in ((alone.items, together.items), (alone.bias, together.bias)):
            np.testing.assert_array_equal(mine.squared_norms()[0], ours.squared_norms()[position])
            np.testing.assert_array_equal(mine.entries(0, 1).values, ours.entries(position, position + 1).values)
            np.testing.assert_array_equal(
                mine.weighted_sum(np.array([0.25])), ours.weighted_sum(0.25 * np.eye(users.n_users)[position])
            )


def test_who_diverges_is_counted_and_left_out() -> None:
    users = many()
    table, bias, personal = starting(users)
    personal[3], personal[5] = np.nan, 3e38
    sums = []
    for train in (compiled.train, local.train):
        learned = train(table, bias, personal, users, CONFIGS[1], "bpr", KEY)
        contribution = Contribution({"items": learned.items, "bias": learned.bias}, users.n_users)
        sums.append(clip_and_sum(contribution, RELEASE, MECHANISM))
    assert [total.rejected for total in sums] == [2, 2]
    for name in ("items", "bias"):
        np.testing.assert_allclose(sums[0].arrays[name], sums[1].arrays[name], atol=1e-5)


def test_nothing_given_is_changed_and_nobody_is_no_error() -> None:
    users = many()
    given = starting(users)
    for array in given:
        array.flags.writeable = False
    compiled.train(*given, users, CONFIGS[0], "bpr", KEY)
    found = compiled.train(given[0], given[1], given[2][:0], of([], 40), CONFIGS[0], "bpr", KEY)
    assert found.personal.shape == (0, D)
    assert not found.items.weighted_sum(np.zeros(0)).any()
    assert not found.bias.weighted_sum(np.zeros(0)).any()


def test_positives_are_in_the_reference_s_order() -> None:
    users = of([list(range(n)) for n in (1, 2, 3, 31, 32, 33, 700)], 701)
    config = TrainingConfig(batch_size=1, epochs=2)
    found = compiled.train(*starting(users), users, config, "bpr", KEY).items.touches
    places, wanted = found.touched[::2], []
    orders = local.ordered(users, 2, KEY)
    for user in range(users.n_users):
        wanted += [users.items[orders[epoch, users.indptr[user] : users.indptr[user + 1]]] for epoch in (0, 1)]
    np.testing.assert_array_equal(places, np.concatenate(wanted))
