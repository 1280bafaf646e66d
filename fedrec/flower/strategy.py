"""The Strategy: the server's half of a round over Flower's messages. It is the engine that the run loop drives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from logging import WARNING, getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedrec.engines.base import Collected, Engine
from fedrec.engines.fleet import model_bytes
from fedrec.engines.setting import Setting
from fedrec.errors import ContributionError
from fedrec.federation.cohort import partition_of
from fedrec.federation.round import Federation, Plan
from fedrec.flower import transport
from fedrec.flower.codec import decode, record, with_config
from fedrec.flower.node import masks
from fedrec.flower.secure import NodeSums
from fedrec.models.base import Shared
from fedrec.privacy.mechanism import ShardSum

NODES_TIMEOUT_S = 120.0
ROUND_TIMEOUT_S = 3600.0

_log = getLogger("fedrec")

Loop = Callable[[Callable[[Setting], Engine]], object]
"""Runs an experiment on the engine made by its argument: `fedrec.engines.simulate` with the rest bound."""


class FederationStrategy(Strategy):
    """Sends each node the attempt's number and the shared model, checks what comes back, and keeps it in user order.

    Args:
        loop: the run; ``start`` hands it this strategy as its engine.

    Guarantees: a reply counts once, with the names, shapes, values and number of users that the plan wants; anything
    else is rejected and counted, and never enters the sum.
    """

    name = "flower"

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._grid: Grid | None = None
        self._nodes: list[int] = []
        self._federation: Federation | None = None
        self._plan: Plan | None = None
        self._shards: tuple[ShardSum, ...] = ()
        self._answered: set[str] = set()
        self._refused = 0
        self._secure: NodeSums | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 0,
        timeout: float = NODES_TIMEOUT_S,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Wait for the nodes and run the whole experiment."""
        self._grid = grid
        self._nodes = transport.gather_nodes(grid, timeout)
        self.summary()
        self._loop(self._bind)
        return Result(arrays=initial_arrays)

    def summary(self) -> None:
        _log.info("%d nodes", len(self._nodes))

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        """One attempt: the engine's verb."""
        if self._grid is None or self._federation is None:
            raise ContributionError("The strategy was not started; call start(grid, …).")
        self._plan = plan
        if masks(plan, self._federation, len(self._nodes)):
            if self._secure is None:
                self._secure = NodeSums(self._grid, self._nodes, self._federation, ROUND_TIMEOUT_S)
            return self._secure.collect(plan, shared)
        attempt = ConfigRecord({"attempt": plan.attempt})
        messages = list(self.configure_train(plan.round, record(shared), attempt, self._grid))
        replies = transport.exchange(self._grid, messages, ROUND_TIMEOUT_S)
        self.aggregate_train(plan.round, replies)
        silent = len(messages) - len(self._answered)
        rejected = silent + self._refused
        up = sum(array.nbytes for shard in self._shards for array in shard.arrays.values())
        down = len(messages) * model_bytes(shared)
        return Collected(self._shards, rejected, up, down, len(messages), self._plainly(plan))

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """One message for each node that holds users of the cohort."""
        # One content for all: the simulation does not copy it, a deployment stores it once.
        content = with_config(arrays, {"round": server_round, "attempt": int(str(config["attempt"]))})
        return [
            Message(content, node, MessageType.TRAIN, group_id=str(server_round), ttl=ROUND_TIMEOUT_S)
            for partition, node in enumerate(self._nodes)
            if self._expected(partition)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep the good replies in the order of partitions, which is the order of users."""
        good: dict[int, ShardSum] = {}
        self._answered, self._refused = set(), 0
        for reply in replies:
            self._answered.add(reply.metadata.reply_to_message_id)
            try:
                partition, shard = self._checked(reply)
                if partition in good:
                    raise ContributionError(f"partition {partition} answered twice")
                good[partition] = shard
            except ContributionError as error:
                self._refused += 1
                _log.log(WARNING, "round %d: a reply was rejected: %s", server_round, error)
        self._shards = tuple(good[partition] for partition in sorted(good))
        return None, MetricRecord({"shards": len(good)})

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Nothing: a simulation measures on the server, a deployment does not see held-out items."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def _plainly(self, plan: Plan) -> str:
        """Why an attempt's vectors are not masked, in plain words."""
        if plan.mechanism.grid is None or plan.mechanism.trust != "distributed":
            return "plain sum: the server sees what each node sends"
        return (
            f"plain ring sum: {len(self._nodes)} nodes are fewer than the minimum cohort of "
            f"{plan.mechanism.min_cohort} users, so the server sees each node's sum"
        )

    def _bind(self, setting: Setting) -> Engine:
        self._federation = setting.federation
        return self

    def _expected(self, partition: int) -> int:
        """Users of the cohort that a partition holds."""
        if self._plan is None or self._federation is None:
            return 0
        return len(partition_of(self._plan.cohort, partition, len(self._nodes), self._federation.population))

    def _checked(self, reply: Message) -> tuple[int, ShardSum]:
        packet = decode(reply)
        partition, plan = packet.number("partition"), self._plan
        if plan is None or (packet.number("round"), packet.number("attempt")) != (plan.round, plan.attempt):
            raise ContributionError("the reply is of another attempt")
        if not 0 <= partition < len(self._nodes) or self._nodes[partition] != reply.metadata.src_node_id:
            raise ContributionError(f"the sender does not hold partition {partition}")
        plan.release.check(packet.arrays, plan.mechanism.wire)
        shard = ShardSum(packet.arrays, packet.number("users"))
        if shard.n_users != self._expected(partition):
            raise ContributionError(f"partition {partition} speaks for {shard.n_users} users, which it does not hold")
        return partition, shard
