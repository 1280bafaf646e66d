"""A small run of secure aggregation for tests: everybody's secrets at hand, every message open to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedrec.secagg import messages
from fedrec.secagg.client import Client
from fedrec.secagg.local import answer, enrol, make_clients
from fedrec.secagg.messages import Attempt, Phase, ProtocolError
from fedrec.secagg.parameters import Parameters
from fedrec.secagg.server import Server
from fedrec.secagg.session import Terms, Variant
from fedrec.secagg.store import MemoryStore, Store

RUN = bytes(range(32))
FIRST = Attempt(1, 0)
VARIANTS: tuple[Variant, ...] = ("signed", "cached")
both_variants = pytest.mark.parametrize("variant", VARIANTS)

Tamper = Callable[[int, bytes], bytes]


class World:
    """n participants of one user each (or of ``users``), who all keep the protocol unless a test says otherwise."""

    def __init__(
        self,
        n: int = 8,
        *,
        k: int | None = None,
        t: int | None = None,
        corrupt: int = 0,
        variant: Variant = "signed",
        n_min: int = 1,
        users: Sequence[int] | None = None,
        stores: list[Store] | None = None,
        size: int = 40,
    ) -> None:
        k = n - 1 if k is None else k
        self.parameters = Parameters(n, k, k // 2 + 1 if t is None else t, corrupt)
        self.terms = Terms(RUN, n_min, variant, lambda found: self.parameters if found == n else sized(found))
        self.identities, self.roster = enrol(n, users)
        self.stores: list[Store] = stores or [MemoryStore() for _ in range(n)]
        self.clients = make_clients(self.identities, self.roster, self.terms, self.stores)
        self.vectors = np.random.default_rng(n).integers(0, 2**32, (n, size), np.uint32)

    def server(self, attempt: Attempt = FIRST, **options: Any) -> Server:
        return Server(self.terms, self.roster, attempt, self.roster, self.vectors.shape[1], **options)

    def reborn(self, who: int) -> Client:
        """The same participant in a new process: nothing survives but its store."""
        return Client(who, self.identities[who], self.roster, self.stores[who], self.terms)

    def step(self, server: Server, without: Sequence[int] = (), tamper: Tamper | None = None) -> dict[int, bytes]:
        """One phase: everybody answers; the replies by participant. Refusals are dropouts."""
        replies = {}
        for who, message in server.routes.items():
            if who in without:
                continue
            try:
                reply = self.answer(server.phase, who, tamper(who, message) if tamper else message)
            except ProtocolError:
                continue
            server.receive(who, reply)
            replies[who] = reply
        return replies

    def answer(self, phase: Phase, who: int, message: bytes) -> bytes:
        return answer(self.reborn(who), phase, message, self.vectors[who])

    def until(self, phase: Phase, server: Server | None = None) -> Server:
        """A server whose next messages are those of a phase; everybody has answered those before."""
        server = server or self.server()
        while server.phase < phase:
            self.step(server)
            server.advance()
        return server

    def ring_sum(self, survivors: Sequence[int]) -> npt.NDArray[np.uint32]:
        return np.asarray(self.vectors[list(survivors)].sum(axis=0, dtype=np.uint32))

    def snapshot(self, who: int) -> Client:
        """A copy of a participant and its store: what is done to it leaves the world alone."""
        return Client(who, self.identities[who], self.roster, copied(self.stores[who]), self.terms)


def copied(store: Store) -> MemoryStore:
    twin = MemoryStore()
    for key in store.names():
        twin.put(key, store.get(key) or b"")
    return twin


def sized(n: int) -> Parameters:
    """A complete graph."""
    return Parameters(n, n - 1, (n - 1) // 2 + 1)


def request(phase: Phase, *body: bytes, attempt: Attempt = FIRST, run: bytes = RUN) -> bytes:
    """A message as a malicious server would make it."""
    return messages.frame(run, attempt, phase, False, *body)


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """A message with a field swapped, which must be there once."""
    assert data.count(old) == 1
    return data.replace(old, new)


def refused(match: str) -> Any:
    return pytest.raises(ProtocolError, match=match)
