"""The recommender: what is shared, what is personal, what a client contributes, how a device scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fedrec.config import Experiment, FederationConfig, ModelConfig, TrainingConfig
from fedrec.contribution import Contribution, Floats
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.errors import ConfigError, MissingExtraError
from fedrec.randomness import Key
from fedrec.registry import MODELS
from fedrec.release import Release

Shared = Mapping[str, npt.NDArray[Any]]
"""The shared model: named arrays, float32 or integer; what the server sends and publishes."""

Form = tuple[str, tuple[int, ...]]
"""An array's type and shape."""

Personal = Mapping[str, npt.NDArray[Any]]
"""What C users keep on their devices: named arrays whose first axis is the user."""


@dataclass(frozen=True)
class Budget:
    """What a model may know when it plans its releases; public.

    Attributes:
        noise_multiplier: of the whole run, as if it were one release (0 without privacy).
        n_users: the cohort's size.
    """

    noise_multiplier: float
    n_users: int


@dataclass(frozen=True)
class Total:
    """What the server learns from a round, back in the components' own units.

    Attributes:
        arrays: by component: the noised sum over users for a statistic, the server optimizer's step for an update.
        noise_std: standard deviation of the noise in each coordinate of an array (0 without privacy).
        n_users: how many users are in the sum.
    """

    arrays: Mapping[str, Floats]
    noise_std: Mapping[str, float]
    n_users: int


@dataclass(frozen=True)
class Recommender(ABC):
    """A model of either kind: statistic models sum clipped statistics, trained models sum deltas of local training.

    Every verb is pure: the same arguments give the same result, and nothing given is changed.
    """

    Config: ClassVar[type[ModelConfig]]

    backends: ClassVar[tuple[str, ...]] = ()
    """Where its local training can run, the default first; none for a statistic model."""

    config: Any  # the model's own Config; Any because a subclass narrows it
    training: TrainingConfig
    federation: FederationConfig
    workers: int = field(default=1, kw_only=True)
    """Threads that share out compiled training; they change no bit of a result."""

    @property
    def backend(self) -> str | None:
        """Where its local training runs; None for a statistic model."""
        if self.training.backend != "auto" and self.backends:
            return self.training.backend
        compiles = not self.training.regularisation and find_spec("numba") is not None
        return next((backend for backend in self.backends if backend != "numba" or compiles), None)

    @property
    def per_interaction(self) -> bool:
        """Whether local training takes no input that is computed from a user's other interactions."""
        return False

    @abstractmethod
    def releases(self, catalogue: Catalogue, budget: Budget) -> tuple[Release, ...]:
        """The run's rounds, one release each; public, and fixed before the first round."""

    @abstractmethod
    def init(self, catalogue: Catalogue, key: Key) -> Shared:
        """The shared model before the first round."""

    def forms(self, catalogue: Catalogue, done: Sequence[Release]) -> Mapping[str, Form] | None:
        """The shared model's arrays once these releases are done, as configuration and catalogue alone tell.

        A device holds what it is sent against them. None where they do not tell: such a round is refused there.
        """
        if not all(release.optimise for release in done):
            return None
        start = self.init(catalogue, Key(0))
        return {name: (array.dtype.name, array.shape) for name, array in start.items()}

    @abstractmethod
    def contribute(self, shared: Shared, users: Interactions, release: Release, key: Key) -> Contribution:
        """What C users would send, before clipping and noise; one user's part depends on no other user."""

    @abstractmethod
    def apply(self, shared: Shared, total: Total, release: Release, catalogue: Catalogue) -> Shared:
        """The shared model after a round."""

    @abstractmethod
    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        """What C users compute from their own history, on the device; never sent."""

    @abstractmethod
    def score(self, shared: Shared, personal: Personal) -> npt.NDArray[np.float32]:
        """Scores of every item for C users, ``[C, n_items]``; higher is better."""


def build(experiment: Experiment) -> Recommender:
    """The experiment's model.

    Raises:
        ConfigError: if its local training does not run where it is asked to.
    """
    name = experiment.model.name
    model: Recommender = MODELS.get(name)(
        experiment.model, experiment.training, experiment.federation, workers=experiment.engine.workers
    )
    if model.backend is not None and model.backend not in model.backends:
        raise ConfigError(
            f"The model '{name}' does not train with training.backend = '{model.backend}'; take '{model.backends[0]}'."
        )
    if model.backend == "numba" and experiment.training.regularisation:
        raise ConfigError(
            "training.backend = 'numba' does not regularise; take 'numpy', or training.regularisation = 0."
        )
    return model


def require_extras(model: Recommender) -> None:
    """Refuse to train where what it takes is not installed; planning and scoring need none of it.

    Raises:
        MissingExtraError: naming the extra.
    """
    if model.backend in ("torch", "opacus") and find_spec("opacus") is None:
        raise MissingExtraError("Local training with torch", "torch")
    if model.backend == "numba" and find_spec("numba") is None:
        raise MissingExtraError("Local training compiled by numba", "fast")
