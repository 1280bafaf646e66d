"""What an experiment costs its devices, and what their owners' policies must allow: in lines for the operator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedrec.agreements.terms import terms_of
from fedrec.config import Experiment
from fedrec.data.interactions import Catalogue
from fedrec.device.checks import deployment, noise_multiplier
from fedrec.device.policy import Policy
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation
from fedrec.privacy.accounting import filter_epsilon


def lines(experiment: Experiment, catalogue: Catalogue) -> Iterator[str]:
    """The cost, the policy, and a warning where few devices may go.

    Args:
        experiment: as `fedrec.deployment.experiment.for_devices` resolved it.
        catalogue: its items.
    """
    federation = make_federation(experiment, catalogue, experiment.federation.cohort or 0)
    delta = experiment.privacy.delta
    once, whole, most = costs(federation)
    unit = f"at delta {delta:g}, unit {experiment.privacy.unit}"
    spare = deployment(experiment).spare_attempts
    rounds = f"{federation.rounds} round{'' if federation.rounds == 1 else 's'}"
    yield f"it costs a device epsilon {once:.3g} a round and {whole:.3g} for all {rounds} ({unit})"
    down, up = sizes(federation)
    yield f"a round brings a device a model of {down / 1e6:.3g} MB and takes a vector of {up / 1e6:.3g} MB from it"
    events = [mechanism.events()[experiment.privacy.unit] for mechanism in federation.mechanisms]
    noise = min(noise_multiplier(event) for event in events)
    asked = {
        f'models with "{experiment.model.name}"': True,
        f'trust with "{experiment.privacy.trust}"': True,
        f'unit = "{experiment.privacy.unit}"': experiment.privacy.unit != Policy().unit,
        f"min_cohort = {experiment.federation.min_cohort} or less": True,
        f"min_noise_multiplier = {noise:.3g} or less": noise < Policy().min_noise_multiplier,
        f"epsilon_day = {once:.3g} or more ({whole:.3g} to train all in a day)": True,
        f"epsilon_total = {whole:.3g} or more ({most:.3g} with {spare} attempts again)": True,
    }
    yield "a device takes part whose policy.toml says opt_in = true and allows:"
    yield from (f"  {key}" for key, said in asked.items() if said)
    yield from _warnings(federation)


def costs(federation: Federation) -> tuple[float, float, float]:
    """Epsilon by the filter that refuses: of the costliest round, of all of them, and with every spare attempt used."""
    experiment = federation.experiment
    delta, spare = experiment.privacy.delta, deployment(experiment).spare_attempts
    events = [mechanism.events()[experiment.privacy.unit] for mechanism in federation.mechanisms]
    once, costliest = max(((filter_epsilon([event], delta), event) for event in events), key=lambda one: one[0])
    return once, filter_epsilon(events, delta), filter_epsilon([*events, *[costliest] * spare], delta)


def sizes(federation: Federation) -> tuple[int, int]:
    """Bytes of the model that a round brings, and of the largest vector that one takes."""
    every = zip(federation.releases, federation.mechanisms, strict=True)
    up = max(release.size * np.dtype(mechanism.wire).itemsize for release, mechanism in every)
    return sum(array.nbytes for array in federation.start().shared.values()), up


def _warnings(federation: Federation) -> Iterator[str]:
    """Where fewer devices may go than the minimum cohort lets expect: their secrets take more shares than are left."""
    experiment = federation.experiment
    cohort, least = experiment.federation.cohort or 0, experiment.federation.min_cohort or 0
    if experiment.privacy.trust != "distributed":
        return
    agreed = terms_of(federation, federation.plan(1)).parameters(cohort)
    may_go = agreed.k - agreed.t if agreed.complete else agreed.dropped
    if may_go < cohort - least:
        yield (
            f"warning: of {cohort} devices that begin a round, {may_go or 'none'} may go before its end: the others "
            f"hold the shares of its secrets, and more than half are needed; {cohort - least} may only stay away from "
            "the start, as min_cohort says"
        )
