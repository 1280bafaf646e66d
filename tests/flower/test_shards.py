"""One fleet, four shards and four Flower nodes train the same model, whichever it is; so does a node for every user."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from safetensors.numpy import load_file

from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.engines.base import Collected
from fedrec.engines.run import train_quietly
from fedrec.engines.setting import Setting, prepare
from fedrec.errors import ConfigError
from fedrec.federation.cohort import partition_of
from fedrec.federation.round import Plan, client_round
from fedrec.flower.strategy import FederationStrategy
from fedrec.models.base import Shared
from fedrec.registry import MODELS
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]
Nodes = Callable[..., Any]

PLAIN = ("privacy.epsilon=none", "privacy.noise_multiplier=none", "federation.rounds=2")
HISTORY = ("training.backend=opacus", "training.sample=history", "training.batch_size=20")
VARIANTS: dict[str, tuple[str, ...]] = {
    **{name: (f"model={name}",) for name in MODELS.names()},
    "mf from random": ("model=mf", "model.start=random"),
    "mf with opacus": ("model=mf", "model.start=random", "training.backend=opacus"),
    "mf by histories": ("model=mf", "model.start=random", *HISTORY),
    "ncf by histories": ("model=ncf", *HISTORY),
    "mf, half of the users a round": ("model=mf", "model.start=random", "federation.cohort=40"),
}
"""Every registered model, and every other way in which one trains."""


class Shards:
    """The population over nodes, each a shard that trains for itself: an engine."""

    name = "shards"

    def __init__(self, setting: Setting, count: int) -> None:
        self._setting, self._count = setting, count

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        federation, train = self._setting.federation, self._setting.split.train
        held = [partition_of(plan.cohort, part, self._count, federation.population) for part in range(self._count)]
        sums = [client_round(federation.model, shared, train.take(users), plan, n) for n, users in enumerate(held)]
        return Collected(tuple(sums), 0, 0, 0, self._count, "plain")


def on_fleet(experiment: Experiment, folder: Path) -> dict[str, Any]:
    simulate.start(experiment, partial(RunFolder.create, folder))
    return load_file(folder / "model.safetensors")


def on_nodes(experiment: Experiment, nodes: Nodes, count: int, folder: Path) -> dict[str, Any]:
    experiment = experiment.replaced(engine={"name": "flower", "nodes": count})
    loop = partial(simulate.start, experiment, partial(RunFolder.create, folder))
    FederationStrategy(loop).start(nodes(experiment, count), ArrayRecord())
    return load_file(folder / "model.safetensors")


def assert_close(one: Shared, other: Shared) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=0, atol=1e-6, err_msg=name)


def marked(variant: str) -> Any:
    """Torch takes some milliseconds a user and step."""
    torch = {"model=ncf", "training.backend=opacus"} & set(VARIANTS[variant])
    return pytest.param(variant, marks=[pytest.mark.slow] if torch else [])


@pytest.mark.parametrize("variant", [marked(variant) for variant in VARIANTS])
def test_fleet_shards_and_nodes_give_one_model(tiny: Tiny, nodes: Nodes, tmp_path: Path, variant: str) -> None:
    if {"model=ncf", "training.backend=opacus"} & set(VARIANTS[variant]):
        pytest.importorskip("opacus")
    dimension = () if VARIANTS[variant][0] in ("model=popularity", "model=gram") else ("model.dimension=4",)
    experiment = tiny(*PLAIN, *VARIANTS[variant], *dimension)
    fleet = on_fleet(experiment, tmp_path / "fleet")
    setting = prepare(experiment)
    assert_close(train_quietly(setting.federation, Shards(setting, 4)).shared, fleet)
    assert_close(on_nodes(experiment, nodes, 4, tmp_path / "nodes"), fleet)
    start = setting.federation.start().shared
    assert any(
        name not in start or not np.array_equal(array, start[name]) for name, array in fleet.items()
    )  # it has trained


@pytest.mark.parametrize("rule", ["trimmed-mean", "median", "krum"])
@pytest.mark.parametrize("local", [(), ("privacy.trust=local", "privacy.noise=skellam")], ids=["plain", "local noise"])
def test_a_robust_round_is_the_same_on_a_node_for_every_user(
    tiny: Tiny, nodes: Nodes, tmp_path: Path, rule: str, local: tuple[str, ...]
) -> None:
    experiment = tiny(*(local or PLAIN), "data.n_users=30", "federation.rounds=1", f"federation.aggregation={rule}")
    assert_close(on_nodes(experiment, nodes, 30, tmp_path / "nodes"), on_fleet(experiment, tmp_path / "fleet"))


def test_a_robust_round_over_shards_is_refused(tiny: Tiny, nodes: Nodes, tmp_path: Path) -> None:
    experiment = tiny(*PLAIN, "federation.aggregation=median")
    with pytest.raises(ConfigError, match="a node sent the sum over 20: give every user a node of its own"):
        on_nodes(experiment, nodes, 4, tmp_path / "run")
