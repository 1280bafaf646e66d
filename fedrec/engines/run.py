"""The loop of a run: reserve, collect, finish, commit, measure, record, checkpoint. The same for every engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.config import Experiment
from fedrec.data.interactions import Ints
from fedrec.engines.base import Collected, Engine
from fedrec.engines.keeping import Keeper, keeping
from fedrec.errors import (
    BudgetExceededError,
    ContributionError,
    FedrecError,
    LedgerError,
    NothingAskedError,
    RoundFailedError,
    RunFolderError,
)
from fedrec.faults import reach
from fedrec.federation import checkpoint
from fedrec.federation.round import Federation, Plan, State
from fedrec.models.base import Shared
from fedrec.privacy.ledger import Ledger, Outcome
from fedrec.privacy.mechanism import SECURE, SECURE_FLOAT, SEEDED
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.progress import Progress

Measure = Callable[[Shared], dict[str, Any]]
"""Metrics of a shared model."""


@dataclass(frozen=True, eq=False)
class Recruited:
    """The devices that a server found for an attempt.

    Attributes:
        users: their numbers, ascending.
        clients: the root of their pseudonyms, for the ledger (`fedrec.privacy.participants`).
    """

    users: Ints
    clients: str


@dataclass(frozen=True)
class Deployment:
    """What a run on real devices does that a simulation need not.

    Attributes:
        recruit: finds the devices for an attempt at a round.
        recorded: told when the ledger has a new line on the disk.
        wait: told of an attempt that was released, why, and how many in a row that makes; returns when to try again.
        publish: told each state when it is safe on the disk.
    """

    recruit: Callable[[int, int], Recruited]
    recorded: Callable[[], None]
    wait: Callable[[Plan, NothingAskedError, int], None]
    publish: Callable[[State], None]


def open_ledger(federation: Federation, folder: RunFolder) -> Ledger:
    """The run's ledger, new or continued."""
    experiment, mechanism = federation.experiment, federation.mechanisms[0]
    budget = experiment.privacy.epsilon if mechanism.private else None
    return Ledger(
        folder.path(names.LEDGER),
        {
            "run": experiment.digest(),
            "unit": mechanism.unit,
            "adjacency": mechanism.adjacency,
            "trust": mechanism.trust,
            "delta": repr(experiment.privacy.delta),
            "epsilon": None if budget is None else repr(budget),
            "noise": noise_source(experiment) if mechanism.private else "none",
            "users": federation.population,
        },
    )


def noise_source(experiment: Experiment) -> str:
    """Where the noise of a private run comes from, as ledger and summary say it."""
    if experiment.privacy.source == "seeded":
        return SEEDED
    return SECURE_FLOAT if experiment.noise_inside else SECURE


def run_rounds(
    federation: Federation,
    engine: Engine,
    folder: RunFolder,
    ledger: Ledger,
    progress: Progress,
    measure: Measure | None = None,
    deployment: Deployment | None = None,
) -> State:
    """Every round that is left, each recorded before its checkpoint; a `Keeper` says what a crash repeats.

    Args:
        federation: what is run.
        engine: where the clients are.
        folder: what the rounds leave behind.
        ledger: of the run.
        progress: told each round.
        measure: follows the model; None measures nothing, as a server that has no data.
        deployment: where clients are real devices.

    On real devices an attempt that is released does not count among those that a round may have: it costs nothing, and
    the devices may be there a minute later. A simulation's clients will not, so there every attempt counts.

    Raises:
        BudgetExceededError: before a round that the budget does not allow; what is done stays in the folder.
        RoundFailedError: when a round found too few clients in every attempt.
    """
    real, recorded = (False, _nothing) if deployment is None else (True, deployment.recorded)
    with keeping(federation, folder, ledger, real=real) as keeper:
        state = _continue_from(federation, folder, ledger, keeper, real=real)
        recorded()
        progress.start(federation.rounds, state.round)
        failure, released = None, 0
        while state.round < federation.rounds:
            looked = time.perf_counter()
            recruited = None if deployment is None else deployment.recruit(state.round + 1, state.attempt)
            began = time.perf_counter()
            plan = federation.plan(state.round + 1, state.attempt, None if recruited is None else recruited.users)
            reach("run.planned")
            _reserve(ledger, plan, {} if recruited is None else {"clients": recruited.clients}, failure)
            reach("run.reserved")
            recorded()
            survivors = 0
            try:
                collected = engine.collect(plan, state.shared)
                survivors = sum(shard.n_users for shard in collected.shards)
                reach("run.collected")
                after = federation.finish(state, plan, collected.shards)
            except (RoundFailedError, ContributionError) as error:
                failure = error
                _close(ledger, plan, "release" if isinstance(error, NothingAskedError) else "abort", survivors)
                recorded()
                state = _failed(federation, ledger, state, real=real)
                keeper.keep(state, at_once=True)  # what failed may not fail again
                if deployment is not None and isinstance(error, NothingAskedError):
                    released += 1
                    deployment.wait(plan, error, released)
                continue
            failure, released = None, 0
            seconds = time.perf_counter() - began
            reach("run.aggregated")
            _close(ledger, plan, "commit", survivors, after.shared)
            reach("run.committed")
            recorded()
            due = plan.round % federation.experiment.evaluation.every == 0 or plan.round == federation.rounds
            metrics = measure(after.shared) if measure is not None and due else None
            epsilon = ledger.spent(until=(plan.round, plan.attempt)) if plan.mechanism.private else None
            waited = {"waiting_s": began - looked} if real else {}
            keeper.record(_line(plan, collected, survivors, seconds, epsilon, metrics) | waited)
            reach("run.recorded")
            state = after
            keeper.keep(state)
            reach("run.saved")
            if deployment is not None:
                deployment.publish(state)
            progress.update(plan.round, headline(metrics), epsilon, ledger.budget)
    return state


def _nothing() -> None:
    """What a simulation has to do when its ledger has grown."""


def _line(
    plan: Plan,
    collected: Collected,
    survivors: int,
    seconds: float,
    epsilon: float | None,
    metrics: dict[str, Any] | None,
) -> dict[str, Any]:
    """A round as ``rounds.jsonl`` holds it; on real devices ``waiting_s``, before its ``seconds``, is beside it."""
    return {
        "round": plan.round,
        "attempt": plan.attempt,
        "release": plan.release.name,
        "cohort": len(plan.cohort.users),
        "survivors": survivors,
        "rejected": collected.rejected,
        "seconds": seconds,
        "up_bytes": collected.up_bytes,
        "down_bytes": collected.down_bytes,
        "senders": collected.senders,
        "aggregation": collected.aggregation,
        "noise_multiplier": plan.mechanism.noise_multiplier,
        "epsilon": epsilon,
        "metrics": metrics,
    }


def _reserve(ledger: Ledger, plan: Plan, beside: dict[str, str], failure: FedrecError | None) -> None:
    """Charge an attempt; a refused retry says what made it one."""
    if not plan.mechanism.private:
        return
    try:
        ledger.reserve(plan.round, plan.attempt, {**plan.event(), **beside}, plan.mechanism.events())
    except BudgetExceededError as error:
        if failure is None:
            raise
        raise BudgetExceededError(f"{failure} Trying again is a new charge. {error}") from failure


def _close(ledger: Ledger, plan: Plan, outcome: Outcome, survivors: int, published: Shared | None = None) -> None:
    """Record how an attempt ended, with the hash of the model that it published."""
    if not plan.mechanism.private:
        return
    hashes = {} if published is None else {"model": hashlib.sha256(model_file(published)).hexdigest()}
    ledger.close(plan.round, plan.attempt, outcome, survivors, hashes)


def model_file(shared: Shared) -> bytes:
    """A shared model as ``model.safetensors`` holds it; the ledger's commits carry its SHA-256."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(array) for name, array in shared.items()}))


def train_quietly(federation: Federation, engine: Engine) -> State:
    """Every round in memory, without a ledger or a folder: for baselines and tests."""
    state = federation.start()
    while state.round < federation.rounds:
        plan = federation.plan(state.round + 1)
        state = federation.finish(state, plan, engine.collect(plan, state.shared).shards)
    return state


def _continue_from(federation: Federation, folder: RunFolder, ledger: Ledger, keeper: Keeper, *, real: bool) -> State:
    """The checkpoint's state with the records brought in line with it, or a fresh start."""
    if not folder.has(names.CHECKPOINT):
        if folder.rounds() or ledger.noise_multipliers():
            raise RunFolderError(
                f"'{folder.root}' has lost its {names.CHECKPOINT}; start the run again in a new folder."
            )
        state = federation.start()
        keeper.keep(state, at_once=True)
        return state
    where = str(folder.path(names.CHECKPOINT))
    state, ledger_size = checkpoint.load(folder.read_bytes(names.CHECKPOINT), federation.experiment, where)
    if ledger_size > ledger.size:
        raise LedgerError(
            f"'{ledger.path}' holds {ledger.size} lines where the checkpoint knows {ledger_size}: "
            "events are missing, so this run cannot be continued."
        )
    folder.truncate_rounds(state.round)
    # Secure noise is never drawn again: a second sum of one attempt would be a second release under its charge.
    again = ("open", "commit") if federation.experiment.privacy.source == "seeded" else ()
    while (outcome := ledger.outcome(state.round + 1, state.attempt)) is not None and outcome not in again:
        if outcome == "open":
            ledger.close(state.round + 1, state.attempt, "abort")
        state = _failed(federation, ledger, state, real=real)
    return state


def _failed(federation: Federation, ledger: Ledger, state: State, *, real: bool) -> State:
    """The state before the next attempt; see `run_rounds` for which of those before it count."""
    return federation.failed(state, ledger.released(state.round + 1) if real else 0)


def headline(metrics: dict[str, Any] | None) -> float | None:
    """The figure for the progress line: HR@10, or HR at the first length asked for."""
    if metrics is None:
        return None
    full: dict[str, float] = metrics["full"]
    return full.get("hr@10", next(value for name, value in full.items() if name.startswith("hr@")))
