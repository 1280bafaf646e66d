"""`fedrec.training.local` compiled by numba (extra ``fast``): the same draws, and equal to it within 1e-6.

What a user learns is kept as touches (`fedrec.training.touches` says why), here of every item, however often it is
touched; its squared norm is known as soon as the user has trained. A step of the ``S`` steps holds a batch's touches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fedrec.config import TrainingConfig
from fedrec.contribution import Entries, Floats, Ints
from fedrec.data.interactions import Interactions
from fedrec.randomness import Key, Lane
from fedrec.threads import shared_out
from fedrec.training import compiled_kernels as kernels
from fedrec.training import compiled_sums as sums
from fedrec.training.jit import Items
from fedrec.training.local import F32, Loss

Scalar = TypeVar("Scalar", bound=np.generic)

_LINE = 64
"""Bytes of a cache line."""

_TOUCHES_PER_ITEM = 16
"""From so many on, a sum has two parts; below, a second table of sums would cost more than it spares."""


@dataclass(frozen=True)
class Touches:
    """What C users learned of the items, as it is kept until it is summed.

    Attributes:
        indptr: the users' positives, ``[C + 1]``.
        epochs, batch, width: a user's touches are ``epochs`` times its positives, each with ``width - 1`` negatives;
            a step holds ``batch`` positives, the last of an epoch what is left.
        steps: each user's first step ``[C + 1]``; a user with nothing to learn has none.
        vectors: the user's vector at the start of each step ``[S, d]``.
        touched: the item of each touch ``[T]``.
        numbers: what multiplies the step's vector, and is added to the bias ``[T]``.
        distinct: how many items each user touched ``[C]``.
        n_items: rows of the dense table.
        workers: threads that sum.
    """

    indptr: Ints
    epochs: int
    batch: int
    width: int
    steps: Ints
    vectors: F32
    touched: Items
    numbers: F32
    distinct: Ints
    n_items: int
    workers: int

    def listed(self, first: int, last: int, vectors: F32) -> Entries:
        """The changes of the items that users first … last - 1 touch, of a step's vector for each step."""
        distinct, d = self.distinct[first:last], vectors.shape[1]
        rows, values = np.empty(distinct.sum(), np.int32), np.zeros((distinct.sum(), d))
        seen = np.full(self.n_items, -1)
        shape = (self.indptr, self.epochs, self.batch, self.width, self.steps)
        sums.listed(first, last, *shape, vectors, self.touched, self.numbers, seen, rows, values)
        coordinates = rows[:, None] * np.int64(d) + np.arange(d)
        return Entries(np.repeat(np.arange(first, last), distinct * d), coordinates.ravel(), values.ravel())


@dataclass(frozen=True)
class ItemChanges:
    """The change of the item vectors, a `fedrec.contribution.Part`."""

    touches: Touches
    squares: Floats

    def squared_norms(self) -> Floats:
        return self.squares

    def weighted_sum(self, weights: Floats) -> Floats:
        t = self.touches

        def some(first: int, last: int) -> Floats:
            total = _zeros((t.n_items, t.vectors.shape[1]), np.float64)
            of_users = (t.indptr, t.epochs, t.batch, t.width, t.steps, t.vectors, t.touched, t.numbers)
            sums.summed(first, last, weights, *of_users, total)
            return total

        # In two halves by one worker as by many, so that the order of the sum, and thus every bit, is the same.
        edges = _edges(t.indptr, 2 if len(t.touched) >= _TOUCHES_PER_ITEM * t.n_items else 1)
        total, *rest = shared_out(some, edges, t.workers)
        for other in rest:
            total += other
        return total

    def counts(self) -> Ints:
        return np.asarray(self.touches.distinct * self.touches.vectors.shape[1], np.int64)

    def entries(self, first: int, last: int) -> Entries:
        return self.touches.listed(first, last, self.touches.vectors)


@dataclass(frozen=True)
class BiasChanges:
    """The change of the item biases, a `fedrec.contribution.Part`."""

    touches: Touches
    squares: Floats

    def squared_norms(self) -> Floats:
        return self.squares

    def weighted_sum(self, weights: Floats) -> Floats:
        t, total = self.touches, np.zeros(self.touches.n_items)
        sums.summed_numbers(weights, t.indptr, t.epochs * t.width, t.steps, t.touched, t.numbers, total)
        return total

    def counts(self) -> Ints:
        return self.touches.distinct

    def entries(self, first: int, last: int) -> Entries:
        return self.touches.listed(first, last, np.ones((len(self.touches.vectors), 1), np.float32))


@dataclass(frozen=True)
class CompiledResult:
    """What C users learned, as `fedrec.training.local.LocalResult` says."""

    items: ItemChanges
    bias: BiasChanges
    personal: F32


def train(
    item_vectors: F32,
    item_bias: F32,
    personal: F32,
    users: Interactions,
    config: TrainingConfig,
    loss: Loss,
    key: Key,
    workers: int = 1,
) -> CompiledResult:
    """Train as `fedrec.training.local.train` does, but without regularisation; ``workers`` threads share out the users.

    Guarantees:
        What a user learns has the same bits alone and among others, and a weighted sum the same bits for any number of
        workers.
    """
    counts, n_items, width = users.counts, users.n_items, config.negatives + 1
    per_epoch = np.where(counts < n_items, -(-counts // config.batch_size), 0)
    steps = np.concatenate([[0], np.cumsum(per_epoch * config.epochs)])
    n_touches, d = users.n_events * config.epochs * width, item_vectors.shape[1]
    personal = np.array(personal, np.float32, order="C")  # trained in place
    vectors, touched = _zeros((int(steps[-1]), d), np.float32), np.empty(n_touches, np.int32)
    numbers, distinct = np.empty(n_touches, np.float32), np.zeros(users.n_users, np.int64)
    squares, bias_squares = np.zeros(users.n_users), np.zeros(users.n_users)
    given = (
        users.indptr,
        users.items,
        users.gaps,
        key.streams(users.users, Lane.ORDER),
        key.streams(users.users, Lane.NEGATIVES),
        lined(item_vectors),
        np.ascontiguousarray(item_bias, np.float32),
        config.epochs,
        config.batch_size,
        config.negatives,
        np.float32(config.learning_rate),
        loss == "bpr",
    )
    filled = (personal, steps, vectors, touched, numbers, squares, bias_squares, distinct)

    def some(first: int, last: int) -> None:
        kernels.train(first, last, *given, *filled)

    shared_out(some, _edges(users.indptr, workers), workers)
    touches = Touches(
        users.indptr,
        config.epochs,
        config.batch_size,
        width,
        steps,
        vectors,
        touched,
        numbers,
        distinct,
        n_items,
        workers,
    )
    squares, bias_squares = np.maximum(squares, 0.0), np.maximum(bias_squares, 0.0)  # of a difference; a NaN stays one
    return CompiledResult(ItemChanges(touches, squares), BiasChanges(touches, bias_squares), personal)


def project(users: Interactions, weights: Floats, item_weight: F32, table: F32, workers: int = 1) -> F32:
    """`fedrec.models.history.project` of ``weights [n_events]`` times those of the items ``[n_items]``."""
    vectors, rows = np.zeros((users.n_users, table.shape[1]), np.float32), lined(table)

    def some(first: int, last: int) -> None:
        sums.projected(first, last, users.indptr, users.items, weights, item_weight, rows, vectors)

    shared_out(some, _edges(users.indptr, workers), workers)
    return vectors


def _edges(indptr: Ints, parts: int) -> Ints:
    """Where ranges of users begin and end that have about as many events."""
    inner = np.searchsorted(indptr, np.linspace(0, indptr[-1], parts + 1)[1:-1])
    return np.concatenate([[0], inner, [len(indptr) - 1]])


def lined(rows: F32) -> F32:
    """The rows from the beginning of a cache line on: rows that lie across lines cost a fifth of a round."""
    if rows.dtype == np.float32 and rows.flags.c_contiguous and rows.ctypes.data % _LINE == 0:
        return rows
    copy = _zeros(rows.shape, np.float32)
    copy[:] = rows
    return copy


def _zeros(shape: tuple[int, ...], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    """Zeros from the beginning of a cache line on."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(dtype).reshape(shape)
