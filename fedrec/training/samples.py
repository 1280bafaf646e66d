"""What training by clipped samples looks at: which samples enter a step, their negatives, and public user vectors.

Everything is drawn by stream: a user's vector hangs on its number alone, and a positive's entries and negatives on the
user's number and the item. So one interaction more or less leaves every draw of the others as it is.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Interactions
from fedrec.randomness import U64, Key, Lane, below, mix64, normal, uniform
from fedrec.release import DpSgd
from fedrec.training.local import F32, Ints, unmet

_PUBLIC = Key(0)
"""Draws the public user vectors: no secret, and the same in every experiment and round."""


@dataclass(frozen=True)
class Step:
    """The samples of one step, user by user.

    Attributes:
        events: the positives' places among the users' events ``[k]``, ascending.
        negatives: their items ``[k, m]``.
    """

    events: Ints
    negatives: Ints


def training_key(key: Key, plan: DpSgd) -> Key:
    """The key of a client's own draws: the round's in a simulation, else 64 bits of the operating system, told nobody.

    Guarantees:
        Only secret draws make the sampling rate count; whoever knows the key of a simulation knows every batch.
    """
    return replace(key, seed=secrets.randbits(64)) if plan.secure else key


def draw(users: Interactions, plan: DpSgd, n_negatives: int, key: Key) -> list[Step]:
    """The steps of a round, for C users at once: equal to drawing each user alone.

    A user that has met every item has no unmet negatives, and no samples where these are wanted.
    """
    entering = _positive_streams(users, key, Lane.SAMPLING)
    if plan.sample == "history":
        entering = key.streams(users.users, Lane.SAMPLING)[users.user_of_event]
    drawing = _positive_streams(users, key, Lane.NEGATIVES)
    spare = np.full(users.n_users, users.n_items)
    if plan.negatives == "unmet":
        spare = users.n_items - users.counts
    possible = spare[users.user_of_event] > 0
    steps = []
    for step in range(plan.steps):
        events = np.flatnonzero(possible & (uniform(entering, np.array(step)) < plan.sampling_rate))
        owner = users.user_of_event[events, None]
        counters = step * n_negatives + np.arange(n_negatives)
        negatives = below(drawing[events, None], counters, spare[owner])
        if plan.negatives == "unmet":
            negatives = unmet(users, owner, negatives)
        steps.append(Step(events, negatives))
    return steps


def public_vectors(users: Interactions, dimension: int) -> F32:
    """A random vector for each user's number, ``[C, d]``, of norm d^¼ like a profile; anyone can compute it.

    Guarantees:
        It says nothing of a history, so that a gradient at it depends on one interaction alone.
    """
    return users.remembered(("public vectors", dimension), lambda: _public_vectors(users, dimension))


def _public_vectors(users: Interactions, dimension: int) -> F32:
    streams = _PUBLIC.streams(users.users, Lane.VECTORS)
    vectors = normal(streams[:, None], np.arange(dimension))
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / norms * dimension**0.25, np.float32)


def _positive_streams(users: Interactions, key: Key, lane: Lane) -> U64:
    """One stream a positive, ``[n_events]``, from the user's number and the item."""
    items: npt.NDArray[np.uint64] = users.items.astype(np.uint64)
    with np.errstate(over="ignore"):
        return mix64(key.streams(users.users, lane)[users.user_of_event] ^ mix64(items + np.uint64(1)))
