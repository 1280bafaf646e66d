"""How many neighbours, and how many of their shares open a secret: chosen from exact tails, never by feel.

After Bell et al. 2020, "Secure single-server aggregation with (poly)logarithmic overhead", whose graph this is: the
participants stand on a ring in an order that a hash decides, and everybody's neighbours are the h = k/2 on either side.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb, inf, log2

from fedrec.errors import ConfigError

COMPLETE_UP_TO = 32
"""Up to so many participants everybody is everybody's neighbour: it costs little and survives the most dropouts."""


@dataclass(frozen=True)
class Parameters:
    """The sizes of one attempt.

    Attributes:
        n: participants.
        k: neighbours of each.
        t: shares that open a secret.
        corrupt: participants assumed to be in league with the server, at most.
        dropped: participants assumed to drop out in an attempt, at most.
        malicious: whether the server, too, may break the protocol; else it keeps it and only looks (semi-honest).

    Raises:
        ConfigError: for sizes that no graph has, or with which one share too few protects.
    """

    n: int
    k: int
    t: int
    corrupt: int = 0
    dropped: int = 0
    malicious: bool = True

    def __post_init__(self) -> None:
        if not (2 <= self.n < 2**32 and 1 <= self.k < self.n and self.n * self.k % 2 == 0):
            raise ConfigError(f"No graph has {self.n} participants with {self.k} neighbours each; choose others.")
        if not self.k / 2 < self.t <= self.k:
            raise ConfigError(
                f"t = {self.t} must be more than half of the k = {self.k} neighbours, and no more than all."
            )
        if not (0 <= self.corrupt < self.n and 0 <= self.dropped < self.n):
            raise ConfigError(f"At most {self.n - 1} of {self.n} participants can be corrupt or drop out; lower them.")

    @property
    def complete(self) -> bool:
        return self.k == self.n - 1

    @property
    def quorum(self) -> int:
        """Signatures that make a statement the only one: two such sets share an honest signer, who signs once."""
        return (self.n + self.corrupt) // 2 + 1

    def breach(self) -> float:
        """Bounds the probability over the graph that the corrupt participants suffice against some honest one.

        With h = k/2 and c the corrupt ones among the neighbours, or among the next h on one side, two things must hold.

        A participant's vector stays masked:

        - semi-honest: its corrupt neighbours open nothing: n P[Hypergeometric(n - 1, corrupt, k) >= t];
        - malicious: of its two secrets only one is opened, whatever the server says about who dropped out. An honest
          neighbour gives a share of one and a corrupt one of both, so that both need 2t <= k + c:
          n P[Hypergeometric(n - 1, corrupt, k) >= 2t - k].

        No part of the honest survivors is summed alone. A part has two ends, and beyond each there is nobody honest of
        it among the next h. Their windows are disjoint, so negatively associated (Joag-Dev and Proschan 1983), and:

        - semi-honest: both windows hold only the corrupt and the dropped:
          (n P[Hypergeometric(n - 2, corrupt + dropped, h) = h])^2;
        - malicious: the server drops whom it likes, but an end's self mask opens only by t of at most h + c shares:
          (n P[Hypergeometric(n - 2, corrupt, h) >= t - h])^2.

        In a complete graph nothing is left to chance.
        """
        n, k, t, half = self.n, self.k, self.t, self.k // 2
        least = 2 * t - k if self.malicious else t
        if self.complete:
            return 0.0 if self.corrupt < least else 1.0
        if self.malicious:
            end = tail(n - 2, self.corrupt, half, t - half - k % 2)
        else:
            end = tail(n - 2, min(self.corrupt + self.dropped, n - 2), half, half)
        return min(1.0, n * tail(n - 1, self.corrupt, k, least) + (n * end) ** 2)

    def failure(self) -> float:
        """Bounds the probability that dropouts leave some secret with fewer than t shares.

        The union bound over n participants: n P[Hypergeometric(n - 1, dropped, k) > k - t].
        """
        if self.complete:
            return 0.0 if self.dropped <= self.k - self.t else 1.0
        return min(1.0, self.n * tail(self.n - 1, self.dropped, self.k, self.k - self.t + 1))

    def describe(self) -> str:
        """The sizes and what they promise, in one line."""
        server = "malicious" if self.malicious else "semi-honest"
        return (
            f"{self.n} participants with k = {self.k} neighbours each; t = {self.t} shares open a secret and "
            f"{self.quorum} signatures make a statement. With a {server} server, at most {self.corrupt} corrupt and "
            f"{self.dropped} dropped, protection fails with probability {_power(self.breach())} and an attempt with "
            f"{_power(self.failure())}."
        )


@lru_cache(maxsize=256)
def choose(
    n: int,
    corrupt: float = 0.1,
    dropout: float = 0.1,
    correctness: float = 2.0**-20,
    security: float = 2.0**-40,
    malicious: bool = True,
) -> Parameters:
    """The smallest k that has a valid t, and the smallest such t; `Parameters.breach` and `failure` are the conditions.

    Args:
        n: participants.
        corrupt: share of them in league with the server, rounded down to whole participants.
        dropout: share of them that drops out in an attempt, likewise.
        correctness: bound on the probability that dropouts make an attempt fail.
        security: bound on the probability that the graph exposes any honest participant. A server that may try q
            graphs (by leaving out participants, or through a corrupt one that adverts last) multiplies it by q.
        malicious: whether the server may break the protocol.

    Raises:
        ConfigError: if the shares leave no valid t, or are not shares.
    """
    if not (0 <= corrupt < 1 and 0 <= dropout < 1 and 0 < correctness < 1 and 0 < security < 1):
        raise ConfigError("The corrupt and dropout shares lie in [0, 1), correctness and security in (0, 1).")
    if n < 2:
        raise ConfigError(f"A secure sum needs at least 2 participants, not {n}; raise the cohort.")
    bad, gone = int(corrupt * n), int(dropout * n)
    for k in range(2, n - 1, 2) if n > COMPLETE_UP_TO else ():
        found = _with_neighbours(Parameters(n, k, k // 2 + 1, bad, gone, malicious), security)
        if found and found.failure() <= correctness:
            return found
    found = Parameters(n, n - 1, min((n - 1 + bad) // 2 + 1, n - 1), bad, gone, malicious)
    if found.breach() > 0 or found.failure() > 0:
        raise ConfigError(
            f"No k and t serve {n} participants of which {bad} are corrupt and {gone} drop out; lower these shares."
        )
    return found


def _with_neighbours(least: Parameters, security: float) -> Parameters | None:
    """The smallest t that is secure enough, from that of ``least`` up; a larger t only protects more."""
    thresholds = range(least.t, least.k + 1)
    first = bisect_left(thresholds, True, key=lambda t: replace(least, t=t).breach() <= security)
    return replace(least, t=thresholds[first]) if first < len(thresholds) else None


def tail(population: int, marked: int, draws: int, least: int) -> float:
    """P[X >= least] for the number of marked ones among draws without replacement; 1 where that is no upper tail."""
    if least * population <= marked * draws:
        return 1.0
    most = min(marked, draws)
    if least > most:
        return 0.0
    # The first term is exact (a quotient of integers); each next one is a small factor times the one before.
    term = comb(marked, least) * comb(population - marked, draws - least) / comb(population, draws)
    total = 0.0
    for i in range(least, most + 1):
        total += term
        term *= (marked - i) * (draws - i) / ((i + 1) * max(population - marked - draws + i + 1, 1))
    return total


def _power(probability: float) -> str:
    return f"2^{log2(probability):.1f}" if 0 < probability < inf else "0"
