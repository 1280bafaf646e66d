"""Local training of matrix factorisation: clients a CPU-second of the fleet engine, all 943 users of MovieLens-100K.

python simulations/benchmarks/local_training.py [--repeats N]

One local epoch of BPR, one negative a positive, batch 32, dimension 32; then clip and sum. CPU time of one thread.
"""

from __future__ import annotations

import argparse
import os
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np

from fedrec.config import TrainingConfig, load
from fedrec.contribution import Contribution
from fedrec.data import source
from fedrec.privacy.mechanism import Mechanism, clip_and_sum
from fedrec.randomness import Key
from fedrec.release import Component, Release
from fedrec.training.local import train

DIMENSION = 32


def main() -> None:
    """Print the median and the spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    users = source.load(load("default").data)
    generator = np.random.default_rng(0)
    table = (0.1 * generator.standard_normal((users.n_items, DIMENSION))).astype(np.float32)
    personal = (0.1 * generator.standard_normal((users.n_users, DIMENSION))).astype(np.float32)
    bias = np.zeros(users.n_items, np.float32)
    components = (Component("items", table.shape), Component("bias", bias.shape))
    release = Release("mf", components, share=1.0, optimise=True)
    mechanism = Mechanism(noise_multiplier=1.0, clip_norm=1.0, min_cohort=users.n_users)
    training, whole = [], []
    for repeat in range(repeats + 1):
        began = time.process_time()
        learned = train(table, bias, personal, users, TrainingConfig(), "bpr", Key(1, repeat))
        trained = time.process_time()
        contribution = Contribution({"items": learned.items, "bias": learned.bias}, users.n_users)
        clip_and_sum(contribution, release, mechanism)
        if repeat:  # the first one warms up
            training.append(users.n_users / (trained - began))
            whole.append(users.n_users / (time.process_time() - began))
    for name, rates in (("training", training), ("training, clip and sum", whole)):
        low, middle, high = np.percentile(rates, [0, 50, 100])
        print(f"{name}: {middle:,.0f} clients a CPU-second (from {low:,.0f} to {high:,.0f}, {repeats} repeats)")


if __name__ == "__main__":
    main()
