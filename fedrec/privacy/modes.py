"""Which pairings of training and noise have a proof: the table of five modes, and the refusal of everything else.

What is refused is not known to be unsafe in every case; it has no proof, or a counterexample (the tests hold one for
every pairing of samples that is refused here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedrec.config import Experiment
from fedrec.errors import ConfigError, PrivacyError
from fedrec.release import DpSgd, Release


@dataclass(frozen=True)
class Mode:
    """A row of the table: what is clipped, how often, who adds the noise, and what is promised."""

    number: int
    where: str
    sample: str
    local_steps: str
    noise: str
    guarantee: str


MODES = {
    mode.number: mode
    for mode in (
        Mode(
            1,
            "trust local, unit interaction",
            "one positive with its negatives; the user's vector is clipped and noised with the rest",
            "many",
            "all of it, in every step; floating point, so not formally covered",
            "interaction level, against everyone, the server included",
        ),
        Mode(
            2,
            "unit user",
            "any; clipped for stability alone",
            "many",
            "integer shares, after the whole update is clipped",
            "user level, against whoever sees the sums",
        ),
        Mode(
            3,
            "trust distributed, unit interaction",
            "one positive with its negatives; nothing computed from the user's other interactions",
            "one a round",
            "integer shares, after the sum of clipped gradients is projected and rounded",
            "interaction level from the clip of one, user level from the clip of all: one noise, two guarantees",
        ),
        Mode(
            4,
            "silos of many users, unit user",
            "a user's whole history",
            "one a round with shares, or many with all of the noise in each",
            "integer shares, or in floating point in every step",
            "user level",
        ),
        Mode(
            5,
            "statistics",
            "the statistic",
            "none",
            "integer shares",
            "user level by construction; interaction level for forms with a proved sensitivity",
        ),
    )
}
"""The design's table."""


@dataclass(frozen=True)
class Pairing:
    """What decides the mode of a release, and whether it has a proof.

    Attributes:
        release: its name.
        unit, trust: of the promise.
        sample: what one sample of local training is.
        epochs: passes over a user's own data in a round.
        inside: whether local training carries the noise in every step.
        statistic: whether a statistic is released, not the update of local training.
        bounded: for a statistic, whether a bound on what one interaction changes is proved.
        per_interaction: whether the model takes no input that is computed from a user's other interactions.
    """

    release: str
    unit: Literal["user", "interaction"]
    trust: Literal["distributed", "local", "central"]
    sample: Literal["interaction", "history"] = "interaction"
    epochs: int = 1
    inside: bool = False
    statistic: bool = False
    bounded: bool = False
    per_interaction: bool = False

    @property
    def mode(self) -> int:
        """The row that it would fall under, proved or not."""
        if self.statistic:
            return 5
        if self.unit == "interaction":
            return 1 if self.trust == "local" else 3
        return 4 if self.sample == "history" else 2


def pairing_of(experiment: Experiment, release: Release, per_interaction: bool) -> Pairing:
    """An experiment's pairing for one release of its model."""
    privacy, training = experiment.privacy, experiment.training
    return Pairing(
        release=release.name,
        unit=privacy.unit,
        trust=privacy.trust,
        sample=training.sample,
        epochs=training.epochs,
        inside=experiment.noise_inside,
        statistic=not release.optimise,
        bounded=release.interaction is not None,
        per_interaction=per_interaction,
    )


def mode_of(pairing: Pairing) -> Mode:
    """The proved mode of a pairing.

    Raises:
        PrivacyError: naming the pairing, why nothing is proved for it, and what to set instead.
    """
    fault = _fault(pairing)
    if fault is None:
        return MODES[pairing.mode]
    kind = "a statistic" if pairing.statistic else f"samples of one {pairing.sample}"
    raise PrivacyError(
        f"'{pairing.release}': unit '{pairing.unit}' under trust '{pairing.trust}' with {kind} has no proved "
        f"guarantee: {fault}."
    )


def _fault(pairing: Pairing) -> str | None:
    """Why a pairing has no proof, and what to set; None where it has one."""
    if pairing.statistic:
        return _statistic_fault(pairing)
    if pairing.sample == "history":
        return _history_fault(pairing)
    if pairing.unit == "user":
        return None
    if not pairing.per_interaction:
        return (
            "the user's vector is computed from all interactions, so that each moves the gradients of the others; set "
            "model.user_vector = 'public' where the model has it, or privacy.unit = 'user'"
        )
    if pairing.trust != "local" and pairing.epochs > 1:
        return (
            "a second local step carries an interaction into the gradients of the others; set training.epochs = 1, or "
            "privacy.unit = 'user'"
        )
    return None


def _statistic_fault(pairing: Pairing) -> str | None:
    if pairing.unit == "interaction" and not pairing.bounded:
        return (
            "no bound below a whole replacement is proved on what one interaction changes in it; set privacy.unit = "
            "'user', or a model whose releases have one ('popularity', or 'mf' with start = 'random')"
        )
    if pairing.inside:
        return "the other rounds carry their noise inside of local training; set model.start = 'random'"
    return None


def _history_fault(pairing: Pairing) -> str | None:
    if pairing.unit == "interaction":
        return (
            "a whole history as the sample bounds what a user changes, not what an interaction does; set "
            "training.sample = 'interaction', or privacy.unit = 'user'"
        )
    if pairing.trust != "local" and pairing.epochs > 1:
        return (
            "with shares of the noise only one step a round is covered; set training.epochs = 1, or training.sample = "
            "'interaction', or privacy.trust = 'local'"
        )
    return None


def training_plan(experiment: Experiment, backend: str | None) -> DpSgd | None:
    """How a client trains by clipped samples; None where it does not: a statistic, or plain training of whole updates.

    The noise inside is filled in when it is calibrated.

    Raises:
        ConfigError: for what only Opacus trains, and for regularisation, which is no part of a sample's loss.
    """
    privacy, training = experiment.privacy, experiment.training
    if backend is None:
        return None
    inside, mode = experiment.noise_inside, Pairing("", privacy.unit, privacy.trust, training.sample).mode
    if backend in ("numba", "numpy", "torch") and mode == 2:
        return None
    if backend in ("numba", "numpy") and mode != 3:
        raise ConfigError(
            "NumPy trains on single interactions and adds no noise of its own; set training.backend = 'opacus' for "
            "whole histories as samples, or for noise in every step (unit 'interaction' under trust 'local')."
        )
    if training.regularisation:
        raise ConfigError(
            "training.regularisation acts on what is not part of a clipped sample; set it to 0, or train with "
            "training.backend = 'numpy' and privacy.unit = 'user'."
        )
    many = inside or mode == 2
    return DpSgd(
        clip_norm=privacy.clip_norm if training.sample == "history" else privacy.interaction_clip,
        learning_rate=training.learning_rate if many else 1.0,
        expected_batch=training.batch_size if many else 1,
        sampling_rate=training.sampling_rate,
        steps=max(round(training.epochs / training.sampling_rate), 1) if many else 1,
        sample=training.sample,
        negatives="catalogue" if privacy.unit == "interaction" else "unmet",
        trains_user=many and training.sample == "interaction",
        inside=inside,
        secure=privacy.source == "secure",
    )
