"""Who is whose neighbour: a ring in an order that the hash of all adverts decides, so that nobody chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Graph:
    """A k-regular graph (Harary's on a shuffled ring, as in Bell et al. 2020, section 3).

    Attributes:
        order: ``[n]``, the participant at each place of the ring.
        k: neighbours of each: k // 2 on either side, and for odd k (n even) the one opposite. k = n - 1 is complete.
    """

    order: Ints
    k: int

    @staticmethod
    def of(context: bytes, n: int, k: int) -> Graph:
        """The graph of a digest that covers every advert; whoever knows the digest finds the same one."""
        words = hashlib.shake_256(b"fedrec-secagg/1 graph" + context).digest(8 * n)
        return Graph(np.argsort(np.frombuffer(words, "<u8"), kind="stable"), k)

    def neighbours(self, participant: int) -> list[int]:
        """The k neighbours of a participant, ascending."""
        place = int(np.flatnonzero(self.order == participant)[0])
        return sorted(self.order[(place + self._offsets()) % len(self.order)].tolist())

    def table(self) -> Ints:
        """Everybody's neighbours, ``[n, k]``, ascending in each row."""
        n = len(self.order)
        table = np.empty((n, self.k), np.int64)
        table[self.order] = self.order[(np.arange(n)[:, None] + self._offsets()) % n]
        table.sort(axis=1)
        return table

    def _offsets(self) -> Ints:
        half = self.k // 2
        offsets = np.arange(-half, half + 1)
        offsets[half] = len(self.order) // 2  # instead of oneself
        return offsets if self.k % 2 else np.delete(offsets, half)


def marked(n: int, participants: Iterable[int]) -> Bools:
    """The bitmap ``[n]`` of some participants."""
    bits = np.zeros(n, bool)
    bits[list(participants)] = True
    return bits
