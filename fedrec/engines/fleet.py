"""The fleet: every client in this process, trained together in array operations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.engines.base import Collected
from fedrec.federation.round import Plan, client_round
from fedrec.models.base import Recommender, Shared

IN_PROCESS = "simulated: every client is in this process, and only their sum is looked at"
ONE_BY_ONE = "simulated: every client is in this process, and each one's vector is looked at"


@dataclass(frozen=True, eq=False)
class Fleet:
    """Drives a round in process: the cohort is one shard, so its noise shares are drawn as one.

    Where aggregation is robust (`fedrec.federation.robust`), every user is a shard, as every device would be.

    Attributes:
        model: the recommender.
        train: every user's training history.
    """

    model: Recommender
    train: Interactions
    name: str = "fleet"

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        users, clients = plan.cohort.users, len(plan.cohort.users)
        if self.model.federation.aggregation == "sum":
            shards = [client_round(self.model, shared, self.train.take(users), plan, part=0)]
        else:
            one_by_one = np.split(users, clients)
            shards = [client_round(self.model, shared, self.train.take(one), plan, int(one[0])) for one in one_by_one]
        return Collected(
            shards=tuple(shards),
            rejected=sum(shard.rejected for shard in shards),
            up_bytes=clients * sum(array.nbytes for array in shards[0].arrays.values()),
            down_bytes=clients * model_bytes(shared),
            senders=clients,
            aggregation=IN_PROCESS if len(shards) == 1 else ONE_BY_ONE,
        )


def model_bytes(shared: Shared) -> int:
    """Bytes of a shared model as it is sent."""
    return int(sum(np.asarray(array).nbytes for array in shared.values()))
