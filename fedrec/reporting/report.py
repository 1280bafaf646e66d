"""``report.html``: one self-contained page about a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from pydantic import ValidationError

from fedrec.errors import RunFolderError
from fedrec.reporting import chart, figures, tables
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.statement import state
from fedrec.reporting.summary import Measured, Part, Summary, parse_summary

if TYPE_CHECKING:
    from jinja2 import Environment

_MARKED = 40
"""With more rounds than this a line has no markers."""

_LISTED = 300
"""Rounds that the table lists; rounds.jsonl holds all."""


_WORDS = ("no", "one", "two", "three", "four", "five")


class RoundLine(Part):
    """A line of ``rounds.jsonl``, as far as a report reads it."""

    round: int
    attempt: int = 0
    release: str = ""
    cohort: int | None = None
    survivors: int | None = None
    rejected: int | None = None
    seconds: float | None = None
    up_bytes: float | None = None
    down_bytes: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    metrics: Measured | None = None


@dataclass(frozen=True)
class Captioned:
    """A chart with the heading above it."""

    caption: str
    svg: Markup


@dataclass(frozen=True)
class LedgerHead:
    """The signed checkpoint's text and how many lines the ledger has."""

    checkpoint: str
    events: int


def write_report(folder: RunFolder) -> Path:
    """Write ``report.html`` from the other files of the run folder.

    Raises:
        RunFolderError: when one of them is missing or damaged, or the report cannot be written.
    """
    summary = parse_summary(folder.read_summary(), str(folder.path(names.SUMMARY)))
    ledger = None
    if folder.has(names.LEDGER) and folder.has(names.LEDGER_CHECKPOINT):
        events = folder.read_bytes(names.LEDGER).count(b"\n")
        ledger = LedgerHead(folder.read_text(names.LEDGER_CHECKPOINT).strip(), events)
    page = render(summary, read_rounds(folder), folder.read_text(names.EXPERIMENT), ledger)
    folder.write_text(names.REPORT, page)
    return folder.path(names.REPORT)


def read_rounds(folder: RunFolder) -> list[RoundLine]:
    """The run's rounds, checked.

    Raises:
        RunFolderError: naming the line and the key that is missing or not what it should be.
    """
    lines = []
    for number, raw in enumerate(folder.rounds(), start=1):
        try:
            lines.append(RoundLine.model_validate(raw))
        except ValidationError as error:
            key = ".".join(str(part) for part in error.errors()[0]["loc"])
            where = f"'{folder.path(names.ROUNDS)}', line {number}"
            raise RunFolderError(f"{where} is damaged: '{key}': {error.errors()[0]['msg']}; repeat the run.") from error
    return lines


def render(summary: Summary, rounds: Sequence[RoundLine], experiment: str, ledger: LedgerHead | None = None) -> str:
    """The page's HTML. Everything from the run is escaped: titles and names are anyone's text."""
    page = _page(summary, rounds, experiment, ledger)
    return environment().get_template("report.html.j2").render(page=page, statement=state(summary.privacy))


def environment() -> Environment:
    """The templates, with escaping on and unknown names an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("fedrec", "reporting/templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _page(
    summary: Summary, rounds: Sequence[RoundLine], experiment: str, ledger: LedgerHead | None
) -> Mapping[str, Any]:
    k = tables.headline_k(summary)
    rows, views = tables.contenders(summary), tables.views(summary)
    listed = rounds[-_LISTED:]
    return {
        "title": summary.experiment or f"{summary.model} on {summary.dataset.name}",
        "facts": _facts(summary),
        "private": summary.private,
        "k": k,
        "verdict": tables.verdict(rows, k),
        "below_popularity": tables.below_popularity(rows, k),
        "tiles": _tiles(summary, rows, k),
        "views": [{"name": name} for _, name in views],
        "headline": tables.headline(rows, views, k),
        "missing": _missing(summary),
        "sampling": _sampling(summary, k),
        "charts": _charts(summary, rounds, rows, k),
        "costs": tables.costs(summary),
        "round_columns": _ROUND_COLUMNS,
        "round_table": [_round_row(line) for line in listed],
        "round_note": f"The last {_LISTED} of {len(rounds)}." if len(listed) < len(rounds) else "",
        "tables": tables.beyond(rows, k),
        "all_metrics": tables.everything(rows),
        "samples": tables.samples(summary),
        "samples_count": dict(enumerate(_WORDS)).get(len(summary.samples), str(len(summary.samples))),
        "ledger": ledger,
        "experiment": experiment.strip(),
        "versions": list(summary.versions.items()),
        "fedrec": summary.versions.get("fedrec", ""),
    }


def _on_devices(summary: Summary) -> bool:
    return summary.dataset.interactions is None


def _facts(summary: Summary) -> str:
    data = summary.dataset
    counts = f"{figures.number(data.users)} users, {figures.number(data.items)} items"
    if data.interactions is not None:
        counts += f", {figures.number(data.interactions)} interactions"
    parts = [
        f"{summary.model} on {data.name} ({counts})",
        f"{summary.rounds} round{'' if summary.rounds == 1 else 's'} on the {summary.engine} engine",
        f"seed {summary.seed}",
    ]
    return " · ".join(parts)


def _tiles(summary: Summary, rows: Sequence[tables.Contender], k: int) -> list[Mapping[str, str]]:
    """What one looks for first: quality, privacy, and the price of one in the other."""
    own = tables.value(rows[0].test, f"hr@{k}")
    half = figures.interval(own, rows[0].test.users if rows[0].test else 0)
    note = "whole catalogue, test" + ("" if half is None else f", ± {half:.3f}")
    tiles: list[Mapping[str, str]] = []
    if not _on_devices(summary):
        tiles.append({"name": f"Hit rate at {k}", "value": figures.rate(own), "note": note})
    privacy = summary.privacy
    promise = (
        f"per {privacy.unit}, at delta {figures.short(privacy.delta)}" if summary.private else "no noise was added"
    )
    shown = figures.epsilon(privacy.epsilon) if summary.private else "none"
    tiles.append({"name": "Epsilon", "value": shown, "note": promise})
    for row in rows[1:]:
        other = tables.value(row.test, f"hr@{k}")
        if own is not None and other:
            tiles.append(
                {"name": f"Against {row.short}", "value": f"{100 * own / other:.0f} %", "note": "of its hit rate"}
            )
    tiles.append(
        {
            "name": "Sent by a client",
            "value": figures.size(summary.communication.up_bytes_per_client),
            "note": f"in {summary.rounds} round{'' if summary.rounds == 1 else 's'}",
        }
    )
    return tiles


def _missing(summary: Summary) -> str:
    wanted = {"popularity": "popularity at the same epsilon", "non_private": "the same model without privacy"}
    absent = [text for name, text in wanted.items() if name not in summary.baselines and summary.private]
    if not absent or _on_devices(summary):
        return ""
    return f"Not run: {' and '.join(absent)} (evaluation.baselines). Without them the figures above say little."


def _sampling(summary: Summary, k: int) -> str:
    if _on_devices(summary):
        return "Nothing is measured: the interactions are on the devices, and no figure of them leaves one."
    users = summary.metrics.test.users if summary.metrics.test else 0
    return (
        f"± is the sampling error over the {figures.number(users)} measured users, "
        "1.96 · √(p (1 \N{MINUS SIGN} p) / n): it "
        f"covers 95 % for HR@{k} and is an upper bound for NDCG@{k}. It does not cover other seeds or other data. Two "
        "models measured on the same users differ with less uncertainty than their two intervals suggest."
    )


def _charts(summary: Summary, rounds: Sequence[RoundLine], rows: Sequence[tables.Contender], k: int) -> list[Captioned]:
    charts = [_metric_chart(rounds, rows, view, title, k) for view, title in tables.views(summary)]
    charts += [_epsilon_chart(summary, rounds), _seconds_chart(rounds)]
    return [one for one in charts if one is not None]


def _metric_chart(
    rounds: Sequence[RoundLine], rows: Sequence[tables.Contender], view: str, title: str, k: int
) -> Captioned | None:
    """HR and NDCG over rounds on validation, with what the baselines reach as level lines."""
    series = []
    for tone, name in ((1, f"hr@{k}"), (2, f"ndcg@{k}")):
        found = [(line.round, tables.value(line.metrics, name, view)) for line in rounds]
        points = tuple(chart.Point(x, y, f"round {x}: {name.upper()} {y:.3f}") for x, y in found if y is not None)
        if points:
            series.append(chart.Series(name.upper(), points, tone, markers=len(points) <= _MARKED))
    if not series:
        return None
    x = chart.linear("Round", [point.x for one in series for point in one.points], whole=True)
    for tone, row in zip((chart.GREY, 3), rows[1:], strict=False):
        level = tables.value(row.split.validation, f"hr@{k}", view)
        if level is not None:
            ends = (chart.Point(x.low, level), chart.Point(x.high, level))
            series.append(chart.Series(f"HR@{k}, {row.short}", ends, tone, markers=False, dashed=True))
    y = chart.linear(f"HR@{k} and NDCG@{k}, validation", [p.y for one in series for p in one.points], from_zero=True)
    last = series[0].points[-1]
    description = f"{series[0].name} on validation is {last.y:.3f} after round {last.x:g}."
    caption = f"Metrics over rounds: {title[0].lower()}{title[1:]}"
    return Captioned(caption, chart.render(caption, description, x, y, series))


def _epsilon_chart(summary: Summary, rounds: Sequence[RoundLine]) -> Captioned | None:
    """Epsilon spent over rounds, from nothing before the first one, and the budget."""
    spent = [(line.round, line.epsilon) for line in rounds]
    points = [chart.Point(x, y, f"round {x}: epsilon {figures.epsilon(y)}") for x, y in spent if y is not None]
    if not points:
        return None
    points.insert(0, chart.Point(points[0].x - 1, 0.0, "before: epsilon 0"))
    series = [chart.Series("spent", tuple(points), 1, markers=len(points) <= _MARKED)]
    x = chart.linear("Round", [point.x for point in points], whole=True)
    budget = summary.privacy.target_epsilon
    if budget is not None:
        ends = (chart.Point(x.low, budget), chart.Point(x.high, budget))
        series.append(chart.Series("budget", ends, chart.GREY, markers=False, dashed=True))
    label = f"Epsilon (at delta {figures.short(summary.privacy.delta)})"
    y = chart.linear(label, [p.y for one in series for p in one.points], from_zero=True)
    description = f"Epsilon {figures.epsilon(points[-1].y)} is spent after round {points[-1].x:g}."
    return Captioned("Epsilon over rounds", chart.render("Epsilon over rounds", description, x, y, series))


def _seconds_chart(rounds: Sequence[RoundLine]) -> Captioned | None:
    took = [(line.round, line.seconds) for line in rounds]
    points = tuple(chart.Point(x, y, f"round {x}: {y:.2f} s") for x, y in took if y is not None)
    if not points:
        return None
    x = chart.linear("Round", [point.x for point in points], whole=True)
    y = chart.linear("Seconds a round", [point.y for point in points], from_zero=True)
    total = figures.duration(sum(point.y for point in points))
    series = chart.Series("seconds", points, 1, markers=len(points) <= _MARKED)
    return Captioned("Seconds a round", chart.render("Seconds a round", f"{total} in all.", x, y, [series]))


_ROUND_COLUMNS = (
    "Round", "Attempt", "Release", "Cohort", "Survivors", "Rejected", "Seconds", "Up", "Down", "Noise", "Epsilon"
)  # fmt: skip


def _round_row(line: RoundLine) -> tuple[str, ...]:
    noise = figures.DASH if line.noise_multiplier is None else f"{line.noise_multiplier:.4g}"
    return (
        str(line.round),
        str(line.attempt),
        line.release,
        *(figures.number(count) for count in (line.cohort, line.survivors, line.rejected)),
        figures.DASH if line.seconds is None else f"{line.seconds:.2f}",
        figures.size(line.up_bytes),
        figures.size(line.down_bytes),
        noise,
        figures.epsilon(line.epsilon),
    )
