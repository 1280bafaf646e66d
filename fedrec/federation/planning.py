"""From an experiment to a federation: the model's releases, and a mechanism for each, calibrated to the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fedrec.config import Experiment
from fedrec.data.interactions import Catalogue
from fedrec.errors import ConfigError, PrivacyError
from fedrec.federation.cohort import choose
from fedrec.federation.round import Federation
from fedrec.models.base import Budget, Recommender, build
from fedrec.privacy import accounting
from fedrec.privacy.events import Event, GaussianEvent
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanism import Mechanism
from fedrec.privacy.modes import mode_of, pairing_of, training_plan
from fedrec.randomness import Key
from fedrec.release import Release


@dataclass(frozen=True)
class Calibration:
    """The part of a plan that takes accountants, and seconds: a phone is told it by a process that has them.

    Attributes:
        whole: noise multiplier of the whole run as if it were one Gaussian release: what a model may plan with.
        rounds: each round's noise multiplier.
    """

    whole: float
    rounds: tuple[float, ...]


def calibrate(experiment: Experiment, catalogue: Catalogue, population: int) -> Calibration:
    """The noise that brings an experiment to its budget, for `make_federation`; raises what that raises."""
    whole = _one_release(experiment)
    model, cohort = _model_and_cohort(experiment, population)
    releases = _releases(experiment, model, catalogue, cohort, whole)
    return Calibration(whole, tuple(_noise_multipliers(experiment, releases, cohort)))


def make_federation(
    experiment: Experiment, catalogue: Catalogue, population: int, calibration: Calibration | None = None
) -> Federation:
    """Resolve an experiment against its data: releases, calibrated noise, cohort.

    Args:
        experiment: what to run.
        catalogue: the public items.
        population: number of users.
        calibration: what `calibrate` found for these very arguments; None finds it.

    Raises:
        ConfigError: if the cohort is larger than the population, the minimum cohort than the cohort, or the calibration
            is of other rounds.
        PrivacyError: if no proof covers the model under the experiment's unit and trust.
    """
    whole = _one_release(experiment) if calibration is None else calibration.whole
    model, cohort = _model_and_cohort(experiment, population)
    releases = _releases(experiment, model, catalogue, cohort, whole)
    sigmas = _noise_multipliers(experiment, releases, cohort) if calibration is None else calibration.rounds
    if len(sigmas) != len(releases):
        raise ConfigError(f"A calibration of {len(sigmas)} rounds does not fit the {len(releases)} of this experiment.")
    mechanisms = tuple(
        _mechanism(experiment, release, sigma, cohort) for release, sigma in zip(releases, sigmas, strict=True)
    )
    releases = tuple(
        release if mechanism.inside is None else replace(release, dpsgd=mechanism.inside)
        for release, mechanism in zip(releases, mechanisms, strict=True)
    )
    return Federation(experiment, model, catalogue, population, releases, mechanisms)


def _model_and_cohort(experiment: Experiment, population: int) -> tuple[Recommender, int]:
    """The model, and how many users a round asks, checked against the least that it needs."""
    model = build(experiment)
    cohort = len(choose(population, experiment.federation.cohort, Key(experiment.seed)).users)
    least = experiment.federation.min_cohort or cohort
    if least > cohort:
        raise ConfigError(f"federation.min_cohort = {least} is larger than the cohort of {cohort} users; lower it.")
    if experiment.privacy.colluders >= least:
        raise ConfigError(
            f"privacy.colluders = {experiment.privacy.colluders} leaves no honest user in the minimum cohort of "
            f"{least}; lower it."
        )
    return model, cohort


def _releases(
    experiment: Experiment, model: Recommender, catalogue: Catalogue, cohort: int, whole: float
) -> tuple[Release, ...]:
    """The model's releases, each with how its update is trained, and refused where nothing is proved for it."""
    plan = training_plan(experiment, model.backend)
    bound = plan.interaction if plan is not None and model.per_interaction else None
    releases = tuple(
        replace(release, dpsgd=plan, interaction=bound) if release.optimise else release
        for release in model.releases(catalogue, Budget(whole, cohort))
    )
    if experiment.privacy.epsilon is not None:
        for release in releases:
            mode_of(pairing_of(experiment, release, model.per_interaction))
    return releases


def _one_release(experiment: Experiment) -> float:
    """The noise multiplier of the whole run as if it were one Gaussian release: what a model may plan with."""
    privacy = experiment.privacy
    if privacy.epsilon is None:
        return 0.0
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    return accounting.calibrate_events(privacy.epsilon, privacy.delta, lambda sigma: [GaussianEvent(sigma)])


def _noise_multipliers(experiment: Experiment, releases: tuple[Release, ...], cohort: int) -> list[float]:
    """Each release's noise multiplier: given, calibrated to the budget, or 0 without privacy.

    A given one is that of equal rounds; where rounds have unequal shares, each gets the noise that its share buys, and
    the whole run costs the same. A deployment's spare attempts are in the budget, each at the price of the costliest
    round.
    """
    privacy, shares = experiment.privacy, [release.share for release in releases]
    if min(shares) <= 0 or not math.isclose(math.fsum(shares), 1.0, rel_tol=1e-9):
        raise PrivacyError(f"A model's budget shares must be positive and sum to 1, not {shares}.")
    if privacy.epsilon is None:
        return [0.0] * len(shares)
    if privacy.noise_multiplier is not None:
        return [privacy.noise_multiplier / math.sqrt(len(shares) * share) for share in shares]

    def split(whole: float) -> list[float]:
        return [whole / math.sqrt(share) for share in shares]

    costliest = shares.index(max(shares))
    spare = experiment.deployment.spare_attempts if experiment.deployment is not None else 0

    def events(whole: float) -> list[Event]:
        planned = zip(releases, split(whole), strict=True)
        once = [_mechanism(experiment, release, sigma, cohort).events()[privacy.unit] for release, sigma in planned]
        return once + spare * [once[costliest]]

    return split(accounting.calibrate_events(privacy.epsilon, privacy.delta, events))


def _mechanism(experiment: Experiment, release: Release, sigma: float, cohort: int) -> Mechanism:
    """A release's mechanism with the noise multiplier ``sigma``."""
    privacy = experiment.privacy
    if release.dpsgd is not None and release.dpsgd.inside:
        return Mechanism(
            noise_multiplier=sigma,
            clip_norm=release.dpsgd.clip_norm,
            trust=privacy.trust,
            min_cohort=experiment.federation.min_cohort or cohort,
            colluders=privacy.colluders,
            unit=privacy.unit,
            interaction=release.dpsgd.clip_norm,
            inside=replace(release.dpsgd, noise_multiplier=sigma),
        )
    mechanism = Mechanism(
        noise_multiplier=sigma,
        clip_norm=(release.clip_norm or privacy.clip_norm) if sigma else math.inf,
        trust=privacy.trust,
        min_cohort=experiment.federation.min_cohort or cohort,
        colluders=privacy.colluders,
        unit=privacy.unit,
        interaction=release.interaction,
    )
    if experiment.noise != "skellam":
        return mechanism
    grid = Grid.fine(release.size, mechanism.clip_norm, mechanism.sensitivity, privacy.resolution)
    return replace(mechanism, grid=grid, bits=grid.bits(cohort, mechanism.total_std(cohort) * grid.scale))
