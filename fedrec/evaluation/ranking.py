"""Ranking: where the held-out items stand among their candidates, from blocks of scores.

A candidate stands above another if its score is strictly greater. Between equal scores a draw keyed by user and item
decides, so that every list is one strict order: a model that scores everything alike gets chance, not 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Interactions, Ints
from fedrec.errors import DataError, FedrecError
from fedrec.randomness import U64, bits

Scores = npt.NDArray[np.floating[Any]]
Scorer = Callable[[Interactions], Scores]
"""Scores every item for every user of a shard, given what is known of them: profiles to ``[C, n_items]``."""

BLOCK = 4_000_000
"""Scores held at once: users are walked in blocks of about this many."""

_PART = 1_000_000  # scores compared at once within a block: small enough to stay in a core's cache


def block_of_scores(scorer: Scorer, profiles: Interactions) -> Scores:
    """The scorer's values for a shard with -inf where the user met the item; never the scorer's own array.

    Raises:
        FedrecError: for a wrong shape or a value that is not finite.
    """
    given = np.asarray(scorer(profiles))
    wanted = (profiles.n_users, profiles.n_items)
    if given.shape != wanted or not np.issubdtype(given.dtype, np.number):
        raise FedrecError(
            f"The model's scores are {given.dtype} {list(given.shape)} where numbers {list(wanted)} are needed: "
            "one row a user, one column an item."
        )
    kind = np.float32 if given.dtype in (np.float16, np.float32) else np.float64
    scores: Scores = np.array(given, dtype=kind, order="C")
    # NaN passes through min and max, so two reductions find any value that is not finite without a table of flags.
    if scores.size and not (np.isfinite(scores.min()) and np.isfinite(scores.max())):
        row, item = (int(place[0]) for place in np.nonzero(~np.isfinite(scores)))
        raise FedrecError(
            f"The model's score of user {profiles.users[row]} for item {item} is {scores[row, item]}; "
            "training has diverged: lower the learning rate or the noise."
        )
    # Numbered through: three times as fast as row and column.
    scores.reshape(-1)[profiles.user_of_event * profiles.n_items + profiles.items] = -np.inf
    return scores


def full_ranks(scores: Scores, held: Interactions, ties: U64) -> Ints:
    """Ranks (0 is the top) of the held-out items among all candidates.

    Args:
        scores: ``[C, n_items]``, -inf where an item is no candidate.
        held: the C users' held-out items.
        ties: one stream a user, ``[C]``.

    Returns:
        int64 ``[n_held]``, in the order of ``held.items``.

    Raises:
        DataError: a held-out item is among those that the user already met.
    """
    ranks = np.empty(held.n_events, np.int64)
    step = max(1, _PART // max(held.n_items, 1))
    for start in range(0, held.n_events, step):
        rows = held.user_of_event[start : start + step]
        items = held.items[start : start + step].astype(np.int64)
        own = scores[rows, items]
        if np.isneginf(own).any():
            user = held.users[rows[np.flatnonzero(np.isneginf(own))[0]]]
            raise DataError(f"A held-out item of user {user} is also in that user's history; split the data again.")
        alone = bool((np.diff(rows) == 1).all())  # one item a user: their rows are there as they are needed
        table = scores[rows[0] : rows[-1] + 1] if alone else scores[rows]
        ranks[start : start + step] = _above(table, None, own, items, ties[rows])
    return ranks


def sampled_ranks(scores: Scores, held: Interactions, negatives: Ints, ranks: Ints, ties: U64) -> Ints:
    """Ranks of the held-out items among the user's held-out items and sampled negatives.

    Args:
        scores: ``[C, n_items]``, -inf where an item is no candidate.
        held: the C users' held-out items.
        negatives: ``[C, n]``, -1 where one is missing; none of them held out.
        ranks: the items' full ranks, which order a user's held-out items among themselves.
        ties: one stream a user, ``[C]``.

    Returns:
        int64 ``[n_held]``, in the order of ``held.items``.
    """
    rows = held.user_of_event
    places = negatives + (np.arange(len(negatives)) * scores.shape[1])[:, None]
    theirs = scores.ravel().take(places, mode="clip")  # -1 takes any score, which is put right
    theirs[negatives < 0] = -np.inf
    own = scores[rows, held.items]
    alone = len(rows) == len(scores) and bool((held.counts == 1).all())
    if not alone:
        theirs, negatives = theirs[rows], negatives[rows]
    above = _above(theirs, negatives, own, held.items.astype(np.int64), ties[rows])
    if not alone:
        order = np.lexsort((ranks, rows))
        above[order] += np.arange(held.n_events) - held.indptr[:-1][rows]
    return above


def _above(table: Scores, names: Ints | None, own: Scores, items: Ints, ties: U64) -> Ints:
    """How many of a row's candidates stand above its item.

    Args:
        table: candidates' scores ``[n, m]``, -inf for none.
        names: the candidates' items ``[n, m]``, or None where the column is the item.
        own: the items' scores ``[n]``.
        items: ``[n]``; whether the item itself is in the table does not matter.
        ties: one stream a row, ``[n]``.
    """
    own = own[:, None]
    above = _counts(table > own)
    itself = 1 if names is None else 0
    tied = np.flatnonzero(_counts(table >= own) > above + itself)
    if len(tied):
        which, column = np.nonzero(table[tied] == own[tied])
        streams = ties[tied]
        others = column if names is None else names[tied][which, column]
        wins = bits(streams[which], others) < bits(streams, items[tied])[which]
        above[tied] += np.bincount(which[wins], minlength=len(tied))
    return above


def _counts(flags: npt.NDArray[np.bool_]) -> Ints:
    """How many flags are set in each row, ``[n]``; twice as fast as ``count_nonzero`` along an axis."""
    counts: Ints = np.bitwise_count(np.packbits(flags, axis=1)).sum(axis=1, dtype=np.int64)
    return counts


def top_lists(scores: Scores, k: int, ties: U64) -> Ints:
    """Each user's k best candidates, in no order, by the same strict order as the ranks.

    Args:
        scores: ``[C, n_items]``, -inf where an item is no candidate.
        k: the lists' length.
        ties: one stream a user, ``[C]``.

    Returns:
        int64 ``[C, k]``, -1 where a user has fewer than k candidates.
    """
    n_items = scores.shape[1]
    size = min(k, n_items)
    lists = np.full((len(scores), k), -1, np.int64)
    lists[:, :size] = np.argpartition(scores, n_items - size, axis=1)[:, n_items - size :]
    values = np.take_along_axis(scores, lists[:, :size], axis=1)
    last = values.min(axis=1)
    crowded = _counts(scores >= last[:, None]) > size
    for row in np.flatnonzero(crowded & ~np.isneginf(last)):
        better = np.flatnonzero(scores[row] > last[row])
        equal = np.flatnonzero(scores[row] == last[row])
        room = size - len(better)
        drawn = equal[np.argpartition(bits(ties[row], equal), room - 1)[:room]]
        lists[row, :size] = np.concatenate([better, drawn])
    lists[:, :size][np.isneginf(values)] = -1
    return lists
