"""What privacy cost in real runs: ``recorded.json``, which ``simulations/record_tradeoff.py`` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

Metrics = Mapping[str, Mapping[str, float]]
"""By view (``full``, ``sampled99``), then by name; means over seeds."""

_RANGE = 1.5
"""Up to this factor of noise beyond the recorded runs, the outermost of them still speaks for a plan."""


@dataclass(frozen=True)
class Recorded:
    """A recorded run.

    Attributes:
        model: its name.
        epsilon: its budget; None without privacy.
        noise_multiplier: of the whole run as one release.
        noise_to_signal: the noise's standard deviation over what all users together can add: clip norm times users.
        mean: its metrics on test.
    """

    model: str
    epsilon: float | None
    noise_multiplier: float
    noise_to_signal: float
    mean: Metrics


@dataclass(frozen=True)
class Expected:
    """The recorded run of a model whose noise is nearest to a plan's.

    Attributes:
        model: its name.
        nearest: the run.
        without: the same model's metrics without privacy.
        ratio: the plan's noise to signal over the run's.
        fit: whether the plan is within what was recorded, or has ``less noise`` or ``more noise`` than any such run.
    """

    model: str
    nearest: Recorded
    without: Metrics
    ratio: float
    fit: Literal["within", "less noise", "more noise"]

    def lost(self, view: str = "full", metric: str = "hr@10") -> float:
        """The part of a metric that the nearest run's noise cost."""
        return 1 - self.nearest.mean[view][metric] / self.without[view][metric]


@lru_cache(maxsize=1)
def record() -> dict[str, Any]:
    """The whole record: data set, experiment, seeds and runs."""
    text = resources.files("fedrec.audit").joinpath("recorded.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def expected(noise_to_signal: float) -> tuple[Expected, ...]:
    """For each recorded model, the run whose noise to signal is nearest on a log scale."""
    return tuple(_nearest(model, noise_to_signal) for model in dict.fromkeys(run.model for run in _runs()))


def _nearest(model: str, noise_to_signal: float) -> Expected:
    own = [run for run in _runs() if run.model == model]
    private = [run for run in own if run.epsilon is not None]
    (free,) = (run for run in own if run.epsilon is None)
    nearest = min(private, key=lambda run: abs(math.log(noise_to_signal / run.noise_to_signal)))
    levels = [run.noise_to_signal for run in private]
    fit: Literal["within", "less noise", "more noise"] = "within"
    if noise_to_signal * _RANGE < min(levels):
        fit = "less noise"
    if noise_to_signal > max(levels) * _RANGE:
        fit = "more noise"
    return Expected(model, nearest, free.mean, noise_to_signal / nearest.noise_to_signal, fit)


@lru_cache(maxsize=1)
def _runs() -> tuple[Recorded, ...]:
    names = ("model", "epsilon", "noise_multiplier", "noise_to_signal", "mean")
    return tuple(Recorded(**{name: run[name] for name in names}) for run in record()["runs"])
