"""Training by clipped samples the slow way, for tests: one gradient at a time, by autograd in double precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedrec.data.interactions import Interactions
from fedrec.release import Arrays, DpSgd
from fedrec.training.samples import Step

Floats = npt.NDArray[np.float64]
Sample = Sequence[tuple[int, int, Sequence[int]]]
"""Positives of one sample: the user's position, the item, its negatives."""


def samples_of(users: Interactions, step: Step) -> list[Sample]:
    """The samples of a step, of one interaction each."""
    owners, items = users.user_of_event[step.events].tolist(), users.items[step.events].tolist()
    return [[one] for one in zip(owners, items, step.negatives.tolist(), strict=True)]


def gradients(arrays: Arrays, vectors: npt.NDArray[Any], sample: Sample, loss: str) -> dict[str, Floats]:
    """A sample's gradient by every array, and by the users' vectors as ``user``."""
    named = {**arrays, "user": vectors}
    leaves = {name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in named.items()}
    total = torch.zeros((), dtype=torch.float64)
    for user, item, negatives in sample:
        positive = _score(leaves, user, item)
        if loss == "bce":
            total = total - torch.log(torch.sigmoid(positive))
        for negative in negatives:
            other = _score(leaves, user, negative)
            apart = positive - other if loss == "bpr" else -other
            total = total - torch.log(torch.sigmoid(apart))
    total.backward()  # type: ignore[no-untyped-call]
    return {name: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy() for name, leaf in leaves.items()}


def _score(leaves: dict[str, torch.Tensor], user: int, item: int) -> torch.Tensor:
    own, vector = leaves["user"][user], leaves["table"][item]
    score = own @ vector + leaves["bias"][item]
    if "weight0" not in leaves:
        return score
    hidden = torch.cat([own, vector])
    depth = sum(name.startswith("weight") for name in leaves)
    for layer in range(depth):
        hidden = leaves[f"weight{layer}"] @ hidden + leaves[f"offset{layer}"]
        hidden = hidden if layer == depth - 1 else hidden.clamp(min=0)
    return score + hidden[0]


def clipped_sum(
    arrays: Arrays, vectors: npt.NDArray[Any], samples: Iterable[Sample], plan: DpSgd, loss: str
) -> dict[str, Floats]:
    """The sum of the samples' clipped gradients, by array."""
    total = {name: np.zeros(array.shape) for name, array in {**arrays, "user": vectors}.items()}
    for sample in samples:
        each = gradients(arrays, vectors, sample, loss)
        if not plan.trains_user:
            del each["user"]
        norm = np.sqrt(sum(float(np.sum(gradient**2)) for gradient in each.values()))
        for name, gradient in each.items():
            total[name] += min(1.0, plan.clip_norm / (norm + 1e-6)) * gradient
    return total


def train(
    arrays: Arrays, vectors: npt.NDArray[Any], steps: Iterable[Iterable[Sample]], plan: DpSgd, loss: str
) -> dict[str, Floats]:
    """The change of each array after steps without noise."""
    now = {name: array.astype(np.float64) for name, array in arrays.items()}
    own = vectors.astype(np.float64)
    for samples in steps:
        total = clipped_sum(now, own, samples, plan, loss)
        now = {name: array - plan.step_scale * total[name] for name, array in now.items()}
        own = own - plan.step_scale * total["user"]
    return {name: array - arrays[name] for name, array in now.items()}
