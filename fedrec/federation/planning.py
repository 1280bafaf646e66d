"""From an experiment to a federation: the model's releases, and a mechanism for each, calibrated to the budget."""

from __future__ import annotations

import math
from dataclasses import replace

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


def make_federation(experiment: Experiment, catalogue: Catalogue, population: int) -> Federation:
    """Resolve an experiment against its data: releases, calibrated noise, cohort.

    Raises:
        ConfigError: if the cohort is larger than the population, or the minimum cohort than the cohort.
        PrivacyError: if no proof covers the model under the experiment's unit and trust.
    """
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
    releases = _releases(experiment, model, catalogue, cohort)
    mechanisms = tuple(
        _mechanism(experiment, release, sigma, cohort)
        for release, sigma in zip(releases, _noise_multipliers(experiment, releases, cohort), strict=True)
    )
    releases = tuple(
        release if mechanism.inside is None else replace(release, dpsgd=mechanism.inside)
        for release, mechanism in zip(releases, mechanisms, strict=True)
    )
    return Federation(experiment, model, catalogue, population, releases, mechanisms)


def _releases(experiment: Experiment, model: Recommender, catalogue: Catalogue, cohort: int) -> tuple[Release, ...]:
    """The model's releases, each with how its update is trained, and refused where nothing is proved for it."""
    plan = training_plan(experiment, model.backend)
    bound = plan.interaction if plan is not None and model.per_interaction else None
    releases = tuple(
        replace(release, dpsgd=plan, interaction=bound) if release.optimise else release
        for release in model.releases(catalogue, Budget(_one_release(experiment), cohort))
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
    the whole run costs the same.
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

    def events(whole: float) -> list[Event]:
        planned = zip(releases, split(whole), strict=True)
        return [_mechanism(experiment, release, sigma, cohort).events()[privacy.unit] for release, sigma in planned]

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
