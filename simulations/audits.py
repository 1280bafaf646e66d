"""What the empirical audits find: the command behind every figure about them.

    OMP_NUM_THREADS=1 python -m simulations.audits [--runs 40] [--clean 2000] [--seeds 200] [--json FILE]

- faults: how often each planted fault is found by its own test, of ``--runs`` runs; and how often any test objects to
  one of ``--clean`` sound runs. Small releases of 300 coordinates, 8,192 reserved ones and 100 canaries: the tests'
  false alarms do not hang on these sizes.
- estimates: the white-box estimate and the one-run bound of one release of 50,000 coordinates with 1,000 canaries, over
  ``--seeds`` seeds.
- attacks: advantage over chance by observer, on 300 synthetic users, with privacy and without.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.audit.attacks import attack
from fedrec.audit.games import clopper_pearson
from fedrec.config import resolve
from tests.audit.faults import CERTAIN, FAULTS, experiment, objections
from tests.audit.wide import measured

ATTACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "server": ("server", {}),
    "server, trust local": ("server", {"trust": "local"}),
    "server, trust central": ("server", {"trust": "central"}),
    "server and 30 colluders": ("colluder", {"colluders": 30}),
    "other clients": ("client", {}),
    "public": ("public", {}),
}


def faults(runs: int) -> Iterator[dict[str, Any]]:
    """Every fault: of how many runs it was found in how many."""
    for name, fault in FAULTS.items():
        found = sum(fault.found_by in objections(fault.experiment(seed), fault.plant) for seed in range(1, runs + 1))
        yield {"fault": name, "found by": fault.found_by, "found": found, "runs": runs}
    for name, found_in in CERTAIN.items():
        yield {"fault": name, "found by": "refused or verified", "found": found_in(runs), "runs": runs}


def false_alarms(clean: int) -> Iterator[dict[str, Any]]:
    """How often any test objects to a sound run."""
    alarms = sum(bool(objections(experiment(seed))) for seed in range(1000, 1000 + clean))
    low, high = clopper_pearson(alarms, clean)
    yield {"alarms": alarms, "runs": clean, "rate": alarms / clean, "low": low, "high": high}


def estimates(seeds: int) -> Iterator[dict[str, Any]]:
    """The estimates and bounds at three epsilons."""
    for epsilon in (2.0, 4.0, 8.0):
        white, bounds = np.array([measured(epsilon, seed) for seed in range(seeds)]).T
        yield {
            "epsilon": epsilon,
            "seeds": seeds,
            "white-box mean": float(white.mean()),
            "within 15%": int((np.abs(white / epsilon - 1) <= 0.15).sum()),
            "one-run bound mean": float(bounds.mean()),
            "bounds above the truth": int((bounds > epsilon).sum()),
        }


def attacks() -> Iterator[dict[str, Any]]:
    """What each observer can tell."""
    for name, (view, privacy) in ATTACKED.items():
        made = resolve(
            {
                "data": {"name": "synthetic", "n_users": 300, "n_items": 300, "mean_events": 20, "min_events": 4},
                "model": {"name": "mf", "start": "random", "dimension": 8},
                "training": {"learning_rate": 0.2, "epochs": 2},
                "federation": {"rounds": 3, "server_learning_rate": 5.0},
                "privacy": {"epsilon": 4.0, **privacy},
            }
        )
        found = attack(made, view, targets=50, runs=4 if view == "public" or not privacy else 2)
        for game, one in found.attacks.items():
            yield {
                "observer": name,
                "attack": game,
                **{f"private {key}": getattr(one.private, key) for key in ("advantage", "low", "high")},
                "without privacy": one.without_privacy.advantage,
                "declared possible": one.bound,
            }


def main() -> None:
    """Measure everything and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--clean", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    began = time.perf_counter()
    figures: dict[str, Any] = {}
    for name, rows in (
        ("faults", faults(options.runs)),
        ("false alarms", false_alarms(options.clean)),
        ("estimates", estimates(options.seeds)),
        ("attacks", attacks()),
    ):
        figures[name] = _table(name, rows)
    figures["seconds"] = time.perf_counter() - began
    print(f"\n{figures['seconds']:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")


def _table(name: str, rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as they come."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if not found:
            print(f"\n**{name}**\n\n| {' | '.join(row)} |\n|{' --- |' * len(row)}")
        found.append(row)
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]
        print(f"| {' | '.join(cells)} |", flush=True)
    return found


if __name__ == "__main__":
    main()
