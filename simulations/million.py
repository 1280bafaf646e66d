"""A million users over 50,000 items, and a thousand over a million items: seconds and memory of rounds in one process.

    python -m simulations.million [--users N] [--items N] [--cohorts N ...] [--rounds N] [--in FOLDER] [--json]

Synthetic users of about 20 events, matrix factorisation of dimension 32, Gaussian noise, a cohort drawn each round, and
every user's vector kept from round to round. It is the engine of ``fedrec simulate``: the fleet drives the rounds, with
ledger, checkpoint and run folder, and the last round is measured on a sample of users. Only the vectors are this file's
own: the product's `mf` makes a user's vector from the history each round and keeps none; these, random at first, are
trained in place, live in memory and are lost with the process.

``round_s`` is what a run's ``rounds.jsonl`` calls seconds: choose, train, clip, sum, noise, apply. ``clients_cpu_s`` is
what the clients do of it: train, clip, sum, noise. ``whole_cpu_s`` is a round with its ledger and checkpoint on disk.
``peak_mb`` is the most memory of the process so far (VmHWM), which made the data, holds it and runs the rounds; larger
cohorts come later. Medians over the rounds but the first. Set OPENBLAS_NUM_THREADS=1 for figures of one thread, as
``fedrec bench`` does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fedrec.config import Experiment, parse
from fedrec.contribution import Contribution
from fedrec.data.interactions import Interactions
from fedrec.engines.base import Collected
from fedrec.engines.fleet import Fleet
from fedrec.engines.run import open_ledger, run_rounds
from fedrec.engines.setting import Setting, load_setting, scorer
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Plan
from fedrec.models.base import Personal, Recommender, Shared
from fedrec.models.mf import Mf
from fedrec.randomness import Key
from fedrec.release import Release
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.progress import Progress
from fedrec.training.local import F32
from fedrec.training.samples import public_vectors

Row = dict[str, Any]

EXPERIMENT = """
[data]
name = "synthetic"
n_users = {users}
n_items = {items}
mean_events = 20
[model]
name = "mf"
start = "random"
dimension = {dimension}
content_weight = 0
[federation]
cohort = {cohort}
rounds = {rounds}
[privacy]
delta = 1e-8
noise = "gaussian"
[evaluation]
users = 1000
every = 1000000
"""


@dataclass(frozen=True)
class Kept(Mf):
    """Matrix factorisation whose users keep their vectors, ``[n_users, d]``, changed in place as they train."""

    vectors: F32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def contribute(self, shared: Shared, users: Interactions, release: Release, key: Key) -> Contribution:
        if not release.optimise:
            return super().contribute(shared, users, release, key)
        own = self.vectors[users.users]
        learned = self.learn(shared, own, users, key)
        self.vectors[users.users] = learned.personal
        return Contribution({"items": learned.items, "bias": learned.bias}, users.n_users)

    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        return {**super().personalise(shared, users), "vector": self.vectors[users.users]}


def kept(model: Recommender, users: Interactions) -> Kept:
    """A model whose users start at random vectors, made in blocks."""
    vectors = np.empty((users.n_users, model.config.dimension), np.float32)
    for start in range(0, users.n_users, 10_000):
        block = np.arange(start, min(start + 10_000, users.n_users))
        vectors[block] = public_vectors(users.take(block), vectors.shape[1])
    return Kept(model.config, model.training, model.federation, vectors, workers=model.workers)


@dataclass(frozen=True, eq=False)
class Clocked:
    """The fleet, with the CPU seconds at which each round reached it and left it."""

    fleet: Fleet
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    name: str = "fleet"

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        self.began.append(time.process_time())
        collected = self.fleet.collect(plan, shared)
        self.ended.append(time.process_time())
        return collected


def run(experiment: Experiment, setting: Setting, model: Kept, place: Path) -> Row:
    """One run in a folder of its own."""
    train = setting.split.train
    federation = replace(make_federation(experiment, train.catalogue, train.n_users), model=model)
    engine = Clocked(Fleet(model, train))
    measured: list[float] = []

    def measure(shared: Shared) -> dict[str, Any]:
        began = time.process_time()
        metrics = setting.evaluator.validation(scorer(model, shared), quick=True)
        measured.append(time.process_time() - began)
        return metrics

    folder = RunFolder.create(place)
    ledger = open_ledger(federation, folder)
    with Progress() as progress:
        run_rounds(federation, engine, folder, ledger, progress, measure)
    lines = folder.rounds()
    seconds, whole = [line["seconds"] for line in lines[1:]], np.diff(engine.began).tolist()
    cohort, cpu = lines[0]["cohort"], median(whole)
    return {
        "name": f"{cohort:,} of {train.n_users:,} users, {train.n_items:,} items",
        "work": "million",
        "cohort": cohort,
        "events": train.n_events / train.n_users,
        "rounds": len(lines),
        "clients_per_cpu_s": cohort / cpu,
        "clients_per_s": cohort / median(seconds),
        "spread": [cohort / max(whole), cohort / min(whole)],
        "round_s": median(seconds),
        "clients_cpu_s": median((np.array(engine.ended) - engine.began).tolist()[1:]),
        "whole_cpu_s": cpu,
        "measure_cpu_s": measured[-1],
        "hr@10": lines[-1]["metrics"]["full"]["hr@10"],
        "epsilon": lines[-1]["epsilon"],
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def measure_all(users: int, items: int, cohorts: list[int], rounds: int, place: Path) -> list[Row]:
    """A row a cohort, small ones first, over one population."""

    def experiment(cohort: int) -> Experiment:
        return parse(EXPERIMENT.format(users=users, items=items, dimension=32, cohort=cohort, rounds=rounds))

    began = time.process_time()
    setting = load_setting(experiment(min(cohorts)))
    tell(f"data and split: {time.process_time() - began:.1f} CPU s, peak {peak_mb():.0f} MB")
    model = kept(setting.federation.model, setting.split.train)
    _ = setting.evaluator
    found = []
    with tempfile.TemporaryDirectory(prefix="fedrec-million-", dir=place) as scratch:
        for cohort in sorted(cohorts):
            found.append(run(experiment(cohort), setting, model, Path(scratch) / str(cohort)))
    return found


def rows(repeats: int) -> list[Row]:
    """What ``fedrec bench`` shows: each population in a process of its own, so that its memory is its own."""
    found, one_thread = [], dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    for population in (
        ["--cohorts", "10000", "100000"],
        ["--users", "1000", "--items", "1000000", "--cohorts", "1000"],
    ):
        command = [sys.executable, "-m", "simulations.million", *population, "--rounds", str(repeats + 1), "--json"]
        found += json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | one_thread).stdout
        )["rows"]
    return found


def tell(text: str) -> None:
    """On stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Print a line a cohort, or with --json the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--cohorts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=10, help="the first is left out")
    parser.add_argument("--in", dest="place", type=Path, default=Path(), help="where the run folders are for a while")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure_all(given.users, given.items, given.cohorts, given.rounds, given.place)
    for row in [] if given.json else found:
        print(
            "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in row.items())
        )
    if given.json:
        print(json.dumps({"rows": found}))


if __name__ == "__main__":
    main()
