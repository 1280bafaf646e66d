"""The loop of a run: reserve, collect, finish, commit, measure, record, checkpoint. The same for every engine."""

from __future__ import annotations

import hashlib
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.config import Experiment
from fedrec.data import source
from fedrec.data.interactions import Interactions
from fedrec.data.splits import Split, split
from fedrec.engines.base import Engine
from fedrec.errors import (
    BudgetExceededError,
    ContributionError,
    FedrecError,
    LedgerError,
    PrivacyWarning,
    RoundFailedError,
    RunFolderError,
)
from fedrec.evaluation.protocol import Evaluator
from fedrec.evaluation.ranking import Scorer
from fedrec.federation import checkpoint
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation, Plan, State
from fedrec.models.base import Recommender, Shared, require_extras
from fedrec.privacy.budget import check_budget
from fedrec.privacy.ledger import Ledger, Outcome
from fedrec.privacy.mechanism import SECURE, SECURE_FLOAT, SEEDED
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.progress import Progress


@dataclass(frozen=True, eq=False)
class Setting:
    """An experiment with its data."""

    experiment: Experiment
    data: Interactions
    split: Split
    federation: Federation

    @cached_property
    def evaluator(self) -> Evaluator:
        """What measures a model; a client never needs it."""
        negatives = source.published_negatives(self.experiment.data, self.data)
        return Evaluator(self.split, self.experiment.evaluation, self.federation.key, negatives)


def load_setting(experiment: Experiment) -> Setting:
    """Load and split: all that a client needs.

    Raises:
        DataError: the data cannot be read, or nothing of it can be held out.
        ConfigError: the experiment does not fit the data.
    """
    data = source.load(experiment.data)
    federation = make_federation(experiment, data.catalogue, data.n_users)
    return Setting(experiment, data, split(data, experiment.split, federation.key), federation)


def prepare(experiment: Experiment) -> Setting:
    """Load, split and check everything that can be wrong before anything is written.

    Raises:
        DataError: the data cannot be read, or nothing of it can be held out.
        ConfigError: the experiment does not fit the data.
        BudgetExceededError: not even the first round fits the budget.
        MissingExtraError: an optional package that local training takes is not installed.
    """
    setting = load_setting(experiment)
    require_extras(setting.federation.model)
    privacy, n_users = experiment.privacy, setting.data.n_users
    first = setting.federation.mechanisms[0]
    if first.private:
        check_budget(1, [first.events()[first.unit]], privacy.epsilon, privacy.delta)
    if first.private and privacy.delta >= 1 / n_users:
        warnings.warn(
            f"privacy.delta = {privacy.delta:g} is not below 1/users = {1 / n_users:.2g}: at that delta the "
            "promise may fail for one whole user; lower it.",
            PrivacyWarning,
            stacklevel=2,
        )
    _ = setting.evaluator  # built now, because it refuses data on which nothing can be measured
    return setting


def scorer(model: Recommender, shared: Shared) -> Scorer:
    """A function from users' histories to scores ``[C, n_items]``, as a device would compute them."""

    def score(users: Interactions) -> npt.NDArray[np.float32]:
        return model.score(shared, model.personalise(shared, users))

    return score


def open_ledger(setting: Setting, folder: RunFolder) -> Ledger:
    """The run's ledger, new or continued."""
    privacy, mechanism = setting.experiment.privacy, setting.federation.mechanisms[0]
    budget = privacy.epsilon if mechanism.private else None
    return Ledger(
        folder.path(names.LEDGER),
        {
            "run": setting.experiment.digest(),
            "unit": mechanism.unit,
            "adjacency": mechanism.adjacency,
            "trust": mechanism.trust,
            "delta": repr(privacy.delta),
            "epsilon": None if budget is None else repr(budget),
            "noise": noise_source(setting.experiment) if mechanism.private else "none",
            "users": setting.data.n_users,
        },
    )


def noise_source(experiment: Experiment) -> str:
    """Where the noise of a private run comes from, as ledger and summary say it."""
    if experiment.privacy.source == "seeded":
        return SEEDED
    return SECURE_FLOAT if experiment.noise_inside else SECURE


def run_rounds(setting: Setting, engine: Engine, folder: RunFolder, ledger: Ledger, progress: Progress) -> State:
    """Every round that is left, each recorded before its checkpoint, so that a crash repeats at most one.

    Raises:
        BudgetExceededError: before a round that the budget does not allow; what is done stays in the folder.
        RoundFailedError: when a round found too few clients in every attempt.
    """
    federation = setting.federation
    state = _continue_from(setting, folder, ledger)
    progress.start(federation.rounds, state.round)
    failure: FedrecError | None = None
    while state.round < federation.rounds:
        began = time.perf_counter()
        plan = federation.plan(state.round + 1, state.attempt)
        _reserve(ledger, plan, failure)
        survivors = 0
        try:
            collected = engine.collect(plan, state.shared)
            survivors = sum(shard.n_users for shard in collected.shards)
            after = federation.finish(state, plan, collected.shards)
        except (RoundFailedError, ContributionError) as error:
            failure = error
            _close(ledger, plan, "abort", survivors)
            state = federation.failed(state)
            _save(setting, folder, ledger, state)
            continue
        failure = None
        seconds = time.perf_counter() - began
        _close(ledger, plan, "commit", survivors, after.shared)
        due = plan.round % setting.experiment.evaluation.every == 0 or plan.round == federation.rounds
        metrics = setting.evaluator.validation(scorer(federation.model, after.shared), quick=True) if due else None
        epsilon = ledger.spent() if plan.mechanism.private else None
        folder.append_round(
            {
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
        )
        state = after
        _save(setting, folder, ledger, state)
        progress.update(plan.round, headline(metrics), epsilon, ledger.budget)
    return state


def _reserve(ledger: Ledger, plan: Plan, failure: FedrecError | None) -> None:
    """Charge an attempt; a refused retry says what made it one."""
    if not plan.mechanism.private:
        return
    try:
        ledger.reserve(plan.round, plan.attempt, plan.event(), plan.mechanism.events())
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


def _continue_from(setting: Setting, folder: RunFolder, ledger: Ledger) -> State:
    """The checkpoint's state with the records brought in line with it, or a fresh start."""
    if not folder.has(names.CHECKPOINT):
        if folder.rounds() or ledger.noise_multipliers():
            raise RunFolderError(
                f"'{folder.root}' has lost its {names.CHECKPOINT}; start the run again in a new folder."
            )
        state = setting.federation.start()
        _save(setting, folder, ledger, state)
        return state
    where = str(folder.path(names.CHECKPOINT))
    state, ledger_size = checkpoint.load(folder.read_bytes(names.CHECKPOINT), setting.experiment, where)
    if ledger_size > len(ledger.lines):
        raise LedgerError(
            f"'{ledger.path}' holds {len(ledger.lines)} lines where the checkpoint knows {ledger_size}: "
            "events are missing, so this run cannot be continued."
        )
    folder.truncate_rounds(state.round)
    # Secure noise is never drawn again: a second sum of one attempt would be a second release under its charge.
    again = ("open", "commit") if setting.experiment.privacy.source == "seeded" else ()
    while (outcome := ledger.outcome(state.round + 1, state.attempt)) is not None and outcome not in again:
        if outcome == "open":
            ledger.close(state.round + 1, state.attempt, "abort")
        state = setting.federation.failed(state)
    return state


def _save(setting: Setting, folder: RunFolder, ledger: Ledger, state: State) -> None:
    folder.write_bytes(names.CHECKPOINT, checkpoint.dump(state, setting.experiment, len(ledger.lines)))


def headline(metrics: dict[str, Any] | None) -> float | None:
    """The figure for the progress line: HR@10, or HR at the first length asked for."""
    if metrics is None:
        return None
    full: dict[str, float] = metrics["full"]
    return full.get("hr@10", next(value for name, value in full.items() if name.startswith("hr@")))
