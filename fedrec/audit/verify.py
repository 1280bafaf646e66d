"""Verify a run folder: recompute what can be, compare it with what is said, and name every fault.

Nothing of the data is needed. What a record cannot show is whether clients and server really did what was declared:
that is what the empirical audits test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedrec.audit import checks
from fedrec.audit.attempts import Replay
from fedrec.audit.checks import Found
from fedrec.audit.evidence import Evidence, read
from fedrec.audit.record import Opening
from fedrec.reporting.folder import RunFolder


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: what.
        ok: whether it is as it should be.
        detail: what was found, or the fault, in one sentence.
    """

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """Everything that was checked of a run; a check with several faults is there once for each."""

    checks: tuple[Check, ...]

    @property
    def faults(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)

    @property
    def sound(self) -> bool:
        return not self.faults


def verify(folder: Path, checkpoint: str | None = None, trusted_key: bytes | None = None) -> Verdict:
    """Check everything that a run folder claims.

    Args:
        folder: the run's; finished or not.
        checkpoint: the text of a checkpoint that was published elsewhere, of this ledger or of an earlier state of it.
            Without one, whoever can sign anew can have rewritten everything.
        trusted_key: the only Ed25519 public key whose checkpoints are accepted, 32 bytes.

    Raises:
        RunFolderError: if it is not a run folder.
    """
    run = read(RunFolder.open(folder))
    found = [
        Check(name, not faults, text)
        for name, (detail, faults) in _found(run, checkpoint, trusted_key)
        for text in faults or [detail]
    ]
    worth = checks.guarantee(run.opening, sound=all(check.ok for check in found))
    return Verdict((*found, Check("guarantee", True, worth)))


def _found(run: Evidence, checkpoint: str | None, trusted_key: bytes | None) -> Iterator[tuple[str, Found]]:
    yield "files", checks.files(run)
    yield "chain", checks.chain(run)
    yield "checkpoint", checks.own_checkpoint(run, trusted_key)
    if checkpoint is not None:
        yield "published checkpoint", checks.published(run, checkpoint, trusted_key)
    if run.opening is not None and run.replay is not None:
        yield "opening", checks.opening(run, run.opening)
        yield from _of_attempts(run, run.opening, run.replay)


def _of_attempts(run: Evidence, first: Opening, replay: Replay) -> Iterator[tuple[str, Found]]:
    yield "attempts", checks.attempts(run, replay)
    yield "mechanism", checks.mechanism(run, replay)
    yield "survivors", ("every commit has the minimum cohort", replay.sentences("survivors"))
    budget = "no budget" if first.epsilon is None else f"epsilon {first.epsilon:g} at delta {first.delta:g}"
    yield "budget", (f"{budget}, never exceeded", replay.sentences("budget"))
    if first.noise != "none":
        events = tuple(replay.events(first.unit))
        reported = checks.price(events, first.delta)
        yield "epsilon", checks.epsilon(run, first, replay, reported)
        yield "second accountant", checks.second(events, first.delta, reported)
    yield "summary", checks.summary(run, first, replay)
    yield "rounds", checks.rounds(run, first, replay)
    yield "model", checks.model(run, replay)
