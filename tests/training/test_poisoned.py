"""What a server could send to make a client's noise vanish or its bound break."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedrec.data.interactions import Catalogue
from fedrec.errors import ContributionError
from fedrec.randomness import Key
from fedrec.release import DpSgd
from fedrec.training import clipped
from tests.cases import histories

pytest.importorskip("opacus")

ITEMS, WIDTH = 30, 4
STEP = DpSgd(clip_norm=0.1, negatives="catalogue")
CATALOGUE = Catalogue(np.arange(ITEMS).astype(str))


def learned(table: np.ndarray[Any, Any], items: list[int], plan: DpSgd, backend: str) -> float:
    """The norm of what one client learns."""
    arrays = {"table": table.astype(np.float32), "bias": np.zeros(ITEMS, np.float32)}
    vectors = np.full((1, WIDTH), 0.7, np.float32)
    parts = clipped.train(arrays, vectors, histories(CATALOGUE, [items]), plan, 2, "bce", Key(1).at(1), backend)
    norms = [part.squared_norms()[0] for part in parts.values()]
    return float(np.sqrt(sum(norms)))


@pytest.mark.parametrize("backend", ["numpy", "opacus"])
def test_a_sample_that_overflows_costs_no_other(backend: str) -> None:
    """Else one interaction would take all of a user's vector away."""
    table = np.zeros((ITEMS, WIDTH))
    table[3] = [3e38, 3e38, -3e38, -3e38]  # their product with a vector overflows and cancels
    without = learned(table, [5, 8], STEP, backend)
    assert abs(learned(table, [3, 5, 8], STEP, backend) - without) <= 0.1 * 1.001
    assert without > 0.1


@pytest.mark.parametrize("backend", ["numpy", "opacus"])
@pytest.mark.parametrize("size", [1.0, 2.0**14, 2.0**21])
def test_the_size_of_the_model_does_not_move_the_bound(backend: str, size: float) -> None:
    table = np.full((ITEMS, WIDTH), size)
    assert learned(table, [3], STEP, backend) <= 0.1 * 1.001


@pytest.mark.parametrize("items", [[], [3], [5, 8]])
def test_with_noise_inside_a_model_beside_which_it_would_be_lost_is_refused_whatever_the_history(
    items: list[int],
) -> None:
    plan = DpSgd(clip_norm=0.1, negatives="catalogue", inside=True, noise_multiplier=1.0, trains_user=True)
    for value in (1e30, np.inf, np.nan):
        table = np.zeros((ITEMS, WIDTH))
        table[3] = value
        with pytest.raises(ContributionError, match="are not within 1024"):
            learned(table, items, plan, "opacus")
