"""Robust aggregation: bounded by honest vectors, of known noise, refused where it would void the promise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.engines.fleet import Fleet
from fedrec.errors import ConfigError, ContributionError, RoundFailedError
from fedrec.federation import robust
from fedrec.federation.round import Plan, client_round
from fedrec.privacy.grid import Grid, to_ring
from fedrec.privacy.mechanism import Mechanism, ShardSum, add_noise, draw_noise, mask_ready, seeded_noise
from fedrec.randomness import Key
from fedrec.release import Component, Release
from tests.cases import Case, flat

RULES: tuple[robust.Rule, ...] = ("trimmed-mean", "median", "krum")
D = 20_000
RELEASE = Release("r", (Component("a", (D // 2, 1)), Component("b", (D // 2,), 2.0)), share=1.0)
LOCAL = Mechanism(noise_multiplier=1.5, clip_norm=2.0, trust="local")
PLAIN = Mechanism(noise_multiplier=0.0, clip_norm=math.inf)
MF = {"name": "mf", "start": "random", "dimension": 4}

Floats = npt.NDArray[np.float64]


def shards_of(vectors: Floats, release: Release = RELEASE) -> list[ShardSum]:
    """One user a row."""
    return [ShardSum(release.split(vector), 1) for vector in vectors]


def small(width: int) -> Release:
    return Release("r", (Component("a", (width,)),), share=1.0)


def combined(vectors: Floats, rule: robust.Rule, mechanism: Mechanism = PLAIN) -> Floats:
    total, _ = robust.combine(shards_of(vectors, small(vectors.shape[1])), small(vectors.shape[1]), mechanism, rule)
    return np.asarray(total.arrays["a"])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [5, 21, 100])
def test_the_noise_that_is_stated_is_the_noise_that_is_there(rule: robust.Rule, n: int) -> None:
    """20,000 values estimate a deviation within 2.5% but once in 2 million; the rest is that n is finite."""
    noise = np.random.default_rng(n).standard_normal((n, D)) * LOCAL.share_std(1)
    total, std = robust.combine(shards_of(noise), RELEASE, LOCAL, rule)
    assert flat(total.arrays).std() == pytest.approx(std, rel=0.05)
    assert std >= LOCAL.share_std(n)  # nothing that is unbiased has less than the mean (Cramér and Rao)


@pytest.mark.parametrize("rule", RULES)
def test_without_liars_a_common_signal_is_found_whole(rule: robust.Rule) -> None:
    rng = np.random.default_rng(2)
    signal = rng.standard_normal(D)
    total, std = robust.combine(shards_of(signal + 3 * rng.standard_normal((40, D))), RELEASE, LOCAL, rule)
    error = flat(total.arrays) / 40 - signal
    assert np.dot(flat(total.arrays) / 40, signal) / np.dot(signal, signal) == pytest.approx(1.0, abs=0.05)
    assert error.std() == pytest.approx(std / 40, rel=0.1)


@given(st.integers(5, 60), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e3, 1e200]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_liars_cannot_leave_the_range_of_the_honest(n: int, seed: int, size: float, noised: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 3)) * (rng.random((n, 3)) < 0.7)
    wrong = rng.choice(n, math.ceil(robust.CORRUPT * n), replace=False)
    vectors[wrong] = size * rng.standard_normal(3)
    honest = np.delete(vectors, wrong, axis=0)
    mechanism = LOCAL if noised else PLAIN
    for rule in ("trimmed-mean", "median"):
        mean = combined(vectors, rule, mechanism) / n
        assert np.all(mean >= honest.min(axis=0) - 1e-12)
        assert np.all(mean <= honest.max(axis=0) + 1e-12)


@pytest.mark.parametrize("size", [10.0, 1e6, 1e200])
def test_krum_leaves_out_what_is_far_away(size: float) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((30, 50))
    vectors[[4, 11, 20]] = size * rng.standard_normal((3, 50))
    np.testing.assert_allclose(combined(vectors, "krum"), 30 * np.delete(vectors, [4, 11, 20], axis=0).mean(axis=0))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_few_vectors_are_no_error(rule: robust.Rule, n: int) -> None:
    vectors = np.arange(n * 4.0).reshape(n, 4)
    np.testing.assert_allclose(combined(vectors, rule), n * vectors.mean(axis=0))  # they are symmetric


def test_a_median_of_sparse_vectors_is_of_groups_and_not_zero() -> None:
    """An item that a third has met is zero in most vectors; of the means of groups of four, in few."""
    vectors = (np.random.default_rng(4).random((900, 6)) < 1 / 3).astype(float)
    assert np.median(vectors, axis=0).max() == 0
    np.testing.assert_allclose(combined(vectors, "median") / 900, np.full(6, 0.25), atol=1e-12)


@pytest.mark.parametrize("trust", ["distributed", "central"])
def test_where_noise_covers_a_sum_alone_it_is_refused(trust: Any) -> None:
    with pytest.raises(ConfigError, match=f"under privacy.trust = '{trust}' the noise covers no more"):
        combined(np.zeros((5, 2)), "median", replace(LOCAL, trust=trust, min_cohort=5))


def test_a_node_that_speaks_for_several_users_is_refused() -> None:
    shards = [replace(shard, n_users=20) for shard in shards_of(np.zeros((4, D)))]
    with pytest.raises(ConfigError, match=r"a node sent the sum over 20: give every user a node of its own"):
        robust.combine(shards, RELEASE, PLAIN, "median")


def noised(mechanism: Mechanism, release: Release, key: Key, part: int) -> ShardSum:
    """What an honest client of the largest norm sends."""
    if mechanism.grid is None:
        vector = np.zeros(release.size)
        vector[part % release.size] = mechanism.clip_norm
        return ShardSum(add_noise(release.split(vector), draw_noise(release, mechanism.share_std(1), key, part)), 1)
    integers = np.zeros(release.size, np.int64)
    integers[part % release.size] = int(mechanism.grid.l2)
    noise = seeded_noise(key, part)
    return mask_ready(ShardSum(release.split(integers), 1), release, mechanism, mechanism.grid, noise)


@pytest.mark.parametrize("dimension", [1, 30, 3000])
@pytest.mark.parametrize("integers", [False, True])
def test_honest_vectors_have_a_possible_norm(dimension: int, integers: bool) -> None:
    """300 of them, each refused with probability 1e-9 at most."""
    release = small(dimension)
    mechanism = replace(LOCAL, grid=Grid(dimension, LOCAL.clip_norm), bits=32) if integers else LOCAL
    shards = [noised(mechanism, release, Key(5), part) for part in range(300)]
    assert len(robust.plausible(shards, release, mechanism)) == 300


def test_the_bound_leaves_little_room_where_there_are_many_coordinates() -> None:
    noise = LOCAL.share_std(1) * math.sqrt(D)
    assert robust.norm_bound(RELEASE, LOCAL, 1) < 1.06 * noise
    shared = replace(LOCAL, trust="distributed", min_cohort=100)
    assert 200 + noise < robust.norm_bound(RELEASE, shared, 100) < 200 + 1.06 * noise


def test_impossible_vectors_are_left_out_and_the_rest_counts() -> None:
    rng = np.random.default_rng(6)
    vectors = rng.standard_normal((10, D)) * LOCAL.share_std(1)
    vectors[2] *= 1.2
    vectors[5, 7] = np.nan
    shards = shards_of(vectors)
    shards[8] = ShardSum({"a": np.zeros((3, 1))}, 1)
    kept = robust.plausible(shards, RELEASE, LOCAL)
    assert [float(shard.arrays["b"][0]) for shard in kept] == vectors[[0, 1, 3, 4, 6, 7, 9], D // 2].tolist()
    with pytest.raises(ContributionError, match=r"'r': what was sent for 1 users has the norm 5\d\d"):
        robust.check_norm(shards[2], RELEASE, LOCAL)


@pytest.mark.parametrize("noise", ["gaussian", "skellam"])
@pytest.mark.parametrize("rule", ["sum", *RULES])
def test_a_round_goes_on_without_the_impossible_and_not_below_the_minimum(rule: str, noise: str) -> None:
    case = Case.of(MF, federation={"rounds": 1, "min_cohort": 90, "aggregation": rule})
    federation = case.federation(noise_multiplier=1.0, trust="local", noise=noise)
    state, plan = federation.start(), federation.plan(1)
    honest = one_by_one(case, plan, state.shared)
    spoiled = [far_off(shard, plan) if number < 10 else shard for number, shard in enumerate(honest)]
    after, wanted = (federation.finish(state, plan, shards) for shards in (spoiled, honest[10:]))
    for name, array in wanted.shared.items():
        np.testing.assert_array_equal(after.shared[name], array)
    spoiled[10] = far_off(spoiled[10], plan)
    with pytest.raises(RoundFailedError, match="89 users answered, fewer than the minimum cohort of 90"):
        federation.finish(state, plan, spoiled)


def one_by_one(case: Case, plan: Plan, shared: Any) -> list[ShardSum]:
    model = case.federation().model
    return [client_round(model, shared, case.train.take(np.array([user])), plan, user) for user in range(100)]


def far_off(shard: ShardSum, plan: Plan) -> ShardSum:
    """A vector that no honest client sends."""
    arrays = {name: array.copy() for name, array in shard.arrays.items()}
    huge = np.array([10**8])
    arrays["bias"][:1] = huge if plan.mechanism.grid is None else to_ring(huge, plan.mechanism.bits)
    return replace(shard, arrays=arrays)


def test_a_sum_of_impossible_norm_is_refused_although_each_value_is_in_reach() -> None:
    """A liar under masks may make any value large, not all of them."""
    case = Case.of(MF, federation={"rounds": 1})
    federation = case.federation(noise_multiplier=1.0, noise="skellam")
    state, plan = federation.start(), federation.plan(1)
    shard = client_round(federation.model, state.shared, case.train, plan, part=0)
    assert plan.mechanism.grid is not None
    push = int(0.5 * 100 * plan.mechanism.grid.l2)
    one, all_of_them = dict(shard.arrays), dict(shard.arrays)
    one["bias"] = shard.arrays["bias"] + np.uint32(push) * (np.arange(80) == 3).astype(np.uint32)
    all_of_them["bias"] = shard.arrays["bias"] + np.uint32(push)
    federation.finish(state, plan, [replace(shard, arrays=one)])
    with pytest.raises(ContributionError, match="what was sent for 100 users has the norm"):
        federation.finish(state, plan, [replace(shard, arrays=all_of_them)])


def test_the_fleet_sends_single_users_and_krum_of_the_honest_points_where_their_sum_does() -> None:
    case = Case.of(MF, federation={"rounds": 1, "aggregation": "krum"})
    federation, plain = case.federation(), Case.of(MF, federation={"rounds": 1}).federation()
    state, plan = federation.start(), federation.plan(1)
    collected = Fleet(federation.model, case.train).collect(plan, state.shared)
    assert [shard.n_users for shard in collected.shards] == [1] * 100
    whole = Fleet(plain.model, case.train).collect(plan, state.shared)
    assert (collected.up_bytes, collected.down_bytes) == (whole.up_bytes, whole.down_bytes)
    step, exact = (
        flat(one.finish(state, plan, got.shards).shared) - flat(state.shared)
        for one, got in ((federation, collected), (plain, whole))
    )
    assert np.dot(step, exact) / np.linalg.norm(step) / np.linalg.norm(exact) > 0.8
