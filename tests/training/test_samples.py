"""The draws of clipped training: one interaction more or less leaves those of all others as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.interactions import Catalogue, Interactions
from fedrec.randomness import Key
from fedrec.release import DpSgd
from fedrec.training.samples import draw, public_vectors, training_key
from tests.cases import histories

N_ITEMS, M = 30, 3
KEY = Key(5).at(2)
PLAN = DpSgd(clip_norm=1.0, sampling_rate=0.5, steps=4, negatives="catalogue")
CATALOGUE = Catalogue(np.arange(N_ITEMS).astype(str))


def drawn(users: Interactions, plan: DpSgd = PLAN, key: Key = KEY) -> list[dict[tuple[int, int], list[int]]]:
    """For every step, the negatives of each sample, by the user's number and the item."""
    steps = []
    for step in draw(users, plan, M, key):
        numbers, items = users.users[users.user_of_event[step.events]], users.items[step.events]
        steps.append(
            dict(zip(zip(numbers.tolist(), items.tolist(), strict=True), step.negatives.tolist(), strict=True))
        )
    return steps


def many(n_users: int = 40) -> Interactions:
    rng = np.random.default_rng(1)
    return histories(CATALOGUE, [rng.permutation(N_ITEMS)[: rng.integers(0, 20)].tolist() for _ in range(n_users)])


history = st.lists(st.integers(0, N_ITEMS - 1), unique=True, min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(history, st.integers(0, 11), st.integers(0, 10**6))
def test_removing_an_interaction_leaves_the_draws_of_all_others(items: list[int], which: int, user: int) -> None:
    gone = items[which % len(items)]
    whole = drawn(histories(CATALOGUE, [items], user))
    left = drawn(histories(CATALOGUE, [[item for item in items if item != gone]], user))
    for one, other in zip(whole, left, strict=True):
        one.pop((user, gone), None)
        assert one == other


def test_negatives_that_avoid_the_history_do_not_leave_them() -> None:
    """Which is why unit interaction does not take them."""
    items = list(range(20))
    whole = drawn(histories(CATALOGUE, [items]), replace(PLAN, negatives="unmet"))
    left = drawn(histories(CATALOGUE, [items[:-1]]), replace(PLAN, negatives="unmet"))
    assert any(one[sample] != other[sample] for one, other in zip(whole, left, strict=True) for sample in other)


@pytest.mark.parametrize("negatives", ["catalogue", "unmet"])
def test_all_at_once_equals_one_by_one(negatives: Any) -> None:
    users, plan = many(), replace(PLAN, negatives=negatives)
    together = drawn(users, plan)
    alone = [drawn(users.take(np.array([user])), plan) for user in range(users.n_users)]
    for at, step in enumerate(together):
        assert step == {sample: items for steps in alone for sample, items in steps[at].items()}


def test_samples_enter_at_the_public_rate() -> None:
    """5,600 draws at rate .3: six deviations have probability 2e-9. Histories enter whole."""
    users = many(200)
    plan = replace(PLAN, sampling_rate=0.3, steps=3)
    entered = sum(len(step.events) for step in draw(users, plan, M, KEY))
    n = 3 * users.n_events
    assert n > 5000
    assert abs(entered - 0.3 * n) < 6 * np.sqrt(n * 0.21)
    for step in draw(users, replace(plan, sample="history"), M, KEY):
        counts = np.bincount(users.user_of_event[step.events], minlength=users.n_users)
        assert set((counts / np.maximum(users.counts, 1)).tolist()) == {0.0, 1.0}


def test_a_rate_of_one_takes_every_sample_in_every_step() -> None:
    users = many()
    for step in draw(users, replace(PLAN, sampling_rate=1.0), M, KEY):
        np.testing.assert_array_equal(step.events, np.arange(users.n_events))


def test_negatives_of_the_catalogue_are_uniform_over_all_of_it() -> None:
    """Also over the user's own items: chi-square with 29 degrees of freedom above 88 has probability 1e-7."""
    users = histories(CATALOGUE, [[item] for item in range(N_ITEMS) for _ in range(20)])
    negatives = np.concatenate([step.negatives.ravel() for step in draw(users, PLAN, 20, KEY)])
    expected = len(negatives) / N_ITEMS
    assert ((np.bincount(negatives, minlength=N_ITEMS) - expected) ** 2 / expected).sum() < 88


def test_unmet_negatives_never_are_the_users_own_and_nobody_without_any_has_samples() -> None:
    users = histories(CATALOGUE, [list(range(20)), list(range(N_ITEMS)), list(range(N_ITEMS - 1))])
    for step in draw(users, replace(PLAN, negatives="unmet", sampling_rate=1.0), M, KEY):
        owner = users.user_of_event[step.events]
        assert set(owner.tolist()) == {0, 2}
        assert step.negatives[owner == 0].min() >= 20
        assert (step.negatives[owner == 2] == N_ITEMS - 1).all()


def test_steps_and_rounds_draw_afresh() -> None:
    users = many()
    plan = replace(PLAN, sampling_rate=1.0)
    first, second = drawn(users, plan)[:2]
    assert first != second
    for key in (KEY.at(3), KEY.at(2, 1), Key(6).at(2)):
        assert drawn(users, plan, key)[0] != first


def test_a_public_vector_hangs_on_the_users_number_alone() -> None:
    short, long = histories(CATALOGUE, [[1], [2, 3]], first=7), histories(CATALOGUE, [[4, 5, 6], []], first=7)
    vectors = public_vectors(short, 16)
    np.testing.assert_array_equal(vectors, public_vectors(long, 16))
    np.testing.assert_array_equal(vectors[1], public_vectors(histories(CATALOGUE, [[0]], first=8), 16)[0])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 16**0.25, rtol=1e-6)
    assert abs(float(vectors[0] @ vectors[1])) < 0.99 * 4


def test_a_secure_plan_draws_by_a_secret_that_is_never_the_same() -> None:
    """Two secrets agree with probability 2**-64."""
    secure = replace(PLAN, secure=True)
    assert training_key(KEY, PLAN) == KEY
    keys = [training_key(KEY, secure) for _ in range(3)]
    assert len({key.seed for key in keys}) == 3
    users = many()
    assert drawn(users, key=keys[0]) != drawn(users, key=keys[1])
