"""Local training with Opacus: user by user the slow loop, on a table of the touched rows, and noise on every row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("opacus")

import torch

from fedrec.contribution import Part
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.privacy import dpsgd
from fedrec.randomness import Key
from fedrec.release import Arrays, DpSgd
from fedrec.training import network
from fedrec.training.samples import draw, public_vectors
from tests.cases import histories
from tests.training import slow

N_ITEMS, D, M = 14, 3, 2
KEY = Key(5).at(2)
CATALOGUE = Catalogue(np.arange(N_ITEMS).astype(str))
USERS = histories(CATALOGUE, [[3, 1, 4, 0, 5, 9, 2], [7], [], list(range(N_ITEMS)), [11, 0]], first=17)
SHAPES = {
    "mf": {"table": (N_ITEMS, D), "bias": (N_ITEMS,)},
    "ncf": {
        "table": (N_ITEMS, D),
        "bias": (N_ITEMS,),
        "weight0": (5, 2 * D),
        "offset0": (5,),
        "weight1": (4, 5),
        "offset1": (4,),
        "weight2": (1, 4),
        "offset2": (1,),
    },
}
NOISED = DpSgd(0.5, 0.1, 4, 0.5, 3, trains_user=True, negatives="catalogue", inside=True, noise_multiplier=1.0)


def shared(model: str) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES[model].items()}


def train(model: str, plan: DpSgd, users: Interactions = USERS, loss: Any = "bpr", key: Key = KEY) -> dict[str, Part]:
    return network.train(shared(model), public_vectors(users, D), users, plan, M, loss, key)


def of_user(parts: dict[str, Part], user: int, n_users: int = USERS.n_users) -> dict[str, npt.NDArray[np.float64]]:
    return {name: part.weighted_sum(np.eye(n_users)[user]) for name, part in parts.items()}


def assert_same(found: Arrays, wanted: Arrays, atol: float) -> None:
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=0, atol=atol, err_msg=name)


PLANS = {
    "one step, constant user": DpSgd(0.5, negatives="catalogue"),
    "many steps, trained user": DpSgd(0.5, 0.5, 4, 0.5, 6, trains_user=True),
    "no clip": DpSgd(1e9, 0.1, 4, 0.5, 4, trains_user=True, negatives="catalogue"),
}


@pytest.mark.parametrize("loss", ["bpr", "bce"])
@pytest.mark.parametrize("model", ["mf", "ncf"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_every_user_trains_like_the_slow_loop(plan: DpSgd, model: str, loss: str) -> None:
    """Users with one, no and all items among them, and steps without a sample."""
    found, steps = train(model, plan, loss=loss), draw(USERS, plan, M, KEY)
    samples = [slow.samples_of(USERS, step) for step in steps]
    vectors = public_vectors(USERS, D)
    for user in range(USERS.n_users):
        mine = [[sample for sample in step if sample[0][0] == user] for step in samples]
        wanted = slow.train(shared(model), vectors, mine, plan, loss)
        assert_same(of_user(found, user), wanted, atol=5e-6)


@pytest.mark.parametrize("model", ["mf", "ncf"])
def test_a_history_is_one_sample(model: str) -> None:
    plan = DpSgd(0.5, sample="history")
    found = train(model, plan)
    (samples,) = (slow.samples_of(USERS, step) for step in draw(USERS, plan, M, KEY))
    for user in range(USERS.n_users):
        mine = [one for (one,) in samples if one[0] == user]
        wanted = slow.train(shared(model), public_vectors(USERS, D), [[mine] if mine else []], plan, "bpr")
        assert_same(of_user(found, user), wanted, atol=5e-6)


@pytest.mark.parametrize("plan", [*PLANS.values(), NOISED], ids=[*PLANS.keys(), "noised"])
def test_all_at_once_equals_one_by_one(plan: DpSgd) -> None:
    together = train("ncf", plan)
    for user in range(USERS.n_users):
        alone = train("ncf", plan, USERS.take(np.array([user])))
        assert_same(of_user(together, user), of_user(alone, 0, 1), atol=1e-6)


@pytest.mark.parametrize("model", ["mf", "ncf"])
def test_a_silo_trains_on_all_its_users_and_speaks_for_each(model: str) -> None:
    plan = DpSgd(0.5, 0.3, 2, 0.6, 8, sample="history", inside=True)
    parts = train(model, plan)
    steps = []
    for step in draw(USERS, plan, M, KEY):
        by_user: dict[int, list[Any]] = {}
        for ((user, item, negatives),) in slow.samples_of(USERS, step):
            by_user.setdefault(user, []).append((user, item, negatives))
        steps.append(list(by_user.values()))
    assert len({len(step) for step in steps}) > 1
    wanted = slow.train(shared(model), public_vectors(USERS, D), steps, plan, "bpr")
    summed = {name: part.weighted_sum(np.ones(USERS.n_users)) / USERS.n_users for name, part in parts.items()}
    assert_same(summed, wanted, atol=1e-5)


@pytest.mark.parametrize("sample", ["interaction", "history"])
@pytest.mark.parametrize("secure", [False, True])
def test_noise_is_on_every_coordinate_touched_or_not(sample: Any, secure: bool) -> None:
    """A zero would tell which items a user touched; here also of one without events, in steps without a sample."""
    plan = replace(NOISED, sample=sample, secure=secure, trains_user=sample == "interaction")
    parts = train("ncf", plan)
    for user in range(USERS.n_users) if sample == "interaction" else [0]:
        assert all(np.all(array != 0) for array in of_user(parts, user).values())


def test_the_noise_has_the_planned_deviation_on_touched_and_untouched_rows_alike() -> None:
    """1,000 coordinates of each kind: a deviation off by 13% has probability 1e-8; the seed is fixed."""
    n = 1000
    users = histories(Catalogue(np.arange(n).astype(str)), [[], list(range(500))])
    arrays = {"table": np.zeros((n, 1), np.float32), "bias": np.zeros(n, np.float32)}
    vectors = np.zeros((2, 1), np.float32)  # so that no vector has a gradient, and only biases move
    plan = replace(NOISED, noise_multiplier=40.0)
    parts = network.train(arrays, vectors, users, plan, 1, "bpr", KEY)
    for user in range(2):
        for name in ("table", "bias"):
            deviation = parts[name].weighted_sum(np.eye(2)[user]).std()
            assert deviation == pytest.approx(plan.update_std, rel=0.13)


def test_no_two_users_rounds_or_attempts_share_noise() -> None:
    empty = histories(CATALOGUE, [[], []])
    found = [of_user(train("mf", NOISED, empty, key=key), user, 2) for key in (KEY, KEY.at(3)) for user in range(2)]
    rows = np.array([flat["table"].ravel() for flat in found])
    assert len(np.unique(rows)) == rows.size
    again = train("mf", NOISED, empty)
    assert_same(of_user(again, 0, 2), found[0], atol=0)
    secure = replace(NOISED, secure=True)
    once, twice = (of_user(train("mf", secure, empty), 0, 2)["table"] for _ in range(2))
    assert not np.isin(once, twice).any()


def test_one_example_more_changes_no_public_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 or 33 examples: as many steps and draws of noise, and each sample moves the model by the same step."""
    sums, drawn = [], []
    for n in (32, 33):
        counts: list[int] = []

        def counting(*_: Any, counts: list[int] = counts) -> dpsgd.Normal:
            def zeros(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
                counts.append(int(np.prod(shape)))
                return np.zeros(shape, np.float32)

            return zeros

        monkeypatch.setattr(dpsgd, "normal_source", counting)
        users = histories(Catalogue(np.arange(60).astype(str)), [list(range(n))])
        plan = DpSgd(0.1, 0.5, 32, steps=1, negatives="catalogue", inside=True, noise_multiplier=1.0)
        arrays = {"table": np.zeros((60, D), np.float32), "bias": np.zeros(60, np.float32)}
        parts = network.train(arrays, public_vectors(users, D), users, plan, M, "bpr", KEY)
        sums.append(parts["bias"].weighted_sum(np.ones(1)))
        drawn.append(sum(counts))
    assert drawn == [60 * (D + 1)] * 2
    moved = sums[1] - sums[0]  # by the one sample's clipped bias gradient alone: nothing else was rescaled
    assert np.abs(moved).sum() > 0
    assert np.linalg.norm(moved) <= 0.1 * 0.5 / 32 * (1 + 1e-3)


def test_nothing_given_or_global_is_changed() -> None:
    arrays, vectors = shared("ncf"), public_vectors(USERS, D)
    for array in (*arrays.values(), vectors):
        array.flags.writeable = False
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    network.train(arrays, vectors, USERS, NOISED, M, "bce", KEY)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("plan", [NOISED, replace(NOISED, sample="history", trains_user=False)])
def test_nobody_is_no_error(plan: DpSgd) -> None:
    parts = train("ncf", plan, histories(CATALOGUE, []))
    for name, part in parts.items():
        assert part.weighted_sum(np.zeros(0)).shape == SHAPES["ncf"][name]
