"""The cohort: who takes part in a round, and how they were chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrec.errors import ConfigError
from fedrec.randomness import Key, Lane


@dataclass(frozen=True, eq=False)
class Cohort:
    """The users asked in a round.

    Attributes:
        users: int64 ``[C]``, increasing.
        how: how they were chosen; the accountant claims nothing from it, since the server sees the cohort.
    """

    users: npt.NDArray[np.int64]
    how: str


def choose(population: int, size: int | None, key: Key) -> Cohort:
    """Everyone, or ``size`` users uniformly without replacement.

    Raises:
        ConfigError: if the cohort is larger than the population.
    """
    if size is not None and size > population:
        raise ConfigError(
            f"federation.cohort = {size} is larger than the population of {population} users; lower it or leave it out."
        )
    if size is None or size == population:
        return Cohort(np.arange(population, dtype=np.int64), "everyone")
    chosen = key.generator(Lane.COHORT).choice(population, size, replace=False, shuffle=False)
    return Cohort(np.sort(chosen).astype(np.int64), "uniform without replacement")


def partition_of(cohort: Cohort, partition: int, partitions: int, population: int) -> npt.NDArray[np.int64]:
    """The cohort's users that a node holds: nodes hold contiguous users, as evenly as can be."""
    first, last = partition * population // partitions, (partition + 1) * population // partitions
    return cohort.users[(cohort.users >= first) & (cohort.users < last)]


def users_by_partition(cohort: Cohort, partitions: int, population: int) -> list[int]:
    """How many users of the cohort each node holds."""
    return [len(partition_of(cohort, partition, partitions, population)) for partition in range(partitions)]
