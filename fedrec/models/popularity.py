"""Popularity: everyone is recommended what many met. The yardstick that a private model must beat."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedrec.config import ModelConfig
from fedrec.contribution import Component, Contribution, Release, Rows
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.models.base import Budget, Personal, Recommender, Shared, Total
from fedrec.randomness import Key
from fedrec.registry import MODELS


class PopularityConfig(ModelConfig):
    """Popularity has no options."""

    name: Literal["popularity"] = "popularity"


@MODELS.register("popularity")
class Popularity(Recommender):
    """One round: each client contributes x / ‖x‖, so that a heavy user weighs no more than a light one.

    Guarantees: sensitivity 1 by construction.
    """

    Config = PopularityConfig
    config: PopularityConfig

    def releases(self, catalogue: Catalogue, budget: Budget) -> tuple[Release, ...]:
        return (Release("popularity", (Component("popularity", (len(catalogue),)),), share=1.0, clip_norm=1.0),)

    def init(self, catalogue: Catalogue, key: Key) -> Shared:
        return {}

    def contribute(self, shared: Shared, users: Interactions, release: Release, key: Key) -> Contribution:
        return Contribution({"popularity": normalised_history(users)}, users.n_users)

    def apply(self, shared: Shared, total: Total, release: Release, catalogue: Catalogue) -> Shared:
        return {**shared, "popularity": total.arrays["popularity"].astype(np.float32)}

    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        return {"events": users.counts}

    def score(self, shared: Shared, personal: Personal) -> npt.NDArray[np.float32]:
        popularity: npt.NDArray[Any] = shared["popularity"]
        return np.broadcast_to(popularity, (len(personal["events"]), len(popularity)))


def normalised_history(users: Interactions) -> Rows:
    """Normalised histories x / ‖x‖ of C users, as rows; a user without events contributes zero."""
    values = 1.0 / np.sqrt(users.counts[users.user_of_event])
    return Rows(users.indptr, users.items, values, users.n_items)
