"""Probes of a rehearsal: canaries in the place of users' vectors, and single interactions with orthogonal gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedrec.audit.canaries import Canaries
from fedrec.audit.rehearsal import Watched
from fedrec.audit.vectors import Bools, entries_of
from fedrec.contribution import Contribution, Floats, Ints
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.federation.round import Plan, State
from fedrec.models.base import Recommender, Shared
from fedrec.randomness import Key
from fedrec.release import Release

_LOUD = 1000.0
"""Canaries' norms before the clip, in clip norms: a clip that is missing cannot be overlooked."""

_TRIES = 8
"""Items that are tried for each interaction that is to be orthogonal to all others."""

_UNCLIPPED = 1e9
"""A clip norm that no gradient reaches."""


@dataclass(frozen=True)
class _Replaced(Watched):
    """Clients whose contributions are canaries', before any clip.

    Attributes:
        canaries: one a client.
        lengths: their norms ``[K]``; 0 for one that stays out.
        first: the first client's number.
    """

    canaries: Canaries
    lengths: Floats
    first: int

    def contribute(  # a canary hangs on nothing but its client
        self,
        shared: Shared,  # noqa: ARG002
        users: Interactions,
        release: Release,  # noqa: ARG002
        key: Key,  # noqa: ARG002
    ) -> Contribution:
        which = users.users - self.first
        return self.canaries.contribution(which, self.lengths[which])


@dataclass(frozen=True, eq=False)
class UserCanaries:
    """Clients that send canaries."""

    clients: Interactions
    model: Recommender
    canaries: Canaries
    took_part: Bools
    name: str = "user"

    def project(self, vector: Floats) -> Floats:
        return self.canaries.project(vector)


def user_canaries(
    watched: Watched, catalogue: Catalogue, canaries: Canaries, took_part: Bools, clip: float, first: int
) -> UserCanaries:
    """Clients numbered from ``first`` that send canaries, or zeros where they take no part, and their noise."""
    lengths = np.where(took_part, _LOUD * clip, 0.0)
    model = _Replaced(watched.config, watched.training, watched.federation, watched.inner, canaries, lengths, first)
    histories: list[Ints] = [np.zeros(0, np.int64)] * len(canaries)
    return UserCanaries(_histories(catalogue, histories, first), model, canaries, took_part)


@dataclass(frozen=True, eq=False)
class InteractionCanaries:
    """Clients that hold one interaction each, chosen so that no two touch the same coordinate.

    The unit vectors are those of the whole gradients, without a clip, of a positive with all its negatives.

    Attributes:
        clients: their histories; some may be empty.
        model: the real one.
        probes: which probe each coordinate belongs to ``[R]``, ascending.
        coordinates: of the flat release ``[R]``.
        values: of the unit vectors ``[R]``.
        took_part: which clients hold an interaction ``[K]``.
    """

    clients: Interactions
    model: Recommender
    probes: Ints
    coordinates: Ints
    values: Floats
    took_part: Bools
    name: str = "interaction"

    def project(self, vector: Floats) -> Floats:
        products = self.values * vector[self.coordinates]
        return np.bincount(self.probes, products, self.clients.n_users).astype(np.float64)


def interaction_canaries(
    model: Recommender, catalogue: Catalogue, state: State, plan: Plan, first: int, n: int, draw: np.random.Generator
) -> InteractionCanaries:
    """Up to n interactions of as many clients, numbered from ``first``, whose gradients touch no common coordinate."""
    items = draw.integers(len(catalogue), size=(n, _TRIES))
    tried = replace(
        _histories(catalogue, list(items.reshape(-1, 1)), first),
        users=np.repeat(np.arange(first, first + n), _TRIES),
    )
    release = plan.release
    if release.dpsgd is not None:
        release = replace(release, dpsgd=replace(release.dpsgd, clip_norm=_UNCLIPPED))
    contribution = model.contribute(state.shared, tried, release, plan.key)
    norms = contribution.norms(release)
    entries = entries_of(contribution, release, 0, contribution.n_users)
    edges = np.searchsorted(entries.users, np.arange(n * _TRIES + 1))
    taken = np.zeros(release.size, np.bool_)
    histories: list[Ints] = []
    kept: list[tuple[int, slice, float]] = []
    for i in range(n):
        histories.append(np.zeros(0, np.int64))
        for trial in range(i * _TRIES, (i + 1) * _TRIES):
            rows = slice(edges[trial], edges[trial + 1])
            if norms[trial] > 0 and not taken[entries.coordinates[rows]].any():
                taken[entries.coordinates[rows]] = True
                histories[-1] = tried.items[trial : trial + 1].astype(np.int64)
                kept.append((i, rows, float(norms[trial])))
                break
    return InteractionCanaries(
        clients=_histories(catalogue, histories, first),
        model=model,
        probes=np.concatenate([np.zeros(0, np.int64), *(np.full(rows.stop - rows.start, i) for i, rows, _ in kept)]),
        coordinates=np.concatenate([np.zeros(0, np.int64), *(entries.coordinates[rows] for _, rows, _ in kept)]),
        values=np.concatenate([np.zeros(0), *(entries.values[rows] / norm for _, rows, norm in kept)]),
        took_part=np.array([len(history) > 0 for history in histories]),
    )


def _histories(catalogue: Catalogue, items: Sequence[Ints], first: int) -> Interactions:
    """Clients of these histories, numbered from ``first``."""
    return Interactions(
        name="probes",
        indptr=np.concatenate([[0], np.cumsum([len(one) for one in items])]).astype(np.int64),
        items=np.concatenate([np.zeros(0, np.int64), *items]).astype(np.int32),
        catalogue=catalogue,
        users=np.arange(first, first + len(items), dtype=np.int64),
    )
