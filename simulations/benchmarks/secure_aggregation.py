"""Work "secagg": secure aggregation in one process and one thread, each client doing its own work.

Parameters are those for 10% corrupt and 10% dropped. The semi-honest figures are with channels cached at enrolment,
which is not in the seconds; the malicious ones are with fresh keys and signatures, every client checking every advert
and a quorum of signatures, so that their work grows with the square of the clients (1,000 take minutes).
"""

from __future__ import annotations

import os
import time
from collections import Counter

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np

from fedrec.secagg.local import drive, enrol, make_clients
from fedrec.secagg.messages import Attempt, Phase
from fedrec.secagg.server import Server
from fedrec.secagg.session import Terms, Variant
from simulations.benchmarks.rows import Row, of

COORDINATES = 53_824


def rounds(n: int, size: int, variant: Variant, repeats: int) -> list[dict[str, float | str]]:
    """Rounds without and with 10% dropouts: the fastest of the repeats, checked against the plain sum."""
    terms = Terms(bytes(32), n_min=int(0.8 * n), variant=variant)
    identities, roster = enrol(n)
    clients = dict(enumerate(make_clients(identities, roster, terms)))
    vectors = np.random.default_rng(0).integers(0, 2**32, (n, size), np.uint32)
    sizes, rows, number = terms.parameters(n), list[dict[str, float | str]](), 0
    for share in (0.0, 0.1):
        gone = set(range(0, n, 10)) if share else set()
        times = []
        for _ in range(repeats):
            number += 1
            up, down = Counter[int](), Counter[int]()

            def watch(who: int, message: bytes, reply: bytes, up: Counter[int] = up, down: Counter[int] = down) -> None:
                up[who] += len(reply)
                down[who] += len(message)

            wall, cpu = time.perf_counter(), time.process_time()
            server = Server(terms, roster, Attempt(number, 0), range(n), size)
            result = drive(server, clients, vectors, {Phase.MASKED: gone}, watch)
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
            left = [i for i in range(n) if i not in gone]
            if not np.array_equal(result.total, vectors[left].sum(axis=0, dtype=np.uint32)):
                raise SystemExit("The secure sum is not the plain sum.")
        rows.append(
            {
                "clients": n,
                "server": "malicious" if sizes.malicious else "semi-honest",
                "k": sizes.k,
                "t": sizes.t,
                "dropped": len(gone),
                "wall_s": min(t[0] for t in times),
                "cpu_s": min(t[1] for t in times),
                "up_bytes": max(up.values()),
                "up_of_plain": max(up.values()) / (4 * size),
                "down_bytes": max(down.values()),
            }
        )
    return rows


def rows(repeats: int) -> list[Row]:
    """CPU seconds of a round and bytes a client, by variant and number of clients; the fastest of at most three."""
    cases: list[tuple[Variant, int]] = [("cached", 100), ("cached", 1000), ("signed", 100)]
    found = []
    for variant, n in cases:
        for row in rounds(n, COORDINATES, variant, min(repeats, 3) if n < 1000 else 1):
            name = f"{n:,} clients, {row['server']}, {row['dropped']} dropped"
            note = f"{COORDINATES:,} coordinates, k = {row['k']}, t = {row['t']}"
            found.append(of("secagg", name, [float(row["cpu_s"])], "CPU s", note))
            found.append(of("secagg", f"{name}, up", [float(row["up_of_plain"])], "of plain", note))
    return found
