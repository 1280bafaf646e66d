"""The figures in the README: every run with three seeds, as a table of means on test.

    python simulations/targets.py [--ml-1m FOLDER] [--only NAME] [--json FILE]

Each row is `fedrec simulate` with the arguments shown; nothing is measured that the command does not print.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SEEDS = (1, 2, 3)

ROWS: dict[str, list[str]] = {
    "ML-100K gram, no privacy": [str(HERE / "ml-100k-gram.toml")],
    "ML-100K mf, no privacy": ["default", "--set", "privacy.epsilon=none"],
    "ML-100K mf from random, no privacy": [str(HERE / "ml-100k-mf-random.toml")],
    "ML-100K default, epsilon 8": ["default"],
    "ML-100K default, epsilon 1": ["default", "--set", "privacy.epsilon=1"],
    "ML-100K popularity, epsilon 8": ["default", "--set", "model=popularity"],
    "ML-100K popularity, epsilon 1": ["default", "--set", "model=popularity", "--set", "privacy.epsilon=1"],
    "ML-1M gram, no privacy": [str(HERE / "ml-1m-gram.toml")],
    "ML-1M gram, epsilon 8": [
        *(str(HERE / "ml-1m-gram.toml"), "--set", "privacy.epsilon=8"),
        *("--set", "model.solver=spectral"),
    ],
}


def run(arguments: list[str], seed: int, out: Path) -> dict[str, Any]:
    """One run's summary."""
    command = [sys.executable, "-m", "fedrec.cli.main", "simulate", *arguments, "--out", str(out), "--json"]
    command += ["--set", f"seed={seed}", "--set", "evaluation.baselines=false"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def figures(summary: dict[str, Any]) -> list[float]:
    """HR and NDCG at 10 with 99 negatives, on the whole catalogue, and the seconds."""
    test = summary["metrics"]["test"]
    views = [test[view][metric] for view in ("sampled99", "full") for metric in ("hr@10", "ndcg@10")]
    return [*views, summary["time"]["wall_s"]]


def main() -> None:
    """Run and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ml-1m", help="folder with MovieLens-1M; by default it is downloaded")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--json", type=Path, help="also write the means here")
    given = parser.parse_args()
    means: dict[str, list[float]] = {}
    print("| run | HR@10, 99 negatives | NDCG@10 | HR@10, whole catalogue | NDCG@10 | seconds |")
    print("|---|---|---|---|---|---|")
    for name, arguments in ROWS.items():
        if given.only not in name:
            continue
        extra = ["--set", f"data.path={given.ml_1m}"] if name.startswith("ML-1M") and given.ml_1m else []
        with tempfile.TemporaryDirectory() as folder:
            found = [figures(run([*arguments, *extra], seed, Path(folder) / str(seed))) for seed in SEEDS]
        means[name] = [sum(column) / len(column) for column in zip(*found, strict=True)]
        *shares, seconds = means[name]
        print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + f" | {seconds:.1f} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
