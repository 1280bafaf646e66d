"""The loops of `fedrec.training.compiled` that sum and list what users learned, compiled by numba (extra ``fast``)."""

from __future__ import annotations

import numpy as np
from numba import njit

from fedrec.contribution import Floats, Ints
from fedrec.training.jit import F32, REORDER, Items


@njit(nogil=True, cache=True, error_model="numpy")
def summed(
    first: int,
    last: int,
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
    """Add the weighted changes of users first … last - 1 to ``total``, user by user."""
    d = total.shape[1]
    vector = np.empty(d)
    for user in range(first, last):
        weight, step, touch = weights[user], steps[user], indptr[user] * epochs * width
        if weight == 0 or step == steps[user + 1]:
            continue
        for _ in range(epochs):
            for start in range(indptr[user], indptr[user + 1], batch):
                for part in range(d):
                    vector[part] = weight * np.float64(vectors[step, part])
                step += 1
                for _ in range(min(batch, indptr[user + 1] - start) * width):
                    item, number = np.uint64(touched[touch]), np.float64(numbers[touch])
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
            total[np.uint64(touched[touch])] += weight * np.float64(numbers[touch])


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


@njit(nogil=True, cache=True, fastmath=REORDER, error_model="numpy")
def projected(
    first: int,
    last: int,
    indptr: Ints,
    items: Items,
    weights: Floats,
    item_weight: F32,
    table: F32,
    vectors: F32,
) -> None:
    """Add to ``vectors`` of users first … last - 1 their rows of the table, weighted by event and by item."""
    d = vectors.shape[1]
    for user in range(first, last):
        event, end = indptr[user], indptr[user + 1]
        while event + 4 <= end:
            a, b = np.uint64(items[event]), np.uint64(items[event + 1])
            c, e = np.uint64(items[event + 2]), np.uint64(items[event + 3])
            by_a = np.float32(weights[event] * item_weight[a])
            by_b = np.float32(weights[event + 1] * item_weight[b])
            by_c = np.float32(weights[event + 2] * item_weight[c])
            by_e = np.float32(weights[event + 3] * item_weight[e])
            for part in range(d):
                row = by_a * table[a, part] + by_b * table[b, part] + by_c * table[c, part] + by_e * table[e, part]
                vectors[user, part] += row
            event += 4
        while event < end:
            a = np.uint64(items[event])
            by_a = np.float32(weights[event] * item_weight[a])
            for part in range(d):
                vectors[user, part] += by_a * table[a, part]
            event += 1
