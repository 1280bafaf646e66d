"""Clients that lie, on MovieLens-100K: what they do to a sum, what robust rules stop, and what nothing stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.data import source
from fedrec.engines.setting import Setting, load_setting
from fedrec.errors import ContributionError, RoundFailedError
from simulations.poisoning import LOCAL, MASKED, MF, POPULARITY, experiment, played

pytestmark = pytest.mark.slow

LIARS = 47
"""One user in twenty."""


@pytest.fixture(scope="module")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the data set, downloaded once."""
    folder = tmp_path_factory.mktemp("movielens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_HOME", str(folder))
        source.fetch("ml-100k")
    return folder


@pytest.fixture(autouse=True)
def home(movielens: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instead of a home of its own for every test."""
    monkeypatch.setenv("FEDREC_HOME", str(movielens))
    return movielens


def setting(overrides: tuple[str, ...], rule: str = "sum") -> Setting:
    return load_setting(experiment(overrides, rule))


def test_a_sum_is_spoiled_by_a_few() -> None:
    mf = setting(MF)
    honest, flipped, pushed = (played(mf, lie, LIARS) for lie in ("none", "flip", "push"))
    assert honest.shown == 0
    assert flipped.hr < 0.75 * honest.hr
    assert pushed.shown > 0.99


@pytest.mark.parametrize("rule", ["trimmed-mean", "median"])
def test_a_trimmed_mean_and_a_median_hold(rule: str) -> None:
    for overrides in (MF, POPULARITY):
        held = setting(overrides, rule)
        honest, flipped, pushed = (played(held, lie, LIARS) for lie in ("none", "flip", "push"))
        assert min(flipped.hr, pushed.hr) > 0.9 * honest.hr
        assert max(flipped.shown, pushed.shown) == 0


def test_robustness_costs_what_sparse_histories_do_not_have_in_common() -> None:
    """A rule that bounds every coordinate drops what few users say: a sum without liars is better."""
    plain, held = (played(setting(MF, rule), "none", 0) for rule in ("sum", "trimmed-mean"))
    assert held.hr < 0.85 * plain.hr


def test_krum_stops_the_loud_and_not_the_patient() -> None:
    held = setting(MF, "krum")
    honest, flipped, pushed = (played(held, lie, LIARS) for lie in ("none", "flip", "push"))
    assert flipped.hr > 0.9 * honest.hr
    assert pushed.shown > 0.99  # of honest length, and nearer to everyone than many honest vectors are


def test_under_local_noise_the_check_of_one_vector_leaves_room_that_a_trimmed_mean_takes_away() -> None:
    mechanism = setting(LOCAL).federation.mechanisms[0]
    reach = mechanism.clip_norm + 11.9 * mechanism.share_std(1)
    summed, trimmed = (played(setting(LOCAL, rule), "set", LIARS, reach) for rule in ("sum", "trimmed-mean"))
    assert summed.shown > 0.99
    assert trimmed.shown == 0
    with pytest.raises(RoundFailedError, match="896 users answered"):  # beyond it, they are left out
        played(setting(LOCAL), "set", LIARS, 2 * reach)


def test_under_masks_one_client_can_push_an_item_and_only_what_is_out_of_reach_is_noticed() -> None:
    masked = setting(MASKED)
    users = masked.split.train.n_users
    assert played(masked, "set", 1, 0.5 * users).shown > 0.99
    with pytest.raises(ContributionError, match="beyond what 943 clipped vectors and their noise can reach"):
        played(masked, "set", 1, 1.5 * users)
