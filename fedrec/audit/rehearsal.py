"""A rehearsal: an experiment's own rounds, with clients beside the real ones whose vectors the auditor knows.

The pipeline is the real one: `client_round` for every shard, the sum, and `Federation.finish`. Three things are added
around it. Every release is widened by reserved coordinates, which all clients leave zero, so that they show noise
alone. Shards of *probes* take part, whose vectors are known. And what the promise's observer sees is looked at: the
sum, or under trust ``local`` each probe's own vector. Everyone takes part and the least cohort is everyone, where the
promise is tight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedrec.audit.vectors import Bools, quiet, vector_of, zero_rows
from fedrec.contribution import Contribution, Floats, Rows
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.federation.round import Federation, Plan, State, client_round
from fedrec.models.base import Budget, Personal, Recommender, Shared, Total
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanism import Mechanism, ShardSum, add_up
from fedrec.randomness import Key
from fedrec.release import Component, Release

RESERVED = "reserved"
"""The component that no client touches; the first, so that a repeated noise stream repeats there."""

_SHARDS = 3
"""Shards that the real users answer in, so that the noise of several is seen."""

_KEPT = 64
"""Single vectors of which a round keeps the reserved coordinates."""


@dataclass(frozen=True)
class Watched(Recommender):
    """A model whose releases are widened by reserved coordinates: its clients leave them zero, it looks at none."""

    inner: Recommender

    def releases(self, catalogue: Catalogue, budget: Budget) -> tuple[Release, ...]:
        return self.inner.releases(catalogue, budget)

    def init(self, catalogue: Catalogue, key: Key) -> Shared:
        return self.inner.init(catalogue, key)

    def contribute(self, shared: Shared, users: Interactions, release: Release, key: Key) -> Contribution:
        reserved, *components = release.components
        found = self.inner.contribute(shared, users, replace(release, components=tuple(components)), key)
        untouched = Rows(np.zeros(users.n_users + 1, np.int64), np.zeros(0, np.int64), np.zeros(0), reserved.size)
        return Contribution({RESERVED: untouched, **found.parts}, users.n_users)

    def apply(self, shared: Shared, total: Total, release: Release, catalogue: Catalogue) -> Shared:
        reserved, *components = release.components
        arrays = {name: array for name, array in total.arrays.items() if name != reserved.name}
        narrow = replace(release, components=tuple(components))
        return self.inner.apply(shared, replace(total, arrays=arrays), narrow, catalogue)

    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        return self.inner.personalise(shared, users)

    def score(self, shared: Shared, personal: Personal) -> npt.NDArray[np.float32]:
        return self.inner.score(shared, personal)


class _Opening(Watched):
    """Keeps the opened sum in the place of a model."""

    def apply(self, shared: Shared, total: Total, release: Release, catalogue: Catalogue) -> Shared:  # noqa: ARG002
        return total.arrays


def widened(federation: Federation, reserved: int) -> tuple[Federation, Watched]:
    """The federation with this many reserved coordinates before those of each release, and its model."""
    inner = federation.model
    releases = tuple(
        replace(release, components=(Component(RESERVED, (reserved,)), *release.components))
        for release in federation.releases
    )
    mechanisms = tuple(
        _widened(mechanism, release, federation.population)
        for mechanism, release in zip(federation.mechanisms, releases, strict=True)
    )
    model = Watched(inner.config, inner.training, inner.federation, inner)
    return replace(federation, model=model, releases=releases, mechanisms=mechanisms), model


def _widened(mechanism: Mechanism, release: Release, n_users: int) -> Mechanism:
    if mechanism.grid is None:
        return mechanism
    grid = Grid(release.size, mechanism.grid.clip_norm, mechanism.grid.resolution)
    return replace(mechanism, grid=grid, bits=grid.bits(n_users, mechanism.total_std(n_users) * grid.scale))


class Probe(Protocol):
    """Clients whose vectors the auditor knows."""

    @property
    def name(self) -> str:
        """What they are."""
        ...

    @property
    def clients(self) -> Interactions:
        """Their histories."""
        ...

    @property
    def model(self) -> Recommender:
        """What computes their contributions."""
        ...

    @property
    def took_part(self) -> Bools:
        """Which of them contribute; the others send zeros and their noise, ``[K]``."""
        ...

    def project(self, vector: Floats) -> Floats:
        """The components ``[K]`` of a flat scaled vector along each probe's unit vector."""
        ...


@dataclass(frozen=True, eq=False)
class Observed:
    """What one release shows; scores and reserved coordinates are in units of the noise's declared deviation.

    Attributes:
        plan: the attempt.
        took_part: by probe, which contribute ``[K]``.
        white: by probe, the scores ``[K]`` when the known vectors of all others are subtracted.
        black: by probe, the scores in the release as it is.
        reserved: the reserved coordinates of what is seen, ``[V, R]``.
        shares: the reserved coordinates of single messages, in units of their own declared deviation, ``[S, R]``; none
            where messages carry no noise.
        rows: of what is seen.
        zero_rows: how many of them are exactly zero.
        zero_chance: the largest probability that noise leaves one zero.
    """

    plan: Plan
    took_part: Mapping[str, Bools]
    white: Mapping[str, Floats]
    black: Mapping[str, Floats]
    reserved: Floats
    shares: Floats
    rows: int
    zero_rows: int
    zero_chance: float


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """An experiment made ready for an audit.

    Attributes:
        federation: over the real users and the probes, its releases widened.
        users: the real users.
        probes: makes the probes of a round.
    """

    federation: Federation
    users: Interactions
    probes: Callable[[State, Plan], Sequence[Probe]]

    def rounds(self) -> Iterator[Observed]:
        """What every round shows."""
        state = self.federation.start()
        while state.round < self.federation.rounds:
            plan = self.federation.plan(state.round + 1)
            look = self._apart if plan.mechanism.trust == "local" else self._together
            observed, total = look(state, plan)
            yield observed
            state = self.federation.finish(state, plan, [total])

    def _shards(self) -> list[Interactions]:
        n = self.users.n_users
        return [self.users.take(piece) for piece in np.array_split(np.arange(n), min(_SHARDS, n))]

    def _together(self, state: State, plan: Plan) -> tuple[Observed, ShardSum]:
        """A round whose sum alone is seen."""
        probes, real = self.probes(state, plan), self.federation.model
        groups = [(real, shard) for shard in self._shards()] + [(probe.model, probe.clients) for probe in probes]
        messages = [client_round(model, state.shared, who, plan, part) for part, (model, who) in enumerate(groups)]
        silent = quiet(plan)
        known = [
            vector_of(client_round(model, state.shared, who, silent, part), silent)
            for part, (model, who) in enumerate(groups)
        ]
        total = add_up(messages, plan.release, plan.mechanism.wire)
        seen = self._opened(state, plan, total)
        everything = np.sum(known, axis=0)
        std = plan.mechanism.noise_std
        own = {probe.name: vector for probe, vector in zip(probes, known[len(known) - len(probes) :], strict=True)}
        size = plan.release.components[0].size
        shares = [
            vector_of(message, plan)[:size] / plan.mechanism.share_std(message.n_users)
            for message in messages
            if plan.mechanism.trust != "central" and message.n_users
        ]
        observed = Observed(
            plan=plan,
            took_part={p.name: p.took_part for p in probes},
            white={p.name: p.project(seen - (everything - own[p.name])) / std for p in probes},
            black={p.name: p.project(seen) / std for p in probes},
            reserved=seen[None, :size] / std,
            shares=np.array(shares).reshape(len(shares), size),
            rows=_rows(plan.release),
            zero_rows=_zero_rows(seen, plan.release),
            zero_chance=_zero_chance(plan.mechanism),
        )
        return observed, total

    def _apart(self, state: State, plan: Plan) -> tuple[Observed, ShardSum]:
        """A round in which every vector is seen by itself, with all of the noise."""
        real, release, wire = self.federation.model, plan.release, plan.mechanism.wire
        shards = [client_round(real, state.shared, shard, plan, part) for part, shard in enumerate(self._shards())]
        std, size = plan.mechanism.noise_std, release.components[0].size
        probes = self.probes(state, plan)
        part, total = len(shards), add_up(shards, release, wire)
        scores: dict[str, Floats] = {}
        reserved: list[Floats] = []
        zero_rows = 0
        for probe in probes:
            scores[probe.name] = np.zeros(probe.clients.n_users)
            for i in range(probe.clients.n_users):
                message = client_round(probe.model, state.shared, probe.clients.take(np.array([i])), plan, part)
                vector = vector_of(message, plan)
                scores[probe.name][i] = probe.project(vector)[i] / std
                if len(reserved) < _KEPT:
                    reserved.append(vector[:size] / std)
                    zero_rows += _zero_rows(vector, release)
                total, part = add_up([total, message], release, wire), part + 1
        rows = np.array(reserved)
        observed = Observed(
            plan=plan,
            took_part={p.name: p.took_part for p in probes},
            white=scores,
            black=scores,
            reserved=rows,
            shares=rows,
            rows=len(rows) * _rows(release),
            zero_rows=zero_rows,
            zero_chance=_zero_chance(plan.mechanism),
        )
        return observed, total

    def _opened(self, state: State, plan: Plan, total: ShardSum) -> Floats:
        """The released sum, flat and scaled, as `Federation.finish` opens it."""
        inner = self.federation.model
        keeping = replace(self.federation, model=_Opening(inner.config, inner.training, inner.federation, inner))
        plain = replace(plan, release=replace(plan.release, optimise=False))  # no optimizer between sum and model
        arrays = keeping.finish(state, plain, [total]).shared
        return np.concatenate([c.scale * np.ravel(arrays[c.name]) for c in plan.release.components])


def _rows(release: Release) -> int:
    return sum(component.shape[0] if component.shape else 1 for component in release.components)


def _zero_rows(vector: Floats, release: Release) -> int:
    """Rows of all components that hold zeros alone."""
    return sum(int(zero_rows(array).sum()) for array in release.split(vector).values())


def _zero_chance(mechanism: Mechanism) -> float:
    """The probability that noise alone leaves a single value zero; a whole row is left so no more often."""
    if mechanism.grid is None:
        return 0.0
    from scipy.special import ive

    return float(ive(0, (mechanism.noise_std * mechanism.grid.scale) ** 2))
