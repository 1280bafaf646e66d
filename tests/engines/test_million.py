"""A thousandth of a million users: the run of simulations/million.py, and what a round may allocate."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedrec.config import Experiment, parse
from fedrec.engines.fleet import Fleet
from fedrec.engines.setting import load_setting
from fedrec.models.mf import Mf
from fedrec.training.samples import public_vectors
from simulations.million import EXPERIMENT, kept, measure_all


def experiment(users: int, items: int, cohort: int) -> Experiment:
    return parse(EXPERIMENT.format(users=users, items=items, dimension=8, cohort=cohort, rounds=2))


def test_a_thousandth_of_it_runs_and_tells_its_figures(tmp_path: Path) -> None:
    small, large = measure_all(1000, 50, [10, 100], 3, tmp_path)
    assert (small["cohort"], large["cohort"]) == (10, 100)
    assert small["rounds"] == large["rounds"] == 3
    assert 15 < small["events"] < 20  # of 20 a user, two are held out
    for row in (small, large):
        assert 0 < row["spread"][0] <= row["clients_per_cpu_s"] <= row["spread"][1]
        assert 7.9 < row["epsilon"] <= 8
    assert large["peak_mb"] >= small["peak_mb"] > 0
    assert not list(tmp_path.iterdir())  # the run folders are gone


def test_a_cohort_s_vectors_are_trained_and_kept_and_all_others_stay() -> None:
    setting = load_setting(experiment(300, 40, 50))
    train, plain = setting.split.train, setting.federation.model
    assert isinstance(plain, Mf)
    model = kept(plain, train)
    np.testing.assert_array_equal(model.vectors, public_vectors(train, 8))
    before = model.vectors.copy()
    federation = replace(setting.federation, model=model)
    state, plan = federation.start(), federation.plan(1)
    Fleet(model, train).collect(plan, state.shared)
    users = train.take(plan.cohort.users)
    learned = plain.learn(state.shared, before[plan.cohort.users], users, plan.key)
    np.testing.assert_array_equal(model.vectors[plan.cohort.users], learned.personal)
    others = np.setdiff1d(np.arange(300), plan.cohort.users)
    np.testing.assert_array_equal(model.vectors[others], before[others])
    np.testing.assert_array_equal(model.personalise(state.shared, users)["vector"], learned.personal)


def test_no_round_allocates_users_by_items_nor_cohort_by_catalogue() -> None:
    """At a byte an entry these were 80 and 20 MB, for tables and events of 1.6 MB."""
    setting = load_setting(experiment(8000, 10_000, 2000))
    model = kept(setting.federation.model, setting.split.train)
    federation = replace(setting.federation, model=model)
    fleet, state = Fleet(model, setting.split.train), federation.start()

    def round_(number: int) -> None:
        plan = federation.plan(number)
        federation.finish(state, plan, fleet.collect(plan, state.shared).shards)

    round_(1)  # what is loaded and compiled once is no part of a round
    tracemalloc.start()
    try:
        round_(2)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
