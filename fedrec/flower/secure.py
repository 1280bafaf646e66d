"""The server's half of secure aggregation over Flower's messages: four a node and round, and no vector in the clear."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import WARNING, getLogger

from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrec.agreements.terms import terms_of
from fedrec.engines.base import Collected
from fedrec.errors import ContributionError, NothingAskedError, RoundFailedError
from fedrec.federation.round import Federation, Plan
from fedrec.flower import transport
from fedrec.flower.codec import Packet, Value, decode, encode, record, with_config
from fedrec.flower.node import pack, roster_of
from fedrec.models.base import Shared
from fedrec.privacy.mechanism import ShardSum
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase
from fedrec.secagg.server import Server
from fedrec.secagg.session import Member, Roster, Terms

_log = getLogger("fedrec")

REFUSED = "refused"
"""The one key of a reply that says no."""


@dataclass(frozen=True)
class Exchanged:
    """What one phase brought.

    Attributes:
        phase: its name.
        asked, answered: participants.
        refused: of those asked, who said no.
        rejected: replies that were none, or broke the protocol.
        up_bytes, down_bytes: of the contents received and sent.
        missing: who gave no answer that counted: silent, refused or rejected.
        seconds: from the first message to the last reply, or the deadline.
    """

    phase: str
    asked: int
    answered: int
    refused: int
    rejected: int
    up_bytes: int
    down_bytes: int
    missing: frozenset[int]
    seconds: float

    @property
    def silent(self) -> int:
        """How many did not answer in time."""
        return self.asked - self.answered - self.refused - self.rejected


@dataclass(frozen=True)
class Group:
    """Who takes part in an attempt.

    Attributes:
        terms: of secure aggregation.
        roster: keys by participant: all that are asked.
        nodes: their node ids.
    """

    terms: Terms
    roster: Roster
    nodes: Mapping[int, int]


Content = Callable[[int, str, bytes], RecordDict]
"""A message's content, from the participant, the phase's name and what secure aggregation has to say to it."""

Take = Callable[[int, Packet], int]
"""Takes a participant's decoded reply and returns its bytes; raises ContributionError if it is none."""

Check = Callable[[str, int, Packet], None]
"""Raises ContributionError for a reply, to a phase, that is not the participant's own."""


def ask(
    grid: Grid, phase: str, contents: Mapping[int, tuple[int, RecordDict]], take: Take, timeout_s: float, group: str
) -> Exchanged:
    """One message to each participant, and each one's first reply.

    Args:
        grid: Flower's.
        phase: its name; "train" is Flower's plain training message.
        contents: by participant, its node and what it is sent.
        take: what is done with a reply.
        timeout_s: how long the replies may take, in seconds; then the messages expire as well.
        group: what Flower's logs call it.

    Guarantees: a reply counts only for the node that it was asked of, and nothing that a node sends raises here.
    """
    began = time.monotonic()
    kind = MessageType.TRAIN if phase == "train" else f"{MessageType.TRAIN}.{phase}"
    who_of = {node: who for who, (node, _) in contents.items()}
    sent = [Message(content, node, kind, group_id=group, ttl=timeout_s) for node, content in contents.values()]
    answered, refused, rejected, up = set[int](), set[int](), set[int](), 0
    for reply in transport.exchange(grid, sent, timeout_s):
        who = who_of.get(reply.metadata.src_node_id)
        if who is None:  # an error that Flower itself made
            continue
        try:
            packet = decode(reply)
            if REFUSED in packet.config:
                refused.add(who)
                continue
            up += take(who, packet)
            answered.add(who)
        except ContributionError as error:
            rejected.add(who)
            _log.log(WARNING, "%s: a reply of participant %d was rejected: %s", phase, who, error)
        except Exception:  # whatever a node makes up, it costs that node's part alone
            rejected.add(who)
            _log.exception("%s: a reply of participant %d was not understood", phase, who)
    rejected -= answered
    refused -= answered | rejected
    down = sum(_bytes(content) for _, content in contents.values())
    counts = len(contents), len(answered), len(refused), len(rejected)
    return Exchanged(phase, *counts, up, down, frozenset(contents) - answered, time.monotonic() - began)


class SecureSums:
    """Opens one sum an attempt, of the participants that went all the way.

    Args:
        grid: Flower's.
        timeout_s: how long a phase waits for its replies, in seconds.
        told: each phase when it is over.
        check: sees each reply before it counts.

    Guarantees: the server sees masked vectors, and their sum only when participants that stand for the minimum cohort
    have agreed on whose vectors are in it. What that rests on is stated in `fedrec.secagg`.
    """

    def __init__(
        self,
        grid: Grid,
        timeout_s: float,
        told: Callable[[Exchanged], None] = lambda _: None,
        check: Check = lambda *_: None,
    ) -> None:
        self._grid, self._timeout, self._told, self._check = grid, timeout_s, told, check
        self._adverts: dict[Attempt, Mapping[int, bytes]] = {}
        self._seen: set[bytes] = set()

    def collect(self, plan: Plan, group: Group, content: Content, *, last: bool) -> Collected:
        """One attempt.

        Args:
            plan: of it.
            group: who takes part.
            content: makes each message's.
            last: whether no round follows, for which the last replies would bring adverts.

        Raises:
            NothingAskedError: if too few participants are left before any was asked for its vector.
            RoundFailedError: if too few are left later; nothing was unmasked then.
        """
        attempt, following = Attempt(plan.round, plan.attempt), Attempt(plan.round + 1, 0)
        server = Server(
            group.terms,
            group.roster,
            attempt,
            group.roster,
            plan.release.size,
            dtype=plan.mechanism.wire,
            adverts=self._adverts.pop(attempt, None),
            following=NO_ATTEMPT if last else following,
            seen=self._seen,
        )
        up = down = 0
        while True:
            phase = self._phase(server, plan, group, content)
            up, down = up + phase.up_bytes, down + phase.down_bytes
            if server.phase is Phase.UNMASK:
                break
            _advance(server)
        result = server.finish()
        for holder, owner in result.wrong:
            _log.log(WARNING, "round %d: %d and %d disagree on a share; one lies", plan.round, holder, owner)
        self._adverts = {following: result.adverts}
        return Collected(
            (ShardSum(plan.release.split(result.total), result.users),),
            len(group.roster) - len(result.survivors),
            up,
            down,
            len(group.roster),
            f"secure aggregation: {group.terms.parameters(len(group.roster)).describe()}",
        )

    def _phase(self, server: Server, plan: Plan, group: Group, content: Content) -> Exchanged:
        """One message to each participant that is still in."""
        name = server.phase.name.lower()

        def take(who: int, packet: Packet) -> int:
            self._check(name, who, packet)
            text = packet.blob("message")
            server.receive(who, text)
            return len(text)

        contents = {who: (group.nodes[who], content(who, name, text)) for who, text in server.routes.items()}
        found = ask(self._grid, name, contents, take, self._timeout, str(plan.round))
        if found.asked:
            self._told(found)
        return found


def _advance(server: Server) -> None:
    try:
        server.advance()
    except RoundFailedError as error:
        if server.phase < Phase.MASKED:
            raise NothingAskedError(str(error)) from error
        raise


class NodeSums:
    """Secure sums of the nodes of a simulation, each of which holds the users of a partition.

    Args:
        grid: Flower's.
        nodes: node ids in the order of their partitions, who are the participants.
        federation: what is run.
        timeout_s: how long a phase waits for its replies, in seconds.
    """

    def __init__(self, grid: Grid, nodes: list[int], federation: Federation, timeout_s: float) -> None:
        self._grid, self._nodes, self._federation, self._timeout = grid, nodes, federation, timeout_s
        self._members = self._enrol()
        self._sums = SecureSums(grid, timeout_s)

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        """One attempt; see `SecureSums.collect`."""
        roster = roster_of(self._members, self._federation, plan)
        model, nothing = record(shared), ArrayRecord()
        where: dict[str, Value] = {"round": plan.round, "attempt": plan.attempt}

        def content(_: int, phase: str, text: bytes) -> RecordDict:
            shown = {"roster": pack(self._members)} if phase == "advert" else {}
            return with_config(model if phase == "masked" else nothing, {**where, **shown, "message": text})

        group = Group(terms_of(self._federation, plan), roster, {who: self._nodes[who] for who in roster})
        return self._sums.collect(plan, group, content, last=plan.round == self._federation.rounds)

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


def _bytes(content: RecordDict) -> int:
    """What a message carries, without Flower's own wrapping."""
    arrays = sum(len(array.data) for held in content.array_records.values() for array in held.values())
    values = (value for held in content.config_records.values() for value in held.values())
    return arrays + sum(len(value) for value in values if isinstance(value, bytes))
