"""The tables of a report: plain text by row and column, from a checked summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.reporting import figures
from fedrec.reporting.summary import Figures, Measured, Sample, Split, Summary, list_length

_HISTORY = 8
"""Titles of a sample user's history that are shown: the last ones."""


@dataclass(frozen=True)
class Cell:
    """A headline figure; ``percent`` is the length of its bar."""

    label: str
    value: str
    interval: str = ""
    percent: float | None = None


@dataclass(frozen=True)
class HeadlineRow:
    """A model's figures in both views."""

    name: str
    epsilon: str
    cells: tuple[Cell, ...]
    own: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a heading column; ``corner`` is that column's name."""

    name: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """A sample user as the page shows it; ``more`` titles of the history are left out."""

    user: str
    history: tuple[str, ...]
    more: int
    recommended: tuple[str, ...]
    held_out: str | None
    hit: bool


@dataclass(frozen=True)
class Contender:
    """One of the models that are shown side by side; ``short`` is its name within a sentence."""

    name: str
    short: str
    epsilon: float | None
    split: Split
    own: bool = False
    popularity: bool = False

    @property
    def test(self) -> Measured | None:
        return self.split.test


def contenders(summary: Summary) -> tuple[Contender, ...]:
    """The run's model, popularity at the same epsilon, and the same model without privacy; those that were run."""
    name = f"Private model ({summary.model})" if summary.private else f"The model ({summary.model}), without privacy"
    rows = [Contender(name, summary.model, summary.privacy.epsilon, summary.metrics, own=True)]
    popularity, free = summary.baselines.get("popularity"), summary.baselines.get("non_private")
    if popularity is not None:
        short = "popularity without privacy" if popularity.epsilon is None else "private popularity"
        rows.append(Contender(_capital(short), short, popularity.epsilon, popularity, popularity=True))
    if free is not None and summary.private:
        rows.append(Contender("Same model without privacy", "the same model without privacy", None, free))
    return tuple(rows)


def value(measured: Measured | None, name: str, view: str = "full") -> float | None:
    """A metric by name, None where it was not measured."""
    if measured is None:
        return None
    found: Figures = measured.full if view == "full" else measured.sampled
    return found.get(name)


def views(summary: Summary) -> tuple[tuple[str, str], ...]:
    """(key, name) of the candidate views that were measured."""
    test = summary.metrics.test or summary.metrics.validation
    if test is None or not test.sampled:
        return (("full", "Whole catalogue"),)
    return (("full", "Whole catalogue"), ("sampled", f"{test.negatives} sampled negatives"))


def headline(rows: Sequence[Contender], shown: Sequence[tuple[str, str]], k: int) -> tuple[HeadlineRow, ...]:
    """HR and NDCG at k of every contender, with its 95 % interval and a bar relative to the best."""
    best = {
        (view, name): max((value(row.test, name, view) or 0.0 for row in rows), default=0.0)
        for view, _ in shown
        for name in (f"hr@{k}", f"ndcg@{k}")
    }

    def cell(row: Contender, view: str, title: str, name: str) -> Cell:
        got = value(row.test, name, view)
        half = figures.interval(got, row.test.users if row.test else 0)
        top = best[view, name]
        percent = None if got is None or top <= 0 else round(max(0.0, min(100 * got / top, 100.0)), 1)
        label = f"{name.upper()}, {title[0].lower()}{title[1:]}"
        return Cell(label, figures.rate(got), "" if half is None else f"{half:.3f}", percent)

    return tuple(
        HeadlineRow(
            row.name,
            "none" if row.epsilon is None else figures.epsilon(row.epsilon),
            tuple(cell(row, *view, name) for view in shown for name in (f"hr@{k}", f"ndcg@{k}")),
            row.own,
        )
        for row in rows
    )


def beyond(rows: Sequence[Contender], k: int) -> tuple[Table, ...]:
    """Coverage, novelty and diversity, and light against heavy users; only what was measured."""
    tables = []
    names = [name for name in ("coverage", "novelty", "diversity") if value(rows[0].test, f"{name}@{k}") is not None]
    if names:
        body = tuple((r.name, tuple(_small(value(r.test, f"{name}@{k}")) for name in names)) for r in rows)
        note = (
            "Coverage: the part of the catalogue that is recommended to anyone. Novelty: how rare the recommended "
            "items are, in bits. Diversity: how different the items of one list are. Over the "
            "whole catalogue, on test."
        )
        columns = tuple(f"{name.capitalize()}@{k}" for name in names)
        tables.append(Table("Variety", "Model", columns, body, note))
    groups = list(rows[0].test.groups) if rows[0].test else []
    if groups:
        tables.append(_groups(rows, groups, k))
    return tuple(tables)


def _groups(rows: Sequence[Contender], groups: Sequence[str], k: int) -> Table:
    columns = tuple(f"{metric}@{k}, {group}" for group in groups for metric in ("HR", "NDCG"))

    def cells(row: Contender) -> tuple[str, ...]:
        held = row.test.groups if row.test else {}
        return tuple(figures.rate(held.get(g, {}).get(f"{m}@{k}")) for g in groups for m in ("hr", "ndcg"))

    own = rows[0].test.groups if rows[0].test else {}
    sizes = [(g, own[g].get("users")) for g in groups]
    counts = " and ".join(f"{figures.number(n)} {g}" for g, n in sizes if n is not None)
    note = f"Users with few and with many interactions apart{': ' + counts if counts else ''}; full catalogue, test."
    return Table("Light and heavy users", "Model", columns, tuple((r.name, cells(r)) for r in rows), note)


def everything(rows: Sequence[Contender]) -> tuple[Table, ...]:
    """Every measured figure, a table for each split and view."""
    tables = []
    for split in ("test", "validation"):
        measured: list[Measured | None] = [getattr(row.split, split) for row in rows]
        own = measured[0]
        for view, title in (("full", "whole catalogue"), ("sampled", "sampled negatives")):
            names = [] if own is None else list(own.full if view == "full" else own.sampled)
            if not names:
                continue
            body = tuple((name, tuple(_small(value(one, name, view)) for one in measured)) for name in names)
            columns = tuple(row.name for row in rows)
            tables.append(Table(f"Every metric on {split}, {title}", "Metric", columns, body))
    return tuple(tables)


def costs(summary: Summary) -> tuple[tuple[str, str, str], ...]:
    """(name, value, explanation) of bytes, seconds and memory."""
    sent, took = summary.communication, summary.time
    speed = "" if took.clients_per_s is None else f"{figures.number(round(took.clients_per_s))} / s"
    peak = summary.memory.peak_rss_mb
    rows = [
        ("Sent by a client", figures.size(sent.up_bytes_per_client), "up, over the whole run"),
        ("Received by a client", figures.size(sent.down_bytes_per_client), "down, over the whole run"),
        ("All traffic", figures.size(sent.total_bytes), "both ways, all clients and rounds"),
        ("Time", figures.duration(took.wall_s), "from start to end, evaluation and baselines with it"),
        ("Training", figures.duration(took.train_s), "the rounds alone"),
        ("Speed", speed or figures.DASH, "clients trained a second"),
        ("Memory", figures.DASH if peak is None else figures.size(peak * 1e6), "the most that the process held"),
        ("Rejected replies", figures.number(summary.rejected), "not finite or of a wrong shape; they entered as zero"),
    ]
    return tuple(rows)


def samples(summary: Summary) -> tuple[Shown, ...]:
    """The sample users; a long history is cut to its last titles."""
    return tuple(_sample(one) for one in summary.samples)


def _sample(one: Sample) -> Shown:
    history = one.history[-_HISTORY:]
    hit = one.held_out is not None and one.held_out in one.recommended
    return Shown(one.user, history, len(one.history) - len(history), one.recommended, one.held_out, hit)


def verdict(rows: Sequence[Contender], k: int) -> str:
    """The headline in one or two sentences, over the whole catalogue."""
    name = f"hr@{k}"
    own = value(rows[0].test, name)
    if own is None:
        return "This run has no test figures."
    lead = (
        f"For {_of_hundred(own)} of 100 users, a held-out item is among the {k} recommended from the whole catalogue."
    )
    found = [(row.short, value(row.test, name)) for row in rows[1:]]
    others = [f"{short} finds one for {_of_hundred(got)}" for short, got in found if got is not None]
    return f"{lead} {_capital(', and '.join(others))}." if others else lead


def below_popularity(rows: Sequence[Contender], k: int) -> bool:
    """Whether private popularity is at least as good as the private model."""
    if rows[0].epsilon is None:
        return False
    own = value(rows[0].test, f"hr@{k}")
    popular = [value(row.test, f"hr@{k}") for row in rows if row.popularity]
    return own is not None and any(got is not None and got >= own for got in popular)


def headline_k(summary: Summary) -> int:
    """The list length of the headline, see `list_length`."""
    measured = summary.metrics.test or summary.metrics.validation
    return list_length(measured.full if measured else {})


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _of_hundred(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}"


def _small(number: float | None) -> str:
    return figures.DASH if number is None else f"{number:.3f}" if abs(number) < 10 else f"{number:.2f}"
