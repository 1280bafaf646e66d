"""Any torch module, many users at once: equal to a plain loop over users, and for matrix factorisation to NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")

import torch

from fedrec.config import TrainingConfig, resolve
from fedrec.contribution import Part
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.models.base import Budget
from fedrec.models.ncf import Ncf
from fedrec.randomness import Key
from fedrec.release import DpSgd
from fedrec.training import cohort, local, network
from simulations.benchmarks import torch_models
from simulations.benchmarks.rows import BenchmarkError
from tests.cases import histories
from tests.training import slow

N_ITEMS, D = 14, 3
KEY = Key(5).at(2)
CATALOGUE = Catalogue(np.arange(N_ITEMS).astype(str))
USERS = histories(CATALOGUE, [[3, 1, 4, 0, 5, 9, 2], [7], [], list(range(N_ITEMS)), [11, 0]], first=17)
CONFIG = TrainingConfig(epochs=2, batch_size=3, learning_rate=0.1, negatives=2)
LAYERS = {
    "weight0": (5, 2 * D),
    "offset0": (5,),
    "weight1": (4, 5),
    "offset1": (4,),
    "weight2": (1, 4),
    "offset2": (1,),
}

Floats = npt.NDArray[np.float64]


def shared(*, mlp: bool = True) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    shapes = {"table": (N_ITEMS, D), "bias": (N_ITEMS,), **(LAYERS if mlp else {})}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def vectors(users: Interactions = USERS) -> npt.NDArray[np.float32]:
    every = np.random.default_rng(2).standard_normal((int(USERS.users.max()) + 1, D)).astype(np.float32)
    return every[users.users]


def train(users: Interactions = USERS, loss: Any = "bpr", config: TrainingConfig = CONFIG) -> dict[str, Part]:
    return network.train_whole(shared(), vectors(users), users, config, loss, KEY)


def of_user(parts: dict[str, Part], user: int, n_users: int = USERS.n_users) -> dict[str, Floats]:
    return {name: part.weighted_sum(np.eye(n_users)[user]) for name, part in parts.items()}


def assert_same(found: dict[str, Floats], wanted: dict[str, Floats], atol: float) -> None:
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("loss", ["bpr", "bce"])
@pytest.mark.parametrize("regularisation", [0.0, 0.3])
def test_without_an_mlp_it_learns_what_numpy_learns(loss: Any, regularisation: float) -> None:
    """Users with one, no and all items among them; the same orders, batches and negatives."""
    config = CONFIG.model_copy(update={"regularisation": regularisation})
    arrays = shared(mlp=False)
    wanted = local.train(arrays["table"], arrays["bias"], vectors(), USERS, config, loss, KEY)
    found = network.train_whole(arrays, vectors(), USERS, config, loss, KEY)
    for user in range(USERS.n_users):
        reference = of_user({"table": wanted.items, "bias": wanted.bias}, user)
        assert_same(of_user(found, user), reference, atol=1e-6)
    assert found["table"].squared_norms()[0] > 0.01


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_every_user_trains_like_the_slow_loop(loss: Any) -> None:
    """NCF against one gradient at a time, in double precision; without a clip, and steps of the batch's sum."""
    found, plan = train(loss=loss), DpSgd(1e9, CONFIG.learning_rate, 1, trains_user=True)
    for user in range(USERS.n_users):
        alone = USERS.take(np.array([user]))
        count = int(alone.counts[0]) if alone.counts[0] < N_ITEMS else 0
        drawn = network.examples(alone, CONFIG, KEY).items.reshape(CONFIG.epochs, count, 1 + CONFIG.negatives)
        steps = [
            [[(0, row[0], row[1:])] for row in epoch[start : start + CONFIG.batch_size].tolist()]
            for epoch in drawn
            for start in range(0, count, CONFIG.batch_size)
        ]
        assert_same(of_user(found, user), slow.train(shared(), vectors(alone), steps, plan, loss), atol=1e-5)


def test_all_at_once_equals_one_by_one() -> None:
    together = train()
    for user in range(USERS.n_users):
        assert_same(of_user(together, user), of_user(train(USERS.take(np.array([user]))), 0, 1), atol=1e-6)


@pytest.mark.parametrize("limit", ["_BLOCK_EXAMPLES", "_BLOCK_COPIES"])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    together = train()
    monkeypatch.setattr(cohort, limit, 1)
    for user in range(USERS.n_users):
        assert_same(of_user(train(), user), of_user(together, user), atol=1e-6)


def test_a_user_that_diverges_spoils_no_other() -> None:
    """The clip rejects it afterwards: its own numbers alone are not finite."""
    start = vectors()
    start[0] = np.inf
    found, wanted = network.train_whole(shared(), start, USERS, CONFIG, "bpr", KEY), train()
    assert not np.isfinite(found["table"].squared_norms()[0])
    for user in range(1, USERS.n_users):
        assert_same(of_user(found, user), of_user(wanted, user), atol=1e-6)


def test_who_has_nothing_to_learn_changes_nothing() -> None:
    """No positives, or no negative left."""
    for part in train().values():
        assert (part.squared_norms()[[2, 3]] == 0).all()
    nobody = histories(CATALOGUE, [])
    assert all(len(part.squared_norms()) == 0 for part in train(nobody).values())


SEQUENCES = histories(Catalogue(np.arange(80).astype(str)), [list(range(60)), [7], [], [5, 3, 9, 70], [1, 2]])


@pytest.mark.parametrize("name", ["attention", "gru"])
def test_a_sequence_model_learns_what_a_plain_loop_learns(name: str) -> None:
    """Histories longer than a sequence, and shorter ones that are filled up; the loop runs torch's own GRU."""
    work = torch_models.works(SEQUENCES)[name]()
    sums = [work.one_by_one(n) for n in range(SEQUENCES.n_users + 1)]
    found = work.at_once()
    for user in range(SEQUENCES.n_users):
        wanted = {array: sums[user + 1][array] - sums[user][array] for array in sums[0]}
        assert_same(of_user(found, user, SEQUENCES.n_users), wanted, atol=1e-5)
    assert np.isfinite(found["table"].squared_norms()).all()
    assert found["table"].squared_norms()[0] > 0


class Odd(torch.nn.Module):
    """A layer that runs on one position and on all, by keyword, tied to another use; sums that share their gradient."""

    square: torch.Tensor
    offset: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor

    def __init__(self, *, unused: bool, same: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        for name, shape in {"square": (D, D), "offset": (D,), "first": (D,), "second": (D,), "idle": (2,)}.items():
            self.register_parameter(name, torch.nn.Parameter(torch.randn(shape, generator=generator)))
        self.unused, self.same = unused, same

    def forward(self, rows: Any, own: Any, weights: torch.Tensor) -> torch.Tensor:
        layer = torch.nn.functional.linear
        square, offset = self.square, self.offset
        table = rows["table"][:, 0]
        hidden = layer(torch.ones(D) if self.same else own["offset"], weight=square)
        hidden = layer(hidden, square, bias=offset).tanh()
        if self.unused:
            layer(table, square)
        sums = self.first + self.second
        scores = (layer(table, square, sums * 2) * (hidden + sums)).sum(-1) + square.sum() + sums.sum()
        loss: torch.Tensor = ((scores.tanh() + rows["bias"][:, 0]) * weights).sum()
        return loss


@pytest.mark.parametrize(("unused", "same"), [(False, False), (True, False), (False, True)])
def test_however_a_module_uses_its_layers_it_learns_what_a_plain_loop_learns(unused: bool, same: bool) -> None:
    """A name of the layers' for what a user keeps, too; three steps, of which the first runs on shared layers."""
    module, items = Odd(unused=unused, same=same), np.random.default_rng(4).integers(N_ITEMS, size=(20, 1))
    examples, tables = (
        cohort.Examples(np.array([0, 8, 9, 9, 20]), items),
        {name: shared()[name] for name in ("table", "bias")},
    )
    work = torch_models.Work(module, module, tables, {"offset": vectors()[:4]}, examples, 4, 0.1)
    sums, found = [work.one_by_one(n) for n in range(5)], work.at_once()
    for user in range(4):
        assert_same(of_user(found, user, 4), {name: sums[user + 1][name] - sums[user][name] for name in sums[0]}, 1e-5)


def test_a_benchmark_that_does_other_work_is_found() -> None:
    work = torch_models.works(SEQUENCES)["gru"]()
    torch_models.check("gru", work, 5)
    other = replace(work, plain=torch_models.FusedGru(torch.Generator().manual_seed(2)))
    with pytest.raises(BenchmarkError, match="differs"):
        torch_models.check("gru", other, 5)


def test_nothing_given_or_global_is_changed() -> None:
    arrays, own = shared(), vectors()
    for array in (*arrays.values(), own):
        array.flags.writeable = False
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    network.train_whole(arrays, own, USERS, CONFIG, "bce", KEY)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_module_is_not_changed() -> None:
    module = network.Plain(shared(), "bpr", 0.0)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    tables = {name: shared()[name] for name in ("table", "bias")}
    cohort.train(module, tables, {"vector": vectors()}, network.examples(USERS, CONFIG, KEY), 3, 0.1)
    assert all(torch.equal(parameter, before[name]) for name, parameter in module.named_parameters())


@pytest.mark.parametrize("vector", ["profile", "public"])
def test_ncf_trains_whole_updates_where_no_sample_is_clipped(vector: str) -> None:
    model = {"name": "ncf", "dimension": D, "hidden": [5, 4], "user_vector": vector}
    experiment = resolve({"data": {"name": "synthetic"}, "model": model})
    ncf = Ncf(experiment.model, CONFIG, experiment.federation)
    release = ncf.releases(CATALOGUE, Budget(0.0, USERS.n_users))[0]
    found = ncf.contribute(ncf.init(CATALOGUE, KEY), USERS, release, KEY)
    assert set(found.parts) == {component.name for component in release.components}
    norms = found.norms(release)
    assert (norms[[2, 3]] == 0).all()
    assert (norms[[0, 1, 4]] > 0).all()


def test_the_copies_of_the_layers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block's copies stay under the limit however many users train."""
    sizes: list[int] = []
    blocks: Callable[..., Any] = cohort._blocks

    def watched(*arguments: Any) -> Any:
        for users in blocks(*arguments):
            sizes.append(len(users))
            yield users

    monkeypatch.setattr(cohort, "_blocks", watched)
    monkeypatch.setattr(cohort, "_BLOCK_COPIES", 2 * sum(int(np.prod(shape)) for shape in LAYERS.values()))
    train()
    assert sizes == [2, 1]
