"""The loop of `fedrec.training.compiled` that trains, compiled by numba (extra ``fast``)."""

from __future__ import annotations

import numpy as np
from numba import njit

from fedrec.contribution import Floats, Ints
from fedrec.randomness import U64
from fedrec.training.compiled_draws import repeated, sequenced
from fedrec.training.jit import F32, REORDER, Items, sigmoids


@njit(fastmath=REORDER, error_model="numpy")
def _gathered(vector: F32, table: F32, bias: F32, touched: Items, rows: F32, scores: F32) -> None:
    """Copy each touched row and score it."""
    for row in range(len(touched)):
        item, total = np.uint64(touched[row]), np.float32(0)
        for part in range(len(vector)):
            value = table[item, part]
            rows[row, part] = value
            total += vector[part] * value
        scores[row] = total + bias[item]


@njit(fastmath=REORDER, error_model="numpy")
def _compared(vector: F32, table: F32, bias: F32, touched: Items, rows: F32, scores: F32) -> None:
    """The row of each negative less that of its positive, and its score: all that BPR looks at."""
    for row in range(len(touched) // 2):
        positive, negative = np.uint64(touched[2 * row]), np.uint64(touched[2 * row + 1])
        total = np.float32(0)
        for part in range(len(vector)):
            value = table[negative, part] - table[positive, part]
            rows[row, part] = value
            total += vector[part] * value
        scores[row] = total + (bias[negative] - bias[positive])


@njit(fastmath=REORDER, error_model="numpy")
def _pulled(rows: F32, pulls: F32, n: int, gradient: F32) -> None:
    """Fill ``gradient`` with the sum of rows times pulls, four rows at a time."""
    gradient[:] = 0
    row = 0
    while row + 4 <= n:
        by_a, by_b, by_c, by_e = pulls[row], pulls[row + 1], pulls[row + 2], pulls[row + 3]
        a, b, c, e = rows[row], rows[row + 1], rows[row + 2], rows[row + 3]
        for part in range(len(gradient)):
            gradient[part] += by_a * a[part] + by_b * b[part] + by_c * c[part] + by_e * e[part]
        row += 4
    while row < n:
        for part in range(len(gradient)):
            gradient[part] += pulls[row] * rows[row, part]
        row += 1


@njit(error_model="numpy")
def _losses(bpr: bool, scores: F32, k: int, m: int, margins: F32, power: Items, exponential: F32) -> None:
    """Put the derivative of the loss by each score in its place, positives first ``[k, 1 + m]``."""
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
                scores[row * width + 1 + place] = pull
                total += pull
            scores[row * width] = -total
    else:  # -log sigmoid(positive) - log(1 - sigmoid(negative))
        sigmoids(scores, k * width, power, exponential)
        for row in range(k):
            scores[row * width] -= np.float32(1)


@njit(fastmath=REORDER, error_model="numpy")
def _moved(pulls: F32, n: int, rate: np.float32, numbers: F32) -> float:
    """Fill ``numbers`` with the step against each pull; returns their squares' sum."""
    square = 0.0
    for row in range(n):
        number = -rate * pulls[row]
        numbers[row] = number
        square += np.float64(number) * np.float64(number)
    return square


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
    touches, filled, pairs = most * epochs * width, min(batch, most) * width, bpr and m == 1
    words, starts = np.empty(2 * most, np.uint64), np.empty(4 * most + 2, np.int32)
    bounds, power = np.empty(most + 1, np.int32), np.empty(filled, np.int32)
    exponential = power.view(np.float32)
    scores, margins, gradient = np.empty(filled, np.float32), np.empty(filled, np.float32), np.empty(d, np.float32)
    rows = np.empty((filled, d), np.float32)
    seen, slots, again = np.full(n_items, -1), np.empty(touches, np.int32), np.empty(touches + 1, np.int32)
    changes, bias_changes = np.empty((min(touches // 2, n_items), d), np.float32), np.empty(n_items, np.float32)
    for user in range(first, last):
        begin, end = indptr[user], indptr[user + 1]
        n, at = end - begin, begin * epochs * width
        if n == 0 or n >= n_items:
            continue
        own, moved = touched[at : end * epochs * width], numbers[at : end * epochs * width]
        sequenced(
            ordering[user],
            drawing[user],
            items[begin:end],
            gaps[begin:end],
            n_items,
            epochs,
            m,
            words,
            starts,
            bounds,
            own,
        )
        n_slots, n_again = repeated(own, at, 2 if epochs == 1 and m == 1 else 1, seen, slots, again)
        again[n_again] = len(own)
        changes[:n_slots] = 0
        bias_changes[:n_slots] = 0
        p = personal[user]
        square = bias_square = 0.0
        step, next_ = steps[user], 0
        for epoch in range(epochs):
            for start in range(0, n, batch):
                k = min(batch, n - start)
                ahead = (epoch * n + start) * width
                behind = ahead + k * width
                vectors[step] = p
                if pairs:
                    _compared(p, table, bias, own[ahead:behind], rows, scores)
                else:
                    _gathered(p, table, bias, own[ahead:behind], rows, scores)
                met = next_
                while again[met] < behind:
                    slot, row, sign = slots[again[met]], again[met] - ahead, np.float32(1)
                    if pairs:
                        row, sign = row >> 1, np.float32(2 * (row & 1) - 1)
                    total = bias_changes[slot]
                    for part in range(d):
                        rows[row, part] += sign * changes[slot, part]
                        total += p[part] * changes[slot, part]
                    scores[row] += sign * total
                    met += 1
                if pairs:
                    sigmoids(scores, k, power, exponential)
                    alone = 2 * _moved(scores, k, rate, moved[ahead + 1 : behind : 2])
                    _moved(scores, k, -rate, moved[ahead:behind:2])
                    _pulled(rows, scores, k, gradient)
                else:
                    _losses(bpr, scores, k, m, margins, power, exponential)
                    alone = _moved(scores, k * width, rate, moved[ahead:behind])
                    _pulled(rows, scores, k * width, gradient)
                long = 0.0
                while next_ < met:
                    slot, number = slots[again[next_]], moved[again[next_]]
                    for part in range(d):
                        changes[slot, part] += number * p[part]
                    bias_changes[slot] += number
                    alone -= np.float64(number) * np.float64(number)
                    next_ += 1
                for part in range(d):
                    long += np.float64(p[part]) * np.float64(p[part])
                    p[part] -= rate * gradient[part]
                square += alone * long
                bias_square += alone
                step += 1
        for slot in range(n_slots):
            for part in range(d):
                square += np.float64(changes[slot, part]) * np.float64(changes[slot, part])
            bias_square += np.float64(bias_changes[slot]) * np.float64(bias_changes[slot])
        squares[user], bias_squares[user] = square, bias_square
        distinct[user] = len(own) - n_again + n_slots
