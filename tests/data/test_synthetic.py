from __future__ import annotations

import numpy as np
import pytest

from fedrec.data.source import load
from fedrec.data.sources.synthetic import SyntheticConfig, World, blocks
from fedrec.errors import ConfigError

CONFIG = SyntheticConfig(n_users=500, n_items=300, mean_events=15)


def test_a_user_is_the_same_in_any_block_and_alone() -> None:
    whole = load(CONFIG)
    assert whole.times is not None
    for size in (7, 499):
        parts = list(blocks(CONFIG, size))
        assert np.array_equal(np.concatenate([part.items for part in parts]), whole.items)
        assert np.array_equal(np.concatenate([part.times for part in parts if part.times is not None]), whole.times)
    alone = World.of(CONFIG).interactions(np.array([321]))
    assert alone.users.tolist() == [321]
    assert np.array_equal(alone.items, whole.user(321))


def test_a_larger_population_begins_with_the_same_users() -> None:
    larger = load(CONFIG.model_copy(update={"n_users": 600}))
    assert np.array_equal(larger.take(np.arange(500)).items, load(CONFIG).items)


def test_the_seed_decides() -> None:
    assert np.array_equal(load(CONFIG).items, load(CONFIG).items)
    assert not np.array_equal(load(CONFIG).items[:50], load(CONFIG.model_copy(update={"seed": 2})).items[:50])


def test_no_item_twice_and_times_increase() -> None:
    data = load(CONFIG)
    assert data.times is not None
    for user in range(data.n_users):
        own = slice(data.indptr[user], data.indptr[user + 1])
        assert len(set(data.items[own].tolist())) == data.counts[user] >= CONFIG.min_events
        assert (np.diff(data.times[own]) > 0).all()


def test_the_mean_is_as_configured_and_the_tails_are_heavy() -> None:
    data = load(SyntheticConfig(n_users=20_000, n_items=5000, mean_events=20))
    assert data.counts.mean() == pytest.approx(20, rel=0.1)
    assert np.sort(data.counts)[-2000:].sum() > 0.4 * data.n_events  # a tenth of the users
    popularity = np.sort(np.bincount(data.items, minlength=data.n_items))[::-1]
    assert popularity[:500].sum() > 0.4 * data.n_events  # a tenth of the items


def test_taste_shows_in_genres() -> None:
    def share_of_main_genre(taste: float) -> float:
        config = SyntheticConfig(n_users=400, n_items=2000, mean_events=20, min_events=10, taste=taste)
        data = load(config)
        assert data.catalogue.genres is not None
        return float(np.mean([data.catalogue.genres[data.user(u)].mean(axis=0).max() for u in range(data.n_users)]))

    assert share_of_main_genre(6.0) > 1.5 * share_of_main_genre(0.0)


def test_small_catalogues_and_single_users_work() -> None:
    data = load(SyntheticConfig(n_users=1, n_items=8, min_events=3, mean_events=50, n_genres=1, dimension=1))
    assert 1 <= data.n_events <= 4


def test_there_are_no_ratings_to_threshold() -> None:
    with pytest.raises(ConfigError, match=r"data.min_rating needs ratings"):
        load(SyntheticConfig(min_rating=3))


def test_the_k_core_applies() -> None:
    data = load(CONFIG.model_copy(update={"k_core": 8}))
    assert data.counts.min() >= 8
    assert data.filters == ("k-core 8",)
