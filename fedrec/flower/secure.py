"""The server's half of secure aggregation over Flower's messages: four a node and round, and no vector in the clear."""

from __future__ import annotations

from collections.abc import Mapping
from logging import WARNING, getLogger

from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid

from fedrec.engines.base import Collected
from fedrec.engines.fleet import model_bytes
from fedrec.errors import ContributionError, RoundFailedError
from fedrec.federation.round import Federation, Plan
from fedrec.flower import transport
from fedrec.flower.codec import Value, decode, encode, record, with_config
from fedrec.flower.node import pack, roster_of, terms_of
from fedrec.models.base import Shared
from fedrec.privacy.mechanism import ShardSum
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase
from fedrec.secagg.server import Server
from fedrec.secagg.session import Member

_log = getLogger("fedrec")


class SecureSums:
    """Opens one sum an attempt, of the nodes that went all the way.

    Args:
        grid: Flower's.
        nodes: node ids in the order of their partitions, who are the participants.
        federation: what is run.
        timeout_s: how long a phase waits for its replies, in seconds.

    Guarantees: the server sees masked vectors, and their sum only when nodes that stand for the minimum cohort have
    agreed on whose vectors are in it. What that rests on is stated in `fedrec.secagg`.
    """

    def __init__(self, grid: Grid, nodes: list[int], federation: Federation, timeout_s: float) -> None:
        self._grid, self._nodes, self._federation, self._timeout = grid, nodes, federation, timeout_s
        self._members = self._enrol()
        self._adverts: dict[Attempt, Mapping[int, bytes]] = {}
        self._seen: set[bytes] = set()

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        """One attempt.

        Raises:
            RoundFailedError: if too few nodes are left; nothing was unmasked then.
        """
        roster, terms = roster_of(self._members, self._federation, plan), terms_of(self._federation, plan)
        attempt = Attempt(plan.round, plan.attempt)
        server = Server(
            terms,
            roster,
            attempt,
            roster,
            plan.release.size,
            dtype=plan.mechanism.wire,
            adverts=self._adverts.pop(attempt, None),
            following=Attempt(plan.round + 1, 0) if plan.round < self._federation.rounds else NO_ATTEMPT,
            seen=self._seen,
        )
        model = record(shared)
        up = down = 0
        while True:
            sent, received = self._phase(server, plan, model if server.phase is Phase.MASKED else ArrayRecord())
            up, down = up + received, down + sent
            if server.phase is Phase.UNMASK:
                break
            server.advance()
        result = server.finish()
        for holder, owner in result.wrong:
            _log.log(WARNING, "round %d: nodes %d and %d disagree on a share; one lies", plan.round, holder, owner)
        self._adverts = {Attempt(plan.round + 1, 0): result.adverts}
        shard = ShardSum(plan.release.split(result.total), result.users)
        return Collected(
            (shard,),
            len(roster) - len(result.survivors),
            up,
            down + len(roster) * model_bytes(shared),
            len(roster),
            f"secure aggregation: {terms.parameters(len(roster)).describe()}",
        )

    def _enrol(self) -> list[Member]:
        """Every node's public keys.

        Raises:
            RoundFailedError: if a node does not give them.
        """
        asked = [Message(encode({}, {}), node, f"{MessageType.QUERY}.join", ttl=self._timeout) for node in self._nodes]
        members = {}
        for reply in transport.exchange(self._grid, asked, self._timeout):
            packet = decode(reply)
            members[reply.metadata.src_node_id] = Member(packet.blob("identity"), packet.blob("channel"))
        if missing := len(set(self._nodes) - set(members)):
            raise RoundFailedError(f"{missing} of {len(self._nodes)} nodes gave no keys within {self._timeout:g} s.")
        return [members[node] for node in self._nodes]

    def _phase(self, server: Server, plan: Plan, model: ArrayRecord) -> tuple[int, int]:
        """One message to each participant that is still in; returns the protocol's bytes sent and received."""
        where: dict[str, Value] = {"round": plan.round, "attempt": plan.attempt}
        if server.phase is Phase.ADVERT:
            where["roster"] = pack(self._members)
        kind = f"{MessageType.TRAIN}.{server.phase.name.lower()}"
        messages = [
            Message(
                with_config(model, {**where, "message": text}),
                self._nodes[who],
                kind,
                group_id=str(plan.round),
                ttl=self._timeout,
            )
            for who, text in server.routes.items()
        ]
        sent, received = sum(len(text) for text in server.routes.values()), 0
        for reply in transport.exchange(self._grid, messages, self._timeout):
            try:
                text = decode(reply).blob("message")
                server.receive(self._nodes.index(reply.metadata.src_node_id), text)
                received += len(text)
            except ContributionError as error:
                _log.log(WARNING, "round %d: a reply was rejected: %s", plan.round, error)
        return sent, received
