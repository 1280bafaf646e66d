"""What C users learned of the items' vectors or biases, factored as it arises, until it is summed.

A step changes the row of an item that it touches by a number times one vector, the user's at the start of the step. So
numbers and vectors are all of it, and norms and weighted sums need no row. Only of an item that a user touches more
than once is the change kept as a row: later steps score it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedrec.contribution import Entries, Floats, Ints, Rows

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Touches:
    """A `fedrec.contribution.Part`: number ⊗ vector for each touch, and rows for what is touched repeatedly.

    Attributes:
        steps: each user's first step, ``[C + 1]``.
        indptr: each step's first touch, ``[S + 1]``.
        items: the item of each touch ``[T]``.
        numbers: what multiplies the step's vector ``[T]``; zero where ``again`` holds the change.
        single: whether a touch is the only one of its item by the user ``[T]``.
        vectors: of each step ``[S, d]``; or ``[S]`` ones, where a row is one value.
        again: the rows of items that a user touches repeatedly.
    """

    steps: Ints
    indptr: Ints
    items: npt.NDArray[np.integer]
    numbers: F32
    single: npt.NDArray[np.bool_]
    vectors: F32
    again: Rows

    def squared_norms(self) -> Floats:
        lengths = np.square(self._flat, dtype=np.float64).sum(axis=1)
        numbers = np.bincount(self._step, np.square(self.numbers, dtype=np.float64), minlength=len(lengths))
        squares = np.bincount(self._user, numbers * lengths, minlength=len(self.steps) - 1)
        return self.again.squared_norms() + squares

    def weighted_sum(self, weights: Floats) -> Floats:
        vectors, numbers = weights[self._user, None] * self._flat, self.numbers
        left_out = weights[self._user] == 0
        if left_out.any():  # what is left out need not be finite
            vectors[left_out] = 0
            numbers = np.where(left_out[self._step], np.float32(0), numbers)
        n_items = self.again.n_items
        if self.vectors.ndim == 1:
            single = np.bincount(self.items, numbers * vectors[self._step, 0], minlength=n_items)
            return np.asarray(self.again.weighted_sum(weights) + single, np.float64)
        total = self.again.weighted_sum(weights)
        if len(weights) == 1:  # a phone: a single touch is alone with its item, and scipy need not be loaded
            alone = np.flatnonzero(self.single)
            total[self.items[alone]] += numbers[alone, None] * vectors[self._step[alone]]
            return total
        from scipy.sparse import csc_array

        # A column a step: the product scatters the touches, user after user, in float64.
        scatter = csc_array((numbers.astype(np.float64), self.items, self.indptr), shape=(n_items, len(vectors)))
        total += np.asarray(scatter @ vectors)
        return total

    def counts(self) -> Ints:
        single = np.bincount(self._user[self._step[self.single]], minlength=len(self.steps) - 1)
        return np.asarray(self.again.counts() + single * self._flat.shape[1], np.int64)

    def entries(self, first: int, last: int) -> Entries:
        begin, end = self.indptr[self.steps[[first, last]]]
        touches, width = begin + np.flatnonzero(self.single[begin:end]), self._flat.shape[1]
        step = self._step[touches]
        values = self.numbers[touches, None].astype(np.float64) * self._flat[step]
        coordinates = self.items[touches].astype(np.int64)[:, None] * width + np.arange(width)
        again = self.again.entries(first, last)
        users = np.concatenate([np.repeat(self._user[step], width), again.users])
        order = np.argsort(users, kind="stable")
        return Entries(
            users[order],
            np.concatenate([coordinates.ravel(), again.coordinates])[order],
            np.concatenate([values.ravel(), again.values])[order],
        )

    @property
    def _flat(self) -> F32:
        return self.vectors[:, None] if self.vectors.ndim == 1 else self.vectors

    @cached_property
    def _step(self) -> Ints:
        """The step of each touch."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    @cached_property
    def _user(self) -> Ints:
        """The user of each step."""
        return np.repeat(np.arange(len(self.steps) - 1), np.diff(self.steps))


def joined(parts: Sequence[Touches]) -> Touches:
    """The touches of one group of users after another."""
    return Touches(
        _end_to_end([part.steps for part in parts]),
        _end_to_end([part.indptr for part in parts]),
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.single for part in parts]),
        np.concatenate([part.vectors for part in parts]),
        Rows(
            _end_to_end([part.again.indptr for part in parts]),
            np.concatenate([part.again.items for part in parts]),
            np.concatenate([part.again.values for part in parts]),
            parts[0].again.n_items,
        ),
    )


def _end_to_end(indptrs: Sequence[Ints]) -> Ints:
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(indptr) for indptr in indptrs]))])
