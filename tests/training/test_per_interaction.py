"""The vectorised step of clipped interactions is Opacus's own, draw for draw, and the slow loop's."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("opacus")

from fedrec.contribution import Part
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.randomness import Key
from fedrec.release import DpSgd
from fedrec.training import network, per_interaction
from fedrec.training.samples import draw, public_vectors
from tests.cases import histories
from tests.training import slow

Loss = Literal["bpr", "bce"]

N_ITEMS, D = 12, 3
KEY = Key(5).at(2)
CATALOGUE = Catalogue(np.arange(N_ITEMS).astype(str))
HISTORIES = [[3, 1, 4, 0, 5, 9, 2], [7], [], list(range(N_ITEMS)), [11, 0]]


def shared(scale: float = 1.0) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    arrays = {"table": rng.standard_normal((N_ITEMS, D)), "bias": rng.standard_normal(N_ITEMS)}
    return {name: (scale * array).astype(np.float32) for name, array in arrays.items()}


def dense(parts: dict[str, Part], users: Interactions) -> dict[str, npt.NDArray[np.float64]]:
    """Every user's change, ``[C, …]``."""
    each = np.eye(users.n_users)
    return {name: np.array([part.weighted_sum(one) for one in each]) for name, part in parts.items()}


def assert_same(found: dict[str, Any], wanted: dict[str, Any], atol: float) -> None:
    for name in ("table", "bias"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=atol)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=N_ITEMS), min_size=1, max_size=4),
    st.integers(1, 5),
    st.sampled_from([0.05, 0.5, 50.0]),
    st.sampled_from([0.3, 1.0]),
    st.sampled_from(["catalogue", "unmet"]),
    st.sampled_from(["bpr", "bce"]),
)
def test_it_is_opacus_draw_for_draw(
    items: list[list[int]], m: int, clip_norm: float, rate: float, negatives: Any, loss: Loss
) -> None:
    plan = DpSgd(clip_norm, sampling_rate=rate, negatives=negatives)
    users = histories(CATALOGUE, items, first=3)
    args: Any = (shared(), public_vectors(users, D), users, plan, m, loss, KEY)
    ours, opacus = per_interaction.train(*args), network.train(*args)
    assert_same(dense(ours, users), dense(opacus, users), atol=1e-5)


@pytest.mark.parametrize("loss", ["bpr", "bce"])
@pytest.mark.parametrize("clip_norm", [0.05, 0.5, 50.0])
def test_it_is_the_slow_loop(clip_norm: float, loss: Loss) -> None:
    """With four negatives of twelve items, many a sample touches a row twice."""
    plan = DpSgd(clip_norm, learning_rate=0.5, expected_batch=4, negatives="catalogue")
    users = histories(CATALOGUE, HISTORIES, first=17)
    vectors = public_vectors(users, D)
    found = dense(per_interaction.train(shared(), vectors, users, plan, 4, loss, KEY), users)
    samples = slow.samples_of(users, draw(users, plan, 4, KEY)[0])
    assert any(len({item, *negatives}) < 5 for sample in samples for _, item, negatives in sample)
    for user in range(users.n_users):
        mine = [sample for sample in samples if sample[0][0] == user]
        wanted = slow.train(shared(), vectors, [mine], plan, loss)
        assert_same({name: array[user] for name, array in found.items()}, wanted, atol=2e-6)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    users = histories(CATALOGUE, HISTORIES)
    args: Any = (shared(), public_vectors(users, D), users, DpSgd(0.5, negatives="catalogue"), 2, "bpr", KEY)
    whole = dense(per_interaction.train(*args), users)
    monkeypatch.setattr(per_interaction, "_BLOCK", 4)
    assert_same(dense(per_interaction.train(*args), users), whole, atol=1e-7)


def test_nothing_given_is_changed_and_nobody_is_no_error() -> None:
    arrays, users = shared(), histories(CATALOGUE, [])
    for array in arrays.values():
        array.flags.writeable = False
    plan = DpSgd(0.5, negatives="catalogue")
    parts = per_interaction.train(arrays, public_vectors(users, D), users, plan, 2, "bpr", KEY)
    assert not parts["table"].weighted_sum(np.zeros(0)).any()


def test_scores_that_overflow_a_sigmoid_stay_finite() -> None:
    users = histories(CATALOGUE, HISTORIES)
    plan = DpSgd(0.5, negatives="catalogue")
    parts = per_interaction.train(shared(1e3), 1e3 * public_vectors(users, D), users, plan, 2, "bce", KEY)
    assert all(np.isfinite(array).all() for array in dense(parts, users).values())
