"""Work "dpsgd": a step of interaction-level DP-SGD on MovieLens-100K, by fedrec and by Opacus's own loop.

943 clients, 1,682 items, dimension 32, BPR; a sample is a positive with 4 negatives, clipped as one, and all of a
client's enter the step. fedrec draws, trains, clips each client, sums, and adds the noise to the sum: a whole round.
Opacus's documented loop goes one client after another (a sample of them); it is given its negatives, and adds
its noise to each client's step. Before anything is timed, both make the same change of the model without noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedrec.config import parse
from fedrec.engines.setting import Setting, load_setting
from fedrec.federation.round import Plan, client_round
from fedrec.models.base import Shared
from fedrec.release import DpSgd
from fedrec.training.samples import draw, public_vectors
from simulations.benchmarks.rows import BenchmarkError, Row, clients, in_turn, ratio

EXPERIMENT = """
seed = 1
[data]
name = "ml-100k"
[model]
name = "mf"
dimension = 32
start = "random"
user_vector = "public"
[training]
backend = "{backend}"
negatives = {negatives}
[federation]
rounds = 1
[privacy]
unit = "interaction"
noise_multiplier = 1.0
"""
NEGATIVES = 4
SAMPLE = 40
"""Clients whom Opacus trains in a turn: it takes milliseconds for each."""

ROUNDS = 5
"""fedrec's rounds in a turn."""

TOLERANCE = 1e-4


class Mf(nn.Module):
    """Matrix factorisation as one would write it, at a user's vector that is no parameter."""

    user: Tensor

    def __init__(self, shared: Shared, user: npt.NDArray[np.float32]) -> None:
        super().__init__()
        table, bias = torch.from_numpy(shared["table"]), torch.from_numpy(shared["bias"])[:, None]
        self.table = nn.Embedding(table.shape[0], table.shape[1], _weight=table.clone())
        self.bias = nn.Embedding(len(bias), 1, _weight=bias.clone())
        self.register_buffer("user", torch.from_numpy(user))

    def forward(self, items: Tensor) -> Tensor:
        """The losses of samples ``[B, 1 + m]``, the positive first."""
        scores = self.table(items) @ self.user + self.bias(items).squeeze(-1)
        losses: Tensor = nn.functional.softplus(scores[:, 1:] - scores[:, :1]).sum(dim=1)
        return losses


def opacus_step(shared: Shared, user: npt.NDArray[np.float32], samples: Tensor, plan: DpSgd, noise: float) -> Mf:
    """One client's step by Opacus's documented loop; the model after it."""
    module = Mf(shared, user)
    wrapped = GradSampleModule(module, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=plan.learning_rate),
        noise_multiplier=noise,
        max_grad_norm=plan.clip_norm,
        expected_batch_size=plan.expected_batch,
    )
    optimizer.zero_grad(set_to_none=True)
    wrapped(samples).sum().backward()
    optimizer.step()
    return module


def rows(repeats: int) -> list[Row]:
    """A row each, and how many times faster than Opacus, in this run.

    Raises:
        BenchmarkError: if Opacus makes another change.
    """
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    torch.set_num_threads(1)
    names = ("numba", "numpy")
    settings = [load_setting(parse(EXPERIMENT.format(backend=name, negatives=NEGATIVES))) for name in names]
    own = settings[0]
    shared, train = own.federation.start().shared, own.split.train
    plan = own.federation.plan(1)
    dpsgd = dpsgd_of(plan)
    (drawn,) = draw(train, dpsgd, NEGATIVES, plan.key)
    samples = torch.from_numpy(np.column_stack([train.items[drawn.events], drawn.negatives]).astype(np.int64))
    edges, vectors = np.searchsorted(drawn.events, train.indptr), public_vectors(train, 32)
    chosen = np.linspace(0, train.n_users - 1, SAMPLE).astype(int)

    def by_opacus(noise: float) -> list[Mf]:
        each = ((vectors[user], samples[edges[user] : edges[user + 1]]) for user in chosen)
        return [opacus_step(shared, vector, mine, dpsgd, noise) for vector, mine in each]

    check(own, shared, chosen, by_opacus(0.0))
    tasks: list[Callable[[], object]] = [partial(rounds_of, setting, shared) for setting in settings]
    taken = in_turn([*tasks, partial(by_opacus, 1.0)], repeats)
    rate = [*(([one / ROUNDS for one in cpu], [one / ROUNDS for one in wall]) for cpu, wall in taken[:2]), taken[2]]
    count = [train.n_users, train.n_users, SAMPLE]
    note = f"{SAMPLE} clients a turn"
    labels = ["fedrec-numba", "fedrec-numpy", "opacus-loop"]
    found = [
        clients("dpsgd", name, n, cpu, wall, note if name == labels[2] else "")
        for name, n, (cpu, wall) in zip(labels, count, rate, strict=True)
    ]
    each = [[one / n for one in cpu] for n, (cpu, _) in zip(count, rate, strict=True)]
    return [*found, ratio("dpsgd", "fedrec-numba over opacus-loop", each[0], each[2], note="CPU seconds a client")]


def dpsgd_of(plan: Plan) -> DpSgd:
    """How the clients of a plan train."""
    if plan.release.dpsgd is None:
        raise BenchmarkError("The experiment does not train by clipped interactions.")
    return plan.release.dpsgd


def rounds_of(setting: Setting, shared: Shared) -> object:
    """What all clients together send, `ROUNDS` times."""
    federation, train = setting.federation, setting.split.train
    return [client_round(federation.model, shared, train, federation.plan(1), part=0) for _ in range(ROUNDS)]


def check(setting: Setting, shared: Shared, chosen: npt.NDArray[np.int64], theirs: list[Mf]) -> None:
    """Refuse an Opacus whose change is another."""
    users, plan = setting.split.train.take(chosen), setting.federation.plan(1)
    parts = setting.federation.model.contribute(shared, users, plan.release, plan.key).parts
    for place, module in enumerate(theirs):
        one = np.eye(len(chosen))[place]
        for name, layer, before in (("items", module.table, "table"), ("bias", module.bias, "bias")):
            mine = parts[name].weighted_sum(one)
            other = layer.weight.detach().numpy().reshape(mine.shape) - shared[before]
            if np.abs(mine - other).max() > TOLERANCE * np.abs(mine).max() + 1e-7:
                raise BenchmarkError(f"Opacus's step of client {chosen[place]} is not fedrec's in '{name}'.")
