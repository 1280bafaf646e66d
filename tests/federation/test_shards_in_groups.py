"""Sums of sums: groups of devices with a secure sum each make one round, and each keeps the whole promise by itself."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fedrec.errors import RoundFailedError
from fedrec.federation.round import Federation, Plan, client_round
from fedrec.models.base import Shared
from fedrec.privacy.mechanism import ShardSum
from fedrec.secagg.local import drive, enrol, make_clients
from fedrec.secagg.messages import Attempt, Phase
from fedrec.secagg.server import Server
from fedrec.secagg.session import Terms
from tests.cases import Case

GROUPS, SIZE, LEAST = 4, 25, 20
CASE = Case.of(
    {"name": "popularity"}, data={"n_users": GROUPS * SIZE, "n_items": 1000}, federation={"min_cohort": LEAST}
)


def federation() -> Federation:
    """Every user's noise is sized for the least number of users of a group, not of all groups."""
    return CASE.federation(noise_multiplier=3.0, noise="skellam")


def vectors_of(one: Federation, plan: Plan, shared: Shared) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    shards = [client_round(one.model, shared, CASE.train.take(np.array([u])), plan, u) for u in range(GROUPS * SIZE)]
    return np.array([plan.release.flatten(shard.arrays) for shard in shards])


def group_sum(
    one: Federation, plan: Plan, vectors: np.ndarray[tuple[int, int], np.dtype[np.uint32]], gone: int
) -> ShardSum:
    """A group's own secure sum."""
    terms = Terms(os.urandom(32), LEAST)
    identities, roster = enrol(len(vectors))
    clients = dict(enumerate(make_clients(identities, roster, terms)))
    server = Server(terms, roster, Attempt(plan.round, plan.attempt), roster, one.releases[0].size, dtype=vectors.dtype)
    result = drive(server, clients, vectors, {Phase.MASKED: range(gone)})
    return ShardSum(plan.release.split(result.total), result.users)


def test_the_sum_of_groups_is_the_sum_of_all() -> None:
    one = federation()
    state, plan = one.start(), one.plan(1)
    vectors = vectors_of(one, plan, state.shared)
    groups = [group_sum(one, plan, vectors[i * SIZE : (i + 1) * SIZE], gone=0) for i in range(GROUPS)]
    whole = ShardSum(plan.release.split(vectors.sum(axis=0, dtype=np.uint32)), GROUPS * SIZE)
    ours, theirs = (one.finish(state, plan, shards).shared for shards in (groups, [whole]))
    np.testing.assert_array_equal(ours["popularity"], theirs["popularity"])


def test_a_group_fails_alone_and_the_others_make_the_round() -> None:
    one = federation()
    state, plan = one.start(), one.plan(1)
    vectors = vectors_of(one, plan, state.shared)
    with pytest.raises(RoundFailedError, match="19 users sent their vectors"):
        group_sum(one, plan, vectors[:SIZE], gone=6)
    left = [group_sum(one, plan, vectors[i * SIZE : (i + 1) * SIZE], gone=5) for i in range(1, GROUPS)]
    assert [shard.n_users for shard in left] == [LEAST] * 3
    assert one.finish(state, plan, left).round == 1


def test_each_group_at_its_minimum_carries_the_noise_that_was_declared_for_the_round() -> None:
    """3,000 values: five standard errors of a deviation are 6.5%, exceeded once in 2 million."""
    one, plain = federation(), CASE.federation()
    state, plan, exact = one.start(), one.plan(1), plain.plan(1)
    vectors = vectors_of(one, plan, state.shared)
    assert plan.mechanism.grid is not None
    noise = []
    for first in range(0, 3 * SIZE, SIZE):
        opened = group_sum(one, plan, vectors[first : first + SIZE], gone=SIZE - LEAST).arrays["popularity"]
        silent = client_round(plain.model, state.shared, CASE.train.take(np.arange(first + 5, first + SIZE)), exact, 0)
        noise.append(opened.view(np.int32) / plan.mechanism.grid.scale - silent.arrays["popularity"])
    assert np.std(noise) == pytest.approx(plan.mechanism.noise_std, rel=0.065)
    assert plan.mechanism.total_std(GROUPS * LEAST) == pytest.approx(plan.mechanism.noise_std * GROUPS**0.5)
