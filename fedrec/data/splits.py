"""Splits: which interactions are trained on, which select, and which are read once at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedrec.config import SplitConfig
from fedrec.data.interactions import Interactions, Ints
from fedrec.errors import ConfigError, DataError
from fedrec.randomness import Key, Lane, bits

Bools = npt.NDArray[np.bool_]

_USERS = 8192
"""Users whose events are put in order at once, which bounds the memory of a split."""

LEAST = 3
"""A user with fewer interactions has none to spare for validation and test."""


@dataclass(frozen=True, eq=False)
class Split:
    """Three parts of one data set, over the same users and the same catalogue.

    Attributes:
        train: what a model may learn from.
        validation: what every choice is made on.
        test: what is read once, at the end.
        note: what a reader of the results must know about the split, or "".
    """

    train: Interactions
    validation: Interactions
    test: Interactions
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            part = getattr(self, name)
            if not np.array_equal(part.users, self.train.users):
                raise DataError(f"The split's '{name}' does not hold the users of 'train'; split one data set.")
            if part.catalogue is not self.train.catalogue:
                raise DataError(f"The split's '{name}' has another catalogue than 'train'; split one data set.")

    @property
    def n_events(self) -> int:
        """Interactions of the whole data set."""
        return self.train.n_events + self.validation.n_events + self.test.n_events

    def history_for_test(self, positions: Ints) -> Interactions:
        """What is known of these users when test begins: train and validation, in the order of time."""
        return merge(self.train.take(positions), self.validation.take(positions))


def split(interactions: Interactions, config: SplitConfig, key: Key) -> Split:
    """Hold out validation and test.

    ``leave-one-out``: a user's last interaction is test, the last but one validation. Among equal times, and without
    times, a draw keyed by the user decides, because the order of a file is often that of its items; the note says for
    how many users. ``random``: of each user's n interactions, floor(fraction * n), at
    least 1, go into validation and as many into test, by draws keyed by the user. Both leave a user with fewer than
    three interactions wholly in train. ``time``: two quantiles of all times cut the data set, so that nothing in
    train is later than anything held out; equal times stay together, and a user may have held-out interactions and
    no history (the evaluation leaves such users out).

    Args:
        interactions: the whole data set.
        config: the split's name and fraction.
        key: the experiment's key; every draw is from ``Lane.SPLIT``.

    Raises:
        ConfigError: ``time`` without times.
        DataError: nothing is left for validation or for test.
    """
    note = ""
    if config.name == "time":
        validation, test = _by_time(interactions, config.fraction)
    elif config.name == "random":
        validation, test = _at_random(interactions, config.fraction, key)
    else:
        validation, test, note = _last_two(interactions, key)
    for name, held in (("validation", validation), ("test", test)):
        if not held.any():
            why = (
                "the times have too few distinct values" if config.name == "time" else "no user has three interactions"
            )
            raise DataError(
                f"'{interactions.name}': the split '{config.name}' leaves nothing for {name}, as {why}; "
                "choose another [split] or a weaker filter in [data]."
            )
    parts = (interactions.where(validation), interactions.where(test))
    validation |= test
    return Split(interactions.where(np.logical_not(validation, out=validation)), *parts, note)


def merge(first: Interactions, second: Interactions) -> Interactions:
    """Both parts' events of the same users, in the order of time; at equal times, or without times, first's lead."""
    owner = np.concatenate([first.user_of_event, second.user_of_event])
    times = None
    if first.times is not None and second.times is not None:
        times = np.concatenate([first.times, second.times])
    order = np.lexsort((owner,) if times is None else (times, owner))  # stable: first's events lead among equals
    ratings = None
    if first.ratings is not None and second.ratings is not None:
        ratings = np.concatenate([first.ratings, second.ratings])[order]
    return replace(
        first,
        indptr=first.indptr + second.indptr,
        items=np.concatenate([first.items, second.items])[order],
        ratings=ratings,
        times=None if times is None else times[order],
    )


def _drawn_orders(
    interactions: Interactions, positions: Ints, key: Key, *, timed: bool
) -> Iterator[tuple[Interactions, Ints]]:
    """Some users' events in the order of times, where timed, and then of a draw; a block of users after the other.

    Yields:
        The users of a block, and the places in the whole of their events, in that order.
    """
    for start in range(0, len(positions), _USERS):
        block = positions[start : start + _USERS]
        users = interactions.take(block)
        owner = users.user_of_event
        within = np.arange(users.n_events) - users.indptr[:-1][owner]
        draws = bits(key.streams(users.users, Lane.SPLIT)[owner], within)
        order = np.lexsort((draws, users.times, owner) if timed and users.times is not None else (draws, owner))
        yield users, (interactions.indptr[:-1][block][owner] + within)[order]


def _last_two(interactions: Interactions, key: Key) -> tuple[Bools, Bools, str]:
    enough = np.flatnonzero(interactions.counts >= LEAST)
    last = interactions.indptr[1:][enough] - 1
    second = last - 1
    drawn = np.ones(len(enough), np.bool_)
    if (times := interactions.times) is not None:
        drawn = (times[last - 2] == times[second]) | (times[second] == times[last])
    validation, test = np.zeros((2, interactions.n_events), np.bool_)
    validation[second[~drawn]] = test[last[~drawn]] = True
    for users, event in _drawn_orders(interactions, enough[drawn], key, timed=True):
        ends = users.indptr[1:]
        validation[event[ends - 2]] = test[event[ends - 1]] = True
    note = ""
    if drawn.any():
        why = "No times" if times is None else "Equal times"
        note = f"{why}: for {drawn.sum()} of {len(enough)} users a draw chose among their last interactions."
    return validation, test, note


def _at_random(interactions: Interactions, fraction: float, key: Key) -> tuple[Bools, Bools]:
    """Each user's events in a drawn order: the first of it go into test, the next into validation."""
    validation, test = np.zeros((2, interactions.n_events), np.bool_)
    for users, event in _drawn_orders(interactions, np.arange(interactions.n_users), key, timed=False):
        place = np.arange(users.n_events) - users.indptr[:-1][users.user_of_event]
        # fraction < 1/2, so twice the floor is below n and train keeps at least one event.
        held = np.maximum(1, np.floor(fraction * users.counts)).astype(np.int64)
        held = np.where(users.counts >= LEAST, held, 0)[users.user_of_event]
        validation[event[(held <= place) & (place < 2 * held)]] = True
        test[event[place < held]] = True
    return validation, test


def _by_time(interactions: Interactions, fraction: float) -> tuple[Bools, Bools]:
    times = interactions.times
    if times is None:
        raise ConfigError(
            f"split.name = 'time' needs times and '{interactions.name}' has none; "
            "use split.name = 'random' or 'leave-one-out'."
        )
    if not len(times):
        return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    first, second = np.quantile(times, [1 - 2 * fraction, 1 - fraction], method="inverted_cdf")
    return (first < times) & (times <= second), second < times
