"""The round as a pure state machine: ``plan`` → shard sums → ``finish``. No I/O, no flwr."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.config import Experiment
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.errors import PrivacyError, RoundFailedError
from fedrec.federation import optimiser, robust
from fedrec.federation.cohort import Cohort, choose
from fedrec.models.base import Recommender, Shared, Total
from fedrec.privacy.grid import SecureUniforms, SeededUniforms
from fedrec.privacy.mechanism import (
    SERVER_PART,
    IntegerNoise,
    Mechanism,
    ShardSum,
    add_noise,
    add_up,
    clip_and_sum,
    clip_and_sum_integers,
    draw_noise,
    mask_ready,
    opened,
    secure_noise,
    seeded_noise,
)
from fedrec.privacy.stream import SecureWords
from fedrec.randomness import Key, Lane
from fedrec.release import Release
from fedrec.threads import begun

_SHARD_EVENTS = 250_000
"""Interactions that one call of a model's ``contribute`` sees; bounds the memory of a large shard."""

_KEPT_EVENTS = 1 << 22
"""Interactions of a shard whose blocks are kept; what is remembered of them takes up to 60 bytes each."""


@dataclass(frozen=True, eq=False)
class State:
    """Everything that the next round depends on.

    Attributes:
        round: rounds done.
        attempt: attempts at the next one that are over.
        shared: the shared model.
        memory: the server optimizer's arrays.
    """

    round: int
    attempt: int
    shared: Shared
    memory: optimiser.Memory


@dataclass(frozen=True, eq=False)
class Plan:
    """One attempt at a round: who, what, under which mechanism.

    Attributes:
        key: draws everything that the attempt draws but the noise.
        noise_key: draws a simulation's noise; it hangs on the whole experiment, so that two releases never share their
            noise because they share a seed. None where noise comes from the operating system.
    """

    round: int
    attempt: int
    release: Release
    mechanism: Mechanism
    cohort: Cohort
    key: Key
    noise_key: Key | None

    def event(self) -> dict[str, Any]:
        """What the ledger records of it, beside the events that it costs."""
        mechanism = self.mechanism
        described: dict[str, Any] = {
            "release": self.release.name,
            "coordinates": self.release.size,
            "noise_multiplier": float(mechanism.noise_multiplier),
            "clip_norm": float(mechanism.clip_norm),
            "sensitivity": float(mechanism.sensitivity),
            "trust": mechanism.trust,
            "cohort": len(self.cohort.users),
            "cohort_choice": self.cohort.how,
            "min_cohort": mechanism.min_cohort,
            "colluders": mechanism.colluders,
        }
        if mechanism.grid is not None:
            described |= {"scale": mechanism.grid.scale, "ring_bits": mechanism.bits}
        if (training := self.release.dpsgd) is not None:
            described |= {
                "sample": training.sample,
                "sample_clip_norm": float(training.clip_norm),
                "sampling_rate": float(training.sampling_rate),
                "local_steps": training.steps,
            }
        return described


@dataclass(frozen=True, eq=False)
class Federation:
    """An experiment made ready: the model, its releases and a mechanism for each.

    Attributes:
        experiment: as resolved.
        model: its recommender.
        catalogue: the public items.
        population: number of users.
        releases: one a round.
        mechanisms: one a round.
    """

    experiment: Experiment
    model: Recommender
    catalogue: Catalogue
    population: int
    releases: tuple[Release, ...]
    mechanisms: tuple[Mechanism, ...]

    @property
    def rounds(self) -> int:
        return len(self.releases)

    @property
    def key(self) -> Key:
        return Key(self.experiment.seed)

    @cached_property
    def noise_seed(self) -> int:
        """Seeds the noise: 64 bits of the experiment's digest, in which its seed is one value among all."""
        return int(self.experiment.digest()[:16], 16)

    def start(self) -> State:
        """The state before the first round."""
        return State(0, 0, self.model.init(self.catalogue, self.key), {})

    def plan(self, round_: int, attempt: int = 0, users: npt.NDArray[np.int64] | None = None) -> Plan:
        """An attempt at a round, from 1; the same arguments give the same plan on a server and on every client.

        Args:
            round_: the round.
            attempt: of it, from 0.
            users: the cohort that a server chose among the devices it can reach, ascending; None draws it by the key.
        """
        key = self.key.at(round_, attempt)
        if users is None:
            cohort = choose(self.population, self.experiment.federation.cohort, key)
        else:
            cohort = Cohort(users, "by the server, among the devices that it reached")
        seeded = self.experiment.privacy.source == "seeded"
        noise = Key(self.noise_seed, round_, attempt) if seeded else None
        return Plan(round_, attempt, self.releases[round_ - 1], self.mechanisms[round_ - 1], cohort, key, noise)

    def finish(self, state: State, plan: Plan, shards: Sequence[ShardSum]) -> State:
        """The state after a round: check the sum, undo the scaling, apply.

        Args:
            state: the state that was planned from.
            plan: the attempt.
            shards: what came back, in the order of users.

        Raises:
            RoundFailedError: if fewer users than the minimum cohort are in the sum.
            ContributionError: if the sum has wrong names, shapes, or values that are not finite or out of reach.
            ConfigError: if single users' vectors are to be compared, and a shard holds several.
        """
        total, std = self._total(plan, shards)
        arrays: Mapping[str, Any] = total.arrays
        if plan.mechanism.trust == "central" and plan.mechanism.private:
            if plan.noise_key is None:
                raise PrivacyError("Noise of the server comes from a seed alone: set privacy.source = 'seeded'.")
            arrays = add_noise(arrays, draw_noise(plan.release, std, plan.noise_key, SERVER_PART))
        scales = {component.name: component.scale for component in plan.release.components}
        arrays = {name: array if scales[name] == 1 else array / scales[name] for name, array in arrays.items()}
        noise = {name: std / scale for name, scale in scales.items()}
        memory = state.memory
        if plan.release.optimise:
            # The divisor is the planned size: the survivors' number must not move the weights.
            size = len(plan.cohort.users)
            mean = {name: optimiser.shrunk_mean(array, noise[name], size) for name, array in arrays.items()}
            arrays, memory = optimiser.step(mean, memory, self.experiment.federation)
        shared = self.model.apply(state.shared, Total(arrays, noise, total.n_users), plan.release, self.catalogue)
        return State(state.round + 1, 0, shared, memory)

    def _total(self, plan: Plan, shards: Sequence[ShardSum]) -> tuple[ShardSum, float]:
        """What the shards come to, in scaled units, and the standard deviation of the noise in each coordinate."""
        release, mechanism = plan.release, plan.mechanism
        rule = self.experiment.federation.aggregation
        seen = mechanism.trust == "local" or rule != "sum"
        if seen:
            shards = robust.plausible(shards, release, mechanism)
        n_users = sum(shard.n_users for shard in shards)
        if n_users < mechanism.min_cohort:
            raise RoundFailedError(
                f"Round {plan.round}: {n_users} users answered, fewer than the minimum cohort of "
                f"{mechanism.min_cohort}; nothing was released."
            )
        if rule != "sum":
            return robust.combine(shards, release, mechanism, rule)
        total = add_up(shards, release, np.float64 if seen else mechanism.wire)
        if mechanism.grid is not None and not seen:
            total = opened(total, release, mechanism, mechanism.grid)
            robust.check_norm(total, release, mechanism)
        return total, mechanism.total_std(n_users)

    def failed(self, state: State, released: int = 0) -> State:
        """The state after an attempt that too few clients answered: everything is drawn afresh.

        Args:
            state: the state before it.
            released: attempts at the round, this one perhaps among them, that do not count.

        Raises:
            RoundFailedError: when no attempt is left.
        """
        counted = state.attempt + 1 - released
        if counted >= self.experiment.federation.attempts:
            raise RoundFailedError(
                f"Round {state.round + 1} failed {counted} times; see why devices did not answer "
                "(their policies, or who is gone), raise federation.attempts or lower federation.min_cohort."
            )
        return replace(state, attempt=state.attempt + 1)


def client_round(
    model: Recommender,
    shared: Shared,
    users: Interactions,
    plan: Plan,
    part: int,
    secure: IntegerNoise = secure_noise,
) -> ShardSum:
    """What a client, or a shard of them, does in a round: train, clip each user, sum, add its share of noise.

    The same function on a phone, on a Flower node and for a whole fleet.

    Args:
        model: the recommender.
        shared: the shared model, as received.
        users: the shard's own histories.
        plan: the attempt.
        part: the shard's number, which tells its noise from others'.
        secure: draws integer noise that no seed gives.

    Raises:
        PrivacyError: if noise is to be added that no secure source draws.
    """
    mechanism, release = plan.mechanism, plan.release
    silo = mechanism.inside is not None and mechanism.inside.sample == "history"  # its users train together
    key = (plan.noise_key or plan.key) if mechanism.inside is not None else plan.key  # it draws noise in training

    def block_sum(block: Interactions) -> ShardSum:
        contribution = model.contribute(shared, block, release, key)
        if mechanism.grid is None:
            return clip_and_sum(contribution, release, mechanism)
        rounding = _rounding(block, plan.noise_key)
        return clip_and_sum_integers(contribution, release, mechanism, mechanism.grid, rounding)

    floats = mechanism.grid is None and mechanism.inside is None  # else noised as integers, or in training
    std = mechanism.share_std(users.n_users) if floats else 0.0
    drawn = None
    if std > 0:
        if plan.noise_key is None:
            raise PrivacyError("Floating-point noise has no secure source; set privacy.noise = 'skellam'.")
        drawn = begun(functools.partial(draw_noise, release, std, plan.noise_key, part), model.workers)
    total = functools.reduce(_onto, map(block_sum, [users] if silo else _blocks(users)))
    if mechanism.grid is not None:
        noise = secure if plan.noise_key is None else seeded_noise(plan.noise_key, part)
        return mask_ready(total, release, mechanism, mechanism.grid, noise)
    return total if drawn is None else replace(total, arrays=add_noise(total.arrays, drawn()))


def _blocks(users: Interactions) -> Iterable[Interactions]:
    """The shard in blocks; those of a middling one are kept for the next round, with what models remember of them."""
    edges = np.searchsorted(users.indptr, np.arange(0, max(users.n_events, 1), _SHARD_EVENTS))
    edges = np.unique(np.r_[0, edges, users.n_users])
    if len(edges) <= 2:
        return [users]
    blocks = (users.take(np.arange(first, last)) for first, last in itertools.pairwise(edges))
    return users.remembered("blocks", lambda: tuple(blocks)) if users.n_events <= _KEPT_EVENTS else blocks


def _onto(total: ShardSum, block: ShardSum) -> ShardSum:
    """Add a block's sum to that of the blocks before it, in place: one table of sums, however many blocks."""
    for name, array in block.arrays.items():
        np.add(total.arrays[name], array, out=total.arrays[name])
    return replace(total, n_users=total.n_users + block.n_users, rejected=total.rejected + block.rejected)


def _rounding(users: Interactions, key: Key | None) -> SeededUniforms | SecureUniforms:
    """What rounds each user's vector: by the user's own number in a simulation, else from the operating system."""
    return SecureUniforms(SecureWords()) if key is None else SeededUniforms(key.streams(users.users, Lane.ROUNDING))
