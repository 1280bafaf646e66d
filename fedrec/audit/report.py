"""``privacy-report.json`` and ``privacy-report.html``: all that somebody needs to judge a run's privacy, on one page.

The page shows the JSON and nothing else. Its schema is version 1: a field keeps its meaning, new ones may come.
Epsilons are objects by unit (``user``, ``interaction``), null where nothing is bounded.

- ``run``: experiment, id (of the ledger), model, engine, rounds, data set, whether it finished; ``setting``: its kind.
- ``promise``: unit, adjacency, trust, delta, budget, epsilon, what the record is worth (``guarantee``), plain words.
- ``observers``: who sees what, and the epsilon against them; ``coalitions``: the same as more clients collude.
- ``mechanism``: name, noise source, and every charged release with the event that the ledger declares.
- ``composition``: method, accountant, an independent one (``second``), the same noise reckoned in other ways, versions.
- ``trust``: the model in words, and whether secure aggregation was ``real``.
- ``unprotected``, ``data`` (what depends on the interactions beforehand), ``tuning``, ``utility``.
- ``empirical``: ``audit-canary.json`` and ``audit-attack.json`` of the run folder, null where they were not run.
- ``hazards``: name, status (``met``, ``open``, ``assumed``), why.
- ``ledger``: lines, head, Merkle root, the signed checkpoint; ``verification``: every check of `fedrec.audit.verify`.
- ``nist``: the components of NIST SP 800-226; ``registry``: a draft record for the OpenDP deployments registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fedrec
from fedrec.audit import empirical
from fedrec.audit import explain as explaining
from fedrec.audit.empirical import RESULTS, Attacks, Canaries
from fedrec.audit.explain import Explanation, explain
from fedrec.audit.hazards import aggregation_status, hazards
from fedrec.audit.record import Run, read_run
from fedrec.audit.registries import pyramid, registry
from fedrec.audit.words import shown
from fedrec.errors import RunFolderError
from fedrec.privacy.events import SkellamEvent
from fedrec.reporting import figures
from fedrec.reporting import folder as names
from fedrec.reporting.folder import replace_file
from fedrec.reporting.report import environment
from fedrec.reporting.summary import Measured, list_length

JSON_NAME = "privacy-report.json"
PAGE_NAME = "privacy-report.html"

_LISTED = 300
"""Releases that the page lists; the JSON holds all."""


def write(path: Path, out: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Write both files for a run folder, into it or into another folder.

    Returns:
        The content, and the page's path.

    Raises:
        RunFolderError: if the folder holds no run, or a file cannot be read or written.
        LedgerError: if the ledger is damaged, so that nothing can be recomputed from it.
    """
    found = content(path)
    page = render(found)
    folder = path if out is None else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"Cannot write to '{folder}': {error.strerror}; choose another --out.") from error
    replace_file(folder / JSON_NAME, (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    replace_file(folder / PAGE_NAME, page.encode("utf-8", errors="replace"))
    return found, folder / PAGE_NAME


def content(path: Path) -> dict[str, Any]:
    """The report's fields, as JSON values."""
    run = read_run(path)
    told = explain(run)
    report: dict[str, Any] = {
        "version": 1,
        "fedrec": fedrec.__version__,
        "run": _run(run),
        "setting": _setting(run),
        "promise": _promise(told),
        "observers": [asdict(view) for view in told.views],
        "coalitions": [asdict(one) for one in told.coalitions],
        "mechanism": {
            "name": _mechanism(run),
            "noise_source": run.opening.noise,
            "releases": [explaining.release(attempt) for attempt in run.attempts],
        },
        "composition": {
            "method": told.composition,
            "accountant": told.accountant,
            "second": explaining.second_json(told),
            "reckoning": None if told.reckoning is None else asdict(told.reckoning),
            "versions": dict(run.summary.versions) if run.summary else {},
        },
        "trust": {
            "model": run.opening.trust,
            "means": _fact(told, "Trust"),
            "aggregation": {"status": aggregation_status(run), "text": run.aggregation},
        },
        "unprotected": list(told.unprotected),
        "data": _data(run, told),
        "tuning": {
            "accounted": False,
            "text": "tuning not accounted: no trial of other settings on these data is recorded or charged",
        },
        "utility": _utility(run),
        "empirical": {name: empirical.read_json(run.folder, file) for name, file in RESULTS.items()},
        "hazards": [asdict(hazard) for hazard in hazards(run)],
        "ledger": {
            "lines": len(run.lines),
            "head": run.head,
            "root": run.root,
            "checkpoint": empirical.read_json(run.folder, names.LEDGER_CHECKPOINT),
        },
        "verification": {
            "sound": not told.faults,
            "checks": [asdict(check) for check in told.checks],
        },
    }
    return {**report, "nist": pyramid(report), "registry": registry(report)}


def render(report: Mapping[str, Any]) -> str:
    """The page's HTML from the JSON content. Everything of it is escaped: titles and names are anyone's text."""
    template = environment().get_template("privacy-report.html.j2")
    canary, attack = (report["empirical"][name] for name in RESULTS)
    return template.render(
        report=report,
        canaries=None if canary is None else empirical.checked(Canaries, canary, RESULTS["canary"]),
        attacks=None if attack is None else empirical.checked(Attacks, attack, RESULTS["attack"]),
        measured=empirical.figure,
        interval=empirical.interval,
        epsilon=shown,
        short=figures.short,
        number=figures.number,
        pretty=_pretty,
        listed=_LISTED,
    )


def _run(run: Run) -> dict[str, Any]:
    summary = run.summary
    dataset = {"name": run.experiment.data.name, "users": run.opening.users, "items": None, "interactions": None}
    return {
        "experiment": run.experiment.name,
        "id": run.opening.run,
        "model": run.experiment.model.name,
        "engine": summary.engine if summary else run.experiment.engine.name,
        "rounds": len({attempt.declared.round for attempt in run.attempts}) if summary is None else summary.rounds,
        "dataset": dataset if summary is None else summary.dataset.model_dump(),
        "finished": run.folder.finished,
    }


def _setting(run: Run) -> str:
    if run.seeded or not run.private or aggregation_status(run) == "simulated":
        return "simulation"
    return "not recorded: whether the clients were devices of their own is for whoever ran it to say"


def _promise(told: Explanation) -> dict[str, Any]:
    opening, run = told.run.opening, told.run
    return {
        "private": run.private,
        "unit": opening.unit,
        "adjacency": opening.adjacency,
        "adjacency_means": _fact(told, "Adjacency") if run.private else "",
        "trust": opening.trust,
        "delta": opening.delta,
        "budget": opening.epsilon,
        "epsilon": dict(told.epsilon),
        "guarantee": explaining.guarantee(run),
        "headline": told.statement.headline,
        "plain_words": list(told.statement.sentences),
        "warning": told.statement.warning,
    }


def _fact(told: Explanation, name: str) -> str:
    """A fact of the statement in its own words."""
    return next((why for fact, _, why in told.statement.facts if fact == name), "")


def _mechanism(run: Run) -> str:
    if not run.private:
        return "none"
    if any(charge.inside for charge in run.charges):
        return "every step of local training clips its samples and adds Gaussian noise in floating point to their sum"
    integers = all(isinstance(event, SkellamEvent) for event in run.events(run.opening.unit))
    noise = "Skellam noise on integers, after conditional rounding" if integers else "Gaussian noise in floating point"
    return f"every user's contribution is clipped, then summed with {noise}, on every coordinate"


def _data(run: Run, told: Explanation) -> dict[str, Any]:
    derived = "what was derived from the interactions beforehand: "
    return {
        "filters": [text.removeprefix(derived) for text in told.unprotected if text.startswith(derived)],
        "settings": run.experiment.data.model_dump(mode="json"),
        "split": run.experiment.split.model_dump(mode="json"),
    }


def _utility(run: Run) -> dict[str, Any]:
    """The headline on test, beside its baselines; nothing of it is covered by the promise."""
    test = run.summary.metrics.test if run.summary else None
    if run.summary is None or test is None:
        return {"text": "not measured", "test": {}}
    k = list_length(test.full)
    spoken = {"popularity": "popularity, same promise", "non_private": "the same model, no privacy"}
    rows: dict[str, Measured | None] = {"this run": test}
    rows |= {spoken.get(name, name): baseline.test for name, baseline in run.summary.baselines.items()}
    wanted = (f"hr@{k}", f"ndcg@{k}")
    found = {name: {key: row.full.get(key) for key in wanted} for name, row in rows.items() if row is not None}
    told = "; ".join(f"{name}: HR@{k} {figures.rate(row[f'hr@{k}'])}" for name, row in found.items())
    return {"text": f"over the whole catalogue, on test: {told}", "test": found}


def _pretty(value: Any) -> str:
    """JSON for a ``pre``; the template escapes it."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
