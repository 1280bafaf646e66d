"""A user's draws, compiled by numba (extra ``fast``): the order of the positives, the negatives, and what repeats.

An index that cannot be negative is made unsigned, which spares numba a check at each access.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fedrec.contribution import Ints
from fedrec.randomness import U64
from fedrec.training.jit import GOLDEN, Items, mix

_PLACE_BITS = 20
"""The low bits of a word, which do not order positives, as in the reference; here they hold the place."""

_S32, _ONE = np.uint64(32), np.uint64(1)


@njit(error_model="numpy")
def _bits(n: int, least: int = 0) -> int:
    """The bits that tell ``n`` numbers apart, but at least so many."""
    bits = least
    while (1 << bits) < n:
        bits += 1
    return bits


@njit(error_model="numpy")
def _ordered(stream: np.uint64, mine: Items, words: U64, starts: Items, touched: Items, width: int) -> None:
    """Write the positives by ascending word, ``width`` apart. Words are uniform: buckets sort them in linear time."""
    n, bits = len(mine), _bits(len(mine)) + 1
    shift, places, sorted_ = np.uint64(64 - bits), np.uint64((1 << _bits(n, _PLACE_BITS)) - 1), words[n:]
    starts[: (1 << bits) + 1] = 0
    for place in range(n):
        stream += GOLDEN
        words[place] = (mix(stream) & ~places) | np.uint64(place)
        starts[(words[place] >> shift) + _ONE] += 1
    for bucket in range(1 << bits):
        starts[bucket + 1] += starts[bucket]
    for place in range(n):
        bucket = words[place] >> shift
        sorted_[np.uint64(starts[bucket])] = words[place]
        starts[bucket] += 1
    for place in range(n):
        word, into = sorted_[place], place
        while into > 0 and sorted_[into - 1] > word:
            sorted_[into] = sorted_[into - 1]
            into -= 1
        sorted_[into] = word
    for place in range(n):
        touched[place * width] = mine[sorted_[place] & places]


@njit(error_model="numpy")
def _looked_up(gaps: Items, unmet: int, bits: int, starts: Items, bounds: Items) -> None:
    """Fill ``starts [2^bits]``: for each bucket of ranks, how many gaps surely are at most its smallest rank.

    ``bounds`` gets the gaps and, behind them, what no rank reaches.
    """
    scale, last = np.float64(1 << bits) / np.float64(unmet), np.uint64((1 << bits) + 1)
    starts[: (1 << bits) + 2] = 0
    for place in range(len(gaps)):
        bounds[place] = gaps[place]
        # The first bucket all of whose ranks are no less than the gap.
        first = np.uint64(np.float64(gaps[place]) * scale + 1.000001)
        starts[first if first <= last else last] += 1
    bounds[len(gaps)] = unmet
    for bucket in range(1, 1 << bits):
        starts[bucket] += starts[bucket - 1]


@njit(error_model="numpy")
def _drawn(
    stream: np.uint64, unmet: np.uint64, bits: int, starts: Items, bounds: Items, m: int, touched: Items
) -> None:
    """Write ``m`` negatives behind each positive."""
    shift = np.uint64(32 - bits)
    for touch in range(0, len(touched), m + 1):
        for negative in range(touch + 1, touch + m + 1):
            stream += GOLDEN
            word = mix(stream) >> _S32
            rank = np.int32((word * unmet) >> _S32)
            below = np.uint64(starts[word >> shift])  # gaps that are at most the rank
            while bounds[below] <= rank:
                below += _ONE
            touched[negative] = rank + np.int32(below)


@njit(error_model="numpy")
def sequenced(
    ordering: np.uint64,
    drawing: np.uint64,
    mine: Items,
    gaps: Items,
    n_items: int,
    epochs: int,
    m: int,
    words: U64,
    starts: Items,
    bounds: Items,
    touched: Items,
) -> None:
    """Write a user's touches: every epoch's positives in their order, each with its ``m`` negatives.

    Of a user with ``n`` items: ``words [2n]``, ``starts [4n + 2]``, ``bounds [n + 1]``, for scratch.
    """
    n, unmet, bits = len(mine), n_items - len(mine), _bits(len(mine)) + 1
    for epoch in range(epochs):
        _ordered(ordering, mine, words, starts, touched[epoch * n * (m + 1) :], m + 1)
        ordering += np.uint64(n) * GOLDEN
    _looked_up(gaps, unmet, bits, starts, bounds)
    _drawn(drawing, np.uint64(unmet), bits, starts, bounds, m, touched)


@njit(error_model="numpy")
def repeated(touched: Items, at: int, every: int, seen: Ints, slots: Items, again: Items) -> tuple[int, int]:
    """Give a slot to each item that is touched more than once, and list its touches in ``again``.

    Looks at each ``every``-th touch: of pairs in one epoch, only negatives repeat. ``at`` is the number of the first
    touch among all users'; ``seen [n_items]`` holds smaller ones from before.
    """
    n_slots = count = 0
    for touch in range(every - 1, len(touched), every):
        item, slot = np.uint64(touched[touch]), np.int32(-1)
        before = seen[item] - at
        if before >= 0:
            slot = slots[before]
            if slot < 0:
                slot = np.int32(n_slots)
                slots[before] = slot
                n_slots += 1
        else:
            seen[item] = at + touch
        slots[touch] = slot
    for touch in range(every - 1, len(touched), every):
        again[count] = touch
        count += slots[touch] >= 0
    return n_slots, count
