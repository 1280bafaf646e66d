"""Popularity: everyone is recommended what many met. The yardstick that a private model must beat."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedrec.config import ModelConfig
from fedrec.contribution import Contribution, Rows
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.models.base import Budget, Personal, Recommender, Shared, Total
from fedrec.randomness import Key
from fedrec.registry import MODELS
from fedrec.release import Component, Release


class PopularityConfig(ModelConfig):
    """Settings of `Popularity`.

    Attributes:
        least: a history shorter than this is scaled as if it were as long: one interaction then moves a contribution by
            no more than 1/√least, for which unit ``interaction`` pays.
    """

    name: Literal["popularity"] = "popularity"
    least: int = Field(1, ge=1)


@MODELS.register("popularity")
class Popularity(Recommender):
    """One round: each client contributes x / max(‖x‖, √least), so that a heavy user weighs no more than a light one.

    Guarantees: a user's vector has norm at most 1 by construction. One interaction of n moves it by 1/√least up to
    n = least; above, by √(2 - 2√(1 - 1/n)), which is at most 1/√(n - 1) and so no more than 1/√least either.
    """

    Config = PopularityConfig
    config: PopularityConfig

    def releases(self, catalogue: Catalogue, budget: Budget) -> tuple[Release, ...]:
        parts = (Component("popularity", (len(catalogue),)),)
        return (Release("popularity", parts, share=1.0, clip_norm=1.0, interaction=self.config.least**-0.5),)

    def init(self, catalogue: Catalogue, key: Key) -> Shared:
        return {}

    def contribute(self, shared: Shared, users: Interactions, release: Release, key: Key) -> Contribution:
        return Contribution({"popularity": normalised_history(users, self.config.least)}, users.n_users)

    def apply(self, shared: Shared, total: Total, release: Release, catalogue: Catalogue) -> Shared:
        return {**shared, "popularity": total.arrays["popularity"].astype(np.float32)}

    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        return {"events": users.counts}

    def score(self, shared: Shared, personal: Personal) -> npt.NDArray[np.float32]:
        popularity: npt.NDArray[Any] = shared["popularity"]
        return np.broadcast_to(popularity, (len(personal["events"]), len(popularity)))


def normalised_history(users: Interactions, least: int = 1) -> Rows:
    """Histories x / max(‖x‖, √least) of C users, as rows; a user without events contributes zero."""
    values = 1.0 / np.sqrt(np.maximum(users.counts, least)[users.user_of_event])
    return Rows(users.indptr, users.items, values, users.n_items)
