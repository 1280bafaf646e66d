"""The fleet: every client in this process, trained together in array operations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.engines.base import Collected
from fedrec.federation.round import Plan, client_round
from fedrec.models.base import Recommender, Shared

IN_PROCESS = "simulated: every client is in this process, and only their sum is looked at"


@dataclass(frozen=True, eq=False)
class Fleet:
    """Drives a round in process: the cohort is one shard, so its noise shares are drawn as one.

    Attributes:
        model: the recommender.
        train: every user's training history.
    """

    model: Recommender
    train: Interactions
    name: str = "fleet"

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        shard = client_round(self.model, shared, self.train.take(plan.cohort.users), plan, part=0)
        clients = len(plan.cohort.users)
        return Collected(
            shards=(shard,),
            rejected=shard.rejected,
            up_bytes=clients * sum(array.nbytes for array in shard.arrays.values()),
            down_bytes=clients * model_bytes(shared),
            senders=clients,
            aggregation=IN_PROCESS,
        )


def model_bytes(shared: Shared) -> int:
    """Bytes of a shared model as it is sent."""
    return int(sum(np.asarray(array).nbytes for array in shared.values()))
