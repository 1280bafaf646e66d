"""What a run promises about privacy, to whom, and by which reckoning: recomputed from its ledger."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from fedrec.audit.record import Attempt, Run
from fedrec.audit.verify import Check, verify
from fedrec.audit.views import Coalition, Epsilons, View, coalitions, declared, second, views
from fedrec.privacy import accounting
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent, to_fields
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanism import Mechanism
from fedrec.reporting.statement import Statement, state
from fedrec.reporting.summary import Privacy


@dataclass(frozen=True)
class Reckoning:
    """The same noise under other reckonings, at the ledger's unit; a figure is None where there is none.

    Attributes:
        gaussian_pld: the continuous Gaussian by its privacy loss distribution, the tightest.
        gaussian_rdp: the continuous Gaussian under the conversion that Skellam noise needs.
        skellam_rdp: Skellam noise on integers under the same conversion.
        declared: which of them the ledger declares, ``gaussian`` or ``skellam``.
    """

    gaussian_pld: float | None
    gaussian_rdp: float | None
    skellam_rdp: float | None
    declared: str


@dataclass(frozen=True)
class Explanation:
    """The answer.

    Attributes:
        run: what was read.
        finished: whether the run ended; else everything here is what was spent so far.
        epsilon: of all charged attempts, by unit; empty without privacy.
        accountant: what priced them.
        second: another accountant and its epsilon at the ledger's unit; None where there is none.
        reckoning: the same noise reckoned in other ways; None without privacy.
        statement: the promise in plain words.
        views: what holds against whom.
        coalitions: how that weakens as clients collude.
        composition: how the releases add up.
        unprotected: what the promise does not cover.
        checks: everything that was verified of the record.
    """

    run: Run
    finished: bool
    epsilon: Epsilons
    accountant: str
    second: tuple[str, float | None] | None
    reckoning: Reckoning | None
    statement: Statement
    views: tuple[View, ...]
    coalitions: tuple[Coalition, ...]
    composition: str
    unprotected: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the record, a sentence each."""
        return tuple(check.detail for check in self.checks if not check.ok)


def explain(run: Run) -> Explanation:
    """Recompute everything from the ledger, and verify the record, so that a summary that says otherwise is caught."""
    delta, unit = run.opening.delta, run.opening.unit
    epsilon = declared(run.charges, delta) if run.private else {}
    events = run.events(unit)
    privacy = _privacy(run, epsilon)
    return Explanation(
        run=run,
        finished=run.folder.finished,
        epsilon=epsilon,
        accountant=accounting.accountant_of(events) if run.private else "",
        second=second(events, delta) if run.private else None,
        reckoning=_reckoning(run, epsilon) if run.attempts else None,
        statement=state(privacy),
        views=views(run.charges, delta),
        coalitions=coalitions(run.charges, delta),
        composition=_composition(run),
        unprotected=privacy.unprotected,
        checks=verify(run.folder.root).checks,
    )


def as_json(found: Explanation) -> dict[str, Any]:
    """The explanation as JSON values: the attributes of `Explanation` and of the ledger's opening."""
    opening = found.run.opening
    return {
        "version": 1,
        "run": str(found.run.folder.root),
        "finished": found.finished,
        "private": found.run.private,
        "unit": opening.unit,
        "adjacency": opening.adjacency,
        "trust": opening.trust,
        "delta": opening.delta,
        "budget": opening.epsilon,
        "noise_source": opening.noise,
        "guarantee": guarantee(found.run),
        "aggregation": found.run.aggregation,
        "epsilon": dict(found.epsilon),
        "accountant": found.accountant,
        "second": second_json(found),
        "reckoning": None if found.reckoning is None else asdict(found.reckoning),
        "composition": found.composition,
        "releases": [release(attempt) for attempt in found.run.attempts],
        "observers": [asdict(view) for view in found.views],
        "coalitions": [asdict(one) for one in found.coalitions],
        "plain_words": [found.statement.headline, *found.statement.sentences, found.statement.warning],
        "unprotected": list(found.unprotected),
        "faults": list(found.faults),
    }


def second_json(found: Explanation) -> dict[str, Any] | None:
    """The independent accountant as JSON values."""
    return None if found.second is None else {"accountant": found.second[0], "epsilon": found.second[1]}


def release(attempt: Attempt) -> dict[str, Any]:
    """A charged attempt as JSON values: its line and how it ended; events as the ledger holds them."""
    events = {unit: to_fields(event) for unit, event in attempt.events.items()}
    return {
        **attempt.declared.model_dump(),
        "events": events,
        "outcome": attempt.outcome,
        "survivors": attempt.survivors,
    }


def guarantee(run: Run) -> str:
    """What the record of this very run is worth, in one sentence."""
    if not run.private:
        return "none: the run was without privacy"
    if run.seeded:
        return "none: a simulation, whose noise comes from a public seed; the figures are those of secret noise"
    return "as stated, if every device's noise source is secret and the assumptions on trust hold"


def _privacy(run: Run, epsilon: Epsilons) -> Privacy:
    """What a statement is made from, with the ledger's figures."""
    opening, said = run.opening, run.summary.privacy if run.summary else None
    reached = epsilon.get(opening.unit)
    last = run.attempts[-1].declared if run.attempts else None
    return Privacy(
        unit=opening.unit,
        adjacency=opening.adjacency,
        trust=opening.trust,
        epsilon=reached,
        delta=opening.delta,
        noise_multiplier=None if last is None else _whole(run),
        clip_norm=None if last is None else last.clip_norm,
        accountant=accounting.accountant_of(run.events(opening.unit)) if run.private else None,
        target_epsilon=opening.epsilon,
        noise_source=opening.noise,
        aggregation=run.aggregation or None,
        unprotected=said.unprotected if said else _UNFINISHED,
    )


_UNFINISHED = (
    "participation: who was asked and how many answered is public",
    "the item catalogue and the number of users",
    "whatever the run measured on the way: its metrics are computed on the users' own held-out items",
    "what was derived from the interactions beforehand, such as filters; the finished run's summary lists it",
    "settings that were chosen by looking at private data",
)
"""What no run protects; a finished one lists its own."""


def _whole(run: Run) -> float:
    """The noise multiplier of as many equal rounds at the same cost."""
    sigmas = [attempt.declared.noise_multiplier for attempt in run.attempts]
    return math.sqrt(len(sigmas)) / accounting.composed_mu(sigmas)


def _reckoning(run: Run, epsilon: Epsilons) -> Reckoning:
    unit, delta = run.opening.unit, run.opening.delta
    events = run.events(unit)
    integers = any(isinstance(event, SkellamEvent) for event in events)
    gaussians = _continuous(run) if integers else events
    return Reckoning(
        gaussian_pld=_finite(accounting.report_epsilon(gaussians, delta)) if integers else epsilon[unit],
        gaussian_rdp=_finite(accounting.rdp_epsilon(gaussians, delta)),
        skellam_rdp=epsilon[unit] if integers else _on_integers(run),
        declared="skellam" if integers else "gaussian",
    )


def _continuous(run: Run) -> list[Event]:
    """Gaussian noise of the declared multipliers."""
    return [GaussianEvent(attempt.declared.noise_multiplier) for attempt in run.attempts]


def _on_integers(run: Run) -> float | None:
    """Epsilon of the same noise as devices would add it, on integers; None where it is not added to a result."""
    unit = run.opening.unit
    if run.opening.trust == "central" or any(charge.inside for charge in run.charges):
        return None
    found = [
        Mechanism(
            noise_multiplier=line.noise_multiplier,
            clip_norm=line.clip_norm,
            trust=run.experiment.privacy.trust,
            min_cohort=line.min_cohort,
            colluders=line.colluders,
            unit=run.experiment.privacy.unit,
            interaction=line.sensitivity if unit == "interaction" else None,
            grid=Grid.fine(line.coordinates, line.clip_norm, line.sensitivity, run.experiment.privacy.resolution),
        ).events()[unit]
        for line in (attempt.declared for attempt in run.attempts)
    ]
    return _finite(accounting.rdp_epsilon(found, run.opening.delta))


def _composition(run: Run) -> str:
    if not run.private:
        return "nothing is charged"
    n = len(run.attempts)
    aborted = sum(attempt.outcome != "commit" for attempt in run.attempts)
    kinds = {type(event) for event in run.events(run.opening.unit)}
    how = (
        "Rényi divergences of the releases are added at every order, then converted"
        if SkellamEvent in kinds
        else "the privacy loss distributions of the releases are convolved"
    )
    failed = f", {aborted} of them for attempts that released nothing" if aborted else ""
    return (
        f"{n} charge{'' if n == 1 else 's'}{failed}; {how}. Whether a charge was allowed was decided beforehand by a "
        "filter that holds when later noise depends on earlier results. Sampling clients is not counted as protection."
    )


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None
