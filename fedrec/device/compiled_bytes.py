"""The product of a vector and a table of bytes, compiled by numba. Loaded only where numba is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fedrec.models.history import F32

_BLOCK = 2_048  # items whose sums stay in the first cache while the factors pass by


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def product(vector: F32, columns: npt.NDArray[np.int8]) -> F32:
    """Vector · columns, float32 ``[n_items]``."""
    d, n = columns.shape
    total = np.zeros(n, np.float32)
    for start in range(0, n, _BLOCK):
        sums, bytes_ = total[start : start + _BLOCK], columns[:, start : start + _BLOCK]
        for factor in range(0, d - 3, 4):
            a, b, c, e = vector[factor], vector[factor + 1], vector[factor + 2], vector[factor + 3]
            first, second, third, fourth = bytes_[factor], bytes_[factor + 1], bytes_[factor + 2], bytes_[factor + 3]
            for item in range(len(sums)):
                sums[item] += (
                    a * np.float32(first[item])
                    + b * np.float32(second[item])
                    + c * np.float32(third[item])
                    + e * np.float32(fourth[item])
                )
        for factor in range(d - d % 4, d):
            a, first = vector[factor], bytes_[factor]
            for item in range(len(sums)):
                sums[item] += a * np.float32(first[item])
    return total
