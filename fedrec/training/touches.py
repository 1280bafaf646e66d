"""What C users learned of the items' vectors or biases, factored as it arises, until it is summed.

A step changes the row of an item that it touches by a number times one vector, the user's at the start of the step. So
numbers and vectors are all of it, and norms and weighted sums need no row. Only of an item that a user touches more
than once is the change kept as a row: later steps score it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fedrec.contribution import Entries, Floats, Ints, Rows

F32 = npt.NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Touches:
    """A `fedrec.contribution.Part`: number ⊗ vector for each touch, and rows for what is touched repeatedly.

    Attributes:
        users: the user of each step ``[S]``.
        indptr: each step's first touch ``[S + 1]``; a step has at least one.
        items: the item of each touch ``[T]``.
        numbers: what multiplies the step's vector ``[T]``; zero where ``again`` holds the change.
        single: whether a touch is the only one of its item by the user ``[T]``.
        vectors: of each step ``[S, d]``; or ``[S]`` ones, where a row is one value.
        again: the rows of items that a user touches repeatedly.
    """

    users: Ints
    indptr: Ints
    items: npt.NDArray[np.integer]
    numbers: F32
    single: npt.NDArray[np.bool_]
    vectors: F32
    again: Rows

    def squared_norms(self) -> Floats:
        lengths = np.square(self._flat, dtype=np.float64).sum(axis=1)
        numbers = np.add.reduceat(np.square(self.numbers, dtype=np.float64), self.indptr[:-1])
        return self.again.squared_norms() + self._by_user(numbers * lengths)

    def weighted_sum(self, weights: Floats) -> Floats:
        of_step, numbers = weights[self.users], self.numbers
        vectors = of_step[:, None] * self._flat
        left_out = of_step == 0
        if left_out.any():  # what is left out need not be finite
            vectors[left_out] = 0
            numbers = np.where(self._each(left_out), np.float32(0), numbers)
        total = self.again.weighted_sum(weights)
        if self.vectors.ndim == 1:
            total += np.bincount(self.items, numbers * self._each(vectors[:, 0]), minlength=len(total))
            return total
        if len(weights) == 1:  # a phone: a single touch is alone with its item, and scipy need not be loaded
            alone = np.flatnonzero(self.single)
            total[self.items[alone]] += numbers[alone, None] * self._each(vectors)[alone]
            return total
        from scipy.sparse import csc_array

        # A column a step: the product scatters the touches, step after step, in float64.
        scatter = csc_array((numbers.astype(np.float64), self.items, self.indptr), shape=(len(total), len(vectors)))
        total += np.asarray(scatter @ vectors)
        return total

    def counts(self) -> Ints:
        single = np.add.reduceat(self.single, self.indptr[:-1], dtype=np.int64) * self._flat.shape[1]
        return self.again.counts() + self._by_user(single).astype(np.int64)

    def entries(self, first: int, last: int) -> Entries:
        order, begins = self._user_by_user
        steps, width = order[begins[first] : begins[last]], self._flat.shape[1]
        lengths = np.diff(self.indptr)[steps]
        touches = np.repeat(self.indptr[steps] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        single = self.single[touches]
        touches, step = touches[single], np.repeat(steps, lengths)[single]
        values = self.numbers[touches, None].astype(np.float64) * self._flat[step]
        coordinates = self.items[touches].astype(np.int64)[:, None] * width + np.arange(width)
        again = self.again.entries(first, last)
        users = np.concatenate([np.repeat(self.users[step], width), again.users])
        order = np.argsort(users, kind="stable")
        return Entries(
            users[order],
            np.concatenate([coordinates.ravel(), again.coordinates])[order],
            np.concatenate([values.ravel(), again.values])[order],
        )

    @property
    def _flat(self) -> F32:
        return self.vectors[:, None] if self.vectors.ndim == 1 else self.vectors

    def _each(self, of_steps: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """What holds for each step, for each touch."""
        return np.repeat(of_steps, np.diff(self.indptr), axis=0)

    @cached_property
    def _user_by_user(self) -> tuple[Ints, Ints]:
        """The steps user by user ``[S]``, and each user's first among them ``[C + 1]``."""
        order = np.argsort(self.users, kind="stable")
        return order, np.searchsorted(self.users[order], np.arange(len(self.again.indptr)))

    def _by_user(self, of_steps: npt.NDArray[Any]) -> Floats:
        """The sums over each user's steps."""
        sums = np.bincount(self.users, of_steps, minlength=len(self.again.indptr) - 1)
        return np.asarray(sums, np.float64)
