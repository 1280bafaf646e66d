"""Records what privacy cost in real runs, which `fedrec privacy plan` shows as the expected utility.

    python simulations/record_tradeoff.py [--out fedrec/audit/recorded.json]

Three models on MovieLens-100K under the promises of `EPSILONS`, each with three seeds: the packaged experiment
'default' with the model, the budget and the seed changed and nothing else. Test is read once a run, at its end. Takes
about five minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import fedrec
from fedrec.config import load
from fedrec.engines.fleet import Fleet
from fedrec.engines.outcome import measure
from fedrec.engines.run import train_quietly
from fedrec.engines.setting import Setting, prepare
from fedrec.privacy.accounting import composed_mu

MODELS = ("mf", "gram", "popularity")
EPSILONS: tuple[float | None, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, None)
SEEDS = (1, 2, 3)
METRICS = ("hr@10", "ndcg@10")
VIEWS = ("full", "sampled99")

OUT = Path(fedrec.__file__).parent / "audit" / "recorded.json"


def train(model: str, epsilon: float | None, seed: int) -> tuple[Setting, dict[str, Any]]:
    """One run: its setting and its metrics on test."""
    budget = "none" if epsilon is None else repr(epsilon)
    setting = prepare(load("default", [f"model={model}", f"privacy.epsilon={budget}", f"seed={seed}"]))
    recommender = setting.federation.model
    state = train_quietly(setting.federation, Fleet(recommender, setting.split.train))
    return setting, measure(setting, recommender, state.shared, "run")["test"]


def record(model: str, epsilon: float | None) -> tuple[dict[str, Any], Setting]:
    """The mean over the seeds, with the figures of every seed beside it."""
    runs = [train(model, epsilon, seed) for seed in SEEDS]
    setting = runs[0][0]
    sigmas = [mechanism.noise_multiplier for mechanism in setting.federation.mechanisms]
    whole = 0.0 if epsilon is None else 1 / composed_mu(sigmas)
    figures = {
        view: {metric: [round(test[view][metric], 4) for _, test in runs] for metric in METRICS} for view in VIEWS
    }
    line = {
        "model": model,
        "epsilon": epsilon,
        "rounds": len(sigmas),
        "noise_multiplier": round(whole, 6),
        "noise_to_signal": round(whole / len(setting.federation.plan(1).cohort.users), 9),
        "mean": {view: {metric: round(fmean(got), 4) for metric, got in of.items()} for view, of in figures.items()},
        "seeds": figures,
    }
    return line, setting


def main() -> None:
    """Run everything and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    given = parser.parse_args()
    runs = []
    for model in MODELS:
        for epsilon in EPSILONS:
            line, setting = record(model, epsilon)
            print(model, epsilon, line["mean"], flush=True)
            runs.append(line)
    split = setting.split
    written = {
        "version": 1,
        "command": "python simulations/record_tradeoff.py",
        "fedrec": fedrec.__version__,
        "experiment": "the packaged experiment 'default' with its model, budget and seed changed",
        "dataset": {
            "name": split.train.name,
            "users": split.train.n_users,
            "items": split.train.n_items,
            "interactions": split.n_events,
        },
        "unit": "user",
        "delta": repr(setting.experiment.privacy.delta),
        "seeds": list(SEEDS),
        "runs": runs,
    }
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
