"""Every benchmark in one run: rows as a table, or as JSON in the last line of stdout; progress goes to stderr.

    python -m simulations.benchmarks [--only NAME …] [--repeats N] [--json] [--out FILE]      (or: fedrec bench)

A work is a module with ``rows(repeats)``. Medians over repeats; what is compared is measured in turns of one run, each
process with one thread. A work that cannot run, or whose peers do not do the same, is told in a sentence; the others
run all the same, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from fedrec.errors import FedrecError
from simulations.benchmarks.rows import BenchmarkError, Row

HERE = "simulations.benchmarks"

WORKS = {
    "mf": f"{HERE}.mf",
    "engine": f"{HERE}.engine",
    "workers": f"{HERE}.workers",
    "torch": f"{HERE}.torch_models",
    "dpsgd": f"{HERE}.dpsgd",
    "gram": f"{HERE}.gram",
    "ranking": f"{HERE}.ranking",
    "secagg": f"{HERE}.secure_aggregation",
    "ledger": f"{HERE}.ledger",
    "topk": f"{HERE}.topk",
    "flower-overhead": f"{HERE}.flower_overhead",
    "memory": f"{HERE}.memory",
    "million": "simulations.million",
    "curves": f"{HERE}.curves",
    "profile": f"{HERE}.profile",
}

VERSIONS = ("fedrec", "numpy", "scipy", "numba", "torch", "opacus", "flwr", "ray")


def main() -> None:
    """Print what the works found; a file that is asked for grows with each of them."""
    given = _arguments()
    found, failures = list[dict[str, Any]](), dict[str, str]()
    for name in given.only or WORKS:
        rows, failure = run(name, given.repeats)
        found += rows
        failures |= failure
        if given.out is not None:
            given.out.write_text(_kept(_report(found, failures)), encoding="utf-8")
    print(json.dumps(_report(found, failures), ensure_ascii=False) if given.json else table(found))
    sys.exit(1 if failures else 0)


def _report(found: list[dict[str, Any]], failures: dict[str, str]) -> dict[str, Any]:
    whole = {"rows": found, "machine": machine(), "versions": versions()}
    return whole | ({"failures": failures} if failures else {})


def _kept(report: dict[str, Any]) -> str:
    """JSON with a line a row, so that two measurements can be compared."""
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in report["rows"])
    rest = json.dumps({key: value for key, value in report.items() if key != "rows"}, ensure_ascii=False)
    return f'{{"rows": [\n  {lines}\n], {rest[1:]}\n'


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fedrec bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=WORKS, help="this work; may be given again")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each work (default: 9)")
    parser.add_argument("--json", action="store_true", help="print JSON in the last line of stdout, and nothing else")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    if given.repeats < 1:
        parser.error("--repeats needs a number of at least 1.")
    return given


def run(name: str, repeats: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of a work, or its name with why it failed."""
    print(f"{name} …", file=sys.stderr, flush=True)
    try:
        rows: Callable[[int], Sequence[Row | dict[str, Any]]] = import_module(WORKS[name]).rows
        return [row.as_json() if isinstance(row, Row) else row for row in rows(repeats)], {}
    except (BenchmarkError, FedrecError, ModuleNotFoundError) as error:
        print(f"fedrec bench: {name}: {error}", file=sys.stderr)
        return [], {name: str(error)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in columns."""
    lines = []
    for row in rows:
        unit = row.get("unit", "clients/CPU-s")
        value = row.get("value", row.get("clients_per_cpu_s", 0.0))
        low, high = row["spread"]
        at = f" {row['at']:,}" if "at" in row else ""
        lines.append(f"{row['work']:<16}{row['name'] + at:<48}{value:>12,.4g} {unit:<14} {low:,.4g} to {high:,.4g}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What it ran on."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory, 1),
        "load_1m": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Of what is measured, as far as it is installed; peers' own environments are pinned in ``peers/requirements``."""
    installed = {}
    for name in VERSIONS:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


if __name__ == "__main__":
    main()
