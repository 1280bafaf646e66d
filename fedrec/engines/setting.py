"""An experiment with its data: loaded, split, and checked before anything is written."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.config import Experiment
from fedrec.data import source
from fedrec.data.interactions import Interactions
from fedrec.data.splits import Split, split
from fedrec.errors import PrivacyWarning
from fedrec.evaluation.protocol import Evaluator
from fedrec.evaluation.ranking import Scorer
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation
from fedrec.models.base import Recommender, Shared, require_extras
from fedrec.privacy.budget import check_budget


@dataclass(frozen=True, eq=False)
class Setting:
    """An experiment with its data, which is held in the parts of its split alone."""

    experiment: Experiment
    split: Split
    federation: Federation

    @cached_property
    def evaluator(self) -> Evaluator:
        """What measures a model; a client never needs it."""
        negatives = source.published_negatives(self.experiment.data, self.split.train)
        return Evaluator(self.split, self.experiment.evaluation, self.federation.key, negatives)

    def quickly(self, shared: Shared) -> dict[str, Any]:
        """Validation metrics, as they are followed from round to round."""
        return self.evaluator.validation(scorer(self.federation.model, shared), quick=True)


def load_setting(experiment: Experiment) -> Setting:
    """Load and split: all that a client needs.

    Raises:
        DataError: the data cannot be read, or nothing of it can be held out.
        ConfigError: the experiment does not fit the data.
    """
    data = source.load(experiment.data)
    federation = make_federation(experiment, data.catalogue, data.n_users)
    return Setting(experiment, split(data, experiment.split, federation.key), federation)


def prepare(experiment: Experiment) -> Setting:
    """Load, split and check everything that can be wrong before anything is written.

    Raises:
        DataError: the data cannot be read, or nothing of it can be held out.
        ConfigError: the experiment does not fit the data.
        BudgetExceededError: not even the first round fits the budget.
        MissingExtraError: an optional package that local training takes is not installed.
    """
    setting = load_setting(experiment)
    require_extras(setting.federation.model)
    privacy, n_users = experiment.privacy, setting.split.train.n_users
    first = setting.federation.mechanisms[0]
    if first.private:
        check_budget(1, [first.events()[first.unit]], privacy.epsilon, privacy.delta)
    if first.private and privacy.delta >= 1 / n_users:
        warnings.warn(
            f"privacy.delta = {privacy.delta:g} is not below 1/users = {1 / n_users:.2g}: at that delta the "
            "promise may fail for one whole user; lower it.",
            PrivacyWarning,
            stacklevel=2,
        )
    _ = setting.evaluator  # built now, because it refuses data on which nothing can be measured
    return setting


def scorer(model: Recommender, shared: Shared) -> Scorer:
    """A function from users' histories to scores ``[C, n_items]``, as a device would compute them."""

    def score(users: Interactions) -> npt.NDArray[np.float32]:
        return model.score(shared, model.personalise(shared, users))

    return score
