"""Write what ``fedrec bench --out FILE`` found into README.md and docs/performance.md, and draw docs/performance.svg.

    python -m simulations.benchmarks.page docs/bench.json

Text between ``<!-- bench: NAMES -->`` and ``<!-- bench end -->`` becomes a table of those works' rows; ``summary`` is
the selection of the README, ``machine`` says what it ran on.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrec.reporting.chart import Axis, Point, Series, render

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/performance.md")
DRAWING = "docs/performance.svg"

Row = Mapping[str, Any]

SUMMARY = {
    ("mf", "fedrec-numba"): "a round of matrix factorisation, compiled",
    ("mf", "fedrec-numpy"): "the same in NumPy",
    ("mf", "torch-loop"): "the same by a plain PyTorch loop",
    ("mf", "pfl"): "the same by pfl 0.6",
    ("mf", "flower-ray"): "the same by Flower's simulation runtime",
    ("mf", "fedrec-numba over pfl"): "compiled over pfl",
    ("engine", "fedrec simulate, metrics at the end"): "whole rounds of `fedrec simulate`, ledger included",
    ("engine", "fedrec simulate, metrics at the end, over flower-ray"): "these over Flower's runtime, by the clock",
    ("dpsgd", "fedrec-numba"): "a round of interaction-level DP-SGD, 4 negatives",
    ("dpsgd", "fedrec-numba over opacus-loop"): "this over Opacus's loop",
    ("torch-ncf", "fedrec-torch"): "NCF in PyTorch, one epoch",
    ("torch-attention", "fedrec-torch"): "one block of self-attention, one step",
    ("torch-gru", "fedrec-torch"): "a GRU, one step",
    ("gram", "fedrec"): "`gram`, private, at the size of MovieLens-1M",
}
"""What the README shows, in its order."""

MARKED = re.compile(r"(<!-- bench: ([a-z0-9 -]+) -->\n).*?(<!-- bench end -->)", re.DOTALL)

_STYLE = """
.page { fill: #fff; } text { font: 12px system-ui, sans-serif; fill: #596579; } .label { fill: #1b2330; }
.end { text-anchor: end; } .mid { text-anchor: middle; } .grid { stroke: #dfe3ea; } .axis { stroke: #596579; }
.line { fill: none; stroke-width: 2; } .tone-1 { --c: #1f5fa8; } .tone-2 { --c: #b4530b; }
.line, .mark { stroke: var(--c); } .mark { fill: var(--c); } .head { fill: #1b2330; font-weight: 600; }
"""

_X = {"users": "users, all in the cohort", "items": "items", "dimension": "dimension", "cohort": "users in the cohort"}


def main() -> None:
    """Rewrite the pages and the drawing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    report = json.loads(parser.parse_args().file.read_text(encoding="utf-8"))
    for name in PAGES:
        page = ROOT / name
        page.write_text(filled(page.read_text(encoding="utf-8"), report), encoding="utf-8")
    if any(row["work"] == "curves" for row in report["rows"]):
        (ROOT / DRAWING).write_text(drawing(report["rows"]), encoding="utf-8")


def filled(text: str, report: Mapping[str, Any]) -> str:
    """A page with the marked places filled from a report."""

    def fill(found: re.Match[str]) -> str:
        return found[1] + _content(found[2], report) + "\n" + found[3]

    return MARKED.sub(fill, text)


def _content(names: str, report: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = report["rows"]
    if names == "machine":
        return _machine(report)
    if names == "summary":
        known = {(row["work"], row["name"]): row for row in rows}
        return _table([(label, known[key]) for key, label in SUMMARY.items() if key in known])
    return _table([(row["name"], row) for name in names.split() for row in rows if row["work"] == name])


def _table(rows: Sequence[tuple[str, Row]]) -> str:
    notes = any(_noted(row) for _, row in rows)
    lines = ["| what | median | from … to |" + (" |" if notes else ""), "|---|---|---|" + ("---|" if notes else "")]
    for label, row in rows:
        low, high = (figure(edge) for edge in row["spread"])
        clock = f", {figure(row['clients_per_s'])} a second by the clock" if "clients_per_s" in row else ""
        spread = f"{low} … {high}" if low != high else ""
        noted = f" {_noted(row)} |" if notes else ""
        lines.append(f"| {label} | {_said(row)}{clock} | {spread} |{noted}")
    return "\n".join(lines)


def _noted(row: Row) -> str:
    if "peak_mb" in row:
        return f"a round {figure(row['round_s'])} s, peak memory {figure(row['peak_mb'])} MB"
    return str(row.get("note", ""))


def _said(row: Row) -> str:
    if "clients_per_cpu_s" in row:
        return f"{figure(row['clients_per_cpu_s'])} clients a CPU-second"
    return f"{figure(row['value'])} {row['unit']}"


def figure(value: float) -> str:
    """Three significant digits, whole from 100, with separators of thousands."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{float(f'{value:.3g}'):,.{digits}f}"


def _machine(report: Mapping[str, Any]) -> str:
    of, versions = report["machine"], report["versions"]
    said = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "fedrec")
    return (
        f"{of['cores']} cores of an {of['cpu']}, {of['memory_gb']} GB, Python {of['python']}, {said}; "
        f"the load was {of['load_1m']} when it ended."
    )


def drawing(rows: Sequence[Row]) -> str:
    """The curves of work "curves", both axes logarithmic."""
    charts = []
    for place, (curve, label) in enumerate(_X.items()):
        series = [
            Series(
                name,
                tuple(
                    Point(math.log10(row["at"]), math.log10(row["value"]), f"{row['at']:,}: {figure(row['value'])} ms")
                    for row in rows
                    if row["work"] == "curves" and row["name"] == f"{curve}, {name}"
                ),
                tone,
            )
            for tone, name in enumerate(("numba", "numpy"), start=1)
        ]
        points = [point for one in series for point in one.points]
        x = _powers(label, [point.x for point in points])
        y = _powers("CPU ms a round", [point.y for point in points])
        chart = render(f"A round by {label}", "Cost of a round, compiled and in NumPy.", x, y, series, width=420)
        left, top = 440 * (place % 2) + 10, 290 * (place // 2) + 10
        charts.append(f'<svg x="{left}" y="{top}" width="420" height="280">{chart}</svg>')
    whole = "\n".join(charts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 590" width="880" height="590">'
        f'<style>{_STYLE}</style><rect class="page" width="880" height="590"/>\n{whole}\n</svg>\n'
    )


def _powers(label: str, logs: Sequence[float]) -> Axis:
    """A logarithmic axis: ticks at powers of ten, and at 2 and 5 times them where there is room."""
    low, high = math.floor(min(logs) * 2) / 2, math.ceil(max(logs) * 2) / 2
    steps = (1, 2, 5) if high - low < 2 else (1,)
    marks = [step * 10**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    ticks = tuple((math.log10(mark), f"{mark:,.10g}") for mark in marks if low <= math.log10(mark) <= high)
    return Axis(label, low, high, ticks)


if __name__ == "__main__":
    main()
