"""Observers: what the server, colluding clients, other clients and the public see of a run, and how they score targets.

- ``server``: with trust ``distributed`` the sum of every round; with ``local`` and ``central`` every single vector.
- ``colluder``: the server together with clients that tell it what they sent: sums without their shares of the noise.
- ``client``: the shared model after every round.
- ``public``: the final model.

A vector is scored by its component along the difference that a target makes to its user's clipped vector, computed
from what the attacker knows. That is the attack of Yuan et al. 2023 ("Interaction-level membership inference attack
against federated recommender systems") by an attacker who knows more: they compare an update with those of shadow users
trained with an item as a positive and as a negative, and must guess the user's other items, which ours knows. A single
vector also shows how many of its values are not zero. A model is scored by what it would recommend: how far above other
items a target's stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedrec.audit.games import GAMES, World
from fedrec.audit.vectors import Bools, arrays_of, entries_of, quiet, vector_of, zero_rows
from fedrec.contribution import Floats, Ints
from fedrec.data.interactions import Interactions
from fedrec.federation.round import Federation, Plan, State, client_round
from fedrec.models.base import Recommender, Shared
from fedrec.privacy.mechanism import ShardSum, add_up
from fedrec.randomness import Key

View = Literal["server", "colluder", "client", "public"]

SEES: dict[View, str] = {
    "server": "the sum of every round; single vectors where these carry all noise, or the server is trusted with them",
    "colluder": "what the server sees, and what the colluding clients sent, noise included",
    "client": "the shared model after every round",
    "public": "the final model",
}

_BLOCK = 2**22
"""Coordinates of targets' differences that are held at once; bounds the memory."""


@dataclass(frozen=True, eq=False)
class Observer:
    """Somebody who watches a federation.

    Attributes:
        federation: whose rounds are watched.
        view: what is seen.
        colluders: positions of the users that tell what they sent.
    """

    federation: Federation
    view: View
    colluders: Ints

    @property
    def single(self) -> bool:
        """Whether vectors are seen one by one."""
        return self.view in ("server", "colluder") and self.federation.mechanisms[0].trust != "distributed"

    @property
    def vectors(self) -> bool:
        """Whether vectors are seen at all, or models only."""
        return self.view in ("server", "colluder")

    def watch(self, world: World, heads: Bools, run: int) -> tuple[Floats, Floats]:
        """Scores of all targets in one run, and their expected strength, both ``[K, R]``.

        Args:
            world: the data.
            heads: the coins ``[K]``.
            run: tells the noise of one run from another's, from 1.
        """
        data, state = world.data(heads), self.federation.start()
        scores, strengths = [], []
        while state.round < self.federation.rounds:
            plan = self._plan(state, run)
            total, found = self._round(world, data, state, plan)
            after = self.federation.finish(state, plan, [total])
            if not self.vectors and (self.view == "client" or after.round == self.federation.rounds):
                found = [(_standing(self.federation.model, after.shared, world), np.ones(len(world.users)))]
            scores += [score for score, _ in found]
            strengths += [strength for _, strength in found]
            state = after
        return np.stack(scores, axis=1), np.stack(strengths, axis=1)

    def scan(self, users: Interactions, looked_at: Ints) -> tuple[Bools, Bools]:
        """Rows that are exactly zero, or did not change: item by item, in each of what is seen.

        Args:
            users: whose rounds are scanned.
            looked_at: positions of users whose vectors are scanned where single ones are seen.

        Returns:
            Which rows are zero, and which were touched by whoever sent, both ``[V, n_items]``.
        """
        state = self.federation.start()
        first, zero, touched = state.shared, [], []
        n_items = users.n_items
        while state.round < self.federation.rounds:
            plan = self._plan(state, run=0)
            silent = quiet(plan)
            model = self.federation.model
            groups = [np.array([one]) for one in looked_at] if self.single else [self._seen(users)]
            for part, group in enumerate(groups, start=1):
                shard = users.take(group)
                if self.vectors:
                    message = client_round(model, state.shared, shard, plan, part)
                    zero.append(_zero_items(arrays_of(message, plan), n_items))
                touched.append(~_zero_items(client_round(model, state.shared, shard, silent, part).arrays, n_items))
            after = self.federation.finish(state, plan, [client_round(model, state.shared, users, plan, 0)])
            if self.view == "client":
                zero.append(_unchanged(state.shared, after.shared, n_items))
            state = after
        if self.view == "public":
            zero, touched = [_unchanged(first, state.shared, n_items)], [np.any(touched, axis=0)]
        return np.array(zero), np.array(touched)

    def _plan(self, state: State, run: int) -> Plan:
        plan = self.federation.plan(state.round + 1)
        if plan.noise_key is None:
            return plan
        return replace(plan, noise_key=Key(self.federation.noise_seed, plan.round, run))

    def _seen(self, users: Interactions) -> Ints:
        """The users in the sum that is seen."""
        everyone = np.arange(users.n_users)
        return np.setdiff1d(everyone, self.colluders) if self.view == "colluder" else everyone

    def _round(
        self, world: World, data: Interactions, state: State, plan: Plan
    ) -> tuple[ShardSum, list[tuple[Floats, Floats]]]:
        """The round's sum, and scores with their strengths ``[K]`` of what is seen of it."""
        model, shared, wire = self.federation.model, state.shared, plan.mechanism.wire
        if not self.single:
            groups = [self._seen(data), *([self.colluders] if self.view == "colluder" else [])]
            messages = [client_round(model, shared, data.take(group), plan, part) for part, group in enumerate(groups)]
            total = add_up(messages, plan.release, wire)
            if not self.vectors:
                return total, []
            vector = vector_of(messages[0], plan)
            blocks = [(rows @ vector, norms) for rows, norms in self._differences(world, state, plan)]
            scores, strengths = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
            return total, [(scores, strengths)]
        others = np.setdiff1d(np.arange(data.n_users), world.users)
        total = client_round(model, shared, data.take(others), plan, 0)
        found = []
        targets = enumerate(world.users, start=1)
        for rows, norms in self._differences(world, state, plan):
            for row, norm in zip(rows, norms, strict=True):
                part, target = next(targets)
                message = client_round(model, shared, data.take(np.array([target])), plan, part)
                vector = vector_of(message, plan)
                found.append((row @ vector, norm, np.count_nonzero(vector)))
                total = add_up([total, message], plan.release, wire)
        scores, strengths, counts = np.array(found, np.float64).T
        return total, [(scores, strengths), (counts, np.ones(len(counts)))]

    def _differences(self, world: World, state: State, plan: Plan) -> Iterator[tuple[Floats, Floats]]:
        """Unit vectors along what targets change in their users' clipped vectors ``[B, d]``, and the norms ``[B]``."""
        model, release, inside = self.federation.model, quiet(plan).release, plan.mechanism.inside is not None
        key = plan.noise_key or plan.key if inside else plan.key  # as `client_round` chooses it
        sides = []
        for sign, known in ((1.0, world.known_with), (-1.0, world.known_without)):
            contribution = model.contribute(state.shared, known, release, key)
            weights = np.ones(known.n_users) if inside else plan.mechanism.weights(contribution.norms(release))
            sides.append((contribution, sign * weights))
        size, n = max(_BLOCK // release.size, 1), len(world.users)
        for first in range(0, n, size):
            last = min(first + size, n)
            flat = np.zeros((last - first) * release.size)
            for contribution, weights in sides:
                entries = entries_of(contribution, release, first, last)
                places = (entries.users - first) * release.size + entries.coordinates
                flat += np.bincount(places, weights[entries.users] * entries.values, len(flat))
            rows = flat.reshape(last - first, release.size)
            norms = np.linalg.norm(rows, axis=1)
            yield rows / np.maximum(norms, np.finfo(np.float64).tiny)[:, None], norms


def _zero_items(arrays: Mapping[str, npt.NDArray[Any]], n_items: int) -> Bools:
    """Items whose rows are exactly zero in every array of one row an item; none where there is no such array."""
    rows = [zero_rows(array) for array in arrays.values() if array.shape[:1] == (n_items,)]
    return np.all(rows, axis=0) if rows else np.zeros(n_items, np.bool_)


def _unchanged(before: Shared, after: Shared, n_items: int) -> Bools:
    """Items whose rows of the shared model did not change; an array that is new began at zero."""
    return _zero_items({name: array - before.get(name, np.zeros_like(array)) for name, array in after.items()}, n_items)


def _standing(model: Recommender, shared: Shared, world: World) -> Floats:
    """How far a target's items stand above the others in its user's scores, in deviations of these, ``[K]``."""
    whole = world.game == GAMES.index("user")
    found = _standard_scores(model, shared, world.known_without)[np.arange(len(whole)), world.items]
    known = world.known_with
    own = _standard_scores(model, shared, known)[known.user_of_event, known.items]
    return np.where(whole, np.bincount(known.user_of_event, own, known.n_users) / known.counts, found)


def _standard_scores(model: Recommender, shared: Shared, users: Interactions) -> Floats:
    """Every item's score for C users, of mean 0 and deviation 1 in each, ``[C, n_items]``."""
    scores = np.asarray(model.score(shared, model.personalise(shared, users)), np.float64)
    spread = scores.std(axis=1, keepdims=True)
    return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0), np.float64)
