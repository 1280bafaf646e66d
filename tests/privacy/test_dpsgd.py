"""DP-SGD on a module: Opacus's own loop, noise on every coordinate, and central training as a sum of shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("opacus")

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import Tensor, nn

from fedrec.federation.round import client_round
from fedrec.privacy import dpsgd
from fedrec.privacy.mechanism import add_up
from fedrec.privacy.stream import SecureWords
from fedrec.randomness import Key
from fedrec.release import DpSgd
from fedrec.training.samples import draw, public_vectors
from tests.cases import Case, run

PLAN = DpSgd(clip_norm=0.7, learning_rate=0.5, expected_batch=4, steps=5)


class Module(nn.Module):
    """An embedding and a layer: a squared error a sample."""

    def __init__(self) -> None:
        super().__init__()
        generator = np.random.default_rng(1)
        self.rows = nn.Embedding(6, 3, _weight=torch.tensor(generator.standard_normal((6, 3)), dtype=torch.float32))
        self.layer = nn.Linear(3, 1, device="meta")
        self.layer.weight = nn.Parameter(torch.tensor([[1.0, -1.0, 0.5]]))
        self.layer.bias = nn.Parameter(torch.tensor([0.1]))

    def forward(self, items: Tensor, target: Tensor) -> Tensor:
        squares: Tensor = (self.layer(self.rows(items)).squeeze(-1) - target).square()
        return squares.sum(dim=-1)


def batches(sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Batches of these sizes, three items a sample, of four of the six rows."""
    rng = np.random.default_rng(2)
    return [
        (torch.tensor(rng.integers(0, 4, (n, 3))), torch.tensor(rng.standard_normal((n, 3)), dtype=torch.float32))
        for n in sizes
    ]


def zeros(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def ones(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.ones(shape, np.float32)


def trained(plan: DpSgd, steps: list[tuple[Tensor, Tensor]], normal: dpsgd.Normal = zeros) -> list[Tensor]:
    module = Module()
    dpsgd.train(module, steps, plan, normal)
    return [parameter.detach() for parameter in module.parameters()]


def by_hand(plan: DpSgd, steps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Opacus as its documentation has it, with this plan's public constants; batches must not be empty."""
    module = Module()
    wrapped = GradSampleModule(module)
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=plan.learning_rate),
        noise_multiplier=0.0,
        max_grad_norm=plan.clip_norm,
        expected_batch_size=plan.expected_batch,
    )
    for batch in steps:
        optimizer.zero_grad()
        wrapped(*batch).mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize(("clip_norm", "rate"), [(0.1, 0.5), (0.7, 0.5), (1e6, 0.01)])
def test_it_is_opacus_own_loop(clip_norm: float, rate: float) -> None:
    plan, steps = replace(PLAN, clip_norm=clip_norm, learning_rate=rate), batches([5, 1, 3, 7, 2])
    for ours, opacus in zip(trained(plan, steps), by_hand(plan, steps), strict=True):
        torch.testing.assert_close(ours, opacus, rtol=0, atol=1e-6)


def test_a_step_in_several_passes_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, steps = replace(PLAN, noise_multiplier=0.3), batches([5, 0, 9, 1, 6])
    whole = trained(plan, steps, ones)
    monkeypatch.setattr(dpsgd, "_CHUNK", 2 * 22)  # two samples of the module's 22 numbers
    for parts, once in zip(trained(plan, steps, ones), whole, strict=True):
        torch.testing.assert_close(parts, once, rtol=0, atol=1e-6)


def test_noise_is_added_once_a_step_to_every_coordinate() -> None:
    """Also to rows that no sample touches; its deviation is noise multiplier · clip norm over the normaliser."""
    plan, steps = replace(PLAN, noise_multiplier=2.0), batches([5, 1, 3, 7, 2])[:1]
    for quiet, noised in zip(trained(plan, steps), trained(plan, steps, ones), strict=True):
        torch.testing.assert_close(quiet - noised, torch.full_like(quiet, 0.5 * 2.0 * 0.7 / 4), rtol=0, atol=1e-6)


def test_an_empty_batch_takes_a_noised_step_all_the_same() -> None:
    plan = replace(PLAN, noise_multiplier=2.0)
    start = [parameter.detach() for parameter in Module().parameters()]
    for before, after in zip(start, trained(plan, batches([0, 0, 0]), ones), strict=True):
        torch.testing.assert_close(before - after, torch.full_like(before, 3 * 0.5 * 2.0 * 0.7 / 4), rtol=0, atol=1e-6)


def test_rows_left_out_get_the_noise_of_rows_that_no_sample_touches_bit_for_bit() -> None:
    """Else the last bits would tell touched rows from untouched ones."""
    plan, generator = replace(PLAN, noise_multiplier=2.0), np.random.default_rng(3)
    noise = generator.standard_normal((5, 6, 3), np.float32)
    draws = iter([array for step in noise for array in (step, zeros((1, 3)), zeros((1,)))])
    table = trained(plan, batches([0] * 5), lambda _: next(draws))[0]
    alone, left = torch.clone(Module().rows.weight.detach()), iter(noise)
    dpsgd.noise_alone(alone, plan, lambda _: next(left))
    assert torch.equal(alone, table)


def test_secure_noise_is_normal_and_never_repeats() -> None:
    """Kolmogorov and Smirnov at 1e-9, neighbours' correlation at six deviations (2e-9)."""
    normal = dpsgd.secure_normal(SecureWords())
    numbers = normal((201, 501))
    assert numbers.shape == (201, 501)
    assert numbers.dtype == np.float32
    assert stats.kstest(numbers.ravel(), "norm").pvalue > 1e-9
    assert abs(np.corrcoef(numbers[:, 1:].ravel(), numbers[:, :-1].ravel())[0, 1]) < 6 / np.sqrt(201 * 500)
    assert not np.array_equal(normal((4,)), normal((4,)))
    assert normal(()).shape == ()


@dataclass(frozen=True)
class Given:
    """Words that a test gives."""

    values: tuple[int, ...]

    def words(self, n: int) -> npt.NDArray[np.uint64]:
        return np.array(self.values, np.uint64)[:n]


def test_secure_noise_is_finite_at_the_ends_of_the_words() -> None:
    numbers = dpsgd.secure_normal(Given((0, 0, 2**64 - 1, 2**64 - 1)))((4,))
    assert np.isfinite(numbers).all()
    assert np.abs(numbers).max() == pytest.approx(np.sqrt(-2 * np.log(2.0**-54)), rel=1e-6)


def test_torch_keeps_32_bits_of_a_seed_which_is_why_it_does_not_draw_the_noise() -> None:
    one, other = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.normal(0.0, 1.0, (9,), generator=one), torch.normal(0.0, 1.0, (9,), generator=other))


def test_seeded_noise_hangs_on_key_and_user() -> None:
    first = dpsgd.normal_source(PLAN, Key(1), 3)((50,))
    np.testing.assert_array_equal(dpsgd.normal_source(PLAN, Key(1), 3)((50,)), first)
    for key, user in ((Key(1), 4), (Key(2), 3), (Key(1, 1), 3), (Key(1, 0, 1), 3)):
        assert not np.isin(dpsgd.normal_source(PLAN, key, user)((50,)), first).any()


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("backend", ["numpy", "opacus"])
def test_one_federated_step_with_shares_is_one_central_step_on_the_pooled_data(backend: str) -> None:
    """N clients that each add 1/√N of the noise; the central step has their noise, normaliser N · B, one rate, SGD."""
    model = {"name": "mf", "start": "random", "user_vector": "public", "dimension": 4}
    training = {"negatives": 2, "backend": backend, "sampling_rate": 0.5}
    case = Case.of(model, data={"n_users": 30, "n_items": 40}, training=training)
    promise: dict[str, Any] = {"unit": "interaction", "clip_norm": 100.0, "interaction_clip": 0.2}
    federation = case.federation(noise_multiplier=1.5, **promise)
    _, state, plan = next(run(federation, case.train))
    quiet = replace(plan, mechanism=replace(plan.mechanism, noise_multiplier=0.0))
    n, batch, rate = case.train.n_users, 5, 0.3
    shards, shares = [], []
    for user in range(n):
        alone = case.train.take(np.array([user]))
        shard, bare = (client_round(federation.model, state.shared, alone, one, part=user) for one in (plan, quiet))
        shards.append(shard)
        shares.append({name: array - bare.arrays[name] for name, array in shard.arrays.items()})
    total = add_up(shards, plan.release).arrays
    noise = {name: np.sum([share[name] for share in shares], axis=0) for name in total}

    central = Central(state.shared, public_vectors(case.train, 4))
    wrapped = GradSampleModule(central, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD([central.table.weight, central.bias.weight], lr=rate),
        noise_multiplier=0.0,
        max_grad_norm=0.2,
        expected_batch_size=n * batch,
    )
    assert plan.release.dpsgd is not None
    (step,) = draw(case.train, plan.release.dpsgd, 2, plan.key)
    items = np.column_stack([case.train.items[step.events], step.negatives])
    wrapped(torch.tensor(case.train.user_of_event[step.events]), torch.tensor(items)).sum().backward()
    optimizer.pre_step()
    for parameter, name in ((central.table.weight, "items"), (central.bias.weight, "bias")):
        assert parameter.grad is not None
        parameter.grad -= torch.tensor(noise[name] / (n * batch)).reshape(parameter.shape).float()
    optimizer.original_optimizer.step()

    for name, parameter in (("table", central.table.weight), ("bias", central.bias.weight)):
        sent = total["items" if name == "table" else name]
        federated = state.shared[name] + rate / (n * batch) * sent
        np.testing.assert_allclose(federated, parameter.detach().numpy().reshape(sent.shape), rtol=0, atol=1e-6)
    # Together the shares have the deviation of the one central noise: 200 coordinates, off by 30% with 1e-8.
    spread = np.concatenate([array.ravel() for array in noise.values()]).std()
    assert spread == pytest.approx(plan.mechanism.noise_multiplier * plan.mechanism.sensitivity, rel=0.3)
    assert plan.mechanism.total_std(n) == pytest.approx(plan.mechanism.noise_std)


class Central(nn.Module):
    """Matrix factorisation over all users, as one would write it: BPR at constant user vectors."""

    def __init__(self, shared: Any, vectors: npt.NDArray[np.float32]) -> None:
        super().__init__()
        rows, width = shared["table"].shape
        self.table = nn.Embedding(rows, width, _weight=torch.tensor(shared["table"]))
        self.bias = nn.Embedding(rows, 1, _weight=torch.tensor(shared["bias"])[:, None])
        self.vectors = torch.tensor(vectors)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        scores = torch.einsum("bd,bid->bi", self.vectors[users], self.table(items)) + self.bias(items)[..., 0]
        losses: Tensor = nn.functional.softplus(scores[:, 1:] - scores[:, :1]).sum(dim=1)
        return losses
