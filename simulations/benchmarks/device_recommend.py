"""Recommendations on a device: milliseconds for the top 20 of 60,000 items, by the size of the history.

    python simulations/benchmarks/device_recommend.py [--items N] [--events N …] [--model mf gram] [--json]

A store in a temporary folder holds the catalogue (18 genres, years), a model of 64 factors (gram: on 10,000 items) and
the events of one user; popular items are met more often, and many of them again. *Served* is one list after another
from a process that is running, every one with other dials, reasons included. *Same* is the same with both dials at 0.
*After an event* is the next list once the user has met one more item: the history is read and scored anew. *Start* is
the first list, with catalogue and model read from the store. One thread; *CPU* is what of it was computing, for
machines that have other work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np

from fedrec.config import resolve
from fedrec.data.interactions import Catalogue
from fedrec.device import history
from fedrec.device.catalogue import digest, to_bytes
from fedrec.device.recommend import Adviser
from fedrec.device.store import Store
from fedrec.models.base import Shared

K, FACTORS, MATRIX = 20, 64, 10_000
LISTS, CHANGES = 500, 20


def main() -> None:
    """Print a table, and with --json the figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--events", type=int, nargs="+", default=[200, 20_000, 100_000])
    parser.add_argument("--model", nargs="+", choices=("mf", "gram"), default=["mf", "gram"])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too")
    given = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for model in given.model:
        for events in given.events:
            with tempfile.TemporaryDirectory(prefix="device-") as folder:
                figures[f"{model}, {events:,} events"] = measure(Path(folder), model, given.items, events)
    head = next(iter(figures.values()))
    print(f"{'':<24}" + "".join(f"{name:>16}" for name in head))
    for name, row in figures.items():
        print(f"{name:<24}" + "".join(f"{value:>16,.1f}" for value in row.values()))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    if given.json:
        print(json.dumps(figures))


def measure(folder: Path, model: str, items: int, events: int) -> dict[str, float]:
    """Milliseconds, medians and 99th percentiles, by the clock and of the processor."""
    draw = np.random.default_rng(1)
    with Store.create(folder / "store.sqlite") as store:
        fill(store, model, items, events, draw)
        adviser = Adviser(store)
        start, _ = milliseconds(lambda: adviser.top(K))
        served = [list_with(adviser, *dials) for dials in draw.random((LISTS, 2))]
        same = [list_with(adviser, 0.0, 0.0) for _ in range(LISTS)]
        after = []
        for item in draw.integers(0, items, CHANGES):
            history.record(store, f"item{item}")
            after.append(list_with(adviser, 0.0, 0.0))
        distinct = history.counts(store).items
    wall, cpu = np.array(served).T
    return {
        "distinct items": distinct,
        "served: median": float(np.median(wall)),
        "p99": float(np.percentile(wall, 99)),
        "CPU p99": float(np.percentile(cpu, 99)),
        "same: p99": float(np.percentile(np.array(same)[:, 0], 99)),
        "CPU p99 ": float(np.percentile(np.array(same)[:, 1], 99)),
        "after an event": float(np.median(np.array(after)[:, 0])),
        "CPU": float(np.median(np.array(after)[:, 1])),
        "start": start,
    }


def list_with(adviser: Adviser, diversity: float, novelty: float) -> tuple[float, float]:
    """Milliseconds of one list."""
    return milliseconds(lambda: adviser.top(K, diversity=diversity, novelty=novelty))


def fill(store: Store, model: str, items: int, events: int, draw: np.random.Generator) -> None:
    """A catalogue, a model and a history."""
    catalogue = Catalogue(
        ids=np.array([f"item{number}" for number in range(items)]),
        titles=np.array([f"Title {number}" for number in range(items)]),
        years=draw.integers(1930, 2025, items).astype(float),
        genre_names=tuple(f"genre{number}" for number in range(18)),
        genres=(draw.random((items, 18)) < 0.12).astype(np.float32),
    )
    content = to_bytes(catalogue)
    store.put("catalogue", content)
    experiment = resolve(
        {
            "data": {"name": "devices", "catalogue": digest(content)},
            "model": {"name": model, "top_items": MATRIX, **({"dimension": FACTORS} if model == "mf" else {})},
            "federation": {"cohort": 100, "min_cohort": 50},
        }
    )
    store.put(f"experiment-{experiment.digest()}", experiment.to_toml().encode())
    from safetensors.numpy import save

    about = {"experiment": experiment.digest(), "round": "1"}
    store.put("model", bytes(save(dict(arrays(model, items, draw)), metadata=about)))
    popularity = 1 / (10 + np.arange(items))
    met = draw.choice(items, events, p=popularity / popularity.sum())
    with store.transaction() as connection:
        told = (history.Event(f"item{item}", at=1_600_000_000 + 60 * step) for step, item in enumerate(met))
        history.insert(connection, told, "benchmark")


def arrays(model: str, items: int, draw: np.random.Generator) -> Shared:
    """A model's arrays, as large as real ones."""
    if model == "mf":
        return {
            "table": draw.standard_normal((items, FACTORS)).astype(np.float32),
            "bias": draw.standard_normal(items).astype(np.float32),
            "item_weight": draw.random(items).astype(np.float32),
        }
    return {
        "popularity": draw.standard_normal(items).astype(np.float32),
        "items": np.arange(MATRIX),  # those that are met most
        "factor": draw.standard_normal((MATRIX, 2 * FACTORS)).astype(np.float32),
        "item_weight": draw.random(MATRIX).astype(np.float32),
    }


def milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """How long it takes: by the clock, and of a processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
