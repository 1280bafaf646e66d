"""What a request, its experiment and its plan are held against: the owner's policy, and what no policy can allow."""

from __future__ import annotations

import math

import numpy as np

from fedrec.agreements.request import SECURE_PHASES, Request, mechanism_digest
from fedrec.config import Experiment
from fedrec.data.sources.devices import DevicesConfig
from fedrec.device.policy import Policy
from fedrec.device.refusals import Code
from fedrec.errors import Refusal
from fedrec.federation.round import Federation, Plan
from fedrec.privacy.events import Event, GaussianEvent
from fedrec.sections import DeploymentConfig

_SKEW = 300
"""Seconds by which two clocks may differ."""

MOST_STEPS, MOST_DRAWS = 1_000, 100_000
"""What local training may take in a round: steps, and negatives drawn, about a quarter of a second of a laptop. More
would let an experiment stretch the time of an answer until it tells how long a history is."""


def deployment(experiment: Experiment) -> DeploymentConfig:
    """What the experiment agrees on for real devices."""
    return experiment.deployment or DeploymentConfig()


def check_experiment(experiment: Experiment, request: Request, policy: Policy) -> None:
    """Refuse what can be seen from an experiment alone.

    Raises:
        Refusal: naming the key.
    """
    privacy, rounds = experiment.privacy, experiment.federation
    if experiment.digest() != request.experiment:
        raise Refusal(Code.EXPERIMENT, "The experiment that came is not the one that the request names.")
    if not isinstance(experiment.data, DevicesConfig):
        raise Refusal(Code.EXPERIMENT, f"data.name = '{experiment.data.name}' is no experiment on devices.")
    if privacy.epsilon is None:
        raise Refusal(Code.PRIVACY_OFF, "The experiment asks for answers without privacy (privacy.epsilon is none).")
    if privacy.trust == "central" or privacy.trust not in policy.trust:
        raise Refusal(Code.TRUST, f"privacy.trust = '{privacy.trust}' is not among what the policy allows.")
    if privacy.source != "secure":
        raise Refusal(Code.NOISE_SOURCE, "The noise would come from a seed that others know (privacy.source).")
    if experiment.noise_inside and not (privacy.unit == policy.unit == "interaction"):
        raise Refusal(
            Code.NOISE_SOURCE,
            "The noise would be floating point inside of local training, which the policy allows for unit "
            "'interaction' alone.",
        )
    if experiment.model.name not in policy.models:
        raise Refusal(Code.MODEL, f"The model '{experiment.model.name}' is not among the policy's models.")
    if rounds.cohort is None or rounds.min_cohort is None:
        raise Refusal(Code.POLICY_COHORT, "The experiment does not say federation.cohort and federation.min_cohort.")
    if rounds.min_cohort < policy.min_cohort:
        raise Refusal(
            Code.POLICY_COHORT,
            f"federation.min_cohort = {rounds.min_cohort} is below the policy's min_cohort = {policy.min_cohort}.",
        )
    _check_trust(experiment, request)
    _check_cohort(experiment, request)
    _check_work(experiment, policy)


def _check_work(experiment: Experiment, policy: Policy) -> None:
    """Refuse training that could take longer than an answer may, by public numbers alone."""
    training, most = experiment.training, policy.most_interactions
    steps = training.epochs * max(math.ceil(most / training.batch_size), math.ceil(1 / training.sampling_rate))
    draws = training.epochs * training.negatives * most
    if steps > MOST_STEPS or draws > MOST_DRAWS:
        raise Refusal(
            Code.WORK,
            f"Local training could take {steps} steps and {draws} negatives with {most} interactions, above "
            f"{MOST_STEPS} and {MOST_DRAWS}; the server must plan less, or most_interactions be lower.",
        )


def check_fresh(experiment: Experiment, request: Request, now: float) -> None:
    """Refuse a request from the future: this device's clock is behind, or the request would be good for too long.

    Raises:
        Refusal: saying by how much.
    """
    ahead = request.expires - deployment(experiment).request_seconds - now
    if ahead > _SKEW:
        raise Refusal(
            Code.CLOCK, f"The request was made {ahead:.0f} s from now by this device's clock; set the clock right."
        )


def _check_trust(experiment: Experiment, request: Request) -> None:
    if (request.phase in SECURE_PHASES) != (experiment.privacy.trust == "distributed"):
        raise Refusal(
            Code.PHASE,
            f"Phase '{request.phase}' does not belong to privacy.trust = '{experiment.privacy.trust}': a share of the "
            "noise is never sent in the clear.",
        )


def _check_cohort(experiment: Experiment, request: Request) -> None:
    least, most = experiment.federation.min_cohort or 0, experiment.federation.cohort or 0
    if not least <= len(request.cohort) <= most:
        raise Refusal(
            Code.COHORT, f"{len(request.cohort)} devices are asked, where the experiment plans {least} to {most}."
        )


def plan_of(federation: Federation, request: Request, policy: Policy) -> Plan:
    """This device's own plan of the attempt.

    Raises:
        Refusal: if there is no such round, the plan is another than the server's, or the policy does not allow it.
    """
    if request.round > federation.rounds:
        raise Refusal(Code.ROUND, f"Round {request.round} is not among the experiment's {federation.rounds} rounds.")
    plan = federation.plan(request.round, request.attempt, np.array(request.cohort, np.int64))
    mechanism = plan.mechanism
    if mechanism_digest(plan.event()) != request.mechanism:
        raise Refusal(Code.MECHANISM, "The server plans this round with another mechanism than this device does.")
    if mechanism.grid is None and mechanism.inside is None:
        raise Refusal(Code.NOISE_SOURCE, "The noise would be floating point, which is no guarantee.")
    event = mechanism.events().get(policy.unit)
    if event is None:
        raise Refusal(Code.UNIT, f"The experiment promises nothing at unit '{policy.unit}', which the policy is about.")
    if (noise := noise_multiplier(event)) < policy.min_noise_multiplier:
        raise Refusal(
            Code.NOISE,
            f"The noise is {noise:.4g} times what one {policy.unit} can move, below the policy's min_noise_multiplier "
            f"= {policy.min_noise_multiplier:g}.",
        )
    return plan


def noise_multiplier(event: Event) -> float:
    """Standard deviation of the noise over the sensitivity, rounding to integers included."""
    return event.noise_multiplier if isinstance(event, GaussianEvent) else math.sqrt(event.variance) / event.l2
