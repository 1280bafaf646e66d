"""Work "flower-overhead": rounds of one experiment on Flower's engine, two nodes on this machine, and on the fleet."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from simulations.benchmarks import mf
from simulations.benchmarks.rows import BenchmarkError, Row, of

ROUNDS = 6


def rows(repeats: int) -> list[Row]:  # noqa: ARG001 - starting Flower takes most of the time: one run each
    """Wall seconds of a round, as ``rounds.jsonl`` tells them, but the first.

    Raises:
        BenchmarkError: if a run fails.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="fedrec-bench-") as scratch:
        file = Path(scratch) / "experiment.toml"
        short = mf.setting("numpy").experiment.replaced(federation={"rounds": ROUNDS})
        experiment = short.replaced(evaluation={"baselines": False})
        file.write_text(experiment.to_toml(), encoding="utf-8")
        for engine in ("fleet", "flower"):
            found[engine] = _seconds(file, engine, Path(scratch) / engine)
    seconds = {engine: sorted(values) for engine, values in found.items()}
    added = [one - seconds["fleet"][len(seconds["fleet"]) // 2] for one in seconds["flower"]]
    return [
        of("flower-overhead", "a round on the fleet", [1e3 * one for one in seconds["fleet"]], "ms", "wall"),
        of("flower-overhead", "a round on two Flower nodes", [1e3 * one for one in seconds["flower"]], "ms", "wall"),
        of("flower-overhead", "added by Flower and Ray", [1e3 * one for one in added], "ms", "wall"),
    ]


def _seconds(file: Path, engine: str, out: Path) -> list[float]:
    command = [sys.executable, "-m", "fedrec.cli.main", "simulate", str(file), "--engine", engine, "--out", str(out)]
    if subprocess.run([*command, "--set", "engine.nodes=2"], stdout=sys.stderr, check=False).returncode:
        raise BenchmarkError(f"'fedrec simulate --engine {engine}' failed, see above.")
    lines = (out / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(json.loads(line)["seconds"]) for line in lines[1:]]
