"""Skellam noise: the difference of two Poisson variables of one mean, exact to a stated statistical distance.

Sums of independent Skellam variables are Skellam, so that shares of many clients add up to exactly the noise that was
declared, on integers, which secure aggregation can mask (Agarwal, Kairouz & Liu 2021, "The Skellam mechanism for
differentially private federated learning").

The sampler inverts a table of the distribution of |X|: P(X = k) = e^-v I_k(v) for variance v, computed in integer
arithmetic by Miller's backward recurrence for Bessel functions (Gautschi 1967, "Computational aspects of three-term
recurrence relations"). No floating point touches a draw.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from fedrec.errors import PrivacyError
from fedrec.privacy.stream import U64, Words

DISTANCE = 2.0**-170
"""Statistical distance of one draw from an exact Skellam variable: at most this, for every variance allowed."""

_TAIL = 2.0**-204
"""The probability beyond a table's last entry is at most this."""

_TABLE_VARIANCE = 2.0**32
"""Of the largest table, 1.1 million entries; above, a draw is the sum of draws of equal variances."""

_VARIANCE = 2.0**38
"""The largest variance: a standard deviation of 524,288."""

_WORK = 320
"""Fractional bits of the recurrence."""

_BITS = 256
"""Bits of a cumulative probability: 64 are searched, the other 192 settle ties."""


@dataclass(frozen=True, eq=False)
class Table:
    """P(|X| <= k) for k = 0 … K - 1, in units of 2**-256; P(|X| <= K) is 1.

    Attributes:
        top: uint64 ``[K]``, the leading 64 bits.
        rest: the other 192 bits, 24 big-endian bytes an entry.
        buckets: int64 ``[2**16 + 1]``: how many entries lie below each multiple of 2**48.
    """

    top: U64
    rest: bytes
    buckets: npt.NDArray[np.int64]

    def find(self, drawn: U64, words: Words) -> npt.NDArray[np.int64]:
        """How many entries are at most a 256-bit uniform number whose leading bits are drawn: a draw of |X|."""
        bucket = (drawn >> np.uint64(48)).astype(np.int64)
        found = self.buckets[bucket]
        several = np.flatnonzero(self.buckets[bucket + 1] != found)  # else no entry shares the leading 16 bits
        found[several] = np.searchsorted(self.top, drawn[several], side="right")
        last = np.maximum(found[several] - 1, 0)
        for at in several[self.top[last] == drawn[several]]:
            found[at] = self._settle(drawn[at], words)
        return found

    def _settle(self, drawn: np.uint64, words: Words) -> int:
        """The same, where entries have the very bits that were drawn: the next 192 decide."""
        first, last = (int(np.searchsorted(self.top, drawn, side=side)) for side in ("left", "right"))
        low = words.words(3).astype(">u8").tobytes()
        return first + bisect_right([self.rest[24 * k : 24 * k + 24] for k in range(first, last)], low)


def draw(variance: float, n: int, words: Words, table: Table | None = None) -> npt.NDArray[np.int64]:
    """Independent Skellam draws.

    Args:
        variance: of each, at least 0.
        n: how many.
        words: where the randomness comes from; secret on a device.
        table: this variance's own, as `unpacked` gives it; None computes it.

    Returns:
        int64 ``[n]``.

    Guarantees:
        Each draw is within statistical distance `distance` of an exact Skellam variable, if the words are uniform and
        independent.

    Raises:
        PrivacyError: if the variance is negative, not a number, or too large for a table.
    """
    tables = _tables(variance)
    table = table or _table(variance / tables)
    total = np.zeros(n, np.int64)
    for _ in range(tables):
        size = table.find(words.words(n), words)
        signs = np.unpackbits(words.words(-(-n // 64)).view(np.uint8), count=n)
        total += np.where(signs, -size, size)
    return total


def packed(variance: float) -> bytes:
    """The table that a draw of this variance takes, 32 bytes an entry: it is computed where there is time and memory.

    Raises:
        PrivacyError: as in `draw`.
    """
    table = _table(variance / _tables(variance))
    return table.top.astype("<u8").tobytes() + table.rest


def unpacked(raw: bytes) -> Table:
    """The table that `packed` gave; the noise is only as good as the place where it was kept."""
    last = len(raw) // 32
    top = np.frombuffer(raw, "<u8", last).astype(np.uint64, copy=False)
    return Table(top, raw[8 * last :], _buckets(top))


def distance(variance: float) -> float:
    """A bound on the statistical distance of one draw from an exact Skellam variable; at most `DISTANCE`.

    A table ends at the least n with P(|X| > n) <= 2**-204 by Chernoff's bound. The recurrence starts from 0 at n + 1,
    so up to a factor it gives I_k(v) + (-1)^(n - k) K_k(v) I_{n+1}(v) / K_{n+1}(v), K the other Bessel function. I
    falls and K rises with the order, so each of the 2 n + 1 probabilities is off by at most P(X = n + 1), and
    normalising them doubles that. Rounding adds at most 2**-250 an entry. All of it is below 2**-200 (n + 1).

    Raises:
        PrivacyError: as in `draw`.
    """
    tables = _tables(variance)
    return tables * 2.0**-200 * (reach(variance / tables, _TAIL) + 1)


def draw_seeded(variance: float, shape: int | tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Skellam draws for simulations: the difference of two Poisson draws of NumPy's, for any variance up to 1e15.

    Guarantees:
        None: the generator is not cryptographic, and its Poisson sampler uses floating point.

    Raises:
        PrivacyError: if the variance is negative, not a number or above 1e15.
    """
    if not 0 <= variance <= 1e15:
        raise PrivacyError(f"Seeded Skellam noise needs a variance from 0 to 1e15, not {variance!r}.")
    difference = generator.poisson(variance / 2, shape)
    difference -= generator.poisson(variance / 2, shape)
    return np.asarray(difference, np.int64)


def reach(variance: float, probability: float) -> int:
    """The least k for which P(|X| > k) is at most ``probability`` by Chernoff's bound.

    P(X >= k) <= exp(sqrt(k² + v²) - v - k asinh(k / v)), the moment generating function exp(v (cosh t - 1)) at its
    best t = asinh(k / v).
    """
    if variance == 0:
        return 0
    wanted = math.log(probability / 2)

    def bound(k: int) -> float:
        # sqrt(k² + v²) - v without cancellation; the quotient keeps tiny variances from overflowing asinh.
        return k * k / (math.hypot(k, variance) + variance) - k * _asinh(k, variance)

    high = 1
    while bound(high) > wanted:
        high *= 2
    low = high // 2  # bound(low) is above, or low is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bound(middle) <= wanted else (middle, high)
    return high - 1


def _asinh(k: int, variance: float) -> float:
    """asinh(k / v)."""
    return math.asinh(k / variance) if k / 1e300 < variance else math.log(2 * k) - math.log(variance)


def _tables(variance: float) -> int:
    """How many draws of one variance make a draw of this one."""
    if not variance >= 0:
        raise PrivacyError(f"Skellam noise needs a variance of 0 or more, not {variance!r}.")
    if variance > _VARIANCE:
        raise PrivacyError(
            f"Skellam noise with standard deviation {math.sqrt(variance):.3g} is beyond the sampler's "
            f"{math.sqrt(_VARIANCE):.0f}; lower privacy.resolution."
        )
    tables = 1
    while variance / tables > _TABLE_VARIANCE:
        tables *= 2  # powers of two divide a float exactly
    return tables


@lru_cache(maxsize=8)
def _table(variance: float) -> Table:
    """The table of a variance: 17 entries a standard deviation, 32 bytes and about a microsecond each."""
    last = reach(variance, _TAIL)
    values = _bessel(variance, last)
    cumulative = list(accumulate(values[1:], lambda total, value: total + 2 * value, initial=values[0]))
    # One reciprocal for all entries instead of a division each.
    shift = cumulative[-1].bit_length() + _BITS + 64
    factor = (1 << shift + _BITS) // cumulative[-1]
    packed = b"".join([(total * factor >> shift).to_bytes(_BITS // 8, "big") for total in cumulative[:-1]])
    words = np.frombuffer(packed, ">u8").reshape(last, 4)
    top = words[:, 0].astype(np.uint64)
    return Table(top, words[:, 1:].tobytes(), _buckets(top))


def _buckets(top: U64) -> npt.NDArray[np.int64]:
    """How many entries lie below each multiple of 2**48."""
    edges = np.arange(2**16, dtype=np.uint64) << np.uint64(48)
    return np.append(np.searchsorted(top, edges), len(top))


def _bessel(variance: float, last: int) -> list[int]:
    """Integers proportional to I_k(variance), k = 0 … ``last``, by I_{k-1} = I_{k+1} + (2 k / v) I_k from the top."""
    if last == 0:
        return [1]
    top, bottom = variance.as_integer_ratio()
    twice = (bottom << _WORK + 1) // top
    above, here = 0, 1 << _WORK
    values = [here]
    for k in range(last, 0, -1):
        above, here = here, above + (k * twice * here >> _WORK)
        values.append(here)
    values.reverse()
    return values
