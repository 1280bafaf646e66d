"""The checkpoint: bit for bit what was saved, or an error that names the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedrec.config import Experiment, resolve
from fedrec.errors import RunFolderError
from fedrec.federation.checkpoint import dump, load
from fedrec.federation.round import State


def experiment(**sections: Any) -> Experiment:
    return resolve({"data": {"name": "synthetic"}, "model": {"name": "mf"}, **sections})


def state() -> State:
    rng = np.random.default_rng(1)
    shared = {
        "table": rng.standard_normal((5, 3)).astype(np.float32),
        "items": np.array([4, 2, 0]),
        "odd": np.array([0.0, -0.0, 1e-45, np.float32(np.inf)], np.float32),
        "slice": rng.standard_normal((6, 4)).astype(np.float32)[::2, ::2],
        "empty": np.zeros((0, 3), np.float32),
    }
    return State(3, 1, shared, {"items.first": rng.standard_normal((5, 3)), "items.second": rng.standard_normal(7)})


def test_a_state_comes_back_bit_for_bit() -> None:
    before = state()
    after, ledger_size = load(dump(before, experiment(), 9), experiment(), "state")
    assert (after.round, after.attempt, ledger_size) == (3, 1, 9)
    for one, other in ((before.shared, after.shared), (before.memory, after.memory)):
        assert set(one) == set(other)
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert one[name].shape == other[name].shape
            assert one[name].tobytes() == other[name].tobytes()


def test_a_state_without_arrays_comes_back() -> None:
    after, _ = load(dump(State(0, 0, {}, {}), experiment(), 1), experiment(), "state")
    assert (after.round, dict(after.shared), dict(after.memory)) == (0, {}, {})


def test_any_damaged_byte_is_found() -> None:
    data = dump(state(), experiment(), 9)
    for at in range(len(data)):
        for flip in (1, 128):
            damaged = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            with pytest.raises(RunFolderError, match="'here'"):
                load(damaged, experiment(), "here")


def test_a_cut_checkpoint_is_found() -> None:
    data = dump(state(), experiment(), 9)
    for size in (0, 1, 7, 8, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(RunFolderError, match="'here' is damaged"):
            load(data[:size], experiment(), "here")
    with pytest.raises(RunFolderError, match="'here' is damaged"):
        load(data + b"\0", experiment(), "here")


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2},
        {"model": {"name": "mf", "dimension": 3}},
        {"privacy": {"epsilon": 9.0}},
        {"data": {"name": "ml-1m"}},
    ],
)
def test_another_experiments_checkpoint_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(RunFolderError, match="'here' belongs to another experiment"):
        load(dump(state(), experiment(), 9), experiment(**other), "here")


def test_where_it_runs_and_its_name_do_not_make_another_experiment() -> None:
    same = experiment(name="renamed", engine={"name": "fleet", "nodes": 2})
    assert same.digest() == experiment().digest()
    assert load(dump(state(), experiment(), 9), same, "state")[0].round == 3
