"""The round: a pure plan, a checked sum in the order of users, and failures that cost a fresh attempt."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.errors import ConfigError, ContributionError, PrivacyError, RoundFailedError
from fedrec.federation import planning
from fedrec.federation import round as rounds
from fedrec.federation.cohort import partition_of
from fedrec.federation.planning import make_federation
from fedrec.federation.round import client_round
from fedrec.privacy.accounting import composed_mu, report_epsilon
from fedrec.privacy.mechanism import ShardSum, add_up, clip_and_sum, opened
from fedrec.randomness import Lane
from fedrec.release import Component, Release
from tests.cases import Case, flat

MF = {"name": "mf", "start": "random", "dimension": 4}


def case(**federation: Any) -> Case:
    return Case.of(MF, federation={"rounds": 2, **federation})


def test_a_plan_is_a_pure_function_of_round_and_attempt() -> None:
    federation = case(cohort=30).federation(noise_multiplier=1.0)
    again = case(cohort=30).federation(noise_multiplier=1.0)
    for round_, attempt in ((1, 0), (2, 0), (2, 1)):
        one, other = federation.plan(round_, attempt), again.plan(round_, attempt)
        np.testing.assert_array_equal(one.cohort.users, other.cohort.users)
        assert (one.key, one.mechanism, one.release, one.event()) == (
            other.key,
            other.mechanism,
            other.release,
            other.event(),
        )


def test_the_event_says_what_the_accountant_and_the_report_need() -> None:
    federation = case(cohort=30, min_cohort=20).federation(noise_multiplier=1.5)
    assert federation.plan(1).event() == {
        "release": "mf",
        "coordinates": 80 * 4 + 80,
        "noise_multiplier": 1.5,
        "clip_norm": 0.5,
        "sensitivity": 0.5,
        "trust": "distributed",
        "cohort": 30,
        "cohort_choice": "uniform without replacement",
        "min_cohort": 20,
        "colluders": 0,
    }
    integers = case(cohort=30).federation(noise_multiplier=1.5, noise="skellam").plan(1)
    assert integers.mechanism.grid is not None
    assert integers.event() | {"ring_bits": 32, "scale": integers.mechanism.grid.scale} == integers.event()


def test_a_failed_attempt_is_drawn_afresh() -> None:
    one = case(cohort=30)
    federation = one.federation(noise_multiplier=1.0)
    state = federation.start()
    retried = federation.failed(state)
    assert (retried.round, retried.attempt) == (0, 1)
    assert retried.shared is state.shared
    plans = [federation.plan(1, attempt) for attempt in (0, 1)]
    assert not np.array_equal(plans[0].cohort.users, plans[1].cohort.users)
    nobody = one.train.where(np.zeros(one.train.n_events, np.bool_))
    noise = [flat(client_round(federation.model, state.shared, nobody, plan, part=0).arrays) for plan in plans]
    # 400 normal values: a correlation of 5 deviations has probability below 1e-6
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 5 / math.sqrt(400)
    assert noise[0].std() > 0


def test_attempts_run_out() -> None:
    federation = case(attempts=2).federation()
    state = federation.failed(federation.start())
    with pytest.raises(RoundFailedError, match=r"Round 1 failed 2 times; .* raise federation\.attempts"):
        federation.failed(state)


def test_a_finished_round_begins_the_next_with_its_first_attempt() -> None:
    one = case()
    federation = one.federation()
    state = federation.failed(federation.start())
    plan = federation.plan(1, state.attempt)
    shard = client_round(federation.model, state.shared, one.train, plan, part=0)
    after = federation.finish(state, plan, [shard])
    assert (after.round, after.attempt) == (1, 0)


def test_nothing_is_released_below_the_minimum_cohort() -> None:
    one = case(cohort=30, min_cohort=25)
    federation = one.federation(noise_multiplier=1.0)
    state, plan = federation.start(), federation.plan(1)
    shards = [
        client_round(federation.model, state.shared, one.train.take(plan.cohort.users[part]), plan, part=number)
        for number, part in enumerate(np.split(np.arange(30), [24, 25]))
    ]
    with pytest.raises(RoundFailedError, match="24 users answered, fewer than the minimum cohort of 25"):
        federation.finish(state, plan, shards[:1])
    with pytest.raises(RoundFailedError, match="0 users answered"):
        federation.finish(state, plan, [])
    assert federation.finish(state, plan, shards[:2]).round == 1


def test_by_default_the_whole_cohort_must_answer() -> None:
    assert case(cohort=30).federation().plan(1).mechanism.min_cohort == 30
    assert case().federation().plan(1).mechanism.min_cohort == 100


def test_cohorts_that_do_not_fit_are_refused_by_key() -> None:
    with pytest.raises(ConfigError, match=r"federation\.cohort = 101"):
        case(cohort=101).federation()
    with pytest.raises(ConfigError, match=r"federation\.min_cohort = 101"):
        case(min_cohort=101).federation()


def test_shards_are_summed_in_the_order_given() -> None:
    """Floating-point sums depend on the order, so it is fixed: that of users."""
    rng = np.random.default_rng(1)
    release = Release("r", (Component("a", (50,)),), share=1.0)
    values = [rng.standard_normal(50) * 10.0 ** rng.integers(-8, 8) for _ in range(9)]
    shards = [ShardSum({"a": value}, number, number % 2) for number, value in enumerate(values)]
    total = add_up(shards, release)
    wanted = np.zeros(50)
    for value in values:
        wanted = wanted + value
    np.testing.assert_array_equal(total.arrays["a"], wanted)
    assert (total.n_users, total.rejected) == (36, 4)
    assert not np.array_equal(add_up(shards[::-1], release).arrays["a"], wanted)


def test_one_shard_or_many_give_the_same_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    one = case()
    federation = one.federation()
    state, plan = federation.start(), federation.plan(1)
    whole = client_round(federation.model, state.shared, one.train, plan, part=0)
    parts = [partition_of(plan.cohort, number, 7, 100) for number in range(7)]
    np.testing.assert_array_equal(np.concatenate(parts), plan.cohort.users)
    shards = [client_round(federation.model, state.shared, one.train.take(part), plan, part=0) for part in parts]
    np.testing.assert_allclose(flat(add_up(shards, plan.release).arrays), flat(whole.arrays), atol=1e-6)
    monkeypatch.setattr(rounds, "_SHARD_EVENTS", 5)  # a shard too large for one call is walked in blocks
    blocks = client_round(federation.model, state.shared, one.train, plan, part=0)
    np.testing.assert_allclose(flat(blocks.arrays), flat(whole.arrays), atol=1e-6)
    assert blocks.n_users == whole.n_users == 100
    again = client_round(federation.model, state.shared, one.train, plan, part=0)  # by the blocks that were kept
    np.testing.assert_array_equal(flat(again.arrays), flat(blocks.arrays))


@pytest.mark.parametrize(("most", "kept"), [(10_000, True), (5, False)])
def test_blocks_are_kept_where_they_are_small(monkeypatch: pytest.MonkeyPatch, most: int, kept: bool) -> None:
    monkeypatch.setattr(rounds, "_SHARD_EVENTS", 5)
    monkeypatch.setattr(rounds, "_KEPT_EVENTS", most)
    one = case()
    federation = one.federation()
    client_round(federation.model, federation.start().shared, one.train, federation.plan(1), part=0)
    assert ("blocks" in one.train.memory) == kept


def test_the_mean_is_over_the_planned_cohort_and_scales_are_undone() -> None:
    one = case(cohort=40, min_cohort=10, server_learning_rate=2.0)
    federation = one.federation()
    state, plan = federation.start(), federation.plan(1)
    some = one.train.take(plan.cohort.users[:15])
    contribution = federation.model.contribute(state.shared, some, plan.release, plan.key)
    scaled = replace(
        plan, release=replace(plan.release, components=tuple(replace(c, scale=4.0) for c in plan.release.components))
    )
    for each in (plan, scaled):
        shard = clip_and_sum(contribution, each.release, each.mechanism)
        after = federation.finish(state, each, [shard]).shared
        wanted = 2.0 * contribution.parts["bias"].weighted_sum(np.ones(15)) / 40  # not over the 15 who answered
        np.testing.assert_allclose(after["bias"] - state.shared["bias"], wanted, atol=1e-6)


@pytest.mark.parametrize("trust", ["distributed", "local", "central"])
def test_the_model_is_told_the_noise_that_is_in_the_sum(trust: str) -> None:
    """Measured on popularity of users without a history; 4000 normal values within 4.9 deviations: false 1e-6."""
    one = Case.of({"name": "popularity"}, federation={"min_cohort": 50})
    federation = one.federation(noise_multiplier=2.0, trust=trust)
    nobody = one.train.where(np.zeros(one.train.n_events, np.bool_))
    values = []
    for attempt in range(50):
        plan = federation.plan(1, attempt)
        shard = client_round(federation.model, {}, nobody, plan, part=0)
        values.append(federation.finish(federation.start(), plan, [shard]).shared["popularity"])
    noise = np.concatenate(values).astype(np.float64)
    std = {"distributed": 2.0 * math.sqrt(100 / 50), "local": 2.0 * math.sqrt(100), "central": 2.0}[trust]
    assert plan.mechanism.total_std(100) == pytest.approx(std)
    assert abs(np.vdot(noise, noise) / std**2 - noise.size) < 4.9 * math.sqrt(2 * noise.size)


def test_a_sum_that_is_not_finite_is_refused() -> None:
    one = case()
    federation = one.federation()
    state, plan = federation.start(), federation.plan(1)
    shard = client_round(federation.model, state.shared, one.train, plan, part=0)
    bad = replace(shard, arrays={**shard.arrays, "bias": np.full(80, np.inf)})
    with pytest.raises(ContributionError, match="'bias'"):
        federation.finish(state, plan, [bad])


def sigmas(one: Case, **privacy: Any) -> list[float]:
    return [mechanism.noise_multiplier for mechanism in one.federation(**privacy).mechanisms]


def test_noise_multipliers_follow_the_shares() -> None:
    assert sigmas(case(rounds=4), noise_multiplier=3.0) == pytest.approx([3.0] * 4)
    spectral = Case.of({**MF, "start": "spectral", "start_share": 0.9}, federation={"rounds": 1})
    unequal = sigmas(spectral, noise_multiplier=3.0)
    assert composed_mu(unequal) == pytest.approx(composed_mu([3.0, 3.0]))
    assert unequal[0] ** -2 / unequal[1] ** -2 == pytest.approx(9.0)
    assert sigmas(case(), epsilon=None) == [0.0, 0.0]


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.5, -0.5], [1.0, 0.0], [2.0]])
def test_a_model_whose_shares_do_not_make_up_the_budget_is_refused(shares: list[float]) -> None:
    releases = tuple(Release("r", (Component("a", (2,)),), share) for share in shares)
    with pytest.raises(PrivacyError, match="sum to 1"):
        planning._noise_multipliers(case().experiment, releases, 10)


@pytest.mark.parametrize("noise", ["gaussian", "skellam"])
@pytest.mark.parametrize("trust", ["distributed", "local"])
def test_calibrated_rounds_spend_the_budget(noise: str, trust: str) -> None:
    federation = case().federation(epsilon=3.0, noise=noise, trust=trust)
    events = [mechanism.events()["user"] for mechanism in federation.mechanisms]
    assert 2.98 < report_epsilon(events, 1e-5) <= 3.0


def test_colluders_are_made_up_for_by_the_honest() -> None:
    """Whoever leaves out a share takes it along; the rest still adds what was promised."""
    honest = case().federation(noise_multiplier=2.0).mechanisms[0]
    wary = case().federation(noise_multiplier=2.0, colluders=36).mechanisms[0]
    assert wary.share_std(64) == pytest.approx(honest.share_std(100))
    assert wary.events() == honest.events()
    with pytest.raises(ConfigError, match=r"privacy.colluders = 100 leaves no honest user"):
        case().federation(noise_multiplier=2.0, colluders=100)


def test_without_noise_nothing_is_clipped_and_with_noise_always() -> None:
    assert math.isinf(case().federation().plan(1).mechanism.clip_norm)
    assert case().federation(noise_multiplier=1.0).plan(1).mechanism.clip_norm == 0.5
    popularity = Case.of({"name": "popularity"}).federation(noise_multiplier=1.0)
    assert popularity.plan(1).mechanism.clip_norm == 1.0  # a statistic's own, whatever privacy.clip_norm says
    with pytest.raises(PrivacyError):
        replace(case().federation().plan(1).mechanism, noise_multiplier=1.0)


def test_everything_resolved_is_pure() -> None:
    experiment = case(cohort=20).experiment.replaced(privacy={"noise_multiplier": 1.0})
    one = case(cohort=20)
    first, second = (make_federation(experiment, one.train.catalogue, 100) for _ in range(2))
    assert (first.releases, first.mechanisms) == (second.releases, second.mechanisms)
    np.testing.assert_array_equal(first.start().shared["table"], second.start().shared["table"])


def test_releases_that_share_a_seed_do_not_share_their_noise() -> None:
    """Else the noise would cancel between two released sums. Fails by chance once in 500,000 runs."""
    one = case()
    keys = [one.federation(noise_multiplier=noise).plan(1).noise_key for noise in (1.0, 2.0)]
    first, second = (key.generator(Lane.NOISE).standard_normal(20_000) for key in keys if key is not None)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.9 / math.sqrt(20_000)


@pytest.mark.parametrize("shards", [2, 7])
def test_users_are_rounded_alike_in_one_shard_or_many(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    monkeypatch.setattr(rounds, "seeded_noise", lambda _key, _part: lambda _variance, n: np.zeros(n, np.int64))
    one = case()
    federation = one.federation(noise_multiplier=1.0, noise="skellam")
    state, plan = federation.start(), federation.plan(1)
    whole = client_round(federation.model, state.shared, one.train, plan, part=0)
    parts = [partition_of(plan.cohort, part, shards, 100) for part in range(shards)]
    sums = [client_round(federation.model, state.shared, one.train.take(users), plan, 0) for users in parts]
    together = add_up(sums, plan.release, plan.mechanism.wire)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(together.arrays[name], array)


def test_an_integer_round_is_the_float_round_up_to_rounding_and_noise() -> None:
    one = case()
    floats = one.federation(noise_multiplier=1.0)
    integers = one.federation(noise_multiplier=1.0, noise="skellam")
    state, plan = integers.start(), integers.plan(1)
    shard = client_round(integers.model, state.shared, one.train, plan, part=0)
    assert {array.dtype for array in shard.arrays.values()} == {np.dtype(np.uint32)}
    exact = clip_and_sum(
        floats.model.contribute(state.shared, one.train, plan.release, plan.key), plan.release, floats.plan(1).mechanism
    )
    assert plan.mechanism.grid is not None
    found = opened(add_up([shard], plan.release, np.uint32), plan.release, plan.mechanism, plan.mechanism.grid)
    noise = flat(found.arrays) - flat(exact.arrays)
    # 400 values of deviation .5, the rounding's being a hundredth of that; 5 deviations of it fail once in a million.
    assert np.std(noise) == pytest.approx(0.5, rel=5 / math.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 5 * 0.5 / math.sqrt(noise.size)


def test_a_ring_sum_beyond_what_honest_clients_reach_is_refused() -> None:
    one = case()
    federation = one.federation(noise_multiplier=1.0, noise="skellam")
    state, plan = federation.start(), federation.plan(1)
    shard = client_round(federation.model, state.shared, one.train, plan, part=0)
    spoiled = {name: array.copy() for name, array in shard.arrays.items()}
    spoiled["bias"][3:4] += np.uint32(2**30)
    with pytest.raises(ContributionError, match="a client sent something else"):
        federation.finish(state, plan, [replace(shard, arrays=spoiled)])


def test_a_secure_source_never_repeats_itself() -> None:
    one = case()
    federation = one.federation(noise_multiplier=1.0, source="secure")
    state, plan = federation.start(), federation.plan(1)
    assert plan.noise_key is None
    first, second = (client_round(federation.model, state.shared, one.train, plan, part=0) for _ in range(2))
    assert np.mean(flat(first.arrays) == flat(second.arrays)) < 0.1
