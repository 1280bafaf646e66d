"""Popularity: what one interaction moves, and what a user does, for every length of history."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.interactions import Catalogue
from fedrec.models.popularity import normalised_history
from tests.cases import Case, histories

N_ITEMS = 60
CATALOGUE = Catalogue(np.arange(N_ITEMS).astype(str))


def vector(items: list[int], least: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rows = normalised_history(histories(CATALOGUE, [items]), least)
    return np.asarray(rows.weighted_sum(np.ones(1)))


@pytest.mark.parametrize("least", [1, 2, 5, 40])
def test_one_interaction_moves_a_user_by_at_most_the_declared_sensitivity(least: int) -> None:
    """Every length of history, with equality up to ``least``: the bound is tight."""
    (release,) = Case.of({"name": "popularity", "least": least}).federation().releases
    assert release.interaction is not None
    assert release.interaction == pytest.approx(1 / math.sqrt(least))
    for n in range(1, N_ITEMS + 1):
        items = list(range(n))
        apart = float(np.linalg.norm(vector(items, least) - vector(items[1:], least)))
        assert apart <= release.interaction * (1 + 1e-12)
        if n <= least:
            assert apart == pytest.approx(release.interaction)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, N_ITEMS - 1), unique=True), st.integers(1, 50))
def test_a_users_vector_is_never_longer_than_one(items: list[int], least: int) -> None:
    norm = float(np.linalg.norm(vector(items, least)))
    assert norm == pytest.approx(math.sqrt(len(items) / max(len(items), least, 1)))


def test_unit_interaction_pays_for_the_form_alone() -> None:
    """Two rounds of calibration: the same epsilon at a sensitivity of 1/√least needs that much less noise."""
    noise = {}
    for least in (1, 16):
        case = Case.of({"name": "popularity", "least": least})
        (mechanism,) = case.federation(epsilon=2.0, unit="interaction").mechanisms
        noise[least] = mechanism.noise_std
        assert set(mechanism.events()) == {"user", "interaction"}
    assert noise[16] == pytest.approx(noise[1] / 4, rel=1e-3)
