"""What every recommender must do, as tests: a new model's test is a class that inherits `RecommenderContract`.

A fixture ``case`` says what is run on which data::

    @pytest.fixture(scope="module")
    def case() -> Case:
        return Case.of({"name": "mine"})

    class TestMine(RecommenderContract):
        pass
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.config import parse
from fedrec.contribution import Contribution
from fedrec.data.interactions import Interactions
from fedrec.data.splits import Split
from fedrec.engines.setting import scorer
from fedrec.evaluation.placebo import placebo_p_values
from fedrec.evaluation.ranking import Scorer
from fedrec.federation.round import client_round
from fedrec.privacy.accounting import composed_mu, report_epsilon
from fedrec.privacy.mechanism import clip_and_sum
from fedrec.randomness import Key
from tests.cases import (
    Case,
    finished,
    flat,
    gaussians,
    histories,
    locked,
    one_users,
    poisoned,
    rows_touched,
    run,
    times_like,
    unchanged,
)

LEVEL = 0.001
"""Of a placebo test: the two views together cry wolf about an honest model with probability at most .002, once, when
the seed is fixed."""


class RecommenderContract:
    """The contract; every test takes the fixture ``case``."""

    def test_the_resolved_experiment_round_trips(self, case: Case) -> None:
        assert parse(case.experiment.to_toml()) == case.experiment

    def test_shares_are_positive_and_sum_to_one(self, case: Case) -> None:
        for federation in (case.federation(), case.federation(noise_multiplier=4.0)):
            shares = [release.share for release in federation.releases]
            assert min(shares) > 0
            assert math.fsum(shares) == pytest.approx(1.0, abs=1e-12)

    def test_all_rounds_together_spend_the_budget(self, case: Case) -> None:
        sigmas = [mechanism.noise_multiplier for mechanism in case.federation(epsilon=4.0).mechanisms]
        assert 3.99 < report_epsilon(gaussians(sigmas), case.experiment.privacy.delta) <= 4.0
        given = case.federation(noise_multiplier=2.0).mechanisms
        rounds = len(given)
        assert composed_mu([one.noise_multiplier for one in given]) == pytest.approx(math.sqrt(rounds) / 2.0)

    def test_all_at_once_equals_one_by_one(self, case: Case) -> None:
        weights = np.random.default_rng(1).uniform(0.1, 1.0, case.train.n_users)
        for federation, state, plan in case.stages:
            args = plan.release, plan.key
            together = federation.model.contribute(state.shared, case.train, *args)
            alone = [
                federation.model.contribute(state.shared, case.train.take(np.array([user])), *args)
                for user in range(case.train.n_users)
            ]
            one_by_one = np.sum(
                [flat(one.weighted_sum(plan.release, weights[[user]])) for user, one in enumerate(alone)], axis=0
            )
            np.testing.assert_allclose(flat(together.weighted_sum(plan.release, weights)), one_by_one, atol=1e-6)
            norms = np.concatenate([one.norms(plan.release) for one in alone])
            np.testing.assert_allclose(together.norms(plan.release), norms, atol=1e-6)

    def test_a_contribution_depends_on_no_other_user(self, case: Case) -> None:
        """The last of three users sends the same whoever the others are and whatever they hold."""
        rng = np.random.default_rng(2)
        last = int(case.train.counts.argmax())  # who surely holds two of whatever items a release is about
        some = case.train.take(np.array([5, 40, last]))
        for federation, state, plan in case.stages:
            whole = federation.model.contribute(state.shared, case.train, plan.release, plan.key)
            wanted = one_users(whole, plan.release, last)
            assert wanted.any()
            for n_first in (0, 1, case.train.n_items):
                others = [rng.permutation(case.train.n_items)[:n].tolist() for n in (n_first, 7)]
                shard = histories(case.train.catalogue, [*others, some.user(2).tolist()])
                shard = replace(shard, users=some.users, times=None if some.times is None else times_like(shard, some))
                changed = federation.model.contribute(state.shared, shard, plan.release, plan.key)
                np.testing.assert_allclose(one_users(changed, plan.release, 2), wanted, atol=1e-6)

    def test_the_shared_arrays_are_those_that_a_device_is_told_to_expect(self, case: Case) -> None:
        for federation, state, plan in case.stages:
            wanted = federation.model.forms(federation.catalogue, federation.releases[: plan.round - 1])
            assert wanted == {name: (array.dtype.name, array.shape) for name, array in state.shared.items()}

    def test_contributing_and_scoring_are_pure(self, case: Case) -> None:
        for federation, state, plan in case.stages:
            shared = locked(state.shared)
            first, second = (
                federation.model.contribute(shared, case.train, plan.release, plan.key).weighted_sum(
                    plan.release, np.ones(case.train.n_users)
                )
                for _ in range(2)
            )
            np.testing.assert_array_equal(flat(first), flat(second))
            unchanged(shared, state.shared)
        for federation, state in case.ends:
            shared = locked(state.shared)
            personal = locked(federation.model.personalise(shared, case.train))
            before = locked(personal)
            first_scores, second_scores = (federation.model.score(shared, personal) for _ in range(2))
            np.testing.assert_array_equal(first_scores, second_scores)
            unchanged(shared, state.shared)
            unchanged(personal, before)

    def test_applying_is_pure(self, case: Case) -> None:
        for federation, state, plan in case.stages:
            shared = locked(state.shared)
            shard = client_round(federation.model, shared, case.train, plan, part=0)
            shard = replace(shard, arrays=locked(shard.arrays))
            before = locked(shard.arrays)
            first, second = (federation.finish(replace(state, shared=shared), plan, [shard]) for _ in range(2))
            unchanged(first.shared, second.shared)
            unchanged(shared, state.shared)
            unchanged(shard.arrays, before)

    def test_zeroing_a_user_moves_the_sum_by_at_most_the_clip_norm(self, case: Case) -> None:
        """Any history whatsoever, in any company; a statistic keeps its bound without being clipped."""
        n = case.train.n_items
        popular = int(np.argmax(np.bincount(case.train.items, minlength=n)))
        history = st.one_of(
            st.sampled_from([[0], [popular], [n - 1], list(range(n)), list(range(n - 1)), []]),
            st.lists(st.integers(0, n - 1), unique=True, max_size=n),
        )
        private = [stage for stage in case.stages if stage[2].mechanism.private]

        @settings(max_examples=25, deadline=None, derandomize=True, database=None)
        @given(st.lists(history, min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 10**6))
        def bounded(shard: list[list[int]], which: int, first: int) -> None:
            which %= len(shard)
            users = histories(case.train.catalogue, shard, first)
            without = histories(case.train.catalogue, [*shard[:which], [], *shard[which + 1 :]], first)
            for federation, state, plan in private:
                sums = [
                    clip_and_sum(
                        federation.model.contribute(state.shared, data, plan.release, plan.key),
                        plan.release,
                        plan.mechanism,
                    )
                    for data in (users, without)
                ]
                moved = flat(sums[0].arrays) - flat(sums[1].arrays)
                assert np.linalg.norm(moved) <= plan.mechanism.clip_norm * (1 + 1e-6)
                if not plan.release.optimise:
                    whole = federation.model.contribute(state.shared, users, plan.release, plan.key)
                    assert whole.norms(plan.release).max() <= plan.mechanism.clip_norm * (1 + 1e-9)

        bounded()

    def test_an_empty_history_contributes_exactly_zero(self, case: Case) -> None:
        nobody = histories(case.train.catalogue, [[]])
        for federation, state, plan in case.stages:
            contribution = federation.model.contribute(state.shared, nobody, plan.release, plan.key)
            assert not one_users(contribution, plan.release, 0).any()

    @pytest.mark.parametrize("trust", ["distributed", "local"])
    def test_no_coordinate_of_a_noised_vector_is_zero(self, case: Case, trust: str) -> None:
        """A zero would tell which items a user touched: neither a phone nor a shard sends one."""
        federation = case.federation(noise_multiplier=1.0, trust=trust)
        for _, state, plan in run(federation, case.train):
            for users in (np.array([3]), np.arange(10)):
                sent = client_round(federation.model, state.shared, case.train.take(users), plan, part=0)
                assert set(sent.arrays) == {component.name for component in plan.release.components}
                for component in plan.release.components:
                    assert sent.arrays[component.name].shape == component.shape
                    assert np.all(sent.arrays[component.name] != 0)

    def test_a_trained_model_pushes_held_out_items_down_like_any_other(self, case: Case) -> None:
        """Training negatives know nothing of held-out items.

        A user touches some n rows of the others by drawing. None of the users' held-out items among them has a
        probability below 1e-4, as computed here from the rows that were touched.
        """
        for federation, state, plan in case.stages:
            if not plan.release.optimise:
                continue
            log_none, touched_held_out = 0.0, 0
            contribution = federation.model.contribute(state.shared, case.train, plan.release, plan.key)
            for user in np.flatnonzero(case.parts.test.counts).tolist():
                rows = rows_touched(contribution, plan.release, user, case.train.n_items)
                rows[case.train.user(user)] = False
                log_none += math.log1p(-rows.sum() / (case.train.n_items - case.train.counts[user]))
                touched_held_out += int(rows[case.parts.test.user(user)].sum())
            assert log_none < math.log(1e-4)
            assert touched_held_out > 0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_values_that_are_not_finite_are_rejected_and_counted(self, case: Case, value: float) -> None:
        users = case.train.take(np.arange(6))
        bad = 4
        keep = users.where(users.user_of_event != bad)
        for federation, state, plan in case.stages:
            contribution = federation.model.contribute(state.shared, users, plan.release, plan.key)
            parts = {name: poisoned(part, bad, value) for name, part in contribution.parts.items()}
            found = clip_and_sum(Contribution(parts, users.n_users), plan.release, plan.mechanism)
            honest = clip_and_sum(
                federation.model.contribute(state.shared, keep, plan.release, plan.key), plan.release, plan.mechanism
            )
            assert (found.rejected, found.n_users) == (1, users.n_users)
            np.testing.assert_allclose(flat(found.arrays), flat(honest.arrays), atol=1e-6)

    def test_scores_are_finite_after_every_round(self, case: Case) -> None:
        """Also those of a user without a history and of an item that nobody met; and in every trust model."""
        unmet = int(np.bincount(case.train.items, minlength=case.train.n_items).argmin())
        train = case.train.where((case.train.items != unmet) & (case.train.user_of_event != 0))
        for noise, trust in ((None, "distributed"), (1.0, "distributed"), (30.0, "local"), (1.0, "central")):
            federation = case.federation(noise_multiplier=noise, trust=trust)
            stages = [state for _, state, _ in run(federation, train)]
            for state in [*stages[1:], finished(federation, train)]:
                for users in (train, train.take(np.array([0])), train.take(np.zeros(0, np.int64))):
                    scores = scorer(federation.model, state.shared)(users)
                    assert scores.shape == (users.n_users, train.n_items)
                    assert np.isfinite(scores).all()

    def test_a_shared_model_holds_float32_or_integers_alone(self, case: Case) -> None:
        for _, state in case.ends:
            kinds = {array.dtype for array in state.shared.values()}
            assert all(kind == np.float32 or kind.kind in "iu" for kind in kinds)

    def test_the_placebo_test_passes(self, case: Case) -> None:
        """An honest model fails by chance with probability at most 2 LEVEL; the seed is fixed."""
        federation = case.federation()

        def pipeline(parts: Split) -> Scorer:
            return scorer(federation.model, finished(federation, parts.train).shared)

        assert min(placebo_p_values(pipeline, case.parts, Key(1)).values()) > LEVEL

    def test_the_placebo_test_catches_this_model_with_the_answers_mixed_in(self, case: Case) -> None:
        federation = case.federation()

        def cheater(parts: Split) -> Scorer:
            honest = scorer(federation.model, finished(federation, parts.train).shared)

            def score(users: Interactions) -> npt.NDArray[np.float32]:
                scores = np.array(honest(users))
                held = parts.test.take(users.users)
                half = held.user_of_event % 2 == 0  # the answers for every other user
                scores[held.user_of_event[half], held.items[half]] += 100 * (1 + np.abs(scores).max())
                return scores

            return score

        assert max(placebo_p_values(cheater, case.parts, Key(1)).values()) < LEVEL / 10
