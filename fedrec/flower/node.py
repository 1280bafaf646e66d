"""A node's half of secure aggregation: its folder of secrets, its place on the roster, its client of the protocol."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from flwr.app import Context

from fedrec.agreements.terms import terms_of
from fedrec.errors import ContributionError
from fedrec.federation.cohort import users_by_partition
from fedrec.federation.round import Federation, Plan
from fedrec.secagg.client import Client
from fedrec.secagg.enrolment import Identity
from fedrec.secagg.session import Member, Roster
from fedrec.secagg.store import FolderStore

_KEY_BYTES = 32
_IDENTITY, _ROSTER = "identity", "roster"


def place_of(context: Context) -> tuple[int, int]:
    """Which partition of how many: set by the simulation runtime, or by ``flower-supernode --node-config``."""
    return int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])


def masks(plan: Plan, federation: Federation, partitions: int) -> bool:
    """Whether an attempt's vectors are masked: integers of which only the sum is to be seen, of enough nodes."""
    users = users_by_partition(plan.cohort, partitions, federation.population)
    shared = plan.mechanism.grid is not None and plan.mechanism.trust == "distributed"
    return shared and sum(n > 0 for n in users) >= max(plan.mechanism.min_cohort, 2)


def roster_of(members: list[Member], federation: Federation, plan: Plan) -> dict[int, Member]:
    """Each partition's keys with the number of users of the cohort that it holds; those without any are left out."""
    users = users_by_partition(plan.cohort, len(members), federation.population)
    return {part: replace(member, users=users[part]) for part, member in enumerate(members) if users[part]}


def pack(members: list[Member]) -> bytes:
    """The public keys of every partition, in order."""
    return b"".join(member.identity + member.channel for member in members)


def unpack(raw: bytes) -> list[Member]:
    """The inverse of `pack`.

    Raises:
        ContributionError: if it is no roster.
    """
    if not raw or len(raw) % (2 * _KEY_BYTES):
        raise ContributionError(f"a roster of {len(raw)} bytes does not hold {2 * _KEY_BYTES} bytes a node")
    starts = range(0, len(raw), 2 * _KEY_BYTES)
    return [Member(raw[i : i + _KEY_BYTES], raw[i + _KEY_BYTES : i + 2 * _KEY_BYTES]) for i in starts]


class Node:
    """A node with its secrets in a folder of its own, under Flower's home: a message may find a new process.

    The nodes of a simulation enrol with the server at the start of a run and keep the first roster that it shows them.
    That protects against whoever comes later, not against a server that lies from the start; a device has its roster
    from its enrolment.

    Args:
        context: Flower's.
    """

    def __init__(self, context: Context) -> None:
        self.partition, self.partitions = place_of(context)
        home = Path(os.environ.get("FLWR_HOME", Path.home() / ".flwr"))
        self._store = FolderStore(home / "fedrec" / f"{context.run_id}-{self.partition}")

    def join(self) -> Member:
        """The public half of this node's identity, which is made when first asked for."""
        with self._store.lock():
            raw = self._store.get(_IDENTITY)
            if raw is None:
                made = Identity.generate()
                self._store.put(_IDENTITY, made.signing + made.channel)
                return made.member()
        return self._identity().member()

    def pin(self, roster: bytes) -> None:
        """Keep the run's roster.

        Raises:
            ContributionError: if it is another than the one kept, or not of this node's run.
        """
        members = unpack(roster)
        if len(members) != self.partitions or members[self.partition] != self.join():
            raise ContributionError(f"the roster does not hold partition {self.partition} of {self.partitions}")
        with self._store.lock():
            if self._store.get(_ROSTER) not in {None, roster}:
                raise ContributionError("the roster is another than the one that this node knows")
            self._store.put(_ROSTER, roster)

    def answer_once(self, plan: Plan) -> None:
        """Note that an attempt is answered in the clear, before it is: a second answer would have other noise.

        Raises:
            ContributionError: if it was answered before.
        """
        name = f"plain-{plan.round}-{plan.attempt}"
        with self._store.lock():
            if self._store.get(name) is not None:
                raise ContributionError("this node has answered that attempt")
            self._store.put(name, b"answered")

    def client(self, federation: Federation, plan: Plan) -> Client:
        """This node's side of an attempt.

        Raises:
            ContributionError: if it was never shown a roster.
        """
        raw = self._store.get(_ROSTER)
        if raw is None:
            raise ContributionError("this node has no roster yet")
        roster: Roster = roster_of(unpack(raw), federation, plan)
        return Client(self.partition, self._identity(), roster, self._store, terms_of(federation, plan))

    def _identity(self) -> Identity:
        raw = self._store.get(_IDENTITY) or b""
        return Identity(raw[:_KEY_BYTES], raw[_KEY_BYTES:])
