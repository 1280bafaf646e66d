"""Counter-based randomness: every draw is a pure function of (seed, round, user, lane, counter).

The same user draws the same batches, negatives and initial vectors wherever it runs, alone or among a million,
which is what makes engines agree. The generator is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable
pseudorandom number generators") whose start is hashed from the key, so a whole cohort is drawn in a few array
operations. It is for simulation and training only: it is not cryptographic, and noise from a seed protects nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_WORD = 2**64 - 1


class Lane(IntEnum):
    """What a stream is for: two uses never share a lane, so neither can shift the other's draws."""

    SPLIT = 1
    COHORT = 2
    INIT = 3
    ORDER = 4
    NEGATIVES = 5
    NOISE = 6
    CANDIDATES = 7
    TIES = 8
    PLACEBO = 9
    SYNTHETIC = 10
    SAMPLE_USERS = 11
    ROUNDING = 12
    VECTORS = 13
    SAMPLING = 14


def mix64(x: U64) -> U64:
    """The SplitMix64 finaliser (Stafford's variant 13), elementwise on a uint64 array."""
    z = (x ^ (x >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Key:
    """Names a place in the experiment; every stream hangs below one.

    Attributes:
        seed: the experiment's seed.
        round: the round, 0 for whatever happens before the first.
        attempt: a retried round draws everything afresh.
    """

    seed: int
    round: int = 0
    attempt: int = 0

    def at(self, round_: int, attempt: int = 0) -> Key:
        """The key of another round of the same experiment."""
        return replace(self, round=round_, attempt=attempt)

    def streams(self, users: npt.NDArray[np.int64], lane: Lane) -> U64:
        """One stream start a user, uint64 ``[C]``; ``users`` are the users' own numbers, not positions in a shard."""
        with np.errstate(over="ignore"):
            return mix64(np.uint64(self._base(lane)) + mix64(users.astype(np.uint64) + _GOLDEN))

    def generator(self, lane: Lane, part: int = 0) -> np.random.Generator:
        """A NumPy generator (Philox) for draws that belong to no single user; ``part`` tells shards apart."""
        key = np.array([self._base(lane), part], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _base(self, lane: Lane) -> int:
        state = 0  # in Python's integers: NumPy takes fifty times as long over one number
        for word in (self.seed, self.round, self.attempt, int(lane)):
            z = (state + int(_GOLDEN) + word) & _WORD
            z = (z ^ (z >> 30)) * int(_MIX1) & _WORD
            z = (z ^ (z >> 27)) * int(_MIX2) & _WORD
            state = z ^ (z >> 31)
        return state


def bits(streams: U64, counters: npt.NDArray[np.integer]) -> U64:
    """The ``counters``-th 64-bit word of each stream; both broadcast."""
    with np.errstate(over="ignore"):
        return mix64(streams + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniform(streams: U64, counters: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Uniform on [0, 1) with 53 bits."""
    return (bits(streams, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(streams: U64, counters: npt.NDArray[np.integer], bound: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Uniform integers in [0, bound), bound below 2**31; the bias of the multiply is at most bound / 2**32.

    A bound of 0 gives 0; the caller leaves such users out.
    """
    words = bits(streams, counters) >> np.uint64(32)
    return ((words * bound.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def normal(streams: U64, counters: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Standard normal draws by Box and Muller (1958), two words a draw."""
    u = 1.0 - uniform(streams, 2 * counters)
    v = uniform(streams, 2 * counters + 1)
    return np.asarray(np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v))
