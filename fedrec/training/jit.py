"""What the compiled kernels share: the generator's mixing function and the logistic function (extra ``fast``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

F32 = npt.NDArray[np.float32]
Items = npt.NDArray[np.int32]

REORDER = {"reassoc", "contract", "nsz", "arcp"}
"""Liberties of a float32 loop; not "nnan" or "ninf": what is not finite is looked for."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_UNIT, _HALF, _FAR = np.float32(1), np.float32(0.5), np.float32(87)
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_C0, _C1, _C2, _C3, _C4 = (
    np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1)
)


@njit(inline="always")
def mix(x: np.uint64) -> np.uint64:
    """`fedrec.randomness.mix64` of one word."""
    z = (x ^ (x >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@njit(error_model="numpy")
def sigmoids(x: F32, n: int, power: Items, exponential: F32) -> None:
    """The logistic function of ``x[:n]`` in place, to 1e-7; ``exponential`` is ``power`` seen as float32, for scratch.

    exp(-x) is 2^k · exp(r), |r| ≤ ln(2) / 2, exp(r) a polynomial (Cephes, expf): no call, so that the loops vectorise.
    """
    for place in range(n):
        z = -x[place]
        z = _FAR if z > _FAR else z
        z = -_FAR if z < -_FAR else z  # a NaN stays one
        k = np.floor(z * _LOG2E + _HALF)
        r = z - k * _LN2_HIGH - k * _LN2_LOW
        power[place] = (np.int32(k) + np.int32(127)) << np.int32(23)
        poly = ((((_C0 * r + _C1) * r + _C2) * r + _C3) * r + _C4) * r + _HALF
        x[place] = poly * r * r + r + _UNIT
    for place in range(n):
        x[place] = _UNIT / (_UNIT + x[place] * exponential[place])
