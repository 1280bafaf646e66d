"""Training on real devices, the part without a network: run folder, ledger, cohorts, checkpoints, what is published."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fedrec.data.sources.devices import DevicesConfig
from fedrec.deployment import locks
from fedrec.deployment.home import ServerHome
from fedrec.deployment.journal import Journal
from fedrec.deployment.published import COHORTS, PUBLISHED
from fedrec.deployment.registry import Registry
from fedrec.engines.base import Engine
from fedrec.engines.outcome import versions
from fedrec.engines.run import Deployment, Recruited, model_file, noise_source, open_ledger, run_rounds
from fedrec.errors import FedrecError, NothingAskedError, ServerError
from fedrec.faults import reach
from fedrec.federation import checkpoint
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation, Plan, State
from fedrec.privacy.accounting import accountant_of, useful_epsilon
from fedrec.privacy.keys import pseudonym
from fedrec.privacy.ledger import Ledger
from fedrec.privacy.participants import cohort_root
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.progress import Progress
from fedrec.reporting.report import write_report

LOG = "training.jsonl"
"""What the training tells of itself, in the server's ``logs``."""

_PAUSE_FIRST_S, _PAUSE_LAST_S = 2.0, 60.0
"""After attempts that were released; devices look for news of their server every minute."""

_sleep = time.sleep
"""How an attempt is waited for."""

_TOLD = (
    *("round", "attempt", "cohort", "survivors", "rejected"),
    *("seconds", "waiting_s", "up_bytes", "down_bytes", "epsilon"),
)
"""Of a round's line, what the log repeats."""


class Devices(Engine, Protocol):
    """An engine that finds its own clients."""

    def recruit(self, round_: int, attempt: int) -> tuple[int, ...]:
        """The numbers of the devices for an attempt, ascending; waits for them."""
        ...


DevicesFor = Callable[[Federation, Registry, Journal], Devices]


def train(home: ServerHome, devices_for: DevicesFor) -> None:
    """Every round that is left, to a finished run folder; a run that is finished is left as it is.

    Args:
        home: the server's.
        devices_for: makes the engine.

    Raises:
        BudgetExceededError: when the budget allows no further attempt.
        RoundFailedError: when a round found too few devices in every attempt.
        ServerError: if another process trains in this folder.
        FedrecError: whatever else keeps training from going on; it is left in the folder, for `failure`.
    """
    with locks.held(home.root / _LOCK, "training"):
        forget_failure(home)
        try:
            _train(home, devices_for)
        except FedrecError as error:  # trying again does not help, as it would after a crash
            leave_word(home, error)
            raise


def _train(home: ServerHome, devices_for: DevicesFor) -> None:
    folder, experiment = run_folder(home), home.experiment()
    if folder.finished:
        return
    journal = Journal(home.logs / LOG)
    registry = home.registry()
    federation = make_federation(experiment, home.catalogue(), experiment.federation.cohort or 0)
    journal.note("started", {"pid": os.getpid(), "rounds": federation.rounds, "done": len(folder.rounds())})
    ledger = open_ledger(federation, folder)
    devices = devices_for(federation, registry, journal)
    work = _Work(home, folder, federation, ledger, registry, devices, journal)
    work.catch_up()
    began = time.perf_counter()
    with Progress() as progress:
        deployment = Deployment(work.recruit, work.sign, work.wait, work.done)
        state = run_rounds(federation, devices, folder, ledger, progress, deployment=deployment)
        progress.finish()
    work.publish(state)
    folder.write_bytes(names.MODEL, model_file(state.shared))
    folder.write_summary(_summary(federation, ledger, folder.rounds(), time.perf_counter() - began))
    write_report(folder)
    folder.remove(names.CHECKPOINT)
    journal.note("finished", {"rounds": state.round, "epsilon": ledger.spent()})


@dataclass(frozen=True, eq=False)
class _Work:
    """What a run on devices does beside its rounds."""

    home: ServerHome
    folder: RunFolder
    federation: Federation
    ledger: Ledger
    registry: Registry
    devices: Devices
    journal: Journal

    def recruit(self, round_: int, attempt: int) -> Recruited:
        """The devices of an attempt, written down before the ledger charges it."""
        numbers = self.devices.recruit(round_, attempt)
        run = self.federation.experiment.digest()
        aliases = {device.number: device.alias for device in self.registry.devices()}
        append(self.folder.path(COHORTS), {"round": round_, "attempt": attempt, "numbers": list(numbers)})
        reach("server.recruited")
        root = cohort_root([pseudonym(aliases[number], run) for number in numbers])
        return Recruited(np.array(numbers, np.int64), root)

    def wait(self, plan: Plan, why: NothingAskedError, in_a_row: int) -> None:
        """Give devices time before the next attempt: the longer, the more attempts in a row were released."""
        pause = min(_PAUSE_FIRST_S * 2 ** min(in_a_row - 1, 10), _PAUSE_LAST_S)
        told = {"round": plan.round, "attempt": plan.attempt, "why": str(why), "pause_s": pause}
        self.journal.note("released", told)
        _sleep(pause)

    def catch_up(self) -> None:
        """Sign and publish what a crash kept from it."""
        self.sign()
        if self.folder.has(names.CHECKPOINT):
            where = str(self.folder.path(names.CHECKPOINT))
            data = self.folder.read_bytes(names.CHECKPOINT)
            state, _ = checkpoint.load(data, self.federation.experiment, where)
            if state.round:
                self.publish(state)

    def done(self, state: State) -> None:
        """Publish a round and say so."""
        self.publish(state)
        reach("server.published")
        line = self.folder.rounds()[-1]
        self.journal.note("round", {name: line[name] for name in _TOLD})

    def publish(self, state: State) -> None:
        """The model for devices, replaced whole."""
        from safetensors.numpy import save

        data = self.federation.experiment.data
        about = {
            "experiment": self.federation.experiment.digest(),
            "round": str(state.round),
            "catalogue": data.catalogue if isinstance(data, DevicesConfig) else "",
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in state.shared.items()}
        self.folder.write_bytes(PUBLISHED, bytes(save(arrays, metadata=about)))

    def sign(self) -> None:
        """The ledger's checkpoint as the ledger is now, for the key that devices were given with their invitations."""
        self.folder.write_text(names.LEDGER_CHECKPOINT, self.ledger.checkpoint(self.home.key("ledger")))


def run_folder(home: ServerHome) -> RunFolder:
    """The server's run folder, made with its experiment if it is not there.

    Raises:
        RunFolderError: if it cannot be written, or holds something else.
        ServerError: if it is another experiment's.
    """
    if not (home.run / names.EXPERIMENT).is_file():
        (home.run / f".{names.EXPERIMENT}.tmp").unlink(missing_ok=True)  # a crash came before it was in its place
        folder = RunFolder.create(home.run)
        folder.write_text(names.EXPERIMENT, home.experiment_text())
        return folder
    folder = RunFolder.open(home.run)
    if folder.read_text(names.EXPERIMENT) != home.experiment_text():
        raise ServerError(
            f"'{home.run}' holds the rounds of another experiment than '{home.experiment_file}'; move it away."
        )
    return folder


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON, on the disk before this returns; what a crash cut short before it is cut off.

    Raises:
        ServerError: if it cannot be written.
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            held = file.read()
            file.truncate(held.rfind(b"\n") + 1)
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ServerError(f"Cannot write '{path}': {error.strerror}; free some space or check the folder.") from error


def _summary(federation: Federation, ledger: Ledger, lines: list[dict[str, Any]], wall_s: float) -> dict[str, Any]:
    """``summary.json`` of a run that has no data to measure a model with."""
    experiment, mechanism = federation.experiment, federation.mechanisms[0]
    sigmas = ledger.noise_multipliers()
    up, down = sum(line["up_bytes"] for line in lines), sum(line["down_bytes"] for line in lines)
    senders = sum(line["senders"] for line in lines)
    return {
        "experiment": experiment.name,
        # How much the devices hold nobody but they knows.
        "dataset": {
            "name": "devices",
            "users": federation.population,
            "items": len(federation.catalogue),
            "interactions": None,
        },
        "model": experiment.model.name,
        "engine": "devices",
        "rounds": len(lines),
        "seed": experiment.seed,
        "privacy": {
            "unit": mechanism.unit,
            "adjacency": mechanism.adjacency,
            "trust": mechanism.trust,
            "epsilon": useful_epsilon(ledger.events(), ledger.delta),
            "delta": experiment.privacy.delta,
            "levels": {unit: useful_epsilon(ledger.events(unit), ledger.delta) for unit in mechanism.events()},
            "noise_multipliers": sigmas,
            "clip_norm": federation.mechanisms[-1].clip_norm,
            "accountant": accountant_of(ledger.events()),
            "target_epsilon": experiment.privacy.epsilon,
            "noise": experiment.noise,
            "noise_source": noise_source(experiment),
            "aggregation": str(lines[-1]["aggregation"]),
            "unprotected": _UNPROTECTED,
        },
        "metrics": {"validation": {"full": {}}, "test": {"full": {}}},
        "communication": {
            "up_bytes_per_client": round(up / senders * len(lines)),
            "down_bytes_per_client": round(down / senders * len(lines)),
            "total_bytes": up + down,
        },
        "time": {"wall_s": wall_s, "train_s": sum(line["seconds"] for line in lines)},
        "versions": versions(),
        "rejected": sum(line["rejected"] for line in lines),
    }


_UNPROTECTED = [
    "participation: which devices were asked and which answered is known to the server, their number to everybody",
    "the item catalogue, which every device and the server hold",
    "run time: Flower reports how long a device's answer took; devices answer after multiples of a public time",
]

# Who trains, and why not

_LOCK, _FAILURE = "trainer.lock", "failure.json"


def trainer(home: ServerHome) -> int | None:
    """The process id of the trainer that is at work in this folder, if one is; 0 if it has only begun."""
    found = locks.holder(home.root / _LOCK)
    return None if found is None else int(found.get("pid") or 0)


def leave_word(home: ServerHome, error: Exception) -> None:
    """Say why training cannot go on: Flower keeps only the words, and only of its own run."""
    words = json.dumps({"type": type(error).__name__, "message": str(error), "at": time.time()})
    with suppress(OSError):
        (home.root / _FAILURE).write_text(words, encoding="utf-8")
    Journal(home.logs / LOG).note("stopped", {"why": str(error)})


def forget_failure(home: ServerHome) -> None:
    """Before training is tried again."""
    (home.root / _FAILURE).unlink(missing_ok=True)


def failure(home: ServerHome) -> dict[str, str] | None:
    """Why training cannot go on, if it cannot: the error's ``type`` and ``message``."""
    try:
        found = json.loads((home.root / _FAILURE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {name: str(found.get(name, "")) for name in ("type", "message")} if isinstance(found, dict) else None
