"""The weighted sum of y yᵀ over users, row by row of the packed upper triangle. Loaded only where numba is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fedrec.contribution import Floats, Ints, OuterTriangles


def weighted_sum(part: OuterTriangles, weights: Floats) -> Floats:
    """As `OuterTriangles.weighted_sum`: float64 ``[size (size - 1) / 2]``."""
    values = part.values.astype(np.float64)
    row_weights = np.repeat(weights, np.diff(part.indptr))
    values[row_weights == 0] = 0  # zero times a value that is not finite would not be zero
    packed = np.zeros(part.size * (part.size - 1) // 2)
    _add(part.indptr, part.columns.astype(np.int32), values, row_weights * values, part.size, packed)
    return packed


@njit(nogil=True, cache=True, error_model="numpy")
def _add(
    indptr: Ints, columns: npt.NDArray[np.int32], values: Floats, weighted: Floats, size: int, packed: Floats
) -> None:
    # The transposed table: of each column its users, ascending; walked once, it sorts every user's columns.
    starts = np.zeros(size + 1, np.int64)
    for column in columns:
        starts[column + 1] += 1
    starts = np.cumsum(starts)
    user_of, event_of = np.empty(len(columns), np.int32), np.empty(len(columns), np.int64)
    fill = starts[:-1].copy()
    for user in range(len(indptr) - 1):
        for event in range(indptr[user], indptr[user + 1]):
            place = fill[columns[event]]
            user_of[place], event_of[place] = user, event
            fill[columns[event]] += 1
    ordered, ordered_values = np.empty(len(columns), np.int32), np.empty(len(columns))
    after = np.empty(len(columns), np.int64)  # where a user's columns after this one begin
    next_of = indptr[:-1].copy()
    for column in range(size):
        for place in range(starts[column], starts[column + 1]):
            at = next_of[user_of[place]]
            ordered[at], ordered_values[at] = column, values[event_of[place]]
            next_of[user_of[place]] = after[place] = at + 1
    row = 0  # where the column's row begins, less the columns up to it
    for column in range(size):
        row -= column + 1
        for place in range(starts[column], starts[column + 1]):
            factor = weighted[event_of[place]]
            for at in range(after[place], indptr[user_of[place] + 1]):
                packed[row + ordered[at]] += factor * ordered_values[at]
        row += size  # the row holds size - column - 1 numbers; the next begins after them
