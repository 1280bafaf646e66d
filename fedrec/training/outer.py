"""A contribution of rank one a user: an outer product, kept as its two factors until it is summed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrec.contribution import Entries, Floats, Ints
from fedrec.training.local import F32


@dataclass(frozen=True)
class Outer:
    """c ⊗ p for each user: on the item rows that a user touches its vector p, times the row's number c.

    Norm and weighted sum need the factors alone: ‖c ⊗ p‖ = ‖c‖ · ‖p‖, and the sum is a sparse matrix times a small one.

    Attributes:
        indptr: ``[C + 1]``; user u's rows are ``indptr[u]:indptr[u + 1]``.
        items: ``[R]`` row numbers, each once a user.
        numbers: ``[R]``, c.
        vectors: ``[C, d]``, p; or ``[C]``, where a row is one value.
        n_items: rows of the dense array.
        compiled: whether numba sums.
    """

    indptr: Ints
    items: npt.NDArray[np.integer]
    numbers: Floats
    vectors: F32
    n_items: int
    compiled: bool = False

    def squared_norms(self) -> Floats:
        squares = self._squares()
        there = squares > 0  # a user whose numbers are all zero contributes zero, whatever its vector is
        squares[there] *= np.einsum("cd,cd->c", self._flat, self._flat, dtype=np.float64)[there]
        return squares

    def weighted_sum(self, weights: Floats) -> Floats:
        vectors, numbers = weights[:, None] * self._flat, self.numbers
        left_out = weights == 0
        if left_out.any():  # what is left out need not be finite
            vectors[left_out] = 0
            numbers = np.where(np.repeat(left_out, np.diff(self.indptr)), 0.0, numbers)
        return self._sum(numbers, vectors).reshape(self.n_items, *self.vectors.shape[1:])

    def counts(self) -> Ints:
        return np.asarray(np.diff(self.indptr) * self._flat.shape[1], np.int64)

    def entries(self, first: int, last: int) -> Entries:
        rows, width = slice(self.indptr[first], self.indptr[last]), self._flat.shape[1]
        users = np.repeat(np.arange(first, last), np.diff(self.indptr[first : last + 1]))
        values = self.numbers[rows, None] * self._flat[users]
        coordinates = self.items[rows].astype(np.int64)[:, None] * width + np.arange(width)
        return Entries(np.repeat(users, width), coordinates.ravel(), values.ravel())

    @property
    def _flat(self) -> F32:
        return self.vectors[:, None] if self.vectors.ndim == 1 else self.vectors

    def _squares(self) -> Floats:
        if self.compiled:
            from fedrec.training.compiled_steps import squares

            return np.asarray(squares(self.indptr, self.numbers), np.float64)
        users = np.repeat(np.arange(len(self.vectors)), np.diff(self.indptr))
        return np.bincount(users, np.square(self.numbers), minlength=len(self.vectors)).astype(np.float64)

    def _sum(self, numbers: Floats, vectors: Floats) -> Floats:
        if self.compiled:
            from fedrec.training.compiled_steps import scatter

            return scatter(self.indptr, self.items, numbers, vectors, self.n_items)
        if len(vectors) == 1:  # a phone: every row occurs once, and scipy need not be loaded
            total = np.zeros((self.n_items, vectors.shape[1]))
            total[self.items] = numbers[:, None] * vectors
            return total
        from scipy.sparse import csc_array

        touched = csc_array((numbers, self.items, self.indptr), shape=(self.n_items, len(vectors)))
        return np.asarray(touched @ vectors, np.float64)
