"""What a run folder says of privacy: the ledger's lines first, and beside them what the run said of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrec.audit.views import UNITS, Charge
from fedrec.config import Experiment, load
from fedrec.errors import LedgerError, RunFolderError
from fedrec.privacy.events import Event, from_fields
from fedrec.privacy.proofs import merkle_root, verify_chain
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.summary import Summary, first_fault, parse_summary


class Line(BaseModel):
    """A line of the ledger, as far as it is read here; decimals are strings there and floats here."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Opening(Line):
    """The first line: what is promised."""

    run: str
    unit: str
    adjacency: str
    trust: str
    delta: float = Field(gt=0, lt=1)
    epsilon: float | None = None
    noise: str
    users: int | None = None


class Reserve(Line):
    """An attempt that was charged before any client was asked."""

    round: int
    attempt: int
    release: str
    coordinates: int = Field(ge=1)
    noise_multiplier: float = Field(gt=0)
    clip_norm: float = Field(gt=0)
    sensitivity: float = Field(gt=0)
    trust: str
    cohort: int = Field(ge=1)
    cohort_choice: str = ""
    min_cohort: int = Field(ge=1)
    colluders: int = Field(0, ge=0)
    scale: float | None = None
    ring_bits: int | None = None
    events: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Attempt:
    """A charged attempt.

    Attributes:
        declared: its line.
        events: what it costs, by unit; at one unit alone where local training carries the noise.
        outcome: ``commit``, ``abort``, or ``open`` where no line says how it ended; all of them stay charged.
        survivors: users in the sum; None while it is open.
    """

    declared: Reserve
    events: Mapping[str, Event]
    outcome: str
    survivors: int | None

    @property
    def charge(self) -> Charge:
        return Charge(self.declared.trust, self.declared.min_cohort, self.declared.colluders, self.events)


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        folder: where it is.
        experiment: as resolved.
        opening: the ledger's first line.
        attempts: every charged attempt, in order.
        lines: the ledger.
        summary: what the finished run said of itself; None for an unfinished one.
        aggregation: how single vectors were kept from the server, in the run's own words.
    """

    folder: RunFolder
    experiment: Experiment
    opening: Opening
    attempts: tuple[Attempt, ...]
    lines: tuple[bytes, ...]
    summary: Summary | None
    aggregation: str

    @property
    def charges(self) -> list[Charge]:
        return [attempt.charge for attempt in self.attempts]

    @property
    def private(self) -> bool:
        return self.opening.noise != "none"

    @property
    def seeded(self) -> bool:
        """Whether the noise came from a public seed, so that nothing is guaranteed."""
        return "seeded" in self.opening.noise

    @property
    def head(self) -> str:
        """SHA-256 of the last line, in hex."""
        return hashlib.sha256(self.lines[-1]).hexdigest()

    @cached_property
    def root(self) -> str:
        """The Merkle root of the lines, in hex."""
        return merkle_root(self.lines).hex()

    def events(self, unit: str) -> list[Event]:
        return [attempt.events[unit] for attempt in self.attempts]


def read_run(path: Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        RunFolderError: if it is none, or a file in it is missing or damaged.
        LedgerError: naming the line of the ledger that is damaged.
    """
    folder = RunFolder.open(path)
    experiment = load(str(folder.root))
    lines = tuple(folder.read_bytes(names.LEDGER).split(b"\n")[:-1])  # what has no line end was never acknowledged
    where = str(folder.path(names.LEDGER))
    events = verify_chain(lines, where)
    if not events or events[0].get("type") != "open":
        raise RunFolderError(f"'{where}' has no first line that says what is promised; repeat the run.")
    summary = None
    if folder.finished:
        summary = parse_summary(folder.read_summary(), str(folder.path(names.SUMMARY)))
    rounds = folder.rounds()
    opening = _parsed(Opening, events[0], f"{where}, line 1")
    return Run(
        folder,
        experiment,
        opening,
        _attempts(events, opening.unit, where),
        lines,
        summary,
        str(rounds[-1].get("aggregation", "")) if rounds else "",
    )


def _attempts(lines: Sequence[Mapping[str, Any]], unit: str, where: str) -> tuple[Attempt, ...]:
    """Charged attempts and how they ended; a released one costs nothing, since nobody can have sent a vector."""
    ends = {(line.get("round"), line.get("attempt")): line for line in lines if line.get("type") in _OUTCOMES}
    found = []
    for number, line in enumerate(lines, start=1):
        end = ends.get((line.get("round"), line.get("attempt")), {})
        if line.get("type") != "reserve" or end.get("type") == "release":
            continue
        declared = _parsed(Reserve, line, f"{where}, line {number}")
        if unit not in declared.events or not set(declared.events) <= set(UNITS):
            raise LedgerError(
                f"{where}, line {number}: it declares events for {sorted(declared.events)}, but the promise is about "
                f"'{unit}'; repeat the run."
            )
        events = {name: from_fields(fields) for name, fields in declared.events.items()}
        found.append(Attempt(declared, events, str(end.get("type", "open")), end.get("survivors")))
    return tuple(found)


_OUTCOMES = ("commit", "abort", "release")

L = TypeVar("L", bound=Line)


def _parsed(kind: type[L], line: Mapping[str, Any], where: str) -> L:
    try:
        return kind.model_validate(line)
    except ValidationError as error:
        raise LedgerError(f"{where} is damaged: {first_fault(error)}; repeat the run.") from error
