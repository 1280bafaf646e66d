"""Plans: the noise that they name spends what they say, and is what a federation of that kind is given."""

from __future__ import annotations

import json
import math
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fedrec.audit.plan import LADDER, MF_COORDINATES, SURVIVAL, Plan, Question, as_json, least_cohort, plan
from fedrec.audit.recorded import expected, record
from fedrec.audit.words import plan_lines
from fedrec.config import resolve
from fedrec.data import source
from fedrec.errors import PrivacyError, UsageError
from fedrec.federation.planning import make_federation
from fedrec.models.base import Budget, build
from fedrec.privacy.accounting import rdp_epsilon, report_epsilon
from fedrec.privacy.events import GaussianEvent
from fedrec.release import Release


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(Question(users=1000, rounds=3, epsilon=2.0, corrupt=0.05))


def test_the_noise_spends_the_budget_and_no_more(planned: Plan) -> None:
    skellam, gaussian = planned.noises
    assert (skellam.kind, gaussian.kind) == ("skellam", "gaussian")
    for noise in planned.noises:
        assert 1.999 < (noise.epsilon["user"] or 0) <= 2.0
    # The same accounting of a plain Gaussian: integer noise is never cheaper than it, and at most 2 % dearer.
    events = [GaussianEvent(skellam.noise_multiplier)] * 3
    same = rdp_epsilon(events, 1e-5)
    assert same <= (skellam.epsilon["user"] or 0) <= 1.02 * same
    assert report_epsilon([GaussianEvent(gaussian.noise_multiplier)] * 3, 1e-5) == gaussian.epsilon["user"]


def test_an_independent_accountant_agrees(planned: Plan) -> None:
    assert planned.second is not None
    assert planned.second[1] == pytest.approx(planned.epsilon, rel=1e-3)


@pytest.mark.parametrize(("trust", "unit", "bound"), [("distributed", "interaction", 0.1), ("local", "user", None)])
def test_planning_backwards_gives_the_budget_back(trust: Any, unit: Any, bound: float | None) -> None:
    common: dict[str, Any] = {"users": 300, "rounds": 2, "trust": trust, "unit": unit, "interaction": bound}
    there = plan(Question(epsilon=2.0, **common))
    back = plan(Question(noise_multiplier=there.noises[0].noise_multiplier, **common))
    assert back.epsilon == there.epsilon == pytest.approx(2.0, abs=1e-3)
    assert back.share_std == there.share_std


def test_the_shares_of_the_honest_add_up_to_the_declared_noise(planned: Plan) -> None:
    honest = planned.min_cohort - planned.colluders
    assert planned.share_std**2 * honest == pytest.approx(planned.noises[0].noise_multiplier ** 2)
    assert planned.share_units == pytest.approx(planned.share_std * 64 * math.sqrt(MF_COORDINATES))


@given(users=st.integers(20, 100_000), dropout=st.floats(0, 0.5), rounds=st.integers(1, 100))
def test_the_minimum_cohort_is_the_largest_that_survives(users: int, dropout: float, rounds: int) -> None:
    least, _ = least_cohort(Question(users, rounds, epsilon=1.0, dropout=dropout))
    allowed = (1 - SURVIVAL) / rounds
    answer = binom(users, 1 - dropout)
    assert answer.cdf(least - 1) <= allowed * (1 + 1e-9)
    assert least == users or answer.cdf(least) >= allowed * (1 - 1e-9)


def test_a_federation_is_given_the_noise_that_its_plan_names() -> None:
    raw = {
        "data": {"name": "synthetic", "n_users": 120, "n_items": 90},
        "model": "popularity",
        "federation": {"min_cohort": 100},
        "privacy": {"epsilon": 1.0, "noise": "skellam", "colluders": 6},
    }
    experiment = resolve(raw)
    data = source.load(experiment.data)
    federation = make_federation(experiment, data.catalogue, data.n_users)
    (given_mechanism,) = federation.mechanisms
    found = plan(Question(120, epsilon=1.0, dropout=0.1, corrupt=0.05, coordinates=len(data.catalogue)))
    assert (found.min_cohort, found.colluders) == (given_mechanism.min_cohort, given_mechanism.colluders)
    assert found.noises[0].noise_multiplier == pytest.approx(given_mechanism.noise_multiplier, rel=1e-4)
    assert found.ring_bits == given_mechanism.bits
    assert found.share_std == pytest.approx(given_mechanism.share_std(1), rel=1e-4)


def test_the_default_coordinates_are_a_round_of_the_default_model() -> None:
    experiment = resolve({"data": {"name": "synthetic", "n_users": 20, "n_items": 1682}, "model": "mf"})
    data = source.load(experiment.data)
    last: Release = build(experiment).releases(data.catalogue, Budget(1.0, 20))[-1]
    assert last.size == MF_COORDINATES


def test_secure_aggregation_is_sized_for_the_cohort_that_may_be_left(planned: Plan) -> None:
    sizes = planned.aggregation
    assert sizes is not None
    assert (sizes.n, sizes.corrupt, sizes.dropped) == (1000, planned.colluders, 1000 - planned.min_cohort)
    assert plan(Question(users=100, epsilon=1.0, trust="local")).aggregation is None


def test_more_noise_costs_more_in_recorded_runs(planned: Plan) -> None:
    assert [step.epsilon for step in planned.ladder] == list(LADDER)
    multipliers = [step.noise_multiplier for step in planned.ladder]
    assert multipliers == sorted(multipliers, reverse=True)
    for model in range(3):
        nearest = [step.expected[model].nearest.epsilon or 0 for step in planned.ladder]
        assert nearest == sorted(nearest)
    assert planned.own.epsilon == 2.0


def test_without_a_bound_the_ladder_still_holds_the_plan() -> None:
    found = plan(Question(users=500, noise_multiplier=0.01))
    assert found.epsilon is None
    assert found.own is found.ladder[-1]
    text = "\n".join(plan_lines(found))
    assert "none" in text
    assert "Beyond what was recorded the nearest run is shown: marked >" in text


def test_the_record_holds_every_model_at_every_budget_with_every_seed() -> None:
    found = record()
    assert [(run["model"], run["epsilon"]) for run in found["runs"]] == [
        (model, epsilon) for model in ("mf", "gram", "popularity") for epsilon in (0.5, 1.0, 2.0, 4.0, 8.0, None)
    ]
    for run in found["runs"]:
        assert run["noise_to_signal"] == pytest.approx(run["noise_multiplier"] / found["dataset"]["users"], abs=1e-8)
        for view, metrics in run["seeds"].items():
            for name, values in metrics.items():
                assert len(values) == len(found["seeds"]) == 3
                assert run["mean"][view][name] == pytest.approx(fmean(values), abs=1e-4)


def test_a_recorded_run_speaks_for_itself_and_beyond_its_range_says_so() -> None:
    for run in record()["runs"]:
        if run["epsilon"] is None:
            continue
        (own,) = (one for one in expected(run["noise_to_signal"]) if one.model == run["model"])
        assert own.nearest.epsilon == run["epsilon"]
        assert (own.ratio, own.fit) == (1.0, "within")
    assert {one.fit for one in expected(1e-6)} == {"less noise"}
    assert {one.nearest.epsilon for one in expected(1e-6)} == {8.0}
    assert {one.fit for one in expected(1.0)} == {"more noise"}
    assert {one.nearest.epsilon for one in expected(1.0)} == {0.5}


def test_the_text_and_the_json_hold_the_plan(planned: Plan) -> None:
    found = as_json(planned)
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert found["noises"][0]["noise_multiplier"] == planned.noises[0].noise_multiplier
    assert found["aggregation"]["k"] == planned.aggregation.k if planned.aggregation else False
    assert found["recorded"]["dataset"]["name"] == "ml-100k"
    text = "\n".join(plan_lines(planned))
    for part in (
        f"minimum cohort  {planned.min_cohort}",
        f"{planned.noises[0].noise_multiplier:.4g}",
        found["aggregation"]["described"],
        "109,330 coordinates are a round of the default model",
        "this plan",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--epsilon to plan its noise, or --noise-multiplier to learn its epsilon, one of them"),
        ({"epsilon": 1.0, "noise_multiplier": 1.0}, "one of them"),
        ({"epsilon": 0.0}, "--epsilon must be from 0.01 to 100, not 0.0"),
        ({"epsilon": math.nan}, "--epsilon must be"),
        ({"noise_multiplier": 0.0}, "--noise-multiplier must be from 0.01 to 1e6, not 0.0"),
        ({"epsilon": 1.0, "users": 1}, "--users must be from 2 to 1e9, not 1"),
        ({"epsilon": 1.0, "rounds": 0}, "--rounds must be from 1 to 10000, not 0"),
        ({"epsilon": 1.0, "delta": 1.0}, "--delta must be"),
        ({"epsilon": 1.0, "dropout": 1.0}, "--dropout must be from 0 to below 1, not 1.0"),
        ({"epsilon": 1.0, "corrupt": -0.1}, "--corrupt must be"),
        ({"epsilon": 1.0, "coordinates": 0}, "--coordinates must be"),
        ({"epsilon": 1.0, "resolution": 0.5}, "--resolution must be"),
        ({"epsilon": 1.0, "unit": "usr"}, "--unit cannot be 'usr'. Did you mean 'user'?"),
        ({"epsilon": 1.0, "trust": "nobody"}, "--trust cannot be 'nobody'. Known: central, distributed, local."),
        ({"epsilon": 1.0, "unit": "interaction"}, "--unit interaction needs --interaction-clip"),
        ({"epsilon": 1.0, "corrupt": 0.95}, "leaves nobody honest; raise --users, or lower --dropout or --corrupt"),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refusal:
        plan(Question(**{"users": 100, **options}))
    assert says in str(refusal.value)


@pytest.mark.parametrize(("users", "enough"), [(3, 8), (5, 8)])
def test_too_few_users_for_secure_aggregation_are_told_how_many_would_do(users: int, enough: int) -> None:
    with pytest.raises(UsageError, match=rf"Of {users} users asked, 2 may stay away.*--users {enough}, a smaller"):
        plan(Question(users=users, epsilon=1.0))
    assert plan(Question(users=enough, epsilon=1.0)).aggregation is not None
    assert plan(Question(users=users, epsilon=1.0, trust="local")).aggregation is None


def test_dropouts_that_no_number_of_users_survives_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"which takes more than half of everybody's partners; give a smaller --dropout"
    ):
        plan(Question(users=100, epsilon=1.0, dropout=0.5))


def test_noise_that_no_device_can_draw_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"lower privacy\.resolution"):
        plan(Question(users=100, epsilon=0.5, trust="local", coordinates=10**7))
