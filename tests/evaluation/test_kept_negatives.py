"""What does not change from round to round is made once and kept, unless the view is too large."""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.data.interactions import Interactions
from fedrec.evaluation import protocol, ranking
from fedrec.evaluation.protocol import Evaluator
from fedrec.randomness import Key
from tests.cases import Case


def evaluator() -> Evaluator:
    case = Case.of({"name": "popularity"})
    return Evaluator(case.parts, case.experiment.evaluation, Key(3))


def scores(users: object) -> np.ndarray:
    n_users, n_items = users.n_users, users.n_items  # type: ignore[attr-defined]
    return np.asarray(np.random.default_rng(1).random((n_users, n_items)), np.float32)


@pytest.mark.parametrize("block", [ranking.BLOCK, 1])
def test_every_round_ranks_against_the_same_negatives(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "BLOCK", block)
    kept = evaluator()
    first, second = kept.validation(scores), kept.validation(scores)
    monkeypatch.setattr(protocol, "_KEPT", 0)
    drawn = evaluator()
    assert first == second == drawn.validation(scores) == drawn.validation(scores)
    assert not drawn._validation.drawn
    assert kept._validation.drawn


@pytest.mark.parametrize("most", [protocol._REMEMBERED, 0])
def test_a_scorer_meets_the_same_histories_in_every_round(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can remember with them what the data alone give; histories of a large view are let go."""
    monkeypatch.setattr(protocol, "_REMEMBERED", most)
    monkeypatch.setattr(ranking, "BLOCK", 1000)
    ranks, met = evaluator(), list[Interactions]()

    def watching(users: Interactions) -> np.ndarray:
        met.append(users)
        return scores(users)

    first, second = ranks.validation(watching), ranks.validation(watching)
    assert first == second
    half = len(met) // 2
    assert half > 1
    same = [one is other for one, other in zip(met[:half], met[half:], strict=True)]
    assert same == [most > 0] * half
