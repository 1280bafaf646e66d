"""Small runs of a model, for tests: a case, the states before and after every round, and views of what is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.config import Experiment, resolve
from fedrec.contribution import Contribution, Dense, OuterTriangles, Part, Rows
from fedrec.data import source
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.data.splits import Split, split
from fedrec.engines.fleet import Fleet
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation, Plan, State
from fedrec.models.base import Shared
from fedrec.privacy.accounting import calibrate_events
from fedrec.privacy.events import Event, GaussianEvent
from fedrec.randomness import Key
from fedrec.release import Release
from fedrec.training.compiled import BiasChanges, ItemChanges
from fedrec.training.touches import Touches

DATA = {"name": "synthetic", "n_users": 100, "n_items": 80, "mean_events": 10, "n_genres": 6}


@dataclass(frozen=True)
class Case:
    """A model and small data.

    Attributes:
        experiment: as resolved; without privacy.
        parts: its data, split.
    """

    experiment: Experiment
    parts: Split

    @staticmethod
    def of(model: Mapping[str, Any], data: Mapping[str, Any] | None = None, **sections: Any) -> Case:
        """A case of a ``[model]`` section; other sections as keywords."""
        raw = {
            "data": {**DATA, **(data or {})},
            "training": {"learning_rate": 0.5, "epochs": 2, "batch_size": 4},  # long steps: many deltas are clipped
            "federation": {"rounds": 2},
            "privacy": {"epsilon": "none", "clip_norm": 0.5},
        }
        experiment = resolve({**raw, **sections, "model": dict(model)})
        loaded = source.load(experiment.data)
        return Case(experiment, split(loaded, experiment.split, Key(experiment.seed)))

    @property
    def train(self) -> Interactions:
        return self.parts.train

    def federation(self, **privacy: Any) -> Federation:
        """The federation, without privacy or with these keys of ``[privacy]``; given noise has budget enough."""
        privacy = {"epsilon": 100.0, **privacy} if privacy.get("noise_multiplier") else privacy
        return make_federation(self.experiment.replaced(privacy=privacy), self.train.catalogue, self.train.n_users)

    @cached_property
    def stages(self) -> list[tuple[Federation, State, Plan]]:
        """Before every round without privacy, and before every round with."""
        return [*run(self.federation(), self.train), *run(self.federation(noise_multiplier=1.0), self.train)]

    @cached_property
    def ends(self) -> list[tuple[Federation, State]]:
        """After every round without privacy, and after every round with."""
        both = []
        for federation in (self.federation(), self.federation(noise_multiplier=1.0)):
            stages = [state for _, state, _ in run(federation, self.train)][1:]
            both += [(federation, state) for state in [*stages, finished(federation, self.train)]]
        return both


def run(federation: Federation, train: Interactions) -> Iterator[tuple[Federation, State, Plan]]:
    """The state and the plan before every round."""
    state = federation.start()
    engine = Fleet(federation.model, train)
    while state.round < federation.rounds:
        plan = federation.plan(state.round + 1)
        yield federation, state, plan
        state = federation.finish(state, plan, engine.collect(plan, state.shared).shards)


def finished(federation: Federation, train: Interactions) -> State:
    """The state after the last round."""
    *_, (_, state, plan) = run(federation, train)
    return federation.finish(state, plan, Fleet(federation.model, train).collect(plan, state.shared).shards)


def histories(catalogue: Catalogue, items: list[list[int]], first: int = 0) -> Interactions:
    """Users of these histories, numbered from ``first``."""
    counts = [len(history) for history in items]
    return Interactions(
        name="made up",
        indptr=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        items=np.array([item for history in items for item in history], np.int32),
        catalogue=catalogue,
        users=np.arange(first, first + len(items), dtype=np.int64),
    )


def flat(arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Named arrays as one vector."""
    return np.concatenate([np.ravel(arrays[name]).astype(np.float64) for name in sorted(arrays)])


def locked(shared: Shared) -> dict[str, npt.NDArray[Any]]:
    """A read-only copy."""
    copy = {name: array.copy() for name, array in shared.items()}
    for array in copy.values():
        array.flags.writeable = False
    return copy


def poisoned(part: Part, user: int, value: float) -> Part:
    """The part with every value of one user replaced; of a factored one, every number that multiplies a vector."""
    if isinstance(part, Touches):
        touched = np.repeat(part.users == user, np.diff(part.indptr))
        return replace(part, numbers=np.where(touched, np.float32(value), part.numbers))
    if isinstance(part, ItemChanges | BiasChanges):
        inside, squares = part.touches, _marked(part.squares, user, user + 1, value)
        begin, end = inside.indptr[user : user + 2] * inside.epochs * inside.width
        return replace(
            part, touches=replace(inside, numbers=_marked(inside.numbers, begin, end, value)), squares=squares
        )
    assert isinstance(part, Rows | OuterTriangles | Dense)
    values = part.values.copy()
    rows = user if isinstance(part, Dense) else slice(part.indptr[user], part.indptr[user + 1])
    values[rows] = value
    return replace(part, values=values)


def _marked(array: npt.NDArray[Any], begin: int, end: int, value: float) -> npt.NDArray[Any]:
    marked = array.copy()
    marked[begin:end] = value
    return marked


def one_users(contribution: Contribution, release: Release, user: int) -> npt.NDArray[np.float64]:
    """One user's scaled vector."""
    return flat(contribution.weighted_sum(release, np.eye(contribution.n_users)[user]))


def rows_touched(contribution: Contribution, release: Release, user: int, n_items: int) -> npt.NDArray[np.bool_]:
    """The items with a value other than zero in an array of one row an item, ``[n_items]``."""
    touched = np.zeros(n_items, np.bool_)
    for array in contribution.weighted_sum(release, np.eye(contribution.n_users)[user]).values():
        if array.shape[0] == n_items:
            touched |= array.reshape(n_items, -1).any(axis=1)
    return touched


def times_like(shard: Interactions, like: Interactions) -> npt.NDArray[np.int64]:
    """Times for a shard whose last user is that of ``like``, with the same times."""
    assert like.times is not None
    times = np.arange(shard.n_events, dtype=np.int64)
    n = int(like.counts[-1])
    times[len(times) - n :] = like.times[len(like.times) - n :]
    return times


def unchanged(now: Mapping[str, npt.NDArray[Any]], before: Mapping[str, npt.NDArray[Any]]) -> None:
    """Fail unless both hold the same arrays."""
    assert set(now) == set(before)
    for name, array in before.items():
        np.testing.assert_array_equal(now[name], array)


def gaussians(noise_multipliers: list[float]) -> list[Event]:
    """Gaussian releases at rate 1."""
    return [GaussianEvent(sigma) for sigma in noise_multipliers]


def calibrated(epsilon: float, shares: list[float]) -> list[float]:
    """Noise multipliers of Gaussian releases that spend epsilon at delta 1e-5, each its share of the budget."""
    whole = calibrate_events(epsilon, 1e-5, lambda m: gaussians([m / share**0.5 for share in shares]))
    return [whole / share**0.5 for share in shares]
