"""Finished runs side by side: a table, and utility against epsilon as a self-contained page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedrec.errors import RunFolderError
from fedrec.reporting import figures, tables, tradeoff
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder, replace_file, write_error
from fedrec.reporting.report import environment
from fedrec.reporting.summary import Measured, Summary, parse_summary

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.table import Table

GENERATOR = "fedrec compare"
_MARK = f'<meta name="generator" content="{GENERATOR}">'
_HEAD = 2048  # bytes of a file in which the mark must stand


@dataclass(frozen=True)
class Row:
    """A run in a comparison; figures are None where the run did not measure them.

    ``popularity`` and ``non_private`` are HR over the whole catalogue on test, of popularity at the run's epsilon and
    of the same model without privacy.
    """

    run: str
    summary: Summary
    k: int
    popularity: float | None
    non_private: float | None

    @property
    def epsilon(self) -> float | None:
        return self.summary.privacy.epsilon

    def figure(self, metric: str, view: str = "full") -> float | None:
        """``hr`` or ``ndcg`` at the run's list length, on test."""
        return tables.value(self.summary.metrics.test, f"{metric}@{self.k}", view)


def read_runs(runs: Sequence[Path]) -> list[Row]:
    """The runs, by data set, model and epsilon (none last).

    Raises:
        RunFolderError: naming the run that is missing, unfinished or damaged.
    """
    if not runs:
        raise RunFolderError("No run to compare: give one or more run folders.")
    rows = [_row(path) for path in dict.fromkeys(runs)]
    return sorted(rows, key=lambda row: (row.summary.dataset.name, row.summary.model, _order(row.epsilon), row.run))


def data_sets(rows: Iterable[Row]) -> list[str]:
    """The names of the runs' data sets."""
    return sorted({row.summary.dataset.name for row in rows})


def as_json(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Plain values, a mapping a run."""
    return [
        {
            "run": row.run,
            "dataset": row.summary.dataset.name,
            "model": row.summary.model,
            "engine": row.summary.engine,
            "seed": row.summary.seed,
            "epsilon": row.epsilon,
            "delta": row.summary.privacy.delta,
            "trust": row.summary.privacy.trust,
            "unit": row.summary.privacy.unit,
            f"hr@{row.k}": row.figure("hr"),
            f"ndcg@{row.k}": row.figure("ndcg"),
            f"sampled_hr@{row.k}": row.figure("hr", "sampled"),
            f"sampled_ndcg@{row.k}": row.figure("ndcg", "sampled"),
            f"popularity_hr@{row.k}": row.popularity,
            f"non_private_hr@{row.k}": row.non_private,
            "up_bytes_per_client": row.summary.communication.up_bytes_per_client,
            "wall_s": row.summary.time.wall_s,
        }
        for row in rows
    ]


COLUMNS = (
    "Run", "Data set", "Model", "Engine", "Epsilon", "Trust", "HR", "NDCG", "HR sampled", "NDCG sampled",
    "Popularity HR", "No-privacy HR", "Client's upload", "Time",
)  # fmt: skip


_TEXTS = frozenset({0, 1, 2, 3, 5})
"""The columns of text, which stand to the left."""


def cells(row: Row) -> tuple[str, ...]:
    """A run's row under `COLUMNS`."""
    summary = row.summary
    return (
        row.run,
        summary.dataset.name,
        summary.model,
        summary.engine,
        "none" if row.epsilon is None else figures.epsilon(row.epsilon),
        summary.privacy.trust if summary.private else figures.DASH,
        figures.rate(row.figure("hr")),
        figures.rate(row.figure("ndcg")),
        figures.rate(row.figure("hr", "sampled")),
        figures.rate(row.figure("ndcg", "sampled")),
        figures.rate(row.popularity),
        figures.rate(row.non_private),
        figures.size(summary.communication.up_bytes_per_client),
        figures.duration(summary.time.wall_s),
    )


def as_tables(rows: Sequence[Row], width: int) -> list[Table]:
    """One table where it fits into so many characters, else two: what was reached, and how. A block a data set."""
    from rich.console import Console

    whole = _table(rows, range(len(COLUMNS)))
    if Console(width=10_000).measure(whole).maximum <= width:
        return [whole]
    return [_table(rows, [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]), _table(rows, [0, 3, 5, 12, 13])]


def _table(rows: Sequence[Row], shown: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Test, {_lengths(rows)}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number in shown:
        justify: Literal["left", "right"] = "left" if number in _TEXTS else "right"
        table.add_column(Text(COLUMNS[number].replace(" ", "\n", 1)), justify=justify, overflow="fold")
    for number, row in enumerate(rows):
        last = number + 1 == len(rows) or rows[number + 1].summary.dataset.name != row.summary.dataset.name
        texts = cells(row)
        table.add_row(*(Text(texts[n]) for n in shown), end_section=last)  # Text: a name may hold [markup]
    return table


def write_page(rows: Sequence[Row], out: Path, force: bool = False) -> Path:
    """Write the privacy-utility page.

    Raises:
        RunFolderError: when ``out`` holds something that is not a comparison by fedrec, or cannot be written.
    """
    if not force and out.exists() and not _is_ours(out):
        raise RunFolderError(
            f"'{out}' exists and is not a comparison made by fedrec: choose another --out, or --force."
        )
    if out.is_dir():
        raise RunFolderError(f"'{out}' is a folder: give --out the name of a file.")
    replace_file(out, page(rows).encode("utf-8", errors="replace"))
    return out


def page(rows: Sequence[Row]) -> str:
    """The page's HTML: a plot for each data set, in a wide and a narrow form, and the table."""
    plots = []
    for name in data_sets(rows):
        block = [row for row in rows if row.summary.dataset.name == name]
        users = {one.users for row in block if (one := row.summary.metrics.test) is not None}
        forms = {form: _plot(name, block, width) for form, width in (("wide", 900), ("narrow", 360))}
        plots.append({"name": name, "forms": forms, "error": _error(block), "users": sorted(users)})
    table = [cells(row) for row in rows]
    template = environment().get_template("compare.html.j2")
    return template.render(
        plots=plots, columns=COLUMNS, rows=table, lengths=_lengths(rows), texts=_TEXTS, generator=GENERATOR
    )


def _plot(name: str, rows: Sequence[Row], width: int) -> Markup:
    best = max(rows, key=lambda row: row.figure("hr") or 0.0)
    description = f"The best run is {best.run} ({best.summary.model}) with {figures.rate(best.figure('hr'))}."
    if best.figure("hr") is None:
        description = "No run has test figures."
    label = f"HR@{rows[0].k}, test, whole catalogue"
    return tradeoff.plot(f"Utility against epsilon on {name}", description, label, _curves(rows), width)


def _curves(rows: Sequence[Row]) -> dict[str, list[tradeoff.Measure]]:
    """What is drawn, by name: popularity, and each model; its baseline stands in for a missing run without privacy."""
    curves: defaultdict[str, list[tradeoff.Measure]] = defaultdict(list)
    for row in rows:
        baseline = row.summary.baselines.get("popularity")
        if baseline is not None and row.popularity is not None:
            measure = tradeoff.Measure(baseline.epsilon, row.popularity, f"popularity in {row.run}")
            curves[tradeoff.REFERENCE].append(measure)
    for row in rows:
        own = row.figure("hr")
        if own is not None:
            curves[row.summary.model].append(tradeoff.Measure(row.epsilon, own, row.run))
    measured = {name for name, measures in curves.items() if any(one.epsilon is None for one in measures)}
    for row in rows:
        if row.non_private is not None and row.summary.model not in measured:
            measure = tradeoff.Measure(None, row.non_private, f"baseline without privacy in {row.run}")
            curves[row.summary.model].append(measure)
    return curves


def _row(path: Path) -> Row:
    folder = RunFolder.open(path)
    summary = parse_summary(folder.read_summary(), str(folder.path(names.SUMMARY)))
    k = tables.headline_k(summary)
    baselines = {name: _hit_rate(split.test, k) for name, split in summary.baselines.items()}
    own = None if summary.private else _hit_rate(summary.metrics.test, k)
    return Row(path.name or str(path), summary, k, baselines.get("popularity"), baselines.get("non_private", own))


def _hit_rate(measured: Measured | None, k: int) -> float | None:
    return tables.value(measured, f"hr@{k}")


def _order(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon


def _lengths(rows: Sequence[Row]) -> str:
    return "lists of " + " and ".join(str(k) for k in sorted({row.k for row in rows}))


def _error(rows: Sequence[Row]) -> str:
    """The widest 95 % interval among the runs of a plot."""
    halves = []
    for row in rows:
        test = row.summary.metrics.test
        half = figures.interval(row.figure("hr"), test.users if test else 0)
        halves += [] if half is None else [half]
    return f"{max(halves):.3f}" if halves else ""


def _is_ours(out: Path) -> bool:
    try:
        with out.open("rb") as file:
            return _MARK.encode() in file.read(_HEAD)
    except OSError as error:
        raise write_error(out, error) from error
