"""Opacus on a device: fedrec's local epoch against Opacus's own loop by hand; 1,682 items by 32, 100 interactions.

python simulations/benchmarks/opacus_step.py [--repeats N] [--json]

Matrix factorisation by BPR, one negative a positive, Poisson rate 1/4, so four noised steps; the user's vector is
trained, clipped and noised with the rest. Both start from arrays in memory and end with the change of the model. CPU
time of one thread, median over repeats taken in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedrec.data.interactions import Catalogue, Interactions
from fedrec.randomness import Key
from fedrec.release import DpSgd
from fedrec.training import network

ITEMS, DIMENSION, INTERACTIONS = 1_682, 32, 100
PLAN = DpSgd(
    clip_norm=0.1,
    learning_rate=0.5,
    expected_batch=25,
    sampling_rate=0.25,
    steps=4,
    negatives="catalogue",
    trains_user=True,
    inside=True,
    noise_multiplier=1.0,
)
WITHOUT_NOISE = DpSgd(0.1, 0.5, 25, 0.25, 4, trains_user=True)


class Mf(nn.Module):
    """Matrix factorisation as one would write it."""

    def __init__(self, table: Tensor, bias: Tensor, user: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding(ITEMS, DIMENSION, _weight=table.clone())
        self.bias = nn.Embedding(ITEMS, 1, _weight=bias.clone())
        self.user = nn.Embedding(1, DIMENSION, _weight=user.clone())

    def forward(self, items: Tensor) -> Tensor:
        """The BPR losses of pairs ``[B, 2]``."""
        own = self.user(torch.zeros(len(items), dtype=torch.long))
        scores = torch.einsum("bd,bid->bi", own, self.table(items)) + self.bias(items).squeeze(-1)
        losses: Tensor = nn.functional.softplus(scores[:, 1] - scores[:, 0])
        return losses


def by_hand(plan: DpSgd) -> Callable[[], object]:
    """Opacus's documented loop, with the plan's public constants."""
    generator = torch.Generator().manual_seed(1)
    table, bias = 0.1 * torch.randn(ITEMS, DIMENSION, generator=generator), torch.zeros(ITEMS, 1)
    user = torch.randn(1, DIMENSION, generator=generator)
    positives = torch.randperm(ITEMS, generator=generator)[:INTERACTIONS]

    def epoch() -> object:
        module = Mf(table, bias, user)
        wrapped = GradSampleModule(module, loss_reduction="sum")
        optimizer = DPOptimizer(
            torch.optim.SGD(module.parameters(), lr=plan.learning_rate),
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip_norm,
            expected_batch_size=plan.expected_batch,
            generator=generator,
        )
        for _ in range(plan.steps):
            batch = positives[torch.rand(INTERACTIONS, generator=generator) < plan.sampling_rate]
            negatives = torch.randint(ITEMS, (len(batch),), generator=generator)
            optimizer.zero_grad(set_to_none=True)
            wrapped(torch.stack([batch, negatives], dim=1)).sum().backward()
            optimizer.step()
        return module.table.weight.detach() - table, module.bias.weight.detach() - bias

    return epoch


def ours(plan: DpSgd) -> Callable[[], object]:
    """The same epoch through `fedrec.training.network`."""
    generator = np.random.default_rng(1)
    arrays = {
        "table": (0.1 * generator.standard_normal((ITEMS, DIMENSION))).astype(np.float32),
        "bias": np.zeros(ITEMS, np.float32),
    }
    vectors = generator.standard_normal((1, DIMENSION)).astype(np.float32)
    items = generator.permutation(ITEMS)[:INTERACTIONS].astype(np.int32)
    me = Interactions("phone", np.array([0, INTERACTIONS]), items, Catalogue(np.arange(ITEMS).astype(str)))
    rounds = iter(range(1, 2**62))
    return lambda: network.train(arrays, vectors, me, plan, 1, "bpr", Key(1, next(rounds)))


def median_ms(tasks: list[Callable[[], object]], repeats: int) -> list[float]:
    """Each task's median CPU time in milliseconds, the tasks taken in turn after one warm-up."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for repeat in range(repeats + 1):
        for task, taken in zip(tasks, seconds, strict=True):
            began = time.process_time()
            task()
            if repeat:
                taken.append(time.process_time() - began)
    return [float(np.median(taken)) * 1e3 for taken in seconds]


def main() -> None:
    """Print both times and their ratio, with the noise in every step and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    figures = {}
    for name, plan in (("noise in every step", PLAN), ("clipped only", WITHOUT_NOISE)):
        hand, fedrec = median_ms([by_hand(plan), ours(plan)], arguments.repeats)
        figures[name] = {"by_hand_ms": hand, "fedrec_ms": fedrec, "ratio": fedrec / hand}
        print(f"{name}: by hand {hand:.1f} ms, fedrec {fedrec:.1f} ms, ratio {fedrec / hand:.2f}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
