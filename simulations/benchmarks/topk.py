"""Work "topk": the 20 best of 60,000 items of 64 factors for one user, 200 items excluded; milliseconds on one thread.

A query is a user's vector: the scores of every item, what is met left out, and the best in order. The median and the
99th percentile of 1,000 queries by a processor's time; by the clock in the note. Exact from float32 columns, and from 8
bits a factor with nothing else kept; its recall is over the exact lists.
"""

from __future__ import annotations

import time

import numpy as np

from fedrec.device.topk import ByteTable, FloatTable
from simulations.benchmarks.rows import Row, of

ITEMS, FACTORS, K, QUERIES, EXCLUDED = 60_000, 64, 20, 1_000, 200


def rows(repeats: int) -> list[Row]:
    """Median and 99th percentile of each table, over the repeats, and the recall of the small one."""
    draw = np.random.default_rng(1)
    table = draw.standard_normal((ITEMS, FACTORS)).astype(np.float32)
    bias = draw.standard_normal(ITEMS).astype(np.float32)
    users = draw.standard_normal((QUERIES, FACTORS)).astype(np.float32)
    excluded = draw.choice(ITEMS, EXCLUDED, replace=False)
    exact, small = FloatTable.of(table, bias), ByteTable.of(table, bias)
    known = (
        (f"exact, {exact.columns.nbytes / 1e6:.1f} MB", exact),
        (f"8 bits, {(small.columns.nbytes + small.scales.nbytes) / 1e6:.1f} MB", small),
    )
    found = []
    for name, items in known:
        items.top(users[0], K, excluded)
        taken = [queries(items, users, excluded) for _ in range(repeats)]
        for part, percent in (("median", 50), ("p99", 99)):
            wall = np.median([np.percentile(one[:, 1], percent) for one in taken])
            values = [float(np.percentile(one[:, 0], percent)) for one in taken]
            found.append(of("topk", f"{name}: {part}", values, "CPU-ms", f"{wall:.3f} ms by the clock"))
    hits = [len(np.intersect1d(exact.top(user, K, excluded), small.top(user, K, excluded))) for user in users]
    compiled = "read by numba" if small.compiled else "read by NumPy"
    return [*found, of("topk", f"8 bits: recall@{K}", [float(np.mean(hits)) / K], "of 1", compiled)]


def queries(items: FloatTable | ByteTable, users: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Milliseconds of each query: of the processor and by the clock ``[QUERIES, 2]``."""
    taken = np.empty((len(users), 2))
    for row, user in zip(taken, users, strict=True):
        wall, cpu = time.perf_counter(), time.process_time()
        items.top(user, K, excluded)
        row[:] = 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)
    return taken
