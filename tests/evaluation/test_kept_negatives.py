"""Sampled negatives are drawn once and kept: a second look is the first, and a view too large keeps none."""

from __future__ import annotations

import numpy as np
import pytest

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
