"""What clients would send, before privacy: named parts for C users at once, never one dense copy a user.

A part knows each user's squared norm and the weighted sum over users. Clipping needs no more (a clipped sum is a
weighted sum), so a part may stay sparse, ragged or factored. Rounding to integers looks at every value that a user
touches, so a part can also list these, some users at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedrec.release import Release

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Part(Protocol):
    """One component's values for C users."""

    def squared_norms(self) -> Floats:
        """Each user's squared L2 norm, ``[C]``."""
        ...

    def weighted_sum(self, weights: Floats) -> Floats:
        """The sum over users of weight times value, float64 in the component's shape.

        A user of weight 0 adds zero, also where its values are not finite.
        """
        ...

    def counts(self) -> Ints:
        """How many coordinates each user touches, ``[C]``."""
        ...

    def entries(self, first: int, last: int) -> Entries:
        """The coordinates that users ``first`` to ``last`` (left out) touch, user after user."""
        ...


@dataclass(frozen=True)
class Entries:
    """Coordinates that users touch, user after user; each once a user. All others are zero.

    Attributes:
        users: ``[R]``, the users' positions in the contribution.
        coordinates: ``[R]``, positions in the component's array, flattened in C order.
        values: ``[R]``.
    """

    users: Ints
    coordinates: Ints
    values: Floats


@dataclass(frozen=True)
class Rows:
    """Values on the item rows that each user touches; every other row is zero.

    Attributes:
        indptr: ``[C + 1]``; user u's rows are ``indptr[u]:indptr[u + 1]``.
        items: ``[R]`` row numbers.
        values: ``[R, d]`` or ``[R]``.
        n_items: rows of the dense array.
    """

    indptr: npt.NDArray[np.int64]
    items: npt.NDArray[np.integer]
    values: npt.NDArray[np.floating]
    n_items: int

    def squared_norms(self) -> Floats:
        flat = self.values.reshape(len(self.items), prod(self.values.shape[1:]))
        squares = np.einsum("rd,rd->r", flat, flat, dtype=np.float64)
        users = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        return np.asarray(np.bincount(users, squares, minlength=len(self.indptr) - 1), np.float64)

    def weighted_sum(self, weights: Floats) -> Floats:
        row_weights = np.repeat(weights, np.diff(self.indptr))
        values = _where_weighted(self.values, row_weights)
        if values.ndim == 1:
            sums = np.bincount(self.items, row_weights * values, minlength=self.n_items)
            return np.asarray(sums, np.float64)  # of no rows at all, bincount gives integers
        if len(weights) == 1:  # a phone: every row occurs once, and scipy need not be loaded
            total = np.zeros((self.n_items, values.shape[1]))
            total[self.items] = row_weights[:, None] * values
            return total
        from scipy.sparse import csc_array

        # One entry a column: the product scatters the rows, user after user, in float64.
        columns = np.arange(len(self.items) + 1)
        scatter = csc_array((row_weights, self.items, columns), shape=(self.n_items, len(self.items)))
        return np.asarray(scatter @ values, np.float64)

    def counts(self) -> Ints:
        return np.diff(self.indptr) * prod(self.values.shape[1:])

    def entries(self, first: int, last: int) -> Entries:
        rows = slice(self.indptr[first], self.indptr[last])
        width = prod(self.values.shape[1:])
        users = np.repeat(np.arange(first, last), np.diff(self.indptr[first : last + 1]) * width)
        coordinates = self.items[rows].astype(np.int64)[:, None] * width + np.arange(width)
        return Entries(users, coordinates.ravel(), self.values[rows].ravel().astype(np.float64))


@dataclass(frozen=True)
class OuterTriangles:
    """The strict upper triangle of y yᵀ for each user, packed row by row; y is the user's scaled history.

    Attributes:
        indptr: ``[C + 1]`` over the users' entries.
        columns: ``[R]`` in ``[0, size)``.
        values: ``[R]``, the entries of y.
        size: the length of y.
    """

    indptr: npt.NDArray[np.int64]
    columns: npt.NDArray[np.integer]
    values: npt.NDArray[np.floating]
    size: int

    def squared_norms(self) -> Floats:
        users = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        squares = np.square(self.values, dtype=np.float64)
        norms = np.bincount(users, squares, minlength=len(self.indptr) - 1)
        fourth = np.bincount(users, squares**2, minlength=len(norms))
        return np.asarray(np.maximum(norms**2 - fourth, 0.0) / 2, np.float64)

    def weighted_sum(self, weights: Floats) -> Floats:
        from scipy.sparse import csr_array

        shape = (len(self.indptr) - 1, self.size)
        row_weights = np.repeat(weights, np.diff(self.indptr))
        values = _where_weighted(self.values, row_weights)
        plain = csr_array((values.astype(np.float64), self.columns, self.indptr), shape=shape)
        weighted = csr_array((row_weights * values, self.columns, self.indptr), shape=shape)
        return pack_upper(np.asarray((weighted.T @ plain).toarray(), np.float64))

    def counts(self) -> Ints:
        n = np.diff(self.indptr)
        return np.asarray(n * (n - 1) // 2, np.int64)

    def entries(self, first: int, last: int) -> Entries:
        start, end = self.indptr[first], self.indptr[last]
        # Each entry of y meets those after it in its user's history.
        meets = np.repeat(self.indptr[first + 1 : last + 1], np.diff(self.indptr[first : last + 1]))
        meets = meets - np.arange(start, end) - 1
        one = np.repeat(np.arange(start, end), meets)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(meets) - meets, meets)
        low = np.minimum(self.columns[one], self.columns[other]).astype(np.int64)
        high = np.maximum(self.columns[one], self.columns[other])
        row_start = low * (2 * self.size - low - 1) // 2  # of row `low` in the packed triangle
        values = self.values[one].astype(np.float64) * self.values[other]
        return Entries(np.repeat(np.arange(first, last), self.counts()[first:last]), row_start + high - low - 1, values)


@dataclass(frozen=True)
class Dense:
    """One dense array a user, ``[C, *shape]``; for small components only."""

    values: npt.NDArray[np.floating]

    def squared_norms(self) -> Floats:
        flat = self.values.reshape(len(self.values), prod(self.values.shape[1:]))
        return np.asarray(np.einsum("cd,cd->c", flat, flat, dtype=np.float64))

    def weighted_sum(self, weights: Floats) -> Floats:
        values = _where_weighted(self.values, weights)
        return np.asarray(np.tensordot(weights, values.astype(np.float64), axes=1))

    def counts(self) -> Ints:
        return np.full(len(self.values), prod(self.values.shape[1:]))

    def entries(self, first: int, last: int) -> Entries:
        width = prod(self.values.shape[1:])
        users = np.repeat(np.arange(first, last), width)
        coordinates = np.tile(np.arange(width), last - first)
        return Entries(users, coordinates, self.values[first:last].ravel().astype(np.float64))


@dataclass(frozen=True)
class Contribution:
    """What C users would send, one part a component of the release."""

    parts: Mapping[str, Part]
    n_users: int

    def norms(self, release: Release) -> Floats:
        """Each user's joint norm after scaling, ``[C]``: what the clip looks at."""
        squares = np.zeros(self.n_users)
        for component in release.components:
            squares += component.scale**2 * self.parts[component.name].squared_norms()
        return np.sqrt(squares)

    def weighted_sum(self, release: Release, weights: Floats) -> dict[str, Floats]:
        """The scaled sum over users, by component."""
        sums = {component.name: self.parts[component.name].weighted_sum(weights) for component in release.components}
        scales = {component.name: component.scale for component in release.components}
        return {name: total if scales[name] == 1 else scales[name] * total for name, total in sums.items()}


def _where_weighted(values: npt.NDArray[np.floating], weights: Floats) -> npt.NDArray[np.floating]:
    """The values with zero for those of weight 0: zero times a value that is not finite would not be zero."""
    left_out = weights == 0
    if not left_out.any():
        return values
    return np.where(left_out.reshape(-1, *[1] * (values.ndim - 1)), values.dtype.type(0), values)


def pack_upper(matrix: Floats) -> Floats:
    """The strict upper triangle ``[k (k - 1) / 2]`` of ``[k, k]``, row by row."""
    k = len(matrix)
    packed = np.empty(k * (k - 1) // 2, matrix.dtype)
    start = 0
    for row in range(k - 1):
        packed[start : start + k - 1 - row] = matrix[row, row + 1 :]
        start += k - 1 - row
    return packed


def unpack_upper(packed: Floats, k: int) -> Floats:
    """The symmetric matrix ``[k, k]`` with a zero diagonal of a packed strict upper triangle."""
    matrix = np.zeros((k, k), packed.dtype)
    start = 0
    for row in range(k - 1):
        matrix[row, row + 1 :] = packed[start : start + k - 1 - row]
        start += k - 1 - row
    matrix += matrix.T
    return matrix
