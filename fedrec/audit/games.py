"""Three games of membership in one data set: what an attacker is asked, and how sure the count of its answers is.

Every target is decided by a fair coin, and the attacker, who knows all but the coins, guesses it:

- ``interaction``: does a user's history hold one interaction?
- ``size``: does a history hold n interactions or one more? The attacker does not know which item that would be.
- ``user``: does a user take part with the history, or with nothing?

The coins of one run decide the targets of all three games at once. The attacker learns from *shadow runs*, the same
pipeline with coins and noise of its own (Shokri et al. 2017; Carlini et al. 2022): where a target's scores lie on
average, how far its coin moves them, and how much they vary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fedrec.audit.estimate import CONFIDENCE
from fedrec.audit.vectors import Bools
from fedrec.contribution import Floats, Ints
from fedrec.data.interactions import Interactions
from fedrec.errors import UsageError

GAMES = ("interaction", "size", "user")


@dataclass(frozen=True, eq=False)
class World:
    """The data that coins choose from.

    Attributes:
        full: every user's history with all that any coin can add.
        guess: the same as the attacker imagines it: another item where it does not know which.
        target_of: ``[n_events]``, the target whose coin decides an event; -1 where none does.
        users: each target's position among the users, ``[K]``, game by game.
        game: each target's place in `GAMES`, ``[K]``.
        items: the item that a target is about, as the attacker imagines it ``[K]``; -1 for whole users.
    """

    full: Interactions
    guess: Interactions
    target_of: Ints
    users: Ints
    game: Ints
    items: Ints

    def data(self, coins: Bools) -> Interactions:
        """What the users hold for these coins ``[K]``."""
        return self.full.where((self.target_of < 0) | coins[self.target_of])

    @cached_property
    def known_with(self) -> Interactions:
        """The targets' histories as the attacker imagines them if all coins are heads."""
        return self.guess.take(self.users)

    @cached_property
    def known_without(self) -> Interactions:
        """The same if all are tails."""
        return self.guess.where(self.target_of < 0).take(self.users)


def make_world(users: Interactions, n: int, draw: np.random.Generator) -> World:
    """A world with n targets a game; no user is a target twice.

    Raises:
        UsageError: if there are too few users that can be targets.
    """
    able = suitable(users)
    if n < 1 or len(able) < len(GAMES) * n:
        raise UsageError(f"{n} targets a game do not fit {len(able)} suitable users; take fewer with --targets.")
    chosen = draw.permutation(able)[: len(GAMES) * n]
    single, grown, whole = chosen[:n], chosen[n : 2 * n], chosen[2 * n :]
    unmet = [draw.permutation(np.setdiff1d(np.arange(users.n_items), users.user(user)))[:2] for user in grown]
    full, places = _grown(users, grown, np.array([pair[0] for pair in unmet]))
    target_of = np.full(full.n_events, -1, np.int64)
    picked = full.indptr[single] + draw.integers(full.counts[single])
    target_of[picked] = np.arange(n)
    target_of[places] = np.arange(n, 2 * n)
    of_user = np.full(users.n_users, -1, np.int64)
    of_user[whole] = np.arange(2 * n, 3 * n)
    target_of = np.maximum(target_of, of_user[full.user_of_event])
    imagined = full.items.copy()
    imagined[places] = [pair[1] for pair in unmet]
    return World(
        full=full,
        guess=replace(full, items=imagined),
        target_of=target_of,
        users=chosen,
        game=np.repeat(np.arange(len(GAMES)), n),
        items=np.concatenate([imagined[picked], imagined[places], np.full(n, -1)]).astype(np.int64),
    )


def suitable(users: Interactions) -> Ints:
    """Positions of users that can be targets: with an interaction to spare, and two items unmet."""
    return np.flatnonzero((users.counts >= 2) & (users.counts <= users.n_items - 2))


def _grown(users: Interactions, who: Ints, items: Ints) -> tuple[Interactions, Ints]:
    """Histories with one more item at the end of some, at the time of the last; and the places of the new events."""
    ends = users.indptr[who + 1]
    counts = users.counts.copy()
    counts[who] += 1

    grown = replace(
        users,
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=np.insert(users.items, ends, items.astype(np.int32)),
        ratings=None if users.ratings is None else np.insert(users.ratings, ends, users.ratings[ends - 1]),
        times=None if users.times is None else np.insert(users.times, ends, users.times[ends - 1]),
    )
    return grown, grown.indptr[who + 1] - 1


def coins(n_targets: int, n_runs: int, draw: np.random.Generator, paired: bool = False) -> Bools:
    """Fair coins ``[n_runs, K]``; paired, every second run has the opposite of the one before."""
    if not paired:
        return np.asarray(draw.integers(2, size=(n_runs, n_targets)) == 1)
    half = draw.integers(2, size=(n_runs // 2, n_targets)) == 1
    return np.stack([half, ~half], axis=1).reshape(-1, n_targets)


@dataclass(frozen=True)
class Advantage:
    """How much better than chance an attacker guesses.

    Attributes:
        advantage: twice the part of right guesses, minus 1: 0 by chance, 1 if always right.
        low, high: a 95% interval (Clopper & Pearson 1934, on the count of right guesses).
        guesses: how many.
        correct: of these.
    """

    advantage: float
    low: float
    high: float
    guesses: int
    correct: int

    @classmethod
    def of(cls, correct: int, guesses: int) -> Advantage:
        low, high = clopper_pearson(correct, guesses)
        return cls(2 * correct / guesses - 1, 2 * low - 1, 2 * high - 1, guesses, correct)


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact interval of a probability (Clopper & Pearson 1934)."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def guess(shadows: Floats, shadow_coins: Bools, seen: Floats, strength: Floats) -> Bools:
    """Guess coins from scores, by a likelihood ratio that is learned from shadow runs.

    A target's score of a round is taken as normal, around a middle of its own, moved by its coin by half of
    ``effect * strength`` up or down; effect and deviation are a round's, the same for all targets.

    Args:
        shadows: the targets' scores ``[S, K, R]`` of shadow runs, half of them with either coin.
        shadow_coins: ``[S, K]``.
        seen: scores ``[T, K, R]`` of the runs that are attacked.
        strength: how far a coin is expected to move a score, up to one factor a round, ``[K, R]``.

    Returns:
        ``[T, K]``.
    """
    middle = shadows.mean(axis=0)
    side = np.where(shadow_coins, 0.5, -0.5)[:, :, None]
    moved = (4 / len(shadows)) * (side * shadows).sum(axis=0)  # mean of heads minus mean of tails
    effect = (moved * strength).sum(axis=0) / np.maximum((strength**2).sum(axis=0), np.finfo(float).tiny)  # [R]
    spread = np.square(shadows - middle - side * effect * strength).mean(axis=(0, 1))
    spread = np.maximum(spread, 1e-12 * np.square(strength * effect).mean(axis=0) + np.finfo(float).tiny)
    ratio = ((seen - middle) * (effect * strength / spread)).sum(axis=2)
    return np.asarray(ratio > 0)
