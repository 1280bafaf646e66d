"""The step of `fedrec.training.per_interaction` compiled by numba (extra ``fast``): the same draws, and the same sums
to single precision. Loaded only where it runs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fedrec.contribution import Floats, Ints
from fedrec.data.interactions import Interactions
from fedrec.randomness import U64, Key, Lane
from fedrec.release import Arrays, DpSgd
from fedrec.training.jit import F32, GOLDEN, REORDER, Items, mix, sigmoids
from fedrec.training.local import Loss

_S11, _S32, _ONE, _UNIT = np.uint64(11), np.uint64(32), np.uint64(1), np.float32(1)


@njit(error_model="numpy")
def _draw(
    met: Items, sampling: np.uint64, drawing: np.uint64, rate: float, n_items: np.uint64, m: int, samples: Items
) -> int:
    """Fill ``samples [k, 1 + m]`` with the positives that enter and their negatives; returns k."""
    k = 0
    for item in met:
        salt = mix(np.uint64(item) + _ONE)
        if rate < 1:
            chance = mix(mix(sampling ^ salt) + GOLDEN)
            if np.float64(chance >> _S11) * 2.0**-53 >= rate:
                continue
        samples[k, 0] = item
        stream = mix(drawing ^ salt)
        for place in range(m):
            stream += GOLDEN
            samples[k, place + 1] = np.int32(((mix(stream) >> _S32) * n_items) >> _S32)
        k += 1
    return k


@njit(fastmath=REORDER, error_model="numpy")
def _scores(vector: F32, table: F32, bias: F32, samples: Items, scores: F32) -> None:
    flat, out = samples.reshape(-1), scores.reshape(-1)
    for place in range(0, len(flat), 2):  # two at a time
        other = min(place + 1, len(flat) - 1)
        a, b = np.uint64(flat[place]), np.uint64(flat[other])
        one, two = np.float32(0), np.float32(0)
        for part in range(len(vector)):
            one += vector[part] * table[a, part]
            two += vector[part] * table[b, part]
        out[place], out[other] = one + bias[a], two + bias[b]


@njit(error_model="numpy")
def _factor(samples: Items, pulls: F32, row: int, norm: float, clip_norm: float, twice: bool) -> float:
    """The clip factor of a sample as Opacus computes it; 0 where the sample is not finite."""
    square = 0.0
    for place in range(samples.shape[1]):
        square += np.float64(pulls[row, place]) ** 2
    if twice:  # rows that a sample touches twice add up before the norm is taken
        for place in range(samples.shape[1]):
            for other in range(place):
                if samples[row, place] == samples[row, other]:
                    square += 2 * np.float64(pulls[row, place]) * np.float64(pulls[row, other])
    factor = min(clip_norm / (norm * np.sqrt(square) + 1e-6), 1.0)
    return factor if square < np.inf and norm < np.inf else 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _step(
    indptr: Ints,
    met: Items,
    sampling: U64,
    drawing: U64,
    rate: float,
    m: int,
    table: F32,
    bias: F32,
    vectors: F32,
    norms: Floats,
    bpr: bool,
    clip_norm: float,
    scale: float,
    ends: Ints,
    items: Items,
    numbers: Floats,
) -> int:
    """Fill ``ends``, ``items`` and ``numbers`` user by user; returns how many rows were touched."""
    n_items, most = len(bias), np.diff(indptr).max()
    sums, last = np.zeros(n_items), np.full(n_items, -1)
    samples, pulls = np.empty((most, m + 1), np.int32), np.empty((most, m + 1), np.float32)
    power = np.empty(most * (m + 1), np.int32)
    exponential = power.view(np.float32)
    filled = number = 0
    for user in range(len(indptr) - 1):
        began = number
        mine = met[indptr[user] : indptr[user + 1]]
        k = _draw(mine, sampling[user], drawing[user], rate, np.uint64(n_items), m, samples)
        _scores(vectors[user], table, bias, samples[:k], pulls[:k])
        flat = pulls[:k].reshape(-1)
        if bpr:  # -log sigmoid(positive - negative), summed over the negatives
            for row in range(k):
                for place in range(1, m + 1):
                    pulls[row, place] -= pulls[row, 0]
        sigmoids(flat, len(flat), power, exponential)
        for row in range(k):
            if bpr:
                pulls[row, 0] = 0
                for place in range(1, m + 1):
                    pulls[row, 0] -= pulls[row, place]
            else:  # -log sigmoid(positive) - log(1 - sigmoid(negative))
                pulls[row, 0] -= _UNIT
            twice = False
            for place in range(m + 1):
                item = np.uint64(samples[row, place])
                items[filled] = item
                filled += last[item] < began
                twice |= last[item] == number
                last[item] = number
            number += 1
            factor = _factor(samples, pulls, row, norms[user], clip_norm, twice)
            if factor > 0:  # a sample that overflows costs its user no other
                for place in range(m + 1):
                    sums[np.uint64(samples[row, place])] += factor * pulls[row, place]
        for row in range(ends[user], filled):
            item = np.uint64(items[row])
            numbers[row] = -scale * sums[item]
            sums[item] = 0
        ends[user + 1] = filled
    return filled


@njit(nogil=True, cache=True, fastmath=REORDER, error_model="numpy")
def _scatter(indptr: Ints, items: Items, numbers: Floats, vectors: Floats, total: Floats) -> None:
    if vectors.shape[1] == 1:
        for user in range(len(vectors)):
            for row in range(indptr[user], indptr[user + 1]):
                total[np.uint64(items[row]), 0] += numbers[row] * vectors[user, 0]
        return
    for user in range(len(vectors)):
        for row in range(indptr[user], indptr[user + 1]):
            item, number = np.uint64(items[row]), numbers[row]
            for part in range(vectors.shape[1]):
                total[item, part] += number * vectors[user, part]


def scatter(indptr: Ints, items: npt.NDArray[np.integer], numbers: Floats, vectors: Floats, n_items: int) -> Floats:
    """The sum over users of numbers ⊗ vectors, float64 ``[n_items, d]``."""
    total = np.zeros((n_items, vectors.shape[1]))
    _scatter(indptr, np.asarray(items, np.int32), numbers, vectors, total)
    return total


@njit(nogil=True, cache=True, fastmath=REORDER, error_model="numpy")
def squares(indptr: Ints, numbers: Floats) -> Floats:
    """The squared norm of each user's numbers, ``[C]``."""
    found = np.zeros(len(indptr) - 1)
    for user in range(len(found)):
        for row in range(indptr[user], indptr[user + 1]):
            found[user] += numbers[row] * numbers[row]
    return found


def touched(
    arrays: Arrays,
    vectors: F32,
    norms: Floats,
    users: Interactions,
    plan: DpSgd,
    n_negatives: int,
    loss: Loss,
    key: Key,
) -> tuple[Ints, Items, Floats]:
    """The rows that users touch and the number that each changes by: ``indptr [C + 1]``, items and numbers ``[R]``.

    A user's rows are in no order. Negatives come from the catalogue.
    """
    most = int(np.minimum(users.counts * (1 + n_negatives), users.n_items).sum())
    ends = np.zeros(users.n_users + 1, np.int64)
    items, numbers = np.empty(most + 1, np.int32), np.empty(most)  # the next item is written before it counts
    if most == 0:
        return ends, items[:0], numbers
    filled = _step(
        users.indptr,
        users.items,
        key.streams(users.users, Lane.SAMPLING),
        key.streams(users.users, Lane.NEGATIVES),
        plan.sampling_rate,
        n_negatives,
        np.ascontiguousarray(arrays["table"], np.float32),
        np.ascontiguousarray(arrays["bias"], np.float32),
        np.ascontiguousarray(vectors, np.float32),
        norms,
        loss == "bpr",
        plan.clip_norm,
        plan.step_scale,
        ends,
        items,
        numbers,
    )
    return ends, items[:filled], numbers[:filled]
