"""The server optimizer: from a cohort's mean update to a step (Reddi et al. 2021, Adaptive federated optimization)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.config import FederationConfig
from fedrec.contribution import Floats

_BETA1, _BETA2, _TAU = 0.9, 0.99, 1e-3  # the paper's defaults

Memory = Mapping[str, Floats]
"""The optimizer's own arrays; they stay on the server."""


def step(mean: Mapping[str, Floats], memory: Memory, config: FederationConfig) -> tuple[dict[str, Floats], Memory]:
    """What to add to each array, and the new memory.

    Args:
        mean: the noised sum over the planned cohort size, by array.
        memory: as returned by the step before, {} at first.
        config: optimizer, learning rate, momentum.
    """
    rate = config.server_learning_rate
    steps: dict[str, Floats] = {}
    new: dict[str, Floats] = {}
    for name, delta in mean.items():
        if config.server_optimizer == "adam":
            first = _BETA1 * memory.get(f"{name}.first", 0.0) + (1 - _BETA1) * delta
            second = _BETA2 * memory.get(f"{name}.second", 0.0) + (1 - _BETA2) * delta**2
            new[f"{name}.first"], new[f"{name}.second"] = first, second
            steps[name] = rate * first / (np.sqrt(second) + _TAU)
        elif config.server_momentum:
            new[f"{name}.velocity"] = config.server_momentum * memory.get(f"{name}.velocity", 0.0) + delta
            steps[name] = rate * new[f"{name}.velocity"]
        else:
            steps[name] = delta if rate == 1 else rate * delta
    return steps, new


def shrunk_mean(total: Floats, noise_std: float, size: int) -> Floats:
    """A noised sum over ``size``, drawn towards zero by the positive-part James-Stein factor: post-processing, free.

    Where the noise drowns the signal the step vanishes instead of spoiling the model (James & Stein 1961).

    Args:
        total: the sum; not changed.
        noise_std: standard deviation of the noise in each coordinate of it.
        size: what it is divided by.
    """
    power = float(np.vdot(total, total)) if noise_std else 0.0
    if not power:
        return total / size
    mean = total * max(0.0, 1.0 - noise_std**2 * total.size / power)
    mean /= size
    return mean
