"""Work "gram": the private training of simulations/ml-1m-gram.toml (EASE, epsilon 8) on 6,040 users and 3,706 items.

From histories in memory to the model: every client's clipped statistics, their sum, the noise, the server's solving.
MovieLens-1M where `$FEDREC_ML_1M` names its folder (or the data home holds it); else synthetic data of the same size (a
mean of 165 interactions), and the row says so. CPU seconds of one thread; peak memory is the process's, data included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fedrec.config import Experiment, load, resolve
from fedrec.data.home import home
from fedrec.engines.fleet import Fleet
from fedrec.engines.run import train_quietly
from fedrec.engines.setting import load_setting
from simulations.benchmarks.rows import Row, of

SIMULATIONS = Path(__file__).parents[1]
PRIVACY = {"epsilon": 8.0}


def experiment() -> Experiment:
    """The experiment on the data that there is."""
    known = load(str(SIMULATIONS / "ml-1m-gram.toml"))
    folder = os.environ.get("FEDREC_ML_1M")
    if folder:
        return known.replaced(data={"path": folder}, privacy=PRIVACY)
    if (home() / "data" / "ml-1m").exists():
        return known.replaced(privacy=PRIVACY)
    data = {"name": "synthetic", "n_users": 6_040, "n_items": 3_706, "mean_events": 165}
    return resolve({"data": data, "model": {"name": "gram", "solver": "ease"}, "privacy": PRIVACY})


def rows(repeats: int) -> list[Row]:
    """Seconds of processor and megabytes; each repeat is a process of its own, whose second run is measured."""
    found = [measured() for _ in range(repeats)]
    note = str(found[0]["data"])
    return [
        of("gram", "fedrec", [one["cpu_s"] for one in found], "CPU-s", note),
        of("gram", "fedrec, the first in its process", [one["first_cpu_s"] for one in found], "CPU-s", note),
        of("gram", "peak memory", [one["peak_mb"] for one in found], "MB", note),
    ]


def measured() -> dict[str, Any]:
    """What `main` prints, in a process of its own."""
    command = [sys.executable, "-m", "simulations.benchmarks.gram"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=SIMULATIONS.parent)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Print the figures of this process as JSON."""
    setting = load_setting(experiment())
    taken = []
    for _ in range(2):  # the first loads compiled code and scipy
        began = time.process_time()
        train_quietly(setting.federation, Fleet(setting.federation.model, setting.split.train))
        taken.append(time.process_time() - began)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    train = setting.split.train
    about = (
        f"{train.name}: {train.n_users:,} users, {train.n_items:,} items, {train.n_events:,} interactions in training"
    )
    print(json.dumps({"first_cpu_s": taken[0], "cpu_s": taken[1], "peak_mb": peak / 1024, "data": about}))


if __name__ == "__main__":
    main()
