"""A finished run folder, built in code; the fixtures hand on the functions that build it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder

_HOSTILE = '<script>alert("x")</script><img src=https://evil.example/x.png>'


def _measured(hr: float, users: int = 100) -> dict[str, Any]:
    full = {"hr@5": hr / 2, "hr@10": hr, "ndcg@10": hr / 2, "coverage@10": 0.3, "novelty@10": 4.0, "diversity@10": 0.6}
    group = {"users": users // 2, "hr@10": hr, "ndcg@10": hr / 2}
    sampled = {"hr@10": min(1.0, 3 * hr), "ndcg@10": hr}
    return {"full": full, "sampled99": sampled, "groups": {"light": group, "heavy": group}, "users": users}


def _summary(
    epsilon: float | None = 2.0, hr: float = 0.2, popularity: float = 0.1, model: str = "gram", data: str = "tiny"
) -> dict[str, Any]:
    return {
        "experiment": "an experiment",
        "dataset": {"name": data, "users": 100, "items": 50, "interactions": 1000},
        "model": model,
        "engine": "fleet",
        "rounds": 3,
        "seed": 1,
        "privacy": {
            "unit": "user",
            "adjacency": "zero-out",
            "trust": "distributed",
            "epsilon": epsilon,
            "delta": 1e-5,
            "noise_multiplier": 1.5,
            "noise_multipliers": [1.5, 1.5, 1.5],
            "clip_norm": 1.0,
            "accountant": "dp-accounting PLD",
            "target_epsilon": epsilon,
            "noise_source": None if epsilon is None else "seeded, simulation only: no guarantee",
            "unprotected": [f"who takes part {_HOSTILE}"],
        },
        "metrics": {"validation": _measured(hr), "test": _measured(hr)},
        "baselines": {
            "popularity": {"epsilon": epsilon, "validation": _measured(popularity), "test": _measured(popularity)},
            "non_private": {"epsilon": None, "validation": _measured(0.3), "test": _measured(0.3)},
        },
        "communication": {"up_bytes_per_client": 3000, "down_bytes_per_client": 4_200_000, "total_bytes": 4.2e8},
        "time": {"wall_s": 83.0, "train_s": 4.25, "clients_per_s": 71.0},
        "memory": {"peak_rss_mb": 120.5},
        "versions": {"python": "3.12", "fedrec": "0.1.0"},
        "rejected": 0,
        "samples": [
            {
                "user": f"u{n}",
                "history": ["A", _HOSTILE],
                "recommended": ["B", _HOSTILE],
                "held_out": "B" if n else None,
            }
            for n in range(5)
        ],
    }


def _round_line(number: int, epsilon: float | None = 2.0) -> dict[str, Any]:
    metrics = {key: _measured(0.05 * number)[key] for key in ("full", "sampled99")}
    return {
        "round": number,
        "attempt": 0,
        "release": "gram",
        "cohort": 100,
        "survivors": 100,
        "rejected": 0,
        "seconds": 1.5,
        "up_bytes": 1000,
        "down_bytes": 2000,
        "noise_multiplier": 1.5,
        "epsilon": None if epsilon is None else epsilon * number / 3,
        "metrics": None if number == 2 else metrics,
    }


def _write_run(path: Path, content: Mapping[str, Any] | None = None) -> RunFolder:
    run = RunFolder.create(path)
    content = _summary() if content is None else content
    run.write_text(names.EXPERIMENT, 'name = "an experiment"\n')
    for number in (1, 2, 3):
        run.append_round(_round_line(number, content["privacy"]["epsilon"]))
    run.write_summary(content)
    return run


@pytest.fixture
def hostile() -> str:
    return _HOSTILE


@pytest.fixture
def summary() -> Callable[..., dict[str, Any]]:
    return _summary


@pytest.fixture
def round_line() -> Callable[..., dict[str, Any]]:
    return _round_line


@pytest.fixture
def write_run() -> Callable[..., RunFolder]:
    return _write_run
