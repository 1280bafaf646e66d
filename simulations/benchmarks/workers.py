"""Work "workers": the compiled round of work "mf" by one worker and by two, in turns; they must give the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedrec.federation.round import client_round
from fedrec.privacy.mechanism import ShardSum
from simulations.benchmarks import mf
from simulations.benchmarks.rows import BenchmarkError, Row, clients, in_turn, ratio


def rows(repeats: int) -> list[Row]:
    """By the clock: training and sums are shared out, noise is not.

    Raises:
        BenchmarkError: if two workers give other bits than one.
    """
    loaded = mf.setting("numba")
    federation, users = loaded.federation, loaded.split.train
    shared, plan = federation.start().shared, federation.plan(1)

    def by(workers: int) -> ShardSum:
        return client_round(replace(federation.model, workers=workers), shared, users, plan, part=0)

    one, two = by(1), by(2)
    if not all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays):
        raise BenchmarkError("Two workers give another sum than one; see tests/training/test_compiled.py.")
    (cpu, wall), (cpu_2, wall_2) = in_turn([lambda: by(1), lambda: by(2)], 5 * repeats)
    return [
        clients("workers", "1 worker", users.n_users, cpu, wall),
        clients("workers", "2 workers", users.n_users, cpu_2, wall_2),
        ratio(
            "workers",
            "2 workers over 1",
            wall_2,
            wall,
            note="wall seconds; the same bits; other processes share the cores",
        ),
        ratio("workers", "2 workers over 1, CPU seconds", cpu_2, cpu, note="1 where threads cost nothing"),
    ]
