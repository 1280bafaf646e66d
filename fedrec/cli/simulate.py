"""`fedrec simulate`: load, run on the chosen engine, say what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from fedrec.config import Experiment, load
from fedrec.engines import simulate
from fedrec.errors import BudgetExceededError, UsageError, did_you_mean
from fedrec.reporting.folder import EXPERIMENT, REPORT, RunFolder

_ENGINES = ("fleet", "flower")


def run(
    experiment: str | None,
    overrides: list[str],
    engine: str | None,
    workers: int | None,
    out: Path | None,
    resume: Path | None,
    as_json: bool,
) -> None:
    """Start or resume a run; errors leave a resumable folder, or none."""
    if resume is not None and (experiment is not None or out is not None or overrides):
        raise UsageError("--resume continues a run as it was: it goes with no EXPERIMENT, no --out and no --set.")
    if engine is not None and engine not in _ENGINES:
        raise UsageError(f"Unknown engine '{engine}'. {did_you_mean(engine, _ENGINES)}")
    folder = RunFolder.open(resume) if resume is not None else None
    loaded = load((experiment or "default") if folder is None else str(folder.root), overrides)
    if folder is not None and engine not in (None, loaded.engine.name):
        raise UsageError(f"--resume continues on the run's own engine, {loaded.engine.name}; leave --engine out.")
    if engine is not None:
        loaded = loaded.replaced(engine={"name": engine})
    if workers is not None:
        loaded = loaded.replaced(engine={"workers": workers})
    place = _Place(loaded, out, folder)
    try:
        summary = _run(loaded, place)
    except KeyboardInterrupt:
        if place.folder is not None and place.folder.has(EXPERIMENT):
            typer.echo(f"Interrupted. Continue with: fedrec simulate --resume {place.folder.root}", err=True)
        raise
    except BudgetExceededError as error:
        if place.folder is None:
            raise
        raise BudgetExceededError(f"{error} The rounds done are kept in {place.root}.") from error
    _say(summary, place)
    if as_json:
        typer.echo(json.dumps(summary, allow_nan=False))


class _Place:
    """Where the run goes: an opened folder to resume, or one that is made when everything has been checked."""

    def __init__(self, experiment: Experiment, out: Path | None, folder: RunFolder | None) -> None:
        self._name, self._out = experiment.name, out
        self.folder = folder
        self.resumed = folder is not None

    @property
    def root(self) -> Path:
        return self.folder.root if self.folder is not None else Path()

    def make(self) -> RunFolder:
        if self.resumed and self.folder is not None:
            return self.folder
        self.folder = RunFolder.create_next(self._name) if self._out is None else RunFolder.create(self._out)
        return self.folder


def _run(experiment: Experiment, place: _Place) -> dict[str, Any]:
    if experiment.engine.name == "flower":
        from fedrec.engines.flower import run_on_flower

        return run_on_flower(experiment, place.make, resume=place.resumed)
    if place.resumed:
        return simulate.resume(experiment, place.make())
    return simulate.start(experiment, place.make)


def _say(summary: dict[str, Any], place: _Place) -> None:
    """The headline, on stdout; with --json the summary follows as its last line."""
    privacy = summary["privacy"]
    promise = "no privacy"
    if privacy["epsilon"] is not None:
        promise = f"epsilon {privacy['epsilon']:.3g}, delta {privacy['delta']:g}, unit {privacy['unit']}"
    typer.echo(f"{summary['model']} on {summary['dataset']['name']}: {promise}")
    rows = {"this run": summary["metrics"]} | summary["baselines"]
    names = {"popularity": "popularity, same promise", "non_private": "the same model, no privacy"}
    for name, metrics in rows.items():
        views = [
            f"{view} HR@10 {figures['hr@10']:.3f} NDCG@10 {figures['ndcg@10']:.3f}"
            for view, figures in metrics["test"].items()
            if isinstance(figures, dict) and "hr@10" in figures
        ]
        typer.echo(f"  {names.get(name, name):<28}" + "   ".join(views))
    typer.echo(f"  report: {place.root / REPORT}")
