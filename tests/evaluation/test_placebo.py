"""The placebo test: honest pipelines get p-values like any other number, leaking ones tiny ones."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config import EvaluationConfig, SplitConfig
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.data.splits import Split, split
from fedrec.evaluation.placebo import (
    exact_p_value,
    hit_chances,
    hits_distribution,
    placebo,
    placebo_p_values,
    placebo_test,
)
from fedrec.evaluation.protocol import Scorer
from fedrec.randomness import Key

LEVEL = 0.001


def popular_split(n_users: int = 400, n_items: int = 150, name: Any = "leave-one-out") -> Split:
    """Users who mostly meet the same popular items: popularity is far better than chance on the true split."""
    rng = np.random.default_rng(2)
    weights = 1.0 / np.arange(1, n_items + 1)
    histories = [
        rng.choice(n_items, rng.integers(1, 30), replace=False, p=weights / weights.sum()) for _ in range(n_users)
    ]
    counts = [len(history) for history in histories]
    data = Interactions(
        name="popular",
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=np.concatenate(histories).astype(np.int32),
        catalogue=Catalogue(np.arange(n_items).astype(str)),
        times=np.concatenate([np.arange(count) for count in counts]).astype(np.int64),
    )
    return split(data, SplitConfig(name=name), Key(1))


def popularity(parts: Split) -> Scorer:
    counts = np.bincount(parts.train.items, minlength=parts.train.n_items)
    return lambda profiles: np.broadcast_to(counts, (profiles.n_users, profiles.n_items))


def memoriser(parts: Split) -> Scorer:
    """Reads the answers."""

    def score(profiles: Interactions) -> Any:
        scores = np.zeros((profiles.n_users, profiles.n_items))
        mine = parts.test.take(profiles.users)
        scores[mine.user_of_event, mine.items] = 1
        return scores

    return score


def informed_negatives(parts: Split) -> Scorer:
    """Pushes each user's negatives down, drawn knowing what is held out: the published mistake."""

    def score(profiles: Interactions) -> Any:
        rng = np.random.default_rng(0)
        scores = np.zeros((profiles.n_users, profiles.n_items))
        for row, user in enumerate(profiles.users):
            met = np.concatenate([part.user(user) for part in (parts.train, parts.validation, parts.test)])
            unmet = np.setdiff1d(np.arange(profiles.n_items), met)
            scores[row, rng.choice(unmet, len(unmet) // 2, replace=False)] -= 1
        return scores

    return score


@pytest.mark.parametrize("name", ["leave-one-out", "random"])
@pytest.mark.parametrize("factory", [memoriser, informed_negatives])
def test_a_pipeline_that_reads_held_out_items_is_caught(factory: Any, name: Any) -> None:
    for p_value in placebo_p_values(factory, popular_split(name=name), Key(1)).values():
        assert p_value < LEVEL / 10


@pytest.mark.parametrize("name", ["leave-one-out", "random", "time"])
def test_an_honest_pipeline_passes(name: Any) -> None:
    # two views of three splits at level .001: a seed other than this fails with probability below .006
    results = placebo_test(popularity, popular_split(name=name), Key(1))
    assert set(results) == {"full", "sampled99"}
    assert all(result.p_value > LEVEL for result in results.values())


def test_p_values_of_an_honest_pipeline_are_uniform() -> None:
    parts = popular_split()
    runs = 200
    found = [placebo_p_values(popularity, parts, Key(seed), EvaluationConfig(sampled=20)) for seed in range(runs)]
    for view in ("full", "sampled20"):
        values = np.array([one[view] for one in found])
        # Exact p-values are at most t with probability at most t, and at most .5 with probability at least .4 here
        # (counts are discrete): bounds of Binomial(200, .4 or .5) and (200, .05), false alarm rate below 1e-5 each.
        assert 50 <= (values <= 0.5).sum() <= 130
        assert (values <= 0.05).sum() <= 26


def test_placebo_keeps_the_training_data_and_the_counts() -> None:
    parts = popular_split(name="random")
    fake = placebo(parts, Key(1))
    assert fake.train is parts.train
    for true, drawn in ((parts.validation, fake.validation), (parts.test, fake.test)):
        np.testing.assert_array_equal(true.indptr, drawn.indptr)
        np.testing.assert_array_equal(true.times, drawn.times)
    for user in range(parts.train.n_users):
        mine = np.concatenate([part.user(user) for part in (fake.train, fake.validation, fake.test)])
        assert len(np.unique(mine)) == len(mine)


def test_placebo_items_are_uniform_over_what_was_not_trained_on() -> None:
    n_users, n_items = 6000, 8
    data = Interactions(
        name="all alike",
        indptr=np.arange(0, 4 * n_users + 1, 4),
        items=np.tile(np.array([0, 1, 2, 3], np.int32), n_users),
        catalogue=Catalogue(np.arange(n_items).astype(str)),
        times=np.tile(np.arange(4), n_users),
    )
    fake = placebo(split(data, SplitConfig(), Key(1)), Key(1))
    pairs = np.bincount(fake.validation.items.astype(int) * n_items + fake.test.items, minlength=n_items**2)
    pairs = pairs[pairs > 0]
    assert len(pairs) == 30  # ordered pairs of the six items that are not 0 or 1
    # chi-square with 29 degrees of freedom, false alarm rate 1e-6
    assert ((pairs - 200.0) ** 2 / 200.0).sum() < 84.0


def test_placebo_draws_belong_to_the_user() -> None:
    parts = popular_split()
    fake = placebo(parts, Key(1))
    some = np.array([3, 50, 7])
    alone = placebo(Split(parts.train.take(some), parts.validation.take(some), parts.test.take(some)), Key(1))
    np.testing.assert_array_equal(alone.test.items, fake.test.take(some).items)
    assert not np.array_equal(placebo(parts, Key(2)).test.items, fake.test.items)


def test_equal_chances_give_the_binomial_test() -> None:
    from scipy.stats import binomtest

    for hits in (0, 31, 50, 71, 400):
        ours = exact_p_value(hits, np.full(500, 0.1))
        assert ours == pytest.approx(binomtest(hits, 500, 0.1).pvalue, rel=1e-9)


@given(st.lists(st.floats(0, 1), max_size=9))
def test_the_distribution_agrees_with_all_outcomes(chances: list[float]) -> None:
    plain = np.zeros(len(chances) + 1)
    for outcome in range(2 ** len(chances)):
        hits = [bool(outcome >> at & 1) for at in range(len(chances))]
        plain[sum(hits)] += np.prod([p if hit else 1 - p for p, hit in zip(chances, hits, strict=True)])
    np.testing.assert_allclose(hits_distribution(np.array(chances)), plain, atol=1e-12)


def test_hit_chances_by_hand() -> None:
    chances = hit_chances(np.array([100, 100, 5, 4]), np.array([1, 2, 1, 4]), 10)
    # one item: k / m; two items: 1 - (90 * 89) / (100 * 99); fewer candidates than k: certain
    np.testing.assert_allclose(chances, [0.1, 1 - 90 * 89 / (100 * 99), 1.0, 1.0])
