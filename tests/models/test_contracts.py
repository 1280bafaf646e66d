"""Every registered model keeps the contract, found through the registry; and the placebo test has teeth."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedrec.config import TrainingConfig
from fedrec.data.interactions import Interactions
from fedrec.data.splits import Split
from fedrec.evaluation.placebo import placebo_p_values
from fedrec.evaluation.ranking import Scorer
from fedrec.randomness import Key
from fedrec.registry import MODELS
from fedrec.training import local
from tests.cases import Case
from tests.contracts import LEVEL, RecommenderContract

VARIANTS: dict[str, dict[str, Any]] = {
    "ncf": {"name": "ncf", "hidden": [8]},
    "gram, ease": {"name": "gram", "solver": "ease"},
    "gram, top items": {"name": "gram", "top_items": 30, "popularity_weight": 0.3},
    "mf, bce from random": {"name": "mf", "loss": "bce", "start": "random", "dimension": 8},
    "mf, top items": {"name": "mf", "top_items": 30, "dimension": 8},
}
CASES = {**{name: {"name": name} for name in MODELS.names()}, **VARIANTS}
SMALLER: dict[str, dict[str, Any]] = {
    "ncf": {  # torch takes some milliseconds a user and step
        "data": {"n_users": 45},
        "training": {"learning_rate": 0.5, "batch_size": 4, "negatives": 2},
        "federation": {"rounds": 1},
    }
}


@pytest.fixture(params=list(CASES), scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    if CASES[request.param]["name"] == "ncf":
        pytest.importorskip("opacus")
    return Case.of(CASES[request.param], **SMALLER.get(request.param, {}))


class TestEveryModel(RecommenderContract):
    """The whole contract."""


def without_federation(parts: Split) -> Scorer:
    """Each user trains a table of its own: nothing is shared, so a user's scores can only come from its own draws."""
    n, d = parts.train.n_items, 8
    rng = np.random.default_rng(3)
    table, start = (0.1 * rng.standard_normal(shape).astype(np.float32) for shape in ((n, d), (1, d)))
    config = TrainingConfig(epochs=20, learning_rate=0.1, negatives=10)

    def score(users: Interactions) -> npt.NDArray[np.float32]:
        rows = []
        for user in range(users.n_users):
            mine = parts.train.take(users.users[[user]])
            learned = local.train(table, np.zeros(n, np.float32), start, mine, config, "bce", Key(1))
            own = table + learned.items.weighted_sum(np.ones(1))
            rows.append(own @ learned.personal[0] + learned.bias.weighted_sum(np.ones(1)))
        return np.array(rows, np.float32)

    return score


def test_negatives_that_avoid_held_out_items_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published mistake: the held-out item alone is never pushed down. Honest: fails with probability .002."""
    case = Case.of({"name": "mf"})
    honest = placebo_p_values(without_federation, case.parts, Key(1))
    assert min(honest.values()) > LEVEL

    draw = local.draw_negatives

    def cheating(parts: Split) -> Scorer:
        def informed(users: Interactions, n_draws: local.Ints, key: Key) -> tuple[local.Ints, local.Ints]:
            known = [
                np.concatenate([part.user(user) for part in (parts.train, parts.validation, parts.test)])
                for user in users.users
            ]
            every = Interactions(
                name="everything",
                indptr=np.concatenate([[0], np.cumsum([len(items) for items in known], dtype=np.int64)]),
                items=np.concatenate(known),
                catalogue=users.catalogue,
                users=users.users,
            )
            return draw(every, n_draws, key)

        monkeypatch.setattr(local, "draw_negatives", informed)
        return without_federation(parts)

    assert max(placebo_p_values(cheating, case.parts, Key(1)).values()) < 1e-9
