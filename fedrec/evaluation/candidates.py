"""Candidates: the items that a held-out item is ranked against.

Nothing a user already met is a candidate. Sampled negatives lie outside the user's whole history, held-out items
included; they are drawn for measuring only and no model sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Interactions, Ints
from fedrec.errors import DataError
from fedrec.randomness import U64, below


@dataclass(frozen=True, eq=False)
class Unseen:
    """What each user has not met, without a users x items table.

    Attributes:
        counts: unseen items a user, int64 ``[C]``.
        n_items: size of the catalogue.
        starts: where each user's entries begin in ``steps``, int64 ``[C]``.
        steps: sorted int64 ``[n_events]``: for a user's i-th smallest met item h, the number h - i of unseen items
            before it, offset by the user.
    """

    counts: Ints
    n_items: int
    starts: Ints
    steps: Ints

    @classmethod
    def beside(cls, *parts: Interactions) -> Unseen:
        """What the users met in none of these parts, which hold the same users."""
        n_users, n_items = parts[0].n_users, parts[0].n_items
        met = np.concatenate([part.user_of_event * n_items + part.items for part in parts])
        met.sort()
        met = met[np.concatenate([[True], met[1:] != met[:-1]])] if len(met) else met
        owner = met // n_items
        counts = np.bincount(owner, minlength=n_users)
        starts = np.cumsum(counts) - counts
        before = met - owner * n_items - (np.arange(len(met)) - starts[owner])
        return cls(n_items - counts, n_items, starts, owner * (n_items + 1) + before)

    def item(self, rows: Ints, ranks: Ints) -> Ints:
        """The ``ranks``-th smallest unseen item (from 0) of each user in ``rows``; any equal shapes."""
        passed = np.searchsorted(self.steps, rows * (self.n_items + 1) + ranks, side="right") - self.starts[rows]
        return np.asarray(ranks + passed)


def distinct_below(streams: U64, wanted: Ints, bounds: Ints, first: int = 0) -> Ints:
    """A uniform subset of ``wanted`` numbers below ``bounds`` for each stream (Floyd's algorithm, Bentley 1987).

    The subset is uniform, its order is not.

    Args:
        streams: ``[C]``, one a user.
        wanted: ``[C]``, at most ``bounds``.
        bounds: ``[C]``.
        first: the streams' counter to begin with.

    Returns:
        int64 ``[C, max(wanted)]``, -1 beyond a user's ``wanted``.
    """
    width = int(wanted.max(initial=0))
    chosen = np.full((width, len(streams)), -1, np.int64)  # transposed: a step compares whole contiguous rows
    least = int(wanted.min(initial=0))
    for step in range(width):
        rows = slice(None) if step < least else np.flatnonzero(wanted > step)
        top = bounds[rows] - wanted[rows] + step
        draw = below(streams[rows], np.array([first + step]), top + 1)
        taken = (chosen[:step, rows] == draw).any(axis=0)
        chosen[step, rows] = np.where(taken, top, draw)
    return np.ascontiguousarray(chosen.T)


def draw_unseen(unseen: Unseen, streams: U64, wanted: Ints, first: int = 0) -> Ints:
    """Distinct unseen items, uniform without replacement: ``[C, max(wanted)]``, -1 where a user has fewer."""
    ranks = distinct_below(streams, np.minimum(wanted, unseen.counts), unseen.counts, first)
    rows, columns = np.nonzero(ranks >= 0)
    ranks[rows, columns] = unseen.item(rows, ranks[rows, columns])
    return ranks


def check_published(published: npt.NDArray[np.integer], n_users: int, n_items: int) -> Ints:
    """Published negatives as int64 ``[n_users, n]``, -1 where one is missing.

    Raises:
        DataError: for another number of users, or an item outside the catalogue.
    """
    table = np.asarray(published)
    if table.ndim != 2 or len(table) != n_users or not np.issubdtype(table.dtype, np.integer):
        raise DataError(
            f"The published negatives are {table.dtype} {list(table.shape)} where integers [{n_users}, n] are needed."
        )
    wide = table.astype(np.int64)
    if wide.size and (wide.min() < -1 or wide.max() >= n_items):
        user, column = (int(place[0]) for place in np.nonzero((wide < -1) | (wide >= n_items)))
        raise DataError(
            f"The published negative {column} of user {user} is item {wide[user, column]}, outside the catalogue "
            f"of {n_items} items; use -1 where one is missing."
        )
    return wide


def only_negatives(table: Ints, *met: Interactions) -> Ints:
    """Published negatives ``[C, n]`` with -1 for repeats and for whatever the user met, held-out items included."""
    n_items = met[0].n_items
    sorted_table = np.sort(table, axis=1)
    sorted_table[:, 1:][sorted_table[:, 1:] == sorted_table[:, :-1]] = -1
    keys = np.arange(len(table))[:, None] * n_items + sorted_table
    taken = np.concatenate([part.user_of_event * n_items + part.items for part in met])
    return np.where(np.isin(keys, taken) | (sorted_table < 0), -1, sorted_table)
