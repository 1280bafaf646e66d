"""Secure aggregation in one process and one thread, each client doing its own work: seconds and bytes of a round.

    python simulations/benchmarks/secure_aggregation.py [--clients 100 1000] [--coordinates 53824] [--json FILE]

Parameters are those for 10% corrupt and 10% dropped. The semi-honest figures are with channels cached at enrolment,
which is not in the seconds; the malicious ones are with fresh keys and signatures, every client checking every advert
and a quorum of signatures, so that their work grows with the square of the clients (1,000 take minutes: ``--signed``).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np

from fedrec.secagg.local import drive, enrol, make_clients
from fedrec.secagg.messages import Attempt, Phase
from fedrec.secagg.server import Server
from fedrec.secagg.session import Terms, Variant

HEAD = "| clients | server | k | t | dropped | wall s | CPU s | up bytes a client | of plain | down bytes |"


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


def main() -> None:
    """Print a Markdown table, and the parameters in words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 1000], help="semi-honest rounds")
    parser.add_argument("--signed", type=int, nargs="+", default=[100], help="malicious-server rounds")
    parser.add_argument("--coordinates", type=int, default=53_824)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    given = parser.parse_args()
    print(HEAD)
    print("|---" * HEAD.count(" | ") + "|---|")
    found = []
    cases: list[tuple[Variant, list[int]]] = [("cached", given.clients), ("signed", given.signed)]
    for variant, counts in cases:
        for n in counts:
            for row in rounds(n, given.coordinates, variant, given.repeats):
                found.append(row)
                cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values())
                print("| " + " | ".join(cells) + " |", flush=True)
    print()
    for variant, counts in cases:
        for n in counts:
            print(Terms(bytes(32), 1, variant).parameters(n).describe())
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
