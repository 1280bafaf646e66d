"""Work "workers": the compiled round of work "mf" by one worker and by two, in turns; they must give the same bits.

Once with its 943 clients, whose round takes milliseconds, and once with ten times as many: the same histories under
other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.federation.round import client_round
from fedrec.privacy.mechanism import ShardSum
from simulations.benchmarks import mf
from simulations.benchmarks.rows import BenchmarkError, Row, clients, in_turn, ratio

TIMES = (1, 10)


def rows(repeats: int) -> list[Row]:
    """By the clock.

    Raises:
        BenchmarkError: if two workers give other bits than one.
    """
    return [row for times in TIMES for row in _rows(times, repeats)]


def _rows(times: int, repeats: int) -> Iterator[Row]:
    loaded = mf.setting("numba")
    federation, users = loaded.federation, several(loaded.split.train, times)
    shared, plan, n = federation.start().shared, federation.plan(1), users.n_users

    def by(workers: int) -> ShardSum:
        return client_round(replace(federation.model, workers=workers), shared, users, plan, part=0)

    one, two = by(1), by(2)
    if not all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays):
        raise BenchmarkError("Two workers give another sum than one; see tests/training/test_compiled.py.")
    (cpu, wall), (cpu_2, wall_2) = in_turn([lambda: by(1), lambda: by(2)], 5 * repeats)
    yield clients("workers", f"1 worker, {n:,} clients", n, cpu, wall)
    yield clients("workers", f"2 workers, {n:,} clients", n, cpu_2, wall_2)
    yield ratio("workers", f"2 workers over 1, {n:,} clients", wall_2, wall, note="wall seconds; the same bits")
    yield ratio("workers", f"the same in CPU seconds, {n:,} clients", cpu_2, cpu, note="1 where threads cost nothing")


def several(users: Interactions, times: int) -> Interactions:
    """As many users of each history."""
    starts = np.arange(times)[:, None] * users.n_events + users.indptr[:-1]
    indptr = np.append(starts.ravel(), times * users.n_events)
    return Interactions(users.name, indptr, np.tile(users.items, times), users.catalogue)
