"""Work "curves": how a round's cost grows with users, items, dimension and cohort, on synthetic data.

A round is `client_round` with Gaussian noise for users of about 20 events, in CPU milliseconds of one thread. What is
not varied is 1,000 users of 5,000 items at dimension 32, all of them in the cohort.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

from fedrec.config import parse
from fedrec.engines.setting import Setting, load_setting
from fedrec.federation.round import client_round
from simulations.benchmarks.rows import Row, in_turn, of

EXPERIMENT = """
[data]
name = "synthetic"
n_users = {users}
n_items = {items}
mean_events = 20
[model]
name = "mf"
dimension = {dimension}
start = "random"
[training]
backend = "{backend}"
[federation]
rounds = 1
{cohort}
[privacy]
noise_multiplier = 1.0
"""

BASE = {"users": 1_000, "items": 5_000, "dimension": 32}

CURVES = {
    "users": (100, 300, 1_000, 3_000, 10_000),
    "items": (500, 1_500, 5_000, 15_000, 50_000),
    "dimension": (8, 16, 32, 64, 128),
    "cohort": (30, 100, 300, 1_000, 3_000, 10_000),
}

POPULATION = 10_000
"""From which cohorts are drawn."""

BACKENDS = ("numba", "numpy")


def rows(repeats: int) -> list[Row]:
    """A row for each point of each curve and path."""
    return [row for curve, points in CURVES.items() for at in points for row in _point(curve, at, repeats)]


def _point(curve: str, at: int, repeats: int) -> Iterator[Row]:
    varied = {"users": POPULATION} if curve == "cohort" else {curve: at}
    print(f"curves: {curve} {at:,}", file=sys.stderr)
    for backend in BACKENDS:
        cohort = f"cohort = {at}" if curve == "cohort" else ""
        setting = load_setting(parse(EXPERIMENT.format(**{**BASE, **varied}, backend=backend, cohort=cohort)))
        ((cpu, _),) = in_turn([_round(setting)], min(repeats, 5))
        found = of("curves", f"{curve}, {backend}", [1e3 * one for one in cpu], "ms")
        yield replace(found, at=at)


def _round(setting: Setting) -> Callable[[], object]:
    federation, train = setting.federation, setting.split.train
    shared, plan = federation.start().shared, federation.plan(1)
    return lambda: client_round(federation.model, shared, train.take(plan.cohort.users), plan, part=0)
