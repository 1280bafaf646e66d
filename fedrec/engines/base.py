"""What an engine is: it brings a planned attempt to the clients and their shard sums back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fedrec.federation.round import Plan
from fedrec.models.base import Shared
from fedrec.privacy.mechanism import ShardSum


@dataclass(frozen=True, eq=False)
class Collected:
    """What came back from an attempt.

    Attributes:
        shards: usable shard sums, in the order of users.
        rejected: replies refused for wrong names, shapes or values, or that never came.
        up_bytes, down_bytes: what all clients together sent and received.
        senders: who sent: users in the fleet, nodes on Flower, where a node answers for its whole shard.
        aggregation: how single vectors were kept from the server, in plain words.
    """

    shards: tuple[ShardSum, ...]
    rejected: int
    up_bytes: int
    down_bytes: int
    senders: int
    aggregation: str


class Engine(Protocol):
    """Where the clients run. Every engine drives the same round."""

    @property
    def name(self) -> str:
        """What the summary calls it."""
        ...

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        """Ask the cohort of an attempt and gather what it sends."""
        ...
