"""What an operator is told when a server is made: what it costs a device, and what its policy must allow."""

from __future__ import annotations

import re

import pytest

from fedrec.agreements.request import Request, mechanism_digest
from fedrec.deployment import needs
from fedrec.deployment.experiment import for_devices
from fedrec.device.checks import check_experiment, plan_of
from fedrec.device.policy import Policy
from fedrec.errors import Refusal
from fedrec.federation.planning import make_federation
from tests.deployment.world import catalogue, experiment

SMALL = {"cohort": 5, "min_cohort": 3, "rounds": 2}


def told(**sections: object) -> str:
    mf = {"model": {"name": "mf", "start": "random", "dimension": 2}, "privacy": {"noise_multiplier": 20.0}}
    return "\n".join(needs.lines(for_devices(experiment(**{**mf, **sections}), catalogue()), catalogue()))


def figure(text: str, key: str) -> float:
    found = re.search(rf"{key} = ([0-9.]+)", text)
    assert found is not None, text
    return float(found[1])


def test_a_policy_that_allows_what_is_said_takes_part_and_one_that_allows_less_does_not() -> None:
    resolved = for_devices(
        experiment(
            federation=SMALL,
            model={"name": "mf", "start": "random", "dimension": 2},
            privacy={"noise_multiplier": 0.4},
        ),
        catalogue(),
    )
    text = "\n".join(needs.lines(resolved, catalogue()))
    noise = figure(text, "min_noise_multiplier")
    federation = make_federation(resolved, catalogue(), 5)
    plan = federation.plan(1)
    request = Request(
        experiment=resolved.digest(),
        run="1",
        round=1,
        attempt=0,
        phase="advert",
        cohort=tuple(plan.cohort.users.tolist()),
        roster="0" * 64,
        mechanism=mechanism_digest(
            {**plan.event(), "cohort_choice": "by the server, among the devices that it reached"}
        ),
        model=None,
        expires=2**31,
    )
    enough = Policy(min_cohort=3, min_noise_multiplier=noise * 0.99)
    check_experiment(resolved, request, enough)
    plan_of(federation, request, enough)
    for less in (Policy(min_cohort=4), Policy(min_cohort=3, models=("gram",))):
        with pytest.raises(Refusal):
            check_experiment(resolved, request, less)
    with pytest.raises(Refusal, match="min_noise_multiplier"):
        plan_of(federation, request, Policy(min_cohort=3, min_noise_multiplier=noise * 1.02))


def test_a_round_costs_less_than_all_and_all_less_than_all_with_the_spare_attempts() -> None:
    resolved = for_devices(
        experiment(
            federation=SMALL,
            model={"name": "mf", "start": "random"},
            privacy={"noise_multiplier": "none", "epsilon": 6.0},
        ),
        catalogue(),
    )
    once, whole, most = needs.costs(make_federation(resolved, catalogue(), 5))
    assert once < whole < most <= 6.0
    assert most > 5.9  # the budget is what the noise was made for


def test_the_operator_is_told_what_a_round_sends() -> None:
    resolved = for_devices(experiment(federation=SMALL, model={"name": "mf", "start": "random"}), catalogue())
    federation = make_federation(resolved, catalogue(), 5)
    down, up = needs.sizes(federation)
    assert down == sum(array.nbytes for array in federation.start().shared.values())
    assert up == 4 * federation.plan(1).release.size
    assert f"a model of {down / 1e6:.3g} MB and takes a vector of {up / 1e6:.3g} MB" in told(
        federation=SMALL, model={"name": "mf", "start": "random"}
    )


@pytest.mark.parametrize(
    ("cohort", "least", "may_go"), [(5, 3, "1 may go"), (3, 2, "none may go"), (4, 3, ""), (40, 36, "")]
)
def test_few_devices_are_warned_of(cohort: int, least: int, may_go: str) -> None:
    text = told(federation={"cohort": cohort, "min_cohort": least, "rounds": 1})
    assert (f"of {cohort} devices that begin a round, {may_go}" in text) == bool(may_go)
    assert ("warning" in text) == bool(may_go)


def test_of_local_trust_there_is_nothing_to_warn_of() -> None:
    text = told(federation=SMALL, privacy={"trust": "local", "noise": "skellam", "noise_multiplier": 20.0})
    assert "warning" not in text
    assert 'trust with "local"' in text
