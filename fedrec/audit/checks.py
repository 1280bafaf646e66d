"""The checks of a run folder, one a function: what was found, and every fault in one sentence."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fedrec.audit.attempts import Attempt, Replay
from fedrec.audit.evidence import Evidence
from fedrec.audit.record import Opening
from fedrec.engines.run import noise_source
from fedrec.errors import LedgerError, RunFolderError
from fedrec.privacy.accounting import USEFUL, accountant_of, filter_epsilon, second_epsilon, useful_epsilon
from fedrec.privacy.events import Event
from fedrec.privacy.mechanism import SECURE, SECURE_FLOAT
from fedrec.privacy.proofs import Checkpoint, read_checkpoint, verify_checkpoint
from fedrec.reporting import folder as names
from fedrec.reporting.report import RoundLine

Found = tuple[str, list[str]]
"""What a check found, and its faults."""

TOLERANCE = 1e-6
"""How far a recomputed figure may be from the one that a run wrote, relatively."""

_PRV_BAND = (-0.002, 0.015)
"""Opacus's PRV accountant less PLD: its upper bound lies a little above."""

_FORMULA_BAND = 1e-3
"""How far a formula's epsilon may be from the report's, as a part of it."""


# The record


def files(run: Evidence) -> Found:
    """All that a run leaves is there and can be read."""
    state = "not finished: it can be resumed, and what is missing is not compared" if run.unfinished else "complete"
    return state, run.file_faults


def chain(run: Evidence) -> Found:
    """Every line carries the hash of the line before."""
    faults = list(run.chain_faults)
    if run.rest and not run.unfinished:
        faults.append(f"{names.LEDGER}: {len(run.rest)} bytes follow its last line end; a line was cut or added.")
    return f"{len(run.lines)} lines, each with the hash of the line before", faults


def own_checkpoint(run: Evidence, trusted_key: bytes | None) -> Found:
    """The run's own checkpoint covers the whole ledger; that of an unfinished run may lack the last line."""
    if not run.folder.has(names.LEDGER_CHECKPOINT):
        return "none: the run is not finished", []
    faults: list[str] = []
    try:
        found = verify_checkpoint(run.folder.read_text(names.LEDGER_CHECKPOINT), run.lines, trusted_key)
    except (LedgerError, RunFolderError) as error:
        return "", [str(error)]
    unsigned = len(run.lines) - found.size
    if unsigned and not (run.unfinished and unsigned == 1):
        faults.append(f"{names.LEDGER} has {len(run.lines)} lines, but {names.LEDGER_CHECKPOINT} signed {found.size}.")
    faults += _of_run(run, found, names.LEDGER_CHECKPOINT)
    trusted = "the trusted key" if trusted_key is not None else f"key {found.key}; is that the one that you expect?"
    late = ", the last line is not signed yet" if unsigned else ""
    return f"{found.size} lines, root {found.root}, signed by {trusted}{late}", faults


def published(run: Evidence, text: str, trusted_key: bytes | None) -> Found:
    """A published checkpoint may be older: its lines must be the first ones."""
    name = "the published checkpoint"
    try:
        found = read_checkpoint(text, trusted_key, name)
    except LedgerError as error:
        return "", [str(error)]
    faults = _of_run(run, found, name)
    try:
        verify_checkpoint(text, run.lines, trusted_key, name)
    except LedgerError as error:
        faults.append(str(error))
    try:
        own = read_checkpoint(run.folder.read_text(names.LEDGER_CHECKPOINT))
        if own.key != found.key:
            faults.append(f"{names.LEDGER_CHECKPOINT} is signed by another key than {name}.")
    except (LedgerError, RunFolderError):
        pass  # a fault of its own
    return f"the first {found.size} of {len(run.lines)} lines are those that were published", faults


def _of_run(run: Evidence, found: Checkpoint, name: str) -> list[str]:
    if run.opening is None or found.run == run.opening.run:
        return []
    return [f"{name} is about run {found.run}, but {names.LEDGER} about {run.opening.run}."]


def opening(run: Evidence, first: Opening) -> Found:
    """What the ledger promises is what the experiment says."""
    if run.experiment is None:
        return f"not compared: {names.EXPERIMENT} cannot be read", []
    privacy = run.experiment.privacy
    private = privacy.epsilon is not None
    pairs: dict[str, tuple[Any, Any]] = {
        "run": (first.run, run.experiment.digest()),
        "unit": (first.unit, privacy.unit),
        "adjacency": (first.adjacency, "zero-out"),
        "trust": (first.trust, privacy.trust),
        "delta": (first.delta, privacy.delta),
        "epsilon": (first.epsilon, privacy.epsilon),
        "noise": (first.noise, noise_source(run.experiment) if private else "none"),
    }
    faults = [
        f"{names.LEDGER}, line 1: {name} is {said!r}, but {names.EXPERIMENT} gives {right!r}."
        for name, (said, right) in pairs.items()
        if said != right
    ]
    return f"it is the ledger of this experiment, run {first.run}", faults


# Attempts and what they cost


def attempts(run: Evidence, replay: Replay) -> Found:
    """Attempts follow one another, each was reserved before it ended, and ended once."""
    last = max(replay.attempts, default=None)
    never = [
        f"{names.LEDGER}: round {one.round}, attempt {one.attempt} never ended."
        for key, one in replay.attempts.items()
        if one.outcome == "open" and not (run.unfinished and key == last)
    ]
    counts = Counter(one.outcome for one in replay.attempts.values())
    ends = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "nothing was charged"
    return f"{len(replay.attempts)} reserved in order: {ends}", [*replay.sentences("attempts"), *never]


def mechanism(run: Evidence, replay: Replay) -> Found:
    """What an attempt charges is what the experiment fixes, and what its own numbers cost."""
    faults = replay.sentences("mechanism")
    given = None if run.experiment is None else run.experiment.privacy.noise_multiplier
    sigmas = [one.terms.declared.noise_multiplier for one in replay.committed.values()]
    if given is not None and sigmas and not run.unfinished:
        # A given noise multiplier is that of equal rounds at the cost of all of them.
        found = math.sqrt(len(sigmas) / math.fsum(sigma**-2 for sigma in sigmas))
        if not _close(found, given):
            faults.append(
                f"{names.LEDGER}: its rounds cost as much as at noise multiplier {found:.6g}, but {names.EXPERIMENT} "
                f"gives {given:.6g}."
            )
    return f"what {len(replay.charged)} attempts charge is what the experiment and their own numbers cost", faults


@lru_cache(maxsize=16)
def price(events: tuple[Event, ...], delta: float) -> float | None:
    """`useful_epsilon`, which several checks ask for."""
    return useful_epsilon(events, delta)


def epsilon(run: Evidence, first: Opening, replay: Replay, reported: float | None) -> Found:
    """The summary's epsilons are those of the recorded events."""
    events = replay.events(first.unit)
    if reported is None:
        return "", [f"{names.LEDGER}: what it charges is above epsilon {USEFUL:g}, which promises nothing."]
    detail = f"{reported:.6g} at delta {first.delta:g}, unit {first.unit}, by {accountant_of(events)}"
    if run.summary is None:
        return detail, []
    said: dict[str, tuple[float | None, float | None]] = {"privacy.epsilon": (run.summary.privacy.epsilon, reported)}
    for unit, level in run.summary.privacy.levels.items():
        said[f"privacy.levels.{unit}"] = (level, price(tuple(replay.events(unit)), first.delta))
    faults = [
        f"{names.SUMMARY} says {name} = {value}, but the ledger gives {found}."
        for name, (value, found) in said.items()
        if (value is None) != (found is None) or (value is not None and found is not None and not _close(value, found))
    ]
    return detail, faults


def second(events: tuple[Event, ...], delta: float, reported: float | None) -> Found:
    """An independent accountant comes to the same epsilon, within what is known of the two."""
    if reported is None:
        return f"not asked above epsilon {USEFUL:g}", []
    other = _second(events, delta)
    if other is None:
        return "none covers these events without Opacus; install 'fedrec[torch]' for its PRV accountant", []
    name, found = other
    low, high = _PRV_BAND if name.startswith("opacus") else (-_FORMULA_BAND * reported, _FORMULA_BAND * reported)
    detail = f"{found:.6g} by {name}"
    if found == reported or low - TOLERANCE <= found - reported <= high + TOLERANCE:
        return detail, []
    return detail, [f"{detail} is not within {low:+.2g} to {high:+.2g} of {reported:.6g}, the accountant of reports."]


@lru_cache(maxsize=16)
def _second(events: tuple[Event, ...], delta: float) -> tuple[str, float] | None:
    return second_epsilon(events, delta)


# What the run said of itself


def summary(run: Evidence, first: Opening, replay: Replay) -> Found:
    """What the summary says beside epsilon is what the ledger says."""
    if run.summary is None:
        return "none to compare", []
    said, private = run.summary.privacy, first.noise != "none"
    pairs: dict[str, tuple[Any, Any]] = {
        "privacy.unit": (said.unit, first.unit),
        "privacy.adjacency": (said.adjacency, first.adjacency),
        "privacy.trust": (said.trust, first.trust),
        "privacy.delta": (said.delta, first.delta),
        "privacy.target_epsilon": (said.target_epsilon, first.epsilon),
        "privacy.noise_source": (said.noise_source, first.noise if private else None),
        "rounds": (run.summary.rounds, len(replay.committed) if private else len(run.rounds)),
        "dataset.users": (run.summary.dataset.users, first.users),
    }
    if not private:
        pairs["privacy.epsilon"] = (said.epsilon, None)
    faults = [
        f"{names.SUMMARY} says {name} = {value}, but the ledger gives {right}."
        for name, (value, right) in pairs.items()
        if value != right
    ]
    if said.noise_multipliers != tuple(one.terms.declared.noise_multiplier for one in replay.charged):
        faults.append(f"{names.SUMMARY}: privacy.noise_multipliers are not those that the ledger charges.")
    return "it says what the ledger says", faults


def rounds(run: Evidence, first: Opening, replay: Replay) -> Found:
    """Every round that was committed has its line in rounds.jsonl; the last one may lack it after a crash."""
    numbers = [line.round for line in run.rounds]
    faults = []
    if numbers != list(range(1, len(numbers) + 1)):
        faults.append(f"{names.ROUNDS}: its rounds are not 1, 2, 3 …, one a line.")
    if first.noise == "none":
        return f"{len(numbers)} rounds, none of them charged", faults
    committed = replay.committed
    differ = sorted(set(committed) ^ set(numbers))
    if differ and not (run.unfinished and differ == [len(committed)]):
        faults.append(f"{names.ROUNDS} and the commits of {names.LEDGER} differ in round {differ[0]}.")
    for number, line in enumerate(run.rounds, start=1):
        if line.round in committed:
            faults += _round(number, line, committed[line.round])
    if run.rounds and not run.unfinished and not faults:
        faults += _last_epsilon(run.rounds[-1].epsilon, replay.events(first.unit), first.delta)
    return f"{len(numbers)} rounds with the survivors and the noise of their commits", faults


def _round(number: int, line: RoundLine, committed: Attempt) -> list[str]:
    terms = committed.terms.declared
    pairs: dict[str, tuple[Any, Any]] = {
        "attempt": (line.attempt, committed.attempt),
        "survivors": (line.survivors, committed.survivors),
        "release": (line.release, terms.release),
        "cohort": (line.cohort, terms.cohort),
        "noise_multiplier": (line.noise_multiplier, terms.noise_multiplier),
    }
    return [
        f"{names.ROUNDS}, line {number}: {name} is {said!r}, but the ledger's is {right!r}."
        for name, (said, right) in pairs.items()
        if said != right
    ]


def _last_epsilon(said: float | None, events: Sequence[Event], delta: float) -> list[str]:
    found = filter_epsilon(events, delta)
    if said is not None and _close(said, found):
        return []
    return [f"{names.ROUNDS}: its last epsilon is {said!r}, but the ledger gives {found:.9g}."]


def model(run: Evidence, replay: Replay) -> Found:
    """The model is the one that was committed."""
    last = max(replay.committed, default=None)
    signed = None if last is None else (replay.committed[last].ended or {}).get("model")
    if signed is None:
        return "no commit holds its hash, so nothing ties the file to the ledger", []
    if run.unfinished or not run.folder.has(names.MODEL):
        return "none to compare", []
    if hashlib.sha256(run.folder.read_bytes(names.MODEL)).hexdigest() != signed:
        return "", [f"{names.MODEL} is not the model whose SHA-256 the last commit holds."]
    return "it is the one that the last commit holds", []


def guarantee(first: Opening | None, sound: bool) -> str:
    """What the record is worth."""
    if first is None or not sound:
        return "none: the record has faults"
    if first.noise == "none":
        return "none was promised: the record is sound, and nothing was charged"
    if first.noise == SECURE_FLOAT:
        return "the record is sound; noise in floating point is not formally covered"
    if first.noise != SECURE:
        return "simulation: the record is sound, the noise guarantees nothing"
    return "the record is sound; the promise holds if clients and server did what it says"


def _close(said: float, found: float) -> bool:
    return math.isclose(said, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
