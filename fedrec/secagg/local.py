"""A whole secure sum in one process, each participant doing its own work: for tests, benchmarks and comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy.typing as npt

from fedrec.secagg.client import Client
from fedrec.secagg.enrolment import Identity, cache_channels
from fedrec.secagg.messages import Attempt, Phase
from fedrec.secagg.parameters import Parameters, choose
from fedrec.secagg.server import Result, Server
from fedrec.secagg.session import Roster, Terms, Variant
from fedrec.secagg.store import MemoryStore, Store

Dropped = Mapping[Phase, Collection[int]]
"""Who does not answer from a phase on."""


def enrol(n: int, users: Iterable[int] | None = None) -> tuple[list[Identity], Roster]:
    """Fresh identities for participants 0 to n - 1, and the roster of them."""
    identities = [Identity.generate() for _ in range(n)]
    counts = [1] * n if users is None else list(users)
    return identities, {i: identity.member(counts[i]) for i, identity in enumerate(identities)}


def make_clients(
    identities: list[Identity], roster: Roster, terms: Terms, stores: list[Store] | None = None
) -> list[Client]:
    """The clients of a roster, with channels cached where the variant wants them."""
    stores = stores or [MemoryStore() for _ in identities]
    if not terms.signed:
        for i, identity in enumerate(identities):
            cache_channels(identity, i, roster, stores[i])
    return [Client(i, identity, roster, stores[i], terms) for i, identity in enumerate(identities)]


def answer(client: Client, phase: Phase, message: bytes, vector: npt.NDArray[Any]) -> bytes:
    """A client's reply to one message."""
    match phase:
        case Phase.ADVERT:
            return client.advert(message)
        case Phase.SHARES:
            return client.shares(message)
        case Phase.MASKED:
            return client.masked(message, vector)
        case Phase.AGREE:
            return client.agree(message)
        case Phase.UNMASK:
            return client.unmask(message)


def drive(
    server: Server,
    clients: Mapping[int, Client],
    vectors: npt.NDArray[Any],
    dropped: Dropped | None = None,
    watch: Callable[[int, bytes, bytes], None] | None = None,
) -> Result:
    """Carry messages between a server and its clients until the sum is open.

    Args:
        server: before its first phase.
        clients: by participant.
        vectors: ``[n, d]``, by participant.
        dropped: who drops out, and in which phase.
        watch: is shown every (participant, message, reply).

    Raises:
        RoundFailedError: if too few are left.
    """
    gone: set[int] = set()
    while True:
        gone |= set((dropped or {}).get(server.phase, ()))
        for who, message in server.routes.items():
            if who not in gone:
                reply = answer(clients[who], server.phase, message, vectors[who])
                server.receive(who, reply)
                if watch:
                    watch(who, message, reply)
        if server.phase is Phase.UNMASK:
            return server.finish()
        server.advance()


def secure_sum(
    vectors: npt.NDArray[Any],
    parameters: Parameters,
    dropped: Dropped | None = None,
    *,
    variant: Variant = "signed",
    n_min: int = 1,
) -> npt.NDArray[Any]:
    """The sum over those who do not drop out before their vector is sent, by the whole protocol.

    Args:
        vectors: ``[n, d]``, uint32 or uint64.
        parameters: for n participants; if some drop out before they advertise, others are chosen.
        dropped: who drops out, and in which phase.
        variant: as in `Terms`.
        n_min: the least number of participants in the sum.

    Raises:
        RoundFailedError: if too few are left.
    """
    n = len(vectors)
    terms = Terms(os.urandom(32), n_min, variant, lambda found: parameters if found == n else choose(found))
    identities, roster = enrol(n)
    clients = make_clients(identities, roster, terms)
    server = Server(terms, roster, Attempt(1, 0), roster, vectors.shape[1], dtype=vectors.dtype)
    return drive(server, dict(enumerate(clients)), vectors, dropped).total
