"""The loops of `fedrec.training.compiled`, compiled by numba (extra ``fast``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fedrec.contribution import Floats, Ints
from fedrec.randomness import U64
from fedrec.training.jit import GOLDEN, REORDER, mix, sigmoids

F32 = npt.NDArray[np.float32]
Items = npt.NDArray[np.int32]

_WORD = 44
"""Bits of a word that order positives, as in the reference."""

_S20, _S32, _ONE = np.uint64(20), np.uint64(32), np.uint64(1)


@njit(error_model="numpy")
def _ordered(stream: np.uint64, first: int, n: int, bits: int, words: U64, starts: Ints, order: Items) -> None:
    """Fill ``order [n]``: the places 0 … n - 1 by ascending word. Words are uniform, so buckets sort in linear time."""
    shift, bucket_words = np.uint64(_WORD - bits), words[n:]
    starts[: (1 << bits) + 1] = 0
    for place in range(n):
        word = mix(stream + (np.uint64(first + place) + _ONE) * GOLDEN) >> _S20
        words[place] = word
        starts[np.int64(word >> shift) + 1] += 1
    for bucket in range(1 << bits):
        starts[bucket + 1] += starts[bucket]
    for place in range(n):
        word = words[place]
        number = np.int64(word >> shift)
        bucket_words[starts[number]] = word
        order[starts[number]] = place
        starts[number] += 1
    for place in range(1, n):
        word, moved = bucket_words[place], order[place]
        into = place
        while into > 0 and bucket_words[into - 1] > word:
            bucket_words[into] = bucket_words[into - 1]
            order[into] = order[into - 1]
            into -= 1
        bucket_words[into] = word
        order[into] = moved


@njit(error_model="numpy")
def _looked_up(gaps: Items, begin: int, n: int, unmet: int, bits: int, starts: Ints) -> None:
    """Fill ``starts [2^bits]``: for each bucket of ranks, how many gaps surely are at most its smallest rank."""
    scale = np.float64(1 << bits) / np.float64(unmet)
    starts[: (1 << bits) + 2] = 0
    for place in range(n):
        bucket = np.int64(np.float64(gaps[begin + place]) * scale + 1.000001)  # all its ranks are no less than the gap
        starts[bucket if bucket <= 1 << bits else (1 << bits) + 1] += 1
    for place in range(1, 1 << bits):
        starts[place] += starts[place - 1]


@njit(error_model="numpy")
def _drawn(
    stream: np.uint64,
    gaps: Items,
    begin: int,
    n: int,
    unmet: np.uint64,
    bits: int,
    starts: Ints,
    rows: int,
    m: int,
    touched: Items,
    at: int,
) -> None:
    """Write the negatives of as many positives as ``rows`` into ``touched``, behind each positive's place."""
    draw, shift = np.uint64(0), np.uint64(32 - bits)
    for row in range(rows):
        for place in range(m):
            draw += _ONE
            word = mix(stream + draw * GOLDEN) >> _S32
            rank = np.int32((word * unmet) >> _S32)
            below = starts[np.int64(word >> shift)]  # gaps that are at most the rank
            while below < n and gaps[begin + below] <= rank:
                below += 1
            touched[at + row * (m + 1) + 1 + place] = rank + np.int32(below)


@njit(error_model="numpy")
def _sequenced(
    ordering: np.uint64,
    drawing: np.uint64,
    items: Items,
    gaps: Items,
    begin: int,
    n: int,
    n_items: int,
    epochs: int,
    m: int,
    words: U64,
    starts: Ints,
    order: Items,
    touched: Items,
    at: int,
) -> None:
    """Write a user's touches from ``at`` on: every epoch's positives in their order, each with its negatives."""
    width, bits = m + 1, 0
    while (1 << bits) < n:
        bits += 1
    for epoch in range(epochs):
        _ordered(ordering, epoch * n, n, bits, words, starts, order)
        for row in range(n):
            touched[at + (epoch * n + row) * width] = items[begin + order[row]]
    _looked_up(gaps, begin, n, n_items - n, bits, starts)
    _drawn(drawing, gaps, begin, n, np.uint64(n_items - n), bits, starts, epochs * n, m, touched, at)


@njit(error_model="numpy")
def _repeated(touched: Items, at: int, end: int, seen: Ints, slots: Items, again: Items) -> tuple[int, int]:
    """Give a slot to each item that is touched more than once; list its touches in ``again``, counted from ``at``."""
    n_slots = 0
    for touch in range(at, end):
        item = touched[touch]
        before = seen[item]
        slot = np.int32(-1)
        if before >= at:
            slot = slots[before - at]
            if slot < 0:
                slot = np.int32(n_slots)
                slots[before - at] = slot
                n_slots += 1
        else:
            seen[item] = touch
        slots[touch - at] = slot
    count = 0
    for touch in range(end - at):
        again[count] = touch
        count += slots[touch] >= 0
    return n_slots, count


@njit(fastmath=REORDER, error_model="numpy")
def _scored(vector: F32, table: F32, bias: F32, touched: Items, at: int, n: int, scores: F32) -> None:
    d = len(vector)
    for row in range(n):
        item, total = touched[at + row], np.float32(0)
        for part in range(d):
            total += vector[part] * table[item, part]
        scores[row] = total + bias[item]


@njit(fastmath=REORDER, error_model="numpy")
def _compared(vector: F32, table: F32, bias: F32, touched: Items, at: int, k: int, scores: F32) -> None:
    """Score pairs of a positive and a negative: zero for the positive, the difference for the negative."""
    d = len(vector)
    for row in range(k):
        positive, negative, total = touched[at + 2 * row], touched[at + 2 * row + 1], np.float32(0)
        for part in range(d):
            total += vector[part] * (table[negative, part] - table[positive, part])
        scores[2 * row] = 0
        scores[2 * row + 1] = total + (bias[negative] - bias[positive])


@njit(fastmath=REORDER, error_model="numpy")
def _pulled(table: F32, touched: Items, at: int, n: int, pulls: F32, gradient: F32) -> None:
    """Add each touched row times its pull to ``gradient``, four rows at a time."""
    d = len(gradient)
    row = 0
    while row + 4 <= n:
        a, b, c, e = touched[at + row], touched[at + row + 1], touched[at + row + 2], touched[at + row + 3]
        by_a, by_b, by_c, by_e = pulls[row], pulls[row + 1], pulls[row + 2], pulls[row + 3]
        for part in range(d):
            pulled = by_a * table[a, part] + by_b * table[b, part] + by_c * table[c, part] + by_e * table[e, part]
            gradient[part] += pulled
        row += 4
    while row < n:
        a, by_a = touched[at + row], pulls[row]
        for part in range(d):
            gradient[part] += by_a * table[a, part]
        row += 1


@njit(error_model="numpy")
def _losses(bpr: bool, scores: F32, k: int, m: int, margins: F32, power: Items, exponential: F32, pulls: F32) -> None:
    """The derivative of the loss by each score of a batch, ``pulls [k · (1 + m)]``, positives first."""
    width = m + 1
    if bpr:  # -log sigmoid(positive - negative), summed over the negatives
        for row in range(k):
            for place in range(m):
                margins[row * m + place] = scores[row * width + 1 + place] - scores[row * width]
        sigmoids(margins, k * m, power, exponential)
        for row in range(k):
            total = np.float32(0)
            for place in range(m):
                pull = margins[row * m + place]
                pulls[row * width + 1 + place] = pull
                total += pull
            pulls[row * width] = -total
    else:  # -log sigmoid(positive) - log(1 - sigmoid(negative))
        pulls[: k * width] = scores[: k * width]
        sigmoids(pulls, k * width, power, exponential)
        for row in range(k):
            pulls[row * width] -= np.float32(1)


@njit(nogil=True, cache=True, fastmath=REORDER, error_model="numpy")
def train(  # noqa: PLR0912, PLR0915 - parts of it would need all of its arrays again
    first: int,
    last: int,
    indptr: Ints,
    items: Items,
    gaps: Items,
    ordering: U64,
    drawing: U64,
    table: F32,
    bias: F32,
    epochs: int,
    batch: int,
    m: int,
    rate: np.float32,
    bpr: bool,
    personal: F32,
    steps: Ints,
    vectors: F32,
    touched: Items,
    numbers: F32,
    squares: Floats,
    bias_squares: Floats,
    distinct: Ints,
) -> None:
    """Train users first … last - 1: ``personal`` in place, everything after it filled."""
    n_items, d, width = len(bias), table.shape[1], m + 1
    most = 0
    for user in range(first, last):
        most = max(most, indptr[user + 1] - indptr[user])
    rows = min(batch, most) * width
    words, starts = np.empty(2 * most, np.uint64), np.empty(2 * most + 2, np.int64)
    order, power = np.empty(most, np.int32), np.empty(rows, np.int32)
    exponential = power.view(np.float32)
    scores, pulls, margins = np.empty(rows, np.float32), np.empty(rows, np.float32), np.empty(rows, np.float32)
    touches = most * epochs * width
    seen, slots, again = np.full(n_items, -1), np.empty(touches, np.int32), np.empty(touches + 1, np.int32)
    changes, bias_changes = np.empty((min(touches // 2, n_items), d), np.float32), np.empty(n_items, np.float32)
    p, gradient = np.empty(d, np.float32), np.empty(d, np.float32)
    for user in range(first, last):
        begin, n = indptr[user], indptr[user + 1] - indptr[user]
        if n == 0 or n >= n_items:
            continue
        at, end = begin * epochs * width, (begin + n) * epochs * width
        _sequenced(
            ordering[user], drawing[user], items, gaps, begin, n, n_items, epochs, m, words, starts, order, touched, at
        )
        n_slots, n_again = _repeated(touched, at, end, seen, slots, again)
        again[n_again] = end - at
        changes[:n_slots] = 0
        bias_changes[:n_slots] = 0
        p[:] = personal[user]
        square = bias_square = 0.0
        step, next_ = steps[user], 0
        for epoch in range(epochs):
            for start in range(0, n, batch):
                k = min(batch, n - start)
                ahead = (epoch * n + start) * width
                filled = k * width
                if bpr and m == 1:
                    _compared(p, table, bias, touched, at + ahead, k, scores)
                else:
                    _scored(p, table, bias, touched, at + ahead, filled, scores)
                met = next_
                while again[met] < ahead + filled:
                    slot, total = slots[again[met]], np.float32(0)
                    for part in range(d):
                        total += p[part] * changes[slot, part]
                    scores[again[met] - ahead] += total + bias_changes[slot]
                    met += 1
                _losses(bpr, scores, k, m, margins, power, exponential, pulls)
                gradient[:] = 0
                _pulled(table, touched, at + ahead, filled, pulls, gradient)
                for at_again in range(next_, met):
                    slot, pull = slots[again[at_again]], pulls[again[at_again] - ahead]
                    for part in range(d):
                        gradient[part] += pull * changes[slot, part]
                long, moved = 0.0, 0.0
                for part in range(d):
                    vectors[step, part] = p[part]
                    long += np.float64(p[part]) * np.float64(p[part])
                for row in range(filled):
                    number = -rate * pulls[row]
                    numbers[at + ahead + row] = number
                    moved += np.float64(number) * np.float64(number)
                while next_ < met:
                    slot, number = slots[again[next_]], numbers[at + again[next_]]
                    for part in range(d):
                        changes[slot, part] += number * p[part]
                    bias_changes[slot] += number
                    moved -= np.float64(number) * np.float64(number)
                    next_ += 1
                square += moved * long
                bias_square += moved
                for part in range(d):
                    p[part] -= rate * gradient[part]
                step += 1
        for slot in range(n_slots):
            for part in range(d):
                square += np.float64(changes[slot, part]) * np.float64(changes[slot, part])
            bias_square += np.float64(bias_changes[slot]) * np.float64(bias_changes[slot])
        personal[user] = p
        squares[user], bias_squares[user] = square, bias_square
        distinct[user] = end - at - n_again + n_slots


@njit(nogil=True, cache=True, error_model="numpy")
def summed(
    weights: Floats,
    indptr: Ints,
    epochs: int,
    batch: int,
    width: int,
    steps: Ints,
    vectors: F32,
    touched: Items,
    numbers: F32,
    total: Floats,
) -> None:
    """Add the users' weighted changes to ``total``, user by user."""
    d = total.shape[1]
    vector = np.empty(d)
    for user in range(len(weights)):
        weight, step, touch = weights[user], steps[user], indptr[user] * epochs * width
        if weight == 0 or step == steps[user + 1]:
            continue
        for _ in range(epochs):
            for start in range(indptr[user], indptr[user + 1], batch):
                for part in range(d):
                    vector[part] = weight * np.float64(vectors[step, part])
                step += 1
                for _ in range(min(batch, indptr[user + 1] - start) * width):
                    item, number = touched[touch], np.float64(numbers[touch])
                    for part in range(d):
                        total[item, part] += number * vector[part]
                    touch += 1


@njit(nogil=True, cache=True, error_model="numpy")
def summed_numbers(
    weights: Floats, indptr: Ints, times: int, steps: Ints, touched: Items, numbers: F32, total: Floats
) -> None:
    """Add the users' weighted numbers to ``total [n_items]``, user by user."""
    for user in range(len(weights)):
        weight = weights[user]
        if weight == 0 or steps[user] == steps[user + 1]:
            continue
        for touch in range(indptr[user] * times, indptr[user + 1] * times):
            total[touched[touch]] += weight * np.float64(numbers[touch])


@njit(nogil=True, cache=True, error_model="numpy")
def listed(
    first: int,
    last: int,
    indptr: Ints,
    epochs: int,
    batch: int,
    width: int,
    steps: Ints,
    vectors: F32,
    touched: Items,
    numbers: F32,
    seen: Ints,
    rows: Items,
    values: Floats,
) -> None:
    """List the distinct rows of users first … last - 1 one after another: item numbers, and changes from zero on."""
    filled = 0
    for user in range(first, last):
        step, touch, began = steps[user], indptr[user] * epochs * width, filled
        if step == steps[user + 1]:
            continue
        for _ in range(epochs):
            for start in range(indptr[user], indptr[user + 1], batch):
                for _ in range(min(batch, indptr[user + 1] - start) * width):
                    item = touched[touch]
                    if seen[item] < began:
                        seen[item] = filled
                        rows[filled] = item
                        filled += 1
                    row, number = seen[item], np.float64(numbers[touch])
                    for part in range(values.shape[1]):
                        values[row, part] += number * np.float64(vectors[step, part])
                    touch += 1
                step += 1
